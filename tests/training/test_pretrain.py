"""Pretraining: the same run whatever the number of processes, and after any kill."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cloud_core.models.checkpoint import load_encoder
from cloud_core.models.encoder import MaskedLanguageModel
from cloud_core.models.folder import WEIGHTS, CheckpointError
from cloud_core.models.geometry import EncoderConfig
from cloud_core.training.augmentation import space_group_numbers
from cloud_core.training.batches import Batches, epoch_batches
from cloud_core.training.distributed import Ranks
from cloud_core.training.job import PretrainJob, PretrainSettings
from cloud_core.training.launch import FRESH_STORE, Launch
from cloud_core.training.losses.masked import micro_batches, summary
from cloud_core.training.losses.mlm import Objective
from cloud_core.training.masking import Masking
from cloud_core.training.optimiser import OptimiserSettings
from cloud_core.training.pretrain import Run, main
from cloud_core.training.progress import read_lines, training_operations
from tests.demo_cut import demo_strings
from tests.servers import free_port
from tests.training import forked

CPU = torch.device("cpu")
TINY = EncoderConfig(hidden_size=32, layers=2, heads=2, feed_forward=64)
STEPS = 12


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpora")
    training, validation = Batches.distinct(demo_strings(401)).split(0.1)
    training.save(folder / "training.safetensors")
    validation.save(folder / "validation.safetensors")
    return folder


def job(corpora: Path, folder: Path, dropout: float = 0.0, **changes: Any) -> PretrainJob:
    """A tiny job: eight steps an epoch, several micro-batches a step, every step reported."""
    return changed(PretrainJob(
        folder=str(folder), model=str(folder / "model"),
        training=str(corpora / "training.safetensors"), validation=str(corpora / "validation.safetensors"),
        steps=STEPS, settings=PretrainSettings(
            encoder=replace(TINY, dropout=dropout, attention_dropout=dropout), seed=5,
            batch_size=50, log_every=1, validate_every=6, checkpoint_every=4,
            keep_checkpoints=9, micro_batch_tokens=400,
        )), **changes)  # fmt: skip


def changed(job: PretrainJob, **changes: Any) -> PretrainJob:
    """With other settings, or other places."""
    own = {key: value for key, value in changes.items() if key in PretrainJob.__dataclass_fields__}
    settings = {key: value for key, value in changes.items() if key not in own}
    return replace(job, settings=replace(job.settings, **settings), **own)


def written(job: PretrainJob) -> str:
    Path(job.folder).mkdir(parents=True, exist_ok=True)
    path = Path(job.folder) / "job.json"
    job.write(path)
    return str(path)


def side_by_side(world: int, *jobs: PretrainJob, timeout_s: float = 200) -> None:
    """Run jobs one after the other in `world` gloo processes."""
    arguments = [written(job) for job in jobs]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world)}
    processes = [forked.start(group | {"RANK": str(rank)}, *arguments) for rank in range(world)]
    try:
        for process in processes:
            process.join(timeout_s)
        assert [process.exitcode for process in processes] == [0] * world
    finally:
        for process in processes:
            process.kill()


def measured(job: PretrainJob) -> list[tuple[int, dict[str, float]]]:
    """What was learnt at each step: everything but the rates of the machine."""
    lines = read_lines(Path(job.folder) / "metrics.jsonl")
    return [
        (step, {key: value for key, value in metrics.items() if not key.startswith("system/")})
        for step, metrics in lines
    ]


def losses(job: PretrainJob) -> list[float]:
    return [m["train/loss"] for _, m in measured(job) if "train/loss" in m]


def weights(job: PretrainJob) -> dict[str, torch.Tensor]:
    return dict(load_file(Path(job.model) / "model.safetensors"))


def assert_identical(one: PretrainJob, other: PretrainJob) -> None:
    assert measured(one) == measured(other)
    assert [step for step, m in measured(one) if "train/loss" in m] == list(range(1, one.steps + 1))
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.fixture(scope="module")
def alone(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> PretrainJob:
    """One process, without dropout."""
    run = job(corpora, tmp_path_factory.mktemp("alone") / "run")
    main(written(run))
    return run


@pytest.fixture(scope="module")
def pair(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, PretrainJob]:
    """Two processes: replicated, sharded, and replicated with dropout."""
    folder = tmp_path_factory.mktemp("pair")
    jobs = {
        "ddp": job(corpora, folder / "ddp"),
        "fsdp": job(corpora, folder / "fsdp", strategy="fsdp"),
        "dropout": job(corpora, folder / "dropout", dropout=0.1, relabel=True),
    }
    side_by_side(2, *jobs.values())
    return jobs


@pytest.fixture(scope="module")
def three(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> PretrainJob:
    run = job(corpora, tmp_path_factory.mktemp("three") / "run")
    side_by_side(3, run)
    return run


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("masking", [Masking(), Masking(strategy="field")])
@pytest.mark.parametrize("relabel", [False, True])
def test_ranks_see_the_one_global_batch(corpora: Path, world: int, masking: Masking, relabel: bool) -> None:
    corpus = Batches.load(corpora / "training.safetensors")
    groups = space_group_numbers(corpus) if relabel else None
    rows = epoch_batches(len(corpus), 50, 5, 1)[2]
    whole, scored = micro_batches(corpus, rows, masking, 5, 1, Ranks(0, 1, CPU), 10**9, groups)
    assert len(whole) == 1 and len(whole[0].targets) == scored > 0

    def strings(batch: Any) -> list[tuple[int, ...]]:
        """Each string with its mask: the ids seen, and the true words of the chosen places."""
        truth = batch.ids.clone()
        truth[batch.masked] = batch.targets + 1000
        starts = (batch.packing.positions == 0).nonzero()[1:, 0].tolist()
        seen = torch.stack([batch.ids, truth], 1).tolist()
        return [tuple(map(tuple, part)) for part in np.split(np.array(seen), starts)]

    shares = [
        micro_batches(corpus, rows, masking, 5, 1, Ranks(rank, world, CPU), 300, groups)
        for rank in range(world)
    ]
    assert len({len(batches) for batches, _ in shares}) == 1
    assert {count for _, count in shares} == {scored}
    together = [s for batches, _ in shares for batch in batches for s in strings(batch)]
    assert sorted(together) == sorted(strings(whole[0]))


def test_two_and_three_processes_reach_the_loss_of_one(
    alone: PretrainJob, pair: dict[str, PretrainJob], three: PretrainJob
) -> None:
    expected = losses(alone)
    assert expected[0] - expected[-1] > 0.02  # it learns
    for other in (pair["ddp"], three, pair["fsdp"]):
        np.testing.assert_allclose(losses(other), expected, rtol=2e-6)
        for (step, ours), (other_step, theirs) in zip(measured(alone), measured(other), strict=True):
            assert step == other_step
            assert ours == pytest.approx(theirs, rel=2e-5)
        for name, tensor in weights(alone).items():
            torch.testing.assert_close(weights(other)[name], tensor, atol=1e-4, rtol=0)


def from_step_8(run: PretrainJob, folder: Path, **changes: Any) -> PretrainJob:
    """A run as it stood after eight steps, to go on in another folder."""
    rest = changed(run, folder=str(folder), model=str(folder / "model"), **changes)
    checkpoints = folder / "checkpoints"
    shutil.copytree(Path(run.folder) / "checkpoints" / "step-00000008", checkpoints / "step-00000008")
    (checkpoints / "latest").write_text("step-00000008")
    return rest


def test_another_number_of_processes_goes_on_with_the_run(
    alone: PretrainJob, three: PretrainJob, tmp_path: Path
) -> None:
    """Three processes for eight steps, then one."""
    rest = from_step_8(three, tmp_path / "rest")
    main(written(rest))
    assert len(losses(rest)) == 4
    np.testing.assert_allclose(losses(rest), losses(alone)[8:], rtol=2e-6)


def test_a_sharded_run_goes_on_from_a_replicated_one_and_back(
    alone: PretrainJob, pair: dict[str, PretrainJob], tmp_path: Path
) -> None:
    """Weights and moments go into shards over two processes, and out of them."""
    rests = [
        from_step_8(pair["ddp"], tmp_path / "into", strategy="fsdp"),
        from_step_8(pair["fsdp"], tmp_path / "again"),
        from_step_8(pair["fsdp"], tmp_path / "out", strategy="ddp"),
    ]
    side_by_side(2, *rests)
    for rest in rests:
        assert len(losses(rest)) == 4
        np.testing.assert_allclose(losses(rest), losses(alone)[8:], rtol=2e-6)


def test_killed_rank_restarts_bit_for_bit(
    corpora: Path, pair: dict[str, PretrainJob], tmp_path: Path
) -> None:
    """SIGKILL one of two ranks: torchrun starts both again, and nothing shows that it happened."""
    run = job(corpora, tmp_path / "run", dropout=0.1, relabel=True)
    agent = subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            *("--max-restarts", "1", "--monitor-interval", "0.1"),
            *("-m", "cloud_core.training.pretrain", written(run)),
        ],
        env=os.environ | FRESH_STORE | {"OMP_NUM_THREADS": "1"},
    )
    try:
        killed = kill_after_step(run, 5, agent.pid)
        assert agent.wait(200) == 0
    finally:
        agent.kill()
    assert killed
    assert_identical(run, pair["dropout"])


@pytest.mark.slow
def test_two_nodes_meet_and_one_goes_on_when_the_other_is_lost(alone: PretrainJob, tmp_path: Path) -> None:
    """Two torchrun agents as two nodes, elastic; SIGKILL takes one of them with its rank."""
    run = changed(alone, folder=str(tmp_path / "run"), model=str(tmp_path / "run" / "model"))
    launch = Launch(nodes="1:2", rendezvous=f"127.0.0.1:{free_port()}", job_id="test", threads=1)
    command = launch.command("cloud_core.training.pretrain", written(run))
    # The host of the meeting point must live: the second agent is the one that joins it.
    agents = [subprocess.Popen(command, env=launch.environment())]
    time.sleep(3)
    agents.append(subprocess.Popen(command, env=launch.environment()))
    try:
        kill_after_step(run, 5, agents[1].pid)
        agents[1].kill()
        assert agents[0].wait(200) == 0
    finally:
        for agent in agents:
            agent.kill()
    np.testing.assert_allclose(losses(run), losses(alone), rtol=2e-6)


def wait_for_step(job: PretrainJob, step: int) -> None:
    """Until the job has reported `step`."""
    metrics = Path(job.folder) / "metrics.jsonl"
    deadline = time.monotonic() + 150
    while not any(done >= step for done, _ in read_lines(metrics)):
        assert time.monotonic() < deadline, "the job reported no step"
        time.sleep(0.01)


def kill_after_step(job: PretrainJob, step: int, agent: int) -> int:
    """SIGKILL one child of `agent` as soon as the job has reported `step`."""
    wait_for_step(job, step)
    victim = psutil.Process(agent).children()[-1]
    victim.send_signal(signal.SIGKILL)
    return int(victim.pid)


def test_a_process_killed_again_and_again_ends_as_if_it_was_not(corpora: Path, tmp_path: Path) -> None:
    """SIGKILL at two moments that nobody chose, and a fresh process after each."""
    whole, run = (
        job(corpora, tmp_path / name, dropout=0.1, relabel=True, steps=40, checkpoint_every=7)
        for name in ("whole", "killed")
    )
    main(written(whole))
    path = written(run)
    for step in (2, 20):
        process = forked.start({}, path)
        try:
            wait_for_step(run, step)
        finally:
            process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not Path(run.model).exists()
    last = forked.start({}, path)
    last.join()
    assert last.exitcode == 0
    assert_identical(run, whole)


@pytest.mark.parametrize("kill", [1, 4, 5, 9, 11])
def test_a_run_killed_at_any_step_ends_as_if_it_was_not(
    corpora: Path, alone_with_dropout: PretrainJob, tmp_path: Path, kill: int
) -> None:
    """What a kill leaves is what is on disk: a second run gets nothing else."""
    run = job(corpora, tmp_path / "run", dropout=0.1, log_every=3)
    path = written(run)
    first = Run(run, Ranks(0, 1, CPU))
    for _ in range(kill):
        first.take_step()
        if first.step % run.settings.checkpoint_every == 0:
            first.save()
    main(path)
    assert measured(run)[-2:] == measured(alone_with_dropout)[-2:]
    for name, tensor in weights(run).items():
        assert torch.equal(tensor, weights(alone_with_dropout)[name]), name


@pytest.fixture(scope="module")
def alone_with_dropout(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> PretrainJob:
    run = job(corpora, tmp_path_factory.mktemp("alone") / "run", dropout=0.1, log_every=3)
    main(written(run))
    return run


def test_a_kill_inside_a_checkpoint_leaves_the_one_before(
    corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = job(corpora, tmp_path / "run")
    path = written(run)
    first = Run(run, Ranks(0, 1, CPU))
    for _ in range(8):
        first.take_step()
        if first.step == 4:
            first.save()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lambda self, target: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            first.save()
    assert Run(run, Ranks(0, 1, CPU)).step == 4
    main(path)
    assert len(losses(run)) == STEPS - 4
    assert not list(tmp_path.rglob("*.partial"))


def test_what_a_killed_process_left_goes_with_the_next_checkpoint(corpora: Path, tmp_path: Path) -> None:
    run = Run(job(corpora, tmp_path / "run"), Ranks(0, 1, CPU))
    checkpoints = tmp_path / "run" / "checkpoints"
    for left in (".step-00000001.12345.partial", ".step-00000001.12345.replaced"):
        (checkpoints / left).mkdir(parents=True)
        (checkpoints / left / "model.safetensors").write_bytes(b"half")
    run.take_step()
    run.save()
    assert sorted(path.name for path in checkpoints.iterdir()) == ["latest", "step-00000001"]


def test_checkpoints_of_another_recipe_are_refused(alone: PretrainJob, corpora: Path) -> None:
    with pytest.raises(CheckpointError, match="made with other seed, steps than"):
        Run(changed(alone, seed=6, steps=20), Ranks(0, 1, CPU))
    with pytest.raises(CheckpointError, match="made with other corpus than"):
        Run(changed(alone, training=str(corpora / "validation.safetensors")), Ranks(0, 1, CPU))


def test_every_checkpoint_is_a_model_folder_and_a_start(
    alone: PretrainJob, corpora: Path, tmp_path: Path
) -> None:
    checkpoint = Path(alone.folder) / "checkpoints" / f"step-{STEPS:08d}"
    model, metadata = load_encoder(checkpoint)
    final, about = load_encoder(alone.model)
    assert metadata["step"] == about["step"] == STEPS
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, final.state_dict()[name])
    again = Run(job(corpora, tmp_path, start_from=str(checkpoint)), Ranks(0, 1, CPU))
    assert again.validate() == {k: v for k, v in about["metrics"].items() if k.startswith("validation/")}
    assert again.step == 0
    with pytest.raises(CheckpointError, match=r"an encoder of heads 2, not 4; set `encoder`"):
        Run(
            changed(job(corpora, tmp_path, start_from=str(checkpoint)), encoder=replace(TINY, heads=4)),
            Ranks(0, 1, CPU),
        )


def test_a_run_goes_on_when_the_model_that_it_started_from_was_moved(
    alone: PretrainJob, corpora: Path, tmp_path: Path
) -> None:
    shutil.copytree(alone.model, tmp_path / "here")
    run = job(corpora, tmp_path / "run", start_from=str(tmp_path / "here"))
    first = Run(run, Ranks(0, 1, CPU))
    first.take_step()
    first.save()
    (tmp_path / "here").rename(tmp_path / "there")
    assert Run(changed(run, start_from=str(tmp_path / "there")), Ranks(0, 1, CPU)).step == 1
    other = Path(alone.folder) / "checkpoints" / "step-00000004"
    with pytest.raises(CheckpointError, match="made with other start_from than"):
        Run(changed(run, start_from=str(other)), Ranks(0, 1, CPU))


def test_old_checkpoints_go(corpora: Path, tmp_path: Path) -> None:
    run = job(corpora, tmp_path / "run", keep_checkpoints=2, checkpoint_every=3)
    main(written(run))
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["latest", "step-00000009", "step-00000012"]


def test_what_is_reported(alone: PretrainJob) -> None:
    lines = dict(read_lines(Path(alone.folder) / "metrics.jsonl"))  # the last line of a step wins
    validation = lines[STEPS]
    assert validation["validation/perplexity"] == pytest.approx(np.exp(validation["validation/loss"]))
    names = {
        f"validation/masked_accuracy_{field}" for field in ("generator", "wyckoff", "element", "fraction")
    }
    assert names <= validation.keys()
    # the sum of the losses; of each field how many were right, and how many were asked for
    sums = torch.tensor([6.0, 0, 1, 2, 0, 0, 1, 2, 4, 0, 5])
    assert summary(sums, "x") == {
        "x/loss": 0.5, "x/masked_accuracy": 0.25, "x/masked_accuracy_generator": 0.5,
        "x/masked_accuracy_wyckoff": 0.5, "x/masked_accuracy_fraction": 0.0,
    }  # fmt: skip
    report = next(m for step, m in read_lines(Path(alone.folder) / "metrics.jsonl") if step == 3)
    assert 0 < report["system/model_flop_utilisation"] < 1
    assert report["system/tokens_per_second"] / report["system/strings_per_second"] == pytest.approx(
        29, abs=4
    )
    assert report["system/memory_gb"] > 0.05
    result = json.loads((Path(alone.folder) / "result.json").read_text())
    assert result["step"] == STEPS


def test_operations_are_those_that_torch_counts(corpora: Path) -> None:
    corpus = Batches.load(corpora / "training.safetensors")
    rows = np.flatnonzero(corpus.lengths == 29)[:8]  # equal lengths: the counter sees no padding
    (batch,), scored = micro_batches(corpus, rows, Masking(), 0, 0, Ranks(0, 1, CPU), 10**9)
    objective = Objective(MaskedLanguageModel(replace(TINY, dropout=0.0, attention_dropout=0.0)))
    # The counter knows the plain formula of attention and not the CPU's fused kernel.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        objective(batch)[0].backward()
    assert training_operations(TINY, corpus.lengths[rows], scored) == pytest.approx(
        counter.get_total_flops(), rel=0.02
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_compiled_is_the_same_over_two_processes(alone: PretrainJob, tmp_path: Path) -> None:
    run = changed(alone, folder=str(tmp_path / "run"), model=str(tmp_path / "run" / "model"), compile=True)
    side_by_side(2, run, timeout_s=800)
    np.testing.assert_allclose(losses(run), losses(alone), rtol=2e-5)


BARE = """
import sys
sys.modules |= dict.fromkeys({names})  # None: not to be found
from cloud_core.training.pretrain import main
main(sys.argv[1])
"""


def test_a_rank_needs_torch_numpy_pyarrow_and_safetensors_alone(
    corpora: Path, tmp_path: Path, project: Path
) -> None:
    """As on a borrowed machine: whatever else the project depends on cannot be imported."""
    dependencies = tomllib.loads((project / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[^\w-]", line)[0].replace("-", "_") for line in dependencies}
    # pyarrow looks for pandas by itself, and minds a None; tests/test_walls.py sees that nobody here does.
    missing = names - {"torch", "numpy", "pyarrow", "safetensors", "pandas"} | {"yaml", "sklearn"}
    run = job(corpora, tmp_path / "run", steps=2, relabel=True)
    subprocess.run([sys.executable, "-c", BARE.replace("{names}", repr(missing)), written(run)], check=True)
    assert load_encoder(run.model)[1]["step"] == 2


def test_too_little_data_for_the_processes(corpora: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="too few for 60 processes"):
        Run(job(corpora, tmp_path), Ranks(0, 60, CPU))
    # 3 does not divide it: batches of 2 and 3 rows
    with pytest.raises(ValueError, match=r"in batches of 2 to 3 are too few for 3 processes"):
        Run(job(corpora, tmp_path, batch_size=3), Ranks(0, 3, CPU))
    with pytest.raises(ValueError, match="micro_batch_tokens 100 must hold two strings"):
        job(corpora, tmp_path, micro_batch_tokens=100)


def test_a_loss_that_is_not_finite_stops_the_run(corpora: Path, tmp_path: Path) -> None:
    run = job(corpora, tmp_path / "run")
    path = written(run)
    broken = Run(run, Ranks(0, 1, CPU))
    broken.take_step()
    broken.save()
    with torch.no_grad():
        broken.model.bias.fill_(float("nan"))
    broken.take_step()
    # Neither does it become a checkpoint where nothing is reported at its step.
    with pytest.raises(FloatingPointError, match=r"step 2: the loss is nan; lower optimiser\.learning_rate"):
        broken.save()
    (checkpoint,) = (Path(run.folder) / "checkpoints").glob("step-*")
    bad = Path(tmp_path / "bad")
    shutil.copytree(checkpoint, bad)
    save_file(
        {k: torch.full_like(v, float("nan")) for k, v in load_file(bad / WEIGHTS).items()}, bad / WEIGHTS
    )
    path = written(job(corpora, tmp_path / "next", start_from=str(bad)))
    with pytest.raises(FloatingPointError, match=r"the loss is nan; lower optimiser\.learning_rate"):
        main(path)


def test_a_gradient_that_is_not_finite_leaves_no_checkpoint(corpora: Path, tmp_path: Path) -> None:
    """The loss was finite; it is the step after it that spoils the weights."""
    run = Run(job(corpora, tmp_path / "run"), Ranks(0, 1, CPU))
    run.model.bias.register_hook(lambda gradient: gradient * float("inf"))
    run.take_step()
    with pytest.raises(FloatingPointError, match="step 1: the gradient is"):
        run.save()
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_long_gradient_is_cut_to_its_norm(corpora: Path, tmp_path: Path) -> None:
    """What AdamW takes as its first mean is a tenth of the gradient."""
    cut = OptimiserSettings(clip_norm=1e-3, betas=(0.9, 0.999))
    run = Run(job(corpora, tmp_path / "run", optimiser=cut), Ranks(0, 1, CPU))
    run.take_step()
    means = [run.optimiser.state[parameter]["exp_avg"] for parameter in run.model.parameters()]
    taken = torch.cat([mean.flatten() for mean in means]).norm().item()
    assert run.norm > 0.1
    assert taken == pytest.approx(1e-3 * 0.1, rel=1e-3)


def test_a_run_in_bfloat16_learns_as_in_float32(
    alone: PretrainJob, corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a CPU without bfloat16 takes most of a minute to measure its rate
    monkeypatch.setattr("cloud_core.training.pretrain.matrix_rate", lambda device, dtype: 1e9)
    run = job(corpora, tmp_path / "run", precision="bfloat16")
    main(written(run))
    assert losses(run) != losses(alone)
    np.testing.assert_allclose(losses(run), losses(alone), rtol=5e-3)
    assert {tensor.dtype for tensor in weights(run).values()} == {torch.float32}


def test_a_kill_after_the_last_checkpoint_leaves_the_result_whole(alone: PretrainJob, tmp_path: Path) -> None:
    run = changed(alone, folder=str(tmp_path / "run"), model=str(tmp_path / "run" / "model"))
    shutil.copytree(alone.folder, run.folder)
    (tmp_path / "run" / "result.json").unlink()
    main(written(run))
    before, after = (json.loads((Path(j.folder) / "result.json").read_text()) for j in (alone, run))
    assert after["metrics"] == before["metrics"]
