"""Finetuning of a model, one rank's part: `torchrun -m cloud_core.training.fit job.json`.

A job is one model on one split with one seed. Its folder gets `metrics.jsonl` (a line an epoch),
`predictions.safetensors` and, last, `result.json`; a job that has that is not done again. A job that is
stopped, or whose launcher was killed, leaves none.
"""

import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch.distributed.elastic.multiprocessing.errors import record

from cloud_core.files import atomic, write_json
from cloud_core.models.ensemble import member_of
from cloud_core.models.heads import PropertyModel, geometry, take_encoder
from cloud_core.models.sites_encoder import SitesEncoder
from cloud_core.scope.sites import standardised_properties
from cloud_core.training.batches import Batches
from cloud_core.training.distributed import Ranks, StopRequest, ranks
from cloud_core.training.job import LABELS, PARTS, PREDICTIONS, RESULT, FitJob
from cloud_core.training.loop import Epoch, FitStoppedError, alone, fit, outputs
from cloud_core.training.losses import property, thermal
from cloud_core.training.losses.task import FitTask
from cloud_core.training.progress import MetricsFile


def build(job: FitJob, train: Batches, validation: Batches) -> tuple[FitTask, dict[str, Any]]:
    """The model before its first step with its loss and rows, and the metadata of what it starts from."""
    encoder = job.from_scratch or geometry(str(job.start_from))
    if job.settings.dropout is not None:
        encoder = replace(encoder, dropout=job.settings.dropout, attention_dropout=job.settings.dropout)
    torch.manual_seed(job.settings.seed)
    prepare = property.task if job.thermal is None else thermal.task
    task = prepare(job, encoder, train, validation)
    if isinstance(task.model.encoder, SitesEncoder):
        task.model.encoder.set_properties(torch.from_numpy(standardised_properties().copy()))
    if job.start_from is None:
        return task, {}
    origin = take_encoder(task.model, job.start_from, job.settings.seed)
    start = member_of(job.start_from, job.settings.seed)
    if isinstance(task.model, PropertyModel) and start is not None:
        taken = known_outputs(task.model, start, train)
        if taken:
            task.model.take_head(start, taken)
            origin = origin | {"outputs": taken}
    return task, origin


def known_outputs(model: PropertyModel, start: PropertyModel, train: Batches) -> dict[str, str]:
    """Targets that `start` predicts already, under whatever name: target of `model` -> target of `start`.

    Those are regression in the same unit (or none given) and scaling, of which `start`, on at most 2,000
    training rows, has less than half the mean absolute deviation of the labels as its error; of several, the
    one with the least.
    """
    if start.pooling != model.pooling and not isinstance(model.encoder, SitesEncoder):
        return {}
    sample = train.take(np.arange(min(len(train), 2000)))
    predicted = start.physical(outputs(start, sample, device=torch.device("cpu")))
    found = {}
    for column, target in enumerate(model.targets):
        labels = sample.columns[LABELS][:, column].astype(np.float64)
        labels, has = labels[~np.isnan(labels)], ~np.isnan(labels)
        if target.kind != "regression" or not len(labels):
            continue
        errors = {
            given.name: float(np.abs(predicted[given.name][has] - labels).mean())
            for given in start.targets
            if (given.kind, given.scaling) == (target.kind, target.scaling)
            and target.unit in ("", given.unit)
        }
        best = min(errors, key=errors.__getitem__, default=None)
        if best is not None and errors[best] < np.abs(labels - np.median(labels)).mean() / 2:
            found[target.name] = best
    return found


def run(
    job: FitJob,
    group: Ranks | None = None,
    on_epoch: Callable[[], None] = lambda: None,
    stopping: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Do the job, or return what it left when it was done before.

    `on_epoch` is called after each epoch, on rank 0, whose figures are in the metrics file by then.
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
    task, origin = build(job, parts["train"], parts["validation"])
    model = task.model
    sink = MetricsFile(Path(job.folder), 0) if group.first else None

    def report(epoch: Epoch) -> None:
        if sink is not None:
            metrics = asdict(epoch)
            sink.write(metrics.pop("number"), metrics)
            on_epoch()

    found = fit(model, task.train, task.validation, job.settings, task.loss, report, group, stopping=stopping)
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
                tensors |= {f"{part}.{name}": values for name, values in task.physical(given).items()}
        folder = Path(job.folder)
        with atomic(folder / PREDICTIONS) as partial:
            save_file(tensors, partial)
        model.cpu().save(job.model, job.metadata | task.metadata | {"pretrained": origin, "fit": result})
        write_json(folder / RESULT, result)
    group.wait()
    return result


def main(path: str) -> None:
    job = FitJob.read(path)
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")  # TF32 where bf16 is not asked for
    with ranks() as group:
        try:
            run(job, group, stopping=StopRequest(group).agreed)
        except FitStoppedError as stopped:  # no failure, after which torchrun would start again
            print(f"{job.folder}: {stopped}", flush=True)


if __name__ == "__main__":
    record(main)(sys.argv[1])  # an error is in the last lines of torchrun
