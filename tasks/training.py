"""Distributed training as a Prefect task: torchrun as a child that this process owns.

The child's metrics.jsonl is relayed to MLflow while it trains; if MLflow is away, training goes on and the
rest follows when it is back. When the task is cancelled or fails, every rank gets SIGTERM, writes a
checkpoint and leaves; after `grace_s` what is left is killed. Should this process itself be killed, the ranks
notice at their next step and do the same.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from mlflow.exceptions import MlflowException
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from pydantic import BaseModel, ConfigDict, Field

from cloud_core.errors import CloudError
from cloud_core.models.checkpoint import CONFIG, read_config
from cloud_core.training.distributed import LAUNCHER_VARIABLE
from cloud_core.training.pretrain import RESULT
from cloud_core.training.progress import METRICS, read_lines
from tasks.reporting import Progress
from tasks.tracking import Run, mlflow_client

LOG = "torchrun.log"
POLL_S = 0.5
# torchrun 2.13 hands restarted ranks the store of the dead ones, and gloo finds their addresses in it.
FRESH_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
RETRY_S = 15.0  # between attempts to reach an MLflow server that is away


class TrainingError(CloudError):
    """A training job that ended without a result; names its log and the last lines of it."""


class Launch(BaseModel):
    """How torchrun starts the ranks; see docs/training.md for several nodes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    processes: int = Field(
        default=1, ge=1, description="ranks on this node: one for each GPU, or for a few CPU cores"
    )
    nodes: str = Field(
        default="1", pattern=r"^\d+(:\d+)?$", description="number of nodes; '1:4' is elastic between 1 and 4"
    )
    rendezvous: str | None = Field(
        default=None, description="host:port where the nodes meet; needed for more than one"
    )
    job_id: str = Field(default="cloud", description="name of the rendezvous, the same on all nodes")
    max_restarts: int = Field(
        default=3, ge=0, description="times the ranks start again after one of them died"
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        description="CPU threads per rank; default: the machine's cores divided by the ranks",
    )
    grace_s: float = Field(
        default=25.0,
        gt=0,
        description="seconds for the ranks' last checkpoint; Prefect's workers grant 30 themselves",
    )

    def command(self, module: str, *arguments: str) -> list[str]:
        """The command line: the same on every node."""
        if self.nodes != "1" and self.rendezvous is None:
            raise ValueError(f"nodes: {self.nodes} needs rendezvous, the host:port where the nodes meet")
        meeting = (
            ["--rdzv-backend", "c10d", "--rdzv-endpoint", self.rendezvous, "--rdzv-id", self.job_id]
            if self.rendezvous
            else ["--standalone"]
        )
        return [
            *(sys.executable, "-m", "torch.distributed.run"),
            *("--nnodes", self.nodes, "--nproc-per-node", str(self.processes)),
            *("--max-restarts", str(self.max_restarts), "--shutdown-timeout", str(int(self.grace_s))),
            *meeting,
            *("-m", module, *arguments),
        ]

    def environment(self) -> dict[str, str]:
        threads = self.threads or max(1, (os.cpu_count() or 1) // self.processes)
        launcher = {"OMP_NUM_THREADS": str(threads), LAUNCHER_VARIABLE: str(os.getpid())}
        return os.environ | FRESH_STORE | launcher


class Relay:
    """Sends the complete lines of a metrics file to an MLflow run, each once."""

    def __init__(self, path: Path, run: Run) -> None:
        self.path, self.run = path, run
        self.sent: set[tuple[int, str]] = set()
        self.read = (0, 0)  # inode, bytes
        self.last: dict[str, float] = {}
        self.step = 0
        self.retry_at = 0.0

    def pump(self) -> None:
        """Send what is new.

        Raises:
            MlflowException, OSError: MLflow is away; what was not sent is sent by a later call.
        """
        if not self.path.exists():
            return
        status = self.path.stat()
        inode, start = self.read
        if status.st_ino != inode:  # a restart wrote the file anew
            start = 0
        with self.path.open("rb") as file:
            file.seek(start)
            end = start + file.read().rfind(b"\n") + 1
        for step, metrics in read_lines(self.path, start):
            self.step, self.last = max(self.step, step), self.last | metrics
            # Steps done again have the same numbers, and are sent already.
            new = {key: value for key, value in metrics.items() if (step, key) not in self.sent}
            if new:
                self.run.log_metrics(new, step)
                self.sent |= {(step, key) for key in new}
        self.read = (status.st_ino, end)

    def try_pump(self) -> str | None:
        """Like `pump`, but an MLflow that is away is reported, and left alone for a while."""
        if time.monotonic() < self.retry_at:
            return None
        try:
            self.pump()
        except (MlflowException, OSError) as error:
            self.retry_at = time.monotonic() + RETRY_S
            return " ".join(str(error).split())[:200]
        return None


def read_result(path: Path, corpus: str) -> dict[str, Any] | None:
    """What a finished job left; None where it, or the model that it names, is not there.

    Raises:
        TrainingError: the model was trained on another corpus than that of digest `corpus`.
    """
    if not path.is_file():
        return None
    result = dict(json.loads(path.read_text(encoding="utf-8")))
    if not (Path(result["model"]) / CONFIG).is_file():
        return None
    if read_config(result["model"])["metadata"]["corpus"] != corpus:
        raise TrainingError(
            f"{result['model']}: finished on other strings than the table holds now, made anew at "
            "the same address and version; give the run another name"
        )
    return result


def run_of(run_id: str) -> Run:
    client = mlflow_client()
    return Run(run_id, str(client.get_run(run_id).info.experiment_id), client)


@contextmanager
def launched(
    launch: Launch, module: str, arguments: list[str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """torchrun in a session of its own, with its output in `log`; no rank outlives the block."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            launch.command(module, *arguments),
            stdout=output,
            stderr=subprocess.STDOUT,
            env=launch.environment(),
            start_new_session=True,
        )
    try:
        yield process
    finally:
        stop(process, launch.grace_s)


def stop(process: subprocess.Popen[bytes], grace_s: float) -> None:
    """SIGTERM to every rank, then SIGKILL to what is left after `grace_s`; nothing where all have ended."""
    family = _descendants(process)
    if process.poll() is None:
        # The agent would pass it on, but kill them after a grace of its own; it ends when its ranks do.
        for rank in family:
            try:
                rank.terminate()
            except psutil.NoSuchProcess:
                continue
        if not family:
            process.terminate()
    _, alive = psutil.wait_procs(family, timeout=grace_s if process.poll() is None else 0)
    if not alive:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
    if process.poll() is None:
        # It starts new ranks in place of those that ended: of ones that SIGTERM met before they could catch
        # it, for one. Standing still it starts no more while they are counted, and it is killed before them.
        process.send_signal(signal.SIGSTOP)
        alive += _descendants(process)
        process.kill()
    process.wait()
    for rank in alive:
        try:
            rank.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, timeout=5)


def _descendants(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


@task(cache_policy=NO_CACHE, cache_result_in_memory=False, persist_result=False)
def torchrun(folder: str, job: str, launch: Launch, run_id: str, steps: int, corpus: str) -> dict[str, Any]:
    """Train the job in file `job`, whose folder is `folder`, to its end; return its result.json.

    `corpus` is the digest of the training strings.

    A job that is finished already, and whose model is there, is only reported.

    Raises:
        TrainingError: the ranks failed, or were stopped by somebody else; or what is there was trained on
            another corpus.
    """
    logger = get_run_logger()
    log, result = Path(folder) / LOG, Path(folder) / RESULT
    relay = Relay(Path(folder) / METRICS, run_of(run_id))
    finished = read_result(result, corpus)
    if finished is not None:
        relay.pump()
        return finished
    with (
        Progress(steps, "pretrain", unit="steps") as progress,
        launched(launch, "cloud_core.training.pretrain", [job], log) as process,
    ):
        running = True
        while running:
            running = process.poll() is None
            failure = relay.try_pump()
            if failure is not None:
                logger.warning(
                    "MLflow is away (%s); training goes on, metrics wait in %s", failure, relay.path
                )
            if relay.step > progress.done:
                loss = relay.last.get("train/loss", float("nan"))
                progress.advance(relay.step - progress.done, loss=f"{loss:.3f}")
            if running:
                time.sleep(POLL_S)
        status = process.returncode
    finished = read_result(result, corpus)
    if status != 0 or finished is None:
        tail = " | ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        what = f"failed with status {status}" if status else "was stopped before its end"
        raise TrainingError(
            f"{folder}: training {what}; run it again to go on from its checkpoint. {LOG}: {tail}"
        )
    relay.retry_at = 0.0
    failure = relay.try_pump()
    if failure is not None:
        logger.warning("MLflow is away (%s): the last metrics are in %s only", failure, relay.path)
    return finished
