"""Finetuning of a property model, one rank's part: `torchrun -m cloud_core.training.property job.json`.

A job is one model on one split with one seed. Its folder gets `metrics.jsonl` (a line an epoch),
`predictions.safetensors` and, last, `result.json`; a job that has that is not done again. A job that is
stopped, or whose launcher was killed, leaves none.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import Tensor
from torch.distributed.elastic.multiprocessing.errors import record
from torch.nn import functional as F

from cloud_core.files import atomic, write_json
from cloud_core.models.encoder import EncoderConfig
from cloud_core.models.heads import (
    Pooling,
    PropertyModel,
    Target,
    geometry,
    slices,
    take_encoder,
    target_from,
)
from cloud_core.training.batches import Batches
from cloud_core.training.distributed import Ranks, StopRequest, ranks
from cloud_core.training.finetune import Epoch, FitSettings, FitStoppedError, Loss, alone, fit, outputs
from cloud_core.training.optimiser import OptimiserSettings
from cloud_core.training.progress import MetricsFile

LABELS = "labels"  # column `[rows, targets]` in physical units or class indices; nan where there is none
PARTS = ("train", "validation", "test")
PREDICTIONS = "predictions.safetensors"
RESULT = "result.json"

Objective = Literal["l1", "l2", "huber"]
_ERRORS = {"l1": F.l1_loss, "l2": F.mse_loss, "huber": F.smooth_l1_loss}


@dataclass(frozen=True)
class Job:
    """One fit. `examples` is a folder with train, validation and test .safetensors (`Batches.save`) whose
    column `labels` has a place for each of `targets`.

    Exactly one of `start_from` (a model folder whose encoder is taken) and `from_scratch` is given.
    `objective` is what regression minimises, in scaled units; classification has its cross-entropy.
    """

    folder: str
    examples: str
    model: str
    targets: tuple[Target, ...]
    settings: FitSettings = field(default_factory=FitSettings)
    objective: Objective = "l1"
    pooling: Pooling = "first"
    dropout: float | None = None  # while it is fitted; default: the encoder's own, which may have none
    start_from: str | None = None
    from_scratch: EncoderConfig | None = None
    metadata: dict[str, Any] = field(default_factory=dict)  # lineage, kept with the model

    def __post_init__(self) -> None:
        if (self.start_from is None) == (self.from_scratch is None):
            raise ValueError("give either start_from, the folder of a pretrained encoder, or from_scratch")

    @classmethod
    def read(cls, path: str | Path) -> "Job":
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        optimiser = values["settings"]["optimiser"]
        optimiser = OptimiserSettings(**optimiser | {"betas": tuple(optimiser["betas"])})
        scratch = values["from_scratch"]
        parts = {
            "targets": tuple(target_from(entry) for entry in values["targets"]),
            "settings": FitSettings(**values["settings"] | {"optimiser": optimiser}),
            "from_scratch": EncoderConfig(**scratch) if scratch else None,
        }
        return cls(**values | parts)

    def write(self) -> Path:
        """Write `job.json` into the job's folder."""
        path = Path(self.folder) / "job.json"
        return write_json(path, asdict(self))

    def load(self, part: str) -> Batches:
        return Batches.load(Path(self.examples) / f"{part}.safetensors")

    def result(self) -> dict[str, Any] | None:
        """What a finished job left; None for one that is not."""
        path = Path(self.folder) / RESULT
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None

    def predictions(self, part: str) -> dict[str, NDArray[np.float64]]:
        """Predictions of a finished job by target, in physical units or class probabilities."""
        tensors = load_file(Path(self.folder) / PREDICTIONS)
        prefix = f"{part}."
        return {name.removeprefix(prefix): v for name, v in tensors.items() if name.startswith(prefix)}


def property_loss(targets: Sequence[Target], known: NDArray[np.float64], objective: Objective = "l1") -> Loss:
    """The mean over rows of the mean over targets, each target counting alike however many labels it has.

    Args:
        known: `[targets]` share of the training rows that have a label. Dividing by it, and not by the number
            of labels in the batch, keeps the loss a mean over rows, so that it does not depend on how rows
            are grouped.
    """
    error = _ERRORS[objective]
    weights = (1.0 / (np.maximum(known, 1e-12) * len(targets))).tolist()

    def loss(output: Tensor, columns: Mapping[str, Tensor]) -> Tensor:
        labels = columns[LABELS]
        total = output.new_zeros(())
        for index, (target, place) in enumerate(slices(targets)):
            label, scored = labels[:, index], output[:, place]
            has = ~torch.isnan(label)
            label = label.nan_to_num()
            if target.kind == "classification":
                rows = F.cross_entropy(scored, label.long(), reduction="none")
            else:
                rows = error(scored[:, 0], label.to(scored.dtype), reduction="none")
            total = total + torch.where(has, rows, 0.0).mean() * weights[index]
        return total

    return loss


def scaled(examples: Batches, targets: Sequence[Target]) -> Batches:
    """The examples with labels as the outputs are compared with them."""
    labels = examples.columns[LABELS]
    if labels.shape[1:] != (len(targets),):
        raise ValueError(f"labels {labels.shape} do not fit {len(targets)} targets")
    columns = [target.scale(labels[:, index]) for index, target in enumerate(targets)]
    return replace(examples, columns={LABELS: np.stack(columns, axis=1).astype(np.float32)})


def build(job: Job, targets: Sequence[Target]) -> tuple[PropertyModel, dict[str, Any]]:
    """The model before its first step, and the metadata of what it starts from."""
    torch.manual_seed(job.settings.seed)
    encoder = job.from_scratch or geometry(str(job.start_from))
    if job.dropout is not None:
        encoder = replace(encoder, dropout=job.dropout, attention_dropout=job.dropout)
    model = PropertyModel(encoder, targets, job.pooling)
    return model, {} if job.start_from is None else take_encoder(model, job.start_from)


def run(
    job: Job,
    group: Ranks | None = None,
    on_epoch: Callable[[], None] = lambda: None,
    stopping: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Do the job, or return what it left when it was done before.

    `on_epoch` is called after each epoch, on rank 0, whose figures stand in the metrics file by then.
    `stopping` is asked after each step, on every rank.

    Raises:
        CheckpointError: the encoder to start from is missing or damaged.
        TargetError: labels that a target cannot take.
        FitError: too few rows, or a loss that is not finite.
        FitStoppedError: `stopping` said so.
    """
    finished = job.result()
    if finished is not None:
        return finished
    group = group or alone()
    parts = {part: job.load(part) for part in PARTS}
    labels = parts["train"].columns[LABELS]
    targets = [target.fitted(labels[:, index]) for index, target in enumerate(job.targets)]
    model, origin = build(job, targets)
    sink = MetricsFile(Path(job.folder), 0) if group.first else None

    def report(epoch: Epoch) -> None:
        if sink is not None:
            metrics = asdict(epoch)
            sink.write(metrics.pop("number"), metrics)
            on_epoch()

    found = fit(
        model,
        scaled(parts["train"], targets),
        scaled(parts["validation"], targets),
        job.settings,
        property_loss(targets, 1.0 - np.isnan(labels).mean(axis=0), job.objective),
        report,
        group,
        stopping=stopping,
    )
    result: dict[str, Any] = {
        "best_epoch": found.best.number,
        "epochs": len(found.epochs),
        "validation_loss": found.best.validation_loss,
        "rows_per_second": max(epoch.rows_per_second for epoch in found.epochs),
        "rows": {part: len(examples) for part, examples in parts.items()},
    }
    if group.first:
        tensors: dict[str, NDArray[Any]] = {}
        for part in ("validation", "test"):
            if len(parts[part]):
                given = outputs(model, parts[part], job.settings.precision, group.device)
                tensors |= {f"{part}.{name}": values for name, values in model.physical(given).items()}
        folder = Path(job.folder)
        with atomic(folder / PREDICTIONS) as partial:
            save_file(tensors, partial)
        model.cpu().save(job.model, job.metadata | {"pretrained": origin, "fit": result})
        write_json(folder / RESULT, result)
    group.wait()
    return result


def main(path: str) -> None:
    job = Job.read(path)
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")  # TF32 where bf16 is not asked for
    with ranks() as group:
        try:
            run(job, group, stopping=StopRequest(group).agreed)
        except FitStoppedError as stopped:  # no failure, after which torchrun would start again
            print(f"{job.folder}: {stopped}", flush=True)


if __name__ == "__main__":
    record(main)(sys.argv[1])  # an error stands in the last lines of torchrun
