"""Masked-language-model pretraining, one rank's part: `torchrun -m cloud_core.training.pretrain job.json`.

A step is a pure function of (job, step): the global batch is drawn from (seed, epoch), masks from (seed,
epoch, row), dropout from (seed, step, rank), and the loss is the mean over all masked tokens of the global
batch. So the number of ranks changes who computes what, not what is computed; and a killed run goes on from
its last checkpoint as if nothing had happened.
"""

import json
import math
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cloud_core.models.checkpoint import save_encoder
from cloud_core.models.encoder import EncoderConfig, MaskedLanguageModel, Packing
from cloud_core.scope.tokenizer import FIELDS, SPECIAL
from cloud_core.training import counter
from cloud_core.training.augmentation import augment, space_group_numbers
from cloud_core.training.corpus import Corpus, batches_per_epoch, epoch_batches, share
from cloud_core.training.distributed import Ranks, StopRequest, Strategy, gradient_sync, ranks, spread, whole
from cloud_core.training.masking import Masking, Tokens, choose, corrupt
from cloud_core.training.optimiser import OptimiserSettings, adamw, schedule, set_learning_rate
from cloud_core.training.progress import (
    MetricsFile,
    matrix_rate,
    memory_bytes,
    training_operations,
    write_json,
)
from cloud_core.training.state import latest, load_state, save_state, start_from

RESULT = "result.json"
CHECKPOINTS = "checkpoints"
VALIDATION_EPOCH = -1  # masks of the validation rows are drawn once for all


@dataclass(frozen=True)
class Job:
    """One pretraining run. `folder` gets metrics.jsonl, checkpoints/ and result.json; `model` the model.

    batch_size: strings of a global batch, whatever the number of ranks. micro_batch_tokens: about how many
    tokens a rank takes through the model at once; larger shares of a batch accumulate gradients. Intervals
    are in steps.
    """

    folder: str
    training: str  # files written by `Corpus.save`
    validation: str
    model: str
    steps: int
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    masking: Masking = field(default_factory=Masking)
    relabel: bool = False  # other names of the same crystals in each epoch
    optimiser: OptimiserSettings = field(default_factory=OptimiserSettings)
    batch_size: int = 256
    seed: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    strategy: Strategy = "ddp"
    compile: bool = False
    micro_batch_tokens: int = 16_384
    log_every: int = 10
    validate_every: int = 500
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    start_from: str | None = None  # a model folder to take the first weights from
    metadata: dict[str, Any] = field(default_factory=dict)  # lineage, kept with the model

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "batch_size",
            "log_every",
            "validate_every",
            "checkpoint_every",
            "keep_checkpoints",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.micro_batch_tokens < 2 * self.encoder.positions:
            raise ValueError(
                f"micro_batch_tokens {self.micro_batch_tokens} must hold two strings of "
                f"{self.encoder.positions} tokens"
            )

    @classmethod
    def read(cls, path: str | Path) -> "Job":
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        optimiser = values["optimiser"] | {"betas": tuple(values["optimiser"]["betas"])}
        parts = {
            "encoder": EncoderConfig(**values["encoder"]),
            "masking": Masking(**values["masking"]),
            "optimiser": OptimiserSettings(**optimiser),
        }
        return cls(**values | parts)

    def write(self, path: str | Path) -> None:
        write_json(Path(path), asdict(self))

    def recipe(self, corpus: Corpus) -> dict[str, Any]:
        """All that decides the outcome: a checkpoint continues only the same recipe."""
        keys = (
            "steps",
            "encoder",
            "masking",
            "relabel",
            "optimiser",
            "batch_size",
            "seed",
            "precision",
            "start_from",
        )
        values = asdict(self)
        # As JSON gives it back, so that it compares equal to what a checkpoint holds.
        recipe = {key: values[key] for key in keys} | {"corpus": corpus.digest}
        return dict(json.loads(json.dumps(recipe)))


class MicroBatch(NamedTuple):
    """What goes through the model at once."""

    ids: Tensor  # [T] as the model sees them
    packing: Packing
    masked: Tensor  # [M] places among the T
    targets: Tensor  # [M] the true words
    fields: Tensor  # [M] of which field each is

    def to(self, device: torch.device) -> "MicroBatch":
        if device.type == "cpu":
            return self
        ids, masked, targets, fields = (
            tensor.pin_memory().to(device, non_blocking=True)
            for tensor in (self.ids, self.masked, self.targets, self.fields)
        )
        return MicroBatch(ids, self.packing.to(device), masked, targets, fields)


class Objective(nn.Module):
    """The model and its loss, as one module for DDP, FSDP and the compiler to wrap."""

    def __init__(self, model: MaskedLanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """-> the summed cross-entropy of the masked words (nats), and `[1 + 2 * 5]`: that sum, then for each
        of `FIELDS` the words predicted rightly and the words asked for."""
        logits = self.model.masked_logits(batch.ids, batch.packing, batch.masked).float()
        loss = F.cross_entropy(logits, batch.targets, reduction="sum")
        right = (logits.argmax(-1) == batch.targets).double()
        counts = torch.zeros(2, len(FIELDS), dtype=torch.float64, device=logits.device)
        counts[0].index_add_(0, batch.fields, right)
        counts[1].index_add_(0, batch.fields, torch.ones_like(right))
        return loss, torch.cat([loss.detach().double()[None], counts.flatten()])


def micro_batches(
    corpus: Corpus,
    rows: NDArray[np.int64],
    masking: Masking,
    seed: int,
    epoch: int,
    ranks: Ranks,
    limit: int,
    groups: NDArray[np.int64] | None = None,
) -> tuple[list[MicroBatch], int]:
    """This rank's share of the global batch `rows`, and the number of masked words in the whole batch.

    The number of micro-batches is the same on every rank. `groups`: see `micro_batch`.
    """
    tokens = Tokens.of(corpus, rows)
    scored = int(choose(tokens, masking, seed, epoch).sum())
    mine = share(rows, corpus.lengths, ranks.rank, ranks.world)
    parts = min(-(-len(tokens.ids) // (ranks.world * limit)), len(rows) // ranks.world)
    ends = np.cumsum(corpus.lengths[mine])
    cuts = np.searchsorted(ends, ends[-1] * np.arange(1, parts) / parts, side="right")
    parts_of_mine = np.split(mine, cuts)
    return [micro_batch(corpus, part, masking, seed, epoch, groups) for part in parts_of_mine], scored


def micro_batch(
    corpus: Corpus,
    rows: NDArray[np.int64],
    masking: Masking,
    seed: int,
    epoch: int,
    groups: NDArray[np.int64] | None = None,
) -> MicroBatch:
    """Some rows, masked; augmented first where the space groups `[rows of the corpus]` are given."""
    tokens = Tokens.of(corpus, rows)
    if groups is not None:
        tokens = augment(tokens, groups, seed, epoch)
    chosen = choose(tokens, masking, seed, epoch)
    seen = corrupt(tokens, chosen, masking, seed, epoch)
    lengths = torch.from_numpy(corpus.lengths[rows])
    return MicroBatch(
        torch.from_numpy(seen),
        Packing.of(lengths, int(lengths.max())),
        torch.from_numpy(np.flatnonzero(chosen)),
        torch.from_numpy(tokens.ids[chosen]),
        torch.from_numpy(tokens.fields[chosen].astype(np.int64)),
    )


class Run:
    """One rank's run of a job."""

    def __init__(self, job: Job, ranks: Ranks) -> None:
        self.job, self.ranks = job, ranks
        self.folder = Path(job.folder)
        self.training, self.validation = Corpus.load(job.training), Corpus.load(job.validation)
        if min(len(self.training), len(self.validation), job.batch_size) < ranks.world:
            raise ValueError(
                f"{len(self.training)} training and {len(self.validation)} validation strings in batches of "
                f"{job.batch_size} are too few for {ranks.world} processes; start fewer"
            )
        self.per_epoch = batches_per_epoch(len(self.training), job.batch_size)
        self.groups = space_group_numbers(self.training) if job.relabel else None
        self.order: tuple[int, list[NDArray[np.int64]]] = (-1, [])
        torch.manual_seed(job.seed)
        self.model = MaskedLanguageModel(job.encoder)
        if job.start_from is not None:
            start_from(job.start_from, self.model)
        objective = Objective(self.model)
        if job.compile:
            objective.compile(dynamic=True)
        self.objective = spread(objective, self.model.encoder.layers, ranks, job.strategy)
        self.optimiser = adamw(self.model, job.encoder.layers, job.optimiser)
        self.recipe = job.recipe(self.training)
        self.step = 0
        self.pending: list[Tensor] = []  # measurements of the steps since the last report
        self.before = torch.zeros(0, 1 + 2 * len(FIELDS), dtype=torch.float64)  # those before a resume
        checkpoint = latest(self.folder / CHECKPOINTS)
        if checkpoint is not None:
            self.step, self.before = load_state(checkpoint, self.model, self.optimiser, self.recipe)

    def autocast(self) -> AbstractContextManager[Any]:
        if self.job.precision == "float32":
            return nullcontext()
        return torch.autocast(self.ranks.device.type, torch.bfloat16)

    def rows(self, step: int) -> tuple[int, NDArray[np.int64]]:
        """(epoch, rows of the global batch)."""
        epoch, index = divmod(step, self.per_epoch)
        if self.order[0] != epoch:
            batches = epoch_batches(len(self.training), self.job.batch_size, self.job.seed, epoch)
            self.order = (epoch, batches)
        return epoch, self.order[1][index]

    def take_step(self) -> "Work":
        """One optimiser step; returns what it took."""
        job, ranks = self.job, self.ranks
        epoch, rows = self.rows(self.step)
        torch.manual_seed(
            int(counter.bits(job.seed, counter.DROPOUT, self.step, ranks.rank)[0] >> np.uint64(1))
        )
        batches, scored = micro_batches(
            self.training, rows, job.masking, job.seed, epoch, ranks, job.micro_batch_tokens, self.groups
        )
        set_learning_rate(self.optimiser, schedule(self.step, job.steps, job.optimiser))
        measured = torch.zeros(self.before.shape[1], dtype=torch.float64, device=ranks.device)
        for number, batch in enumerate(batches, 1):
            with gradient_sync(self.objective, number == len(batches)):
                with self.autocast():
                    loss, measures = self.objective(batch.to(ranks.device))
                # Gradients are averaged over the ranks; the mean over masked words is what is wanted.
                (loss * (ranks.world / max(scored, 1))).backward()
            measured = measured + measures
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), job.optimiser.clip_norm)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.pending.append(measured)
        self.step += 1
        operations = training_operations(job.encoder, self.training.lengths[rows], scored)
        return Work(len(rows), float(self.training.lengths[rows].sum()), operations, norm)

    def settle(self) -> None:
        """A backward pass whose gradients are thrown away.

        DDP regroups its buckets after the first one, and with three ranks or more the sums come out in
        another order; so fresh and resumed runs both do this before their first step.
        """
        epoch, rows = self.rows(0)
        batch = micro_batch(
            self.training,
            share(rows, self.training.lengths, self.ranks.rank, self.ranks.world)[:1],
            self.job.masking,
            self.job.seed,
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

    def validate(self) -> dict[str, float]:
        """Loss, perplexity and accuracies on the validation rows."""
        # FSDP needs its own wrapper for a forward pass; DDP's would wait for a backward one.
        module = getattr(self.objective, "module", self.objective)
        with self.autocast():
            return evaluate(module, self.validation, self.ranks, self.job.micro_batch_tokens)

    def save(self) -> None:
        save_state(
            self.folder / CHECKPOINTS,
            self.step,
            self.model,
            self.optimiser,
            self.measurements(),
            self.recipe,
            self.job.metadata,
            self.ranks,
            self.job.keep_checkpoints,
        )


@torch.no_grad()
def evaluate(
    objective: nn.Module, corpus: Corpus, ranks: Ranks, tokens_at_once: int = 16_384
) -> dict[str, float]:
    """Loss, perplexity and accuracies on a corpus, with published masks that are the same at every call."""
    training = objective.training
    objective.eval()
    total = torch.zeros(1 + 2 * len(FIELDS), dtype=torch.float64, device=ranks.device)
    rule = Masking()
    at_once = ranks.world * max(1, tokens_at_once // int(corpus.lengths.max()))
    for rows in epoch_batches(len(corpus), at_once, 0, 0):
        mine = share(rows, corpus.lengths, ranks.rank, ranks.world)
        batch = micro_batch(corpus, mine, rule, 0, VALIDATION_EPOCH)
        total += objective(batch.to(ranks.device))[1]
    objective.train(training)
    metrics = summary(ranks.sum(total).cpu(), "validation")
    return metrics | {"validation/perplexity": math.exp(min(metrics["validation/loss"], 700.0))}


class Work(NamedTuple):
    """What a step took, over all ranks."""

    strings: int
    tokens: float
    operations: float
    gradient_norm: Tensor


def summary(sums: Tensor, prefix: str) -> dict[str, float]:
    """Mean loss and masked accuracies, over all words and per field, from an `Objective`'s sums."""
    right, asked = sums[1:].reshape(2, -1).tolist()
    metrics = {
        f"{prefix}/loss": float(sums[0]) / max(sum(asked), 1.0),
        f"{prefix}/masked_accuracy": sum(right) / max(sum(asked), 1.0),
    }
    for name, hits, words in zip(FIELDS, right, asked, strict=True):
        if words and name != FIELDS[SPECIAL]:  # separators; they stand where they must
            metrics[f"{prefix}/masked_accuracy_{name}"] = hits / words
    return metrics


def train(job: Job, ranks: Ranks) -> bool:
    """Train to the last step; False where a stop was asked for, after a checkpoint."""
    stop = StopRequest(ranks)
    run = Run(job, ranks)
    dtype = torch.bfloat16 if job.precision == "bfloat16" else torch.float32
    peak = float(ranks.sum(torch.tensor([matrix_rate(ranks.device, dtype)], dtype=torch.float64)))
    sink = MetricsFile(run.folder, run.step) if ranks.first else None
    if ranks.world > 1 and run.step < job.steps:
        run.settle()
    metrics: dict[str, float] = {}
    clock, strings, tokens, operations = time.perf_counter(), 0, 0.0, 0.0
    while run.step < job.steps:
        work = run.take_step()
        strings, tokens = strings + work.strings, tokens + work.tokens
        operations += work.operations
        last = run.step == job.steps
        if last or run.step % job.log_every == 0:
            report = summary(run.measurements().sum(0), "train")
            if not math.isfinite(report["train/loss"]):
                raise FloatingPointError(
                    f"step {run.step}: the loss is {report['train/loss']}; lower optimiser.learning_rate, "
                    f"the last checkpoint is in {run.folder / CHECKPOINTS}"
                )
            seconds = time.perf_counter() - clock
            report |= {
                "train/epoch": run.step / run.per_epoch,
                "train/learning_rate": run.optimiser.param_groups[-1]["lr"],
                "train/gradient_norm": float(work.gradient_norm),
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
        if last or run.step % job.validate_every == 0:
            started = time.perf_counter()
            report = run.validate()
            metrics |= report
            if sink is not None:
                sink.write(run.step, report)
            clock += time.perf_counter() - started
        stopping = not last and stop.agreed()
        if last or stopping or run.step % job.checkpoint_every == 0:
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
        model = MaskedLanguageModel(run.job.encoder)
        model.load_state_dict(weights)
        metadata = run.job.metadata | {"step": run.step, "corpus": run.training.digest, "metrics": metrics}
        save_encoder(run.job.model, model, metadata)
        write_json(run.folder / RESULT, {"step": run.step, "model": run.job.model, "metrics": metrics})
    run.ranks.wait()


def main(path: str) -> None:
    job = Job.read(path)
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")  # TF32 where bf16 is not asked for
    with ranks() as group:
        train(job, group)


if __name__ == "__main__":
    main(sys.argv[1])
