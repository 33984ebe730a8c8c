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

import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch.distributed.elastic.multiprocessing.errors import record

from cloud_core.files import atomic, write_json
from cloud_core.models.heads import geometry, take_encoder
from cloud_core.models.sites_encoder import SitesEncoder
from cloud_core.scope.sites import standardised_properties
from cloud_core.training.batches import Batches
from cloud_core.training.distributed import Ranks, StopRequest, ranks
from cloud_core.training.job import PARTS, PREDICTIONS, RESULT, FitJob
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
    return task, {} if job.start_from is None else take_encoder(task.model, job.start_from, job.settings.seed)


def run(
    job: FitJob,
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
    record(main)(sys.argv[1])  # an error stands in the last lines of torchrun
