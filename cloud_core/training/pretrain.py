"""Masked-language-model pretraining, one rank's part: `torchrun -m cloud_core.training.pretrain job.json`.

A step is a pure function of (job, step): the global batch is drawn from (seed, epoch), masks from (seed,
epoch, row), dropout from (seed, step, rank), and the loss is the mean over all masked tokens of the global
batch. So the number of ranks changes who computes what, not what is computed; and a killed run goes on from
its last checkpoint as if nothing had happened.
"""

import math
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.elastic.multiprocessing.errors import record

from cloud_core.files import write_json
from cloud_core.models.checkpoint import save_encoder
from cloud_core.training import counter
from cloud_core.training.augmentation import space_group_numbers
from cloud_core.training.batches import Batches, batches_per_epoch, epoch_batches, share, smallest_batch
from cloud_core.training.distributed import Ranks, StopRequest, gradient_sync, ranks, spread, whole
from cloud_core.training.job import RESULT, PretrainJob
from cloud_core.training.losses.masked import evaluate, micro_batches, new_model, objective_of, summary
from cloud_core.training.optimiser import adamw, schedule, set_learning_rate
from cloud_core.training.progress import (
    METRICS,
    MetricsFile,
    matrix_rate,
    memory_bytes,
    read_lines,
    training_operations,
)
from cloud_core.training.state import latest, load_state, save_state, start_from

CHECKPOINTS = "checkpoints"


class Run:
    """One rank's run of a job."""

    def __init__(self, job: PretrainJob, ranks: Ranks) -> None:
        self.job, self.ranks = job, ranks
        self.folder = Path(job.folder)
        self.training, self.validation = Batches.load(job.training), Batches.load(job.validation)
        smallest = smallest_batch(len(self.training), job.settings.batch_size)
        if min(smallest, len(self.validation)) < ranks.world:
            raise ValueError(
                f"{len(self.training)} training and {len(self.validation)} validation strings in batches of "
                f"{smallest} to {job.settings.batch_size} are too few for {ranks.world} processes; start "
                "fewer"
            )
        self.per_epoch = batches_per_epoch(len(self.training), job.settings.batch_size)
        self.groups = space_group_numbers(self.training) if job.settings.relabel else None
        self.order: tuple[int, list[NDArray[np.int64]]] = (-1, [])
        torch.manual_seed(job.settings.seed)
        self.model = new_model(job.settings.encoder)
        if job.start_from is not None:
            start_from(job.start_from, self.model)
        objective = objective_of(self.model)
        self.kind = type(objective)
        if job.settings.compile:
            objective.compile(dynamic=True)
        self.objective = spread(objective, self.model.encoder.layers, ranks, job.settings.strategy)
        self.optimiser = adamw(self.model, job.settings.encoder.layers, job.settings.optimiser)
        self.recipe = job.recipe(self.training)
        self.step = 0
        self.norm = torch.zeros(())  # of the last step's gradient
        self.pending: list[Tensor] = []  # measurements of the steps since the last report
        self.before = torch.zeros(
            0, 1 + 2 * len(self.kind.fields), dtype=torch.float64
        )  # those before a resume
        checkpoint = latest(self.folder / CHECKPOINTS)
        if checkpoint is not None:
            self.step, self.before = load_state(checkpoint, self.model, self.optimiser, self.recipe)

    def autocast(self) -> AbstractContextManager[Any]:
        if self.job.settings.precision == "float32":
            return nullcontext()
        return torch.autocast(self.ranks.device.type, torch.bfloat16)

    def rows(self, step: int) -> tuple[int, NDArray[np.int64]]:
        """(epoch, rows of the global batch)."""
        epoch, index = divmod(step, self.per_epoch)
        if self.order[0] != epoch:
            batches = epoch_batches(
                len(self.training), self.job.settings.batch_size, self.job.settings.seed, epoch
            )
            self.order = (epoch, batches)
        return epoch, self.order[1][index]

    def take_step(self) -> "Work":
        """One optimiser step; returns what it took."""
        job, ranks = self.job, self.ranks
        epoch, rows = self.rows(self.step)
        torch.manual_seed(
            int(counter.bits(job.settings.seed, counter.DROPOUT, self.step, ranks.rank)[0] >> np.uint64(1))
        )
        batches, scored = micro_batches(
            self.training,
            rows,
            job.settings.masking,
            job.settings.seed,
            epoch,
            ranks,
            job.settings.micro_batch_tokens,
            self.groups,
            self.kind,
        )
        set_learning_rate(self.optimiser, schedule(self.step, job.steps, job.settings.optimiser))
        measured = torch.zeros(self.before.shape[1], dtype=torch.float64, device=ranks.device)
        for number, batch in enumerate(batches, 1):
            with gradient_sync(self.objective, number == len(batches)):
                with self.autocast():
                    loss, measures = self.objective(batch.to(ranks.device))
                # Gradients are averaged over the ranks; the mean over masked tokens is what is wanted.
                (loss * (ranks.world / max(scored, 1))).backward()
            measured = measured + measures
        self.norm = nn.utils.clip_grad_norm_(self.model.parameters(), job.settings.optimiser.clip_norm)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.pending.append(measured)
        self.step += 1
        operations = training_operations(job.settings.encoder, self.training.lengths[rows], scored)
        return Work(len(rows), float(self.training.lengths[rows].sum()), operations)

    def warm_up(self) -> None:
        """A backward pass whose gradients are thrown away.

        DDP regroups its buckets after the first one, and with three ranks or more the sums come out in
        another order; so fresh and resumed runs both do this before their first step.
        """
        epoch, rows = self.rows(0)
        batch = self.kind.batch(
            self.training,
            share(rows, self.training.lengths, self.ranks.rank, self.ranks.world)[:1],
            self.job.settings.masking,
            self.job.settings.seed,
            epoch,
        )
        with self.autocast():
            loss, _ = self.objective(batch.to(self.ranks.device))
        loss.backward()
        self.optimiser.zero_grad(set_to_none=True)

    def measurements(self) -> Tensor:
        """`[steps, …]` of the steps since the last report, summed over the ranks."""
        if not self.pending:
            return self.before
        return torch.cat([self.before, self.ranks.sum(torch.stack(self.pending)).cpu()])

    def checked_measurements(self) -> Tensor:
        """The measurements, where the training has not come apart.

        Raises:
            FloatingPointError: the loss is not finite, or the gradient, which has changed the weights since.
        """
        measured = self.measurements()
        for name, value in (("loss", float(measured[:, 0].sum())), ("gradient", float(self.norm))):
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"step {self.step}: the {name} is {value}; lower optimiser.learning_rate, "
                    f"the last checkpoint is in {self.folder / CHECKPOINTS}"
                )
        return measured

    def validate(self) -> dict[str, float]:
        """Loss, perplexity and accuracies on the validation rows."""
        # FSDP needs its own wrapper for a forward pass; DDP's would wait for a backward one.
        module = getattr(self.objective, "module", self.objective)
        with self.autocast():
            return evaluate(module, self.validation, self.ranks, self.job.settings.micro_batch_tokens)

    def save(self) -> None:
        save_state(
            self.folder / CHECKPOINTS,
            self.step,
            self.model,
            self.optimiser,
            self.checked_measurements(),
            self.recipe,
            self.job.metadata,
            self.ranks,
            self.job.settings.keep_checkpoints,
        )


class Work(NamedTuple):
    """What a step took, over all ranks."""

    strings: int
    tokens: float
    operations: float


def train(job: PretrainJob, ranks: Ranks) -> bool:
    """Train to the last step; False where a stop was asked for, after a checkpoint."""
    stop = StopRequest(ranks)
    run = Run(job, ranks)
    dtype = torch.bfloat16 if job.settings.precision == "bfloat16" else torch.float32
    peak = float(ranks.sum(torch.tensor([matrix_rate(ranks.device, dtype)], dtype=torch.float64)))
    sink = MetricsFile(run.folder, run.step) if ranks.first else None
    if ranks.world > 1 and run.step < job.steps:
        run.warm_up()
    metrics: dict[str, float] = {}
    clock, strings, tokens, operations = time.perf_counter(), 0, 0.0, 0.0
    while run.step < job.steps:
        work = run.take_step()
        strings, tokens = strings + work.strings, tokens + work.tokens
        operations += work.operations
        last = run.step == job.steps
        if last or run.step % job.settings.log_every == 0:
            report = summary(run.checked_measurements().sum(0), "train", run.kind.fields)
            seconds = time.perf_counter() - clock
            report |= {
                "train/epoch": run.step / run.per_epoch,
                "train/learning_rate": run.optimiser.param_groups[-1]["lr"],
                "train/gradient_norm": float(run.norm),
                "system/strings_per_second": strings / seconds,
                "system/tokens_per_second": tokens / seconds,
                "system/model_flop_utilisation": operations / seconds / peak,
                "system/memory_gb": memory_bytes(ranks.device) / 1e9,
            }
            run.pending, run.before = [], run.before[:0]
            metrics |= report
            if sink is not None:
                sink.write(run.step, report)
            clock, strings, tokens, operations = time.perf_counter(), 0, 0.0, 0.0
        if last or run.step % job.settings.validate_every == 0:
            started = time.perf_counter()
            report = run.validate()
            metrics |= report
            if sink is not None:
                sink.write(run.step, report)
            clock += time.perf_counter() - started
        stopping = not last and stop.agreed()
        if last or stopping or run.step % job.settings.checkpoint_every == 0:
            started = time.perf_counter()
            run.save()
            clock += time.perf_counter() - started
        if stopping:
            return False
    finish(run, metrics or run.validate())
    return True


def finish(run: Run, metrics: dict[str, float]) -> None:
    """The model folder, then `result.json`, which says that the run is complete."""
    weights = {name: whole(tensor) for name, tensor in run.model.state_dict().items()}
    if run.ranks.first:
        model = new_model(run.job.settings.encoder)
        model.load_state_dict(weights)
        # Where all steps were done by processes before this one, they have reported and this one has not.
        reported = (line for _, line in read_lines(run.folder / METRICS))
        metrics = {key: value for line in reported for key, value in line.items()} | metrics
        metadata = run.job.metadata | {"step": run.step, "corpus": run.training.digest, "metrics": metrics}
        save_encoder(run.job.model, model, metadata)
        write_json(run.folder / RESULT, {"step": run.step, "model": run.job.model, "metrics": metrics})
    run.ranks.wait()


def main(path: str) -> None:
    job = PretrainJob.read(path)
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")  # TF32 where bf16 is not asked for
    with ranks() as group:
        train(job, group)


if __name__ == "__main__":
    record(main)(sys.argv[1])  # an error is in the last lines of torchrun
