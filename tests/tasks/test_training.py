"""What owns the ranks: relay to MLflow, errors, stopping."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from cloud_core.models.geometry import EncoderConfig
from cloud_core.training.batches import Batches
from cloud_core.training.job import PretrainJob, PretrainSettings
from cloud_core.training.launch import Launch, TrainingError, launched, stop
from cloud_core.training.progress import MetricsFile, read_lines
from tasks.tracking import metric_history, mlflow_client, tracked_run
from tasks.training import Relay, torchrun
from tests.demo_cut import demo_strings
from tests.servers import free_port

STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(os.path.join(sys.argv[1], f"rank-{os.environ['RANK']}"), "w").write(str(os.getpid()))
time.sleep(600)
"""


@pytest.fixture
def endless(tmp_path: Path) -> PretrainJob:
    """A job that would take days."""
    training, validation = Batches.distinct(demo_strings(200)).split(0.1)
    training.save(tmp_path / "training.safetensors")
    validation.save(tmp_path / "validation.safetensors")
    (tmp_path / "run").mkdir()
    job = PretrainJob(
        folder=str(tmp_path / "run"), model=str(tmp_path / "model"),
        training=str(tmp_path / "training.safetensors"), validation=str(tmp_path / "validation.safetensors"),
        steps=10**7, settings=PretrainSettings(
            encoder=EncoderConfig(hidden_size=32, layers=1, heads=2, feed_forward=64),
            batch_size=20, log_every=1, checkpoint_every=10**7, validate_every=10**7,
        ),
    )  # fmt: skip
    job.write(tmp_path / "run" / "job.json")
    return job


def wait_for(condition: Any, timeout_s: float = 90.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_lines_reach_mlflow_once_each(runs: Path, tmp_path: Path) -> None:
    with tracked_run("pretrain", "relay") as run:
        relay = Relay(tmp_path / "metrics.jsonl", run)
        relay.pump()
        sink = MetricsFile(tmp_path, resumed_at=0)
        for step in (1, 2, 3):
            sink.write(step, {"train/loss": 1.0 / step})
            relay.pump()
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write('{"step": 4, "metrics": {"train/lo')  # a rank was killed while it wrote
        relay.pump()
        sink = MetricsFile(tmp_path, resumed_at=2)  # … and the job goes on from step 2
        assert [step for step, _ in read_lines(tmp_path / "metrics.jsonl")] == [1, 2]
        for step in (3, 4):
            sink.write(step, {"train/loss": 1.0 / step})
            relay.pump()
        assert metric_history(run, ["train/loss"])["train/loss"] == [(s, 1.0 / s) for s in (1, 2, 3, 4)]
        assert (relay.step, relay.last) == (4, {"train/loss": 0.25})


def test_mlflow_away_delays_metrics_and_loses_none(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    from mlflow import MlflowClient

    with tracked_run("pretrain", "outage") as run:
        nobody = replace(run, client=MlflowClient(f"http://127.0.0.1:{free_port()}"))
        relay = Relay(tmp_path / "metrics.jsonl", nobody)
        sink = MetricsFile(tmp_path, resumed_at=0)
        sink.write(1, {"train/loss": 2.0})
        assert "127.0.0.1" in str(relay.try_pump())
        sink.write(2, {"train/loss": 1.0})
        assert relay.try_pump() is None  # left alone for a while
        relay.run, relay.retry_at = run, 0.0
        assert relay.try_pump() is None
        assert metric_history(run, ["train/loss"])["train/loss"] == [(1, 2.0), (2, 1.0)]


def test_command_line_of_one_node_and_of_several() -> None:
    alone = Launch(processes=4).command("module", "job.json")
    assert "--standalone" in alone and alone[alone.index("--nproc-per-node") + 1] == "4"
    several = Launch(nodes="2:4", rendezvous="head:29400", job_id="c").command("module", "job.json")
    assert several[several.index("--nnodes") + 1] == "2:4"
    assert several[several.index("--rdzv-endpoint") + 1] == "head:29400"
    with pytest.raises(ValueError, match="needs rendezvous"):
        Launch(nodes="2").command("module")
    with pytest.raises(ValueError, match="processes"):
        Launch(processes=0)


def test_ranks_that_ignore_sigterm_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    launch = Launch(processes=2, grace_s=1)
    with launched(launch, "stubborn", [str(tmp_path)], tmp_path / "log") as process:
        wait_for(lambda: len([p for p in tmp_path.glob("rank-*") if p.read_text()]) == 2)
        family = [psutil.Process(int(p.read_text())) for p in tmp_path.glob("rank-*")]
    assert process.poll() is not None
    assert not [rank for rank in family if rank.is_running()]
    # nor did torchrun start others in their place
    time.sleep(2)
    mine = str(tmp_path)
    assert not [p for p in psutil.process_iter(["cmdline"]) if mine in (p.info["cmdline"] or [])]


def test_ranks_stopped_while_they_start_are_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM kills a rank that does not catch it yet, and torchrun starts another, which must go too."""
    (tmp_path / "starting.py").write_text(STUBBORN.replace("signal.signal", "# signal.signal"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with launched(Launch(processes=2), "starting", [str(tmp_path)], tmp_path / "log"):
        wait_for(lambda: len([p for p in tmp_path.glob("rank-*") if p.read_text()]) == 2)
    mine = str(tmp_path)
    left = [p for p in psutil.process_iter(["cmdline"]) if mine in (p.info["cmdline"] or [])]
    for process in left:
        process.kill()
    assert not left


def test_ranks_whose_launcher_was_killed_leave_a_checkpoint(endless: PretrainJob) -> None:
    """As after an OOM kill of the flow's process: nobody is left to tell them."""
    launcher = subprocess.Popen(["sleep", "600"])
    environment = os.environ | {"CLOUD_LAUNCHER_PID": str(launcher.pid), "OMP_NUM_THREADS": "1"}
    job_file = str(Path(endless.folder) / "job.json")
    rank = subprocess.Popen([sys.executable, "-m", "cloud_core.training.pretrain", job_file], env=environment)
    try:
        wait_for(lambda: any(read_lines(Path(endless.folder) / "metrics.jsonl")))
        launcher.send_signal(signal.SIGKILL)
        launcher.wait()
        assert rank.wait(30) == 0
    finally:
        rank.kill()
        launcher.kill()
    assert (Path(endless.folder) / "checkpoints" / "latest").read_text().startswith("step-")
    assert not (Path(endless.folder) / "result.json").exists()


@pytest.mark.integration
def test_a_failing_job_names_its_log(endless: PretrainJob, runs: Path, prefect_server: str) -> None:
    from prefect import flow

    Path(endless.training).write_bytes(b"not safetensors")
    with tracked_run("pretrain", "failing") as run:

        @flow
        def failing() -> None:
            launch = Launch(max_restarts=0)
            torchrun(endless.folder, f"{endless.folder}/job.json", launch, run.run_id, 10, "digest")

        with pytest.raises(
            TrainingError, match=r"run: training failed with status 1; .* torchrun\.log: .*SafetensorError"
        ):
            failing()
    assert mlflow_client().get_run(run.run_id).info.status == "FINISHED"


def test_stopping_what_has_ended_does_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    stop(process, 1)
    assert process.returncode == 0
