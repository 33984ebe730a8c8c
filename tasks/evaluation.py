"""Finetuning and its evaluation as Prefect tasks: one model on one split with one seed is one task."""

import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from pydantic import Field
from safetensors.numpy import load_file, save_file

from cloud_core.evaluation.data.dataset import Dataset
from cloud_core.evaluation.data.folds import Split
from cloud_core.evaluation.metrics.uncertainty import widening
from cloud_core.evaluation.report import Predictions, file_name, run_baselines
from cloud_core.files import atomic
from cloud_core.models.ensemble import DEVIATION, Ensemble
from cloud_core.models.heads import PropertyModel, Target
from cloud_core.training.finetune import FitSettings
from cloud_core.training.progress import METRICS
from cloud_core.training.property import PARTS, RESULT, Job, run
from tasks.reporting import Progress
from tasks.tracking import tracked_run
from tasks.training import LOG, POLL_S, Launch, Relay, TrainingError, launched

MODULE = "cloud_core.training.property"
ROWS = "rows.parquet"


class FitLaunch(Launch):
    """How the ranks of one fit are started, and the GPUs that they may see."""

    devices: str | None = Field(None, description="CUDA_VISIBLE_DEVICES of this fit, e.g. '0,1'")

    def environment(self) -> dict[str, str]:
        seen = {} if self.devices is None else {"CUDA_VISIBLE_DEVICES": self.devices}
        return super().environment() | seen


def write_split(folder: Path, data: Dataset, split: Split, positions: int) -> Path:
    """Rows of a split in `folder`: as a table, and tokenized by part for the jobs on it."""
    data.save(folder / ROWS, split)
    for part, rows in zip(PARTS, split, strict=True):
        data.examples(rows, positions).save(folder / f"{part}.safetensors")
    return folder


@task(cache_policy=NO_CACHE, cache_result_in_memory=False, persist_result=False)
def fit_member(
    job_file: str,
    experiment: str,
    name: str,
    parent_run_id: str,
    launch: FitLaunch | None = None,
) -> dict[str, Any]:
    """Do the job of a file, in this process or under torchrun, with an MLflow run below the parent.

    A job that is done already is not done again, and has its run already.

    Raises:
        TrainingError: the ranks failed; names their log.
    """
    job = Job.read(job_file)
    finished = job.result()
    if finished is not None:
        return finished
    with (
        tracked_run(experiment, name, parent_run_id=parent_run_id) as child,
        Progress(job.settings.epochs, f"fit {name}", unit="epochs") as progress,
    ):
        child.log_params({"seed": job.settings.seed, "job": job_file})
        relay = Relay(Path(job.folder) / METRICS, child)

        def follow() -> None:
            relay.try_pump()
            if relay.step > progress.done:
                loss = f"{relay.last['validation_loss']:.4f}"
                progress.advance(relay.step - progress.done, validation_loss=loss)

        result = run(job, on_epoch=follow) if launch is None else _launch(job, launch, job_file, follow)
        relay.try_pump()  # an MLflow that is away does not fail a fit that is done
        child.log_metrics(
            {"best_epoch": result["best_epoch"], "best_validation_loss": result["validation_loss"]}
        )
    return result


def _launch(job: Job, launch: FitLaunch, job_file: str, follow: Callable[[], None]) -> dict[str, Any]:
    log = Path(job.folder) / LOG
    with launched(launch, MODULE, [job_file], log) as process:
        while process.poll() is None:
            follow()
            time.sleep(POLL_S)
        status = process.returncode
    result = job.result()
    if status != 0 or result is None:
        tail = " | ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        raise TrainingError(
            f"{job.folder}: the fit ended with status {status} and no {RESULT}. {LOG}: {tail}"
        )
    return result


@task(cache_policy=NO_CACHE, persist_result=False)
def fit_baselines(examples: str, names: Sequence[str]) -> None:
    """Predictions of the baselines for the test rows of a split that `write_split` wrote, kept beside it."""
    data, split = Dataset.load(Path(examples) / ROWS)
    for name in names:
        path = baseline_file(Path(examples), name)
        if not path.is_file():
            predictions = run_baselines(data, split, [name])[name]
            with atomic(path) as partial:
                save_file({key: np.ascontiguousarray(values) for key, values in predictions.items()}, partial)


def baseline_file(examples: Path, name: str) -> Path:
    return examples / "baselines" / f"{file_name(name)}.safetensors"


def baselines_of(examples: Path, names: Sequence[str]) -> dict[str, Predictions]:
    """What `fit_baselines` left: name -> target -> predictions."""
    return {name: load_file(baseline_file(examples, name)) for name in names}


def jobs_of(
    folder: Path,
    examples: Path,
    targets: Sequence[Target],
    seeds: Sequence[int],
    settings: FitSettings,
    **rest: Any,
) -> list[Job]:
    """A job for each seed, below `folder`, written out."""
    jobs = []
    for seed in seeds:
        place = folder / f"seed-{seed}"
        job = Job(
            folder=str(place),
            examples=str(examples),
            model=str(place / "model"),
            targets=tuple(targets),
            settings=replace(settings, seed=seed),
            **rest,
        )
        job.write()
        jobs.append(job)
    return jobs


def fit_all(
    jobs: Mapping[str, Job],
    experiment: str,
    parent_run_id: str,
    launch: FitLaunch | None = None,
    parallel: int = 1,
) -> None:
    """Do all jobs (name of the MLflow run -> job), `parallel` of them at once.

    One at a time they run in this process, or under `launch`. Several are torchrun's children, and each sees
    the GPUs of its own slot, where there are any. A failed job does not stop the others; it is raised at the
    end.
    """

    def arguments(name: str, job: Job) -> tuple[str, str, str, str]:
        return str(Path(job.folder) / "job.json"), experiment, name, parent_run_id

    if parallel == 1:
        for name, job in jobs.items():
            fit_member(*arguments(name, job), launch)
        return
    launch = launch or FitLaunch.model_validate({})
    waiting = deque(jobs.items())
    running: dict[int, PrefectFuture[Any]] = {}
    done: list[PrefectFuture[Any]] = []
    while waiting or running:
        for slot in range(parallel):
            if slot not in running and waiting:
                name, job = waiting.popleft()
                pinned = launch.model_copy(update={"devices": devices_of(slot, launch.processes)})
                running[slot] = fit_member.submit(*arguments(name, job), pinned)
        for slot in [slot for slot, future in running.items() if future.state.is_final()]:
            done.append(running.pop(slot))
        time.sleep(POLL_S)
    for future in done:
        future.result()


def devices_of(slot: int, processes: int) -> str | None:
    """GPUs of the ranks of one of several fits side by side: neighbours, taken in turn from those that this
    process may see.

    Raises:
        TrainingError: a fit has more ranks than there are GPUs.
    """
    count = torch.cuda.device_count()
    if not count:
        return None
    if processes > count:
        raise TrainingError(
            f"launch.processes {processes}: each rank takes a GPU of its own, and {count} can be seen here; "
            "set fewer processes"
        )
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else [str(number) for number in range(count)]
    return ",".join(names[(slot * processes + rank) % count] for rank in range(processes))


def join_members(
    jobs: Sequence[Job], folder: Path, data: Dataset, split: Split, metadata: dict[str, Any]
) -> Predictions:
    """Write the model folder of all members of a finished split, and give the test predictions.

    Several members become an ensemble, whose standard deviations are widened to fit the validation errors.
    """
    models = [PropertyModel.load(job.model)[0] for job in jobs]
    if len(models) == 1:
        models[0].save(folder, PropertyModel.load(jobs[0].model)[1])
        return jobs[0].predictions("test")
    ensemble = Ensemble(models)
    held = ensemble.combine([job.predictions("validation") for job in jobs])
    factors = []
    for place, target in enumerate(data.targets):
        labels = data.labels[split.validation, place]
        has = ~np.isnan(labels)
        if target.kind == "classification" or not has.any():
            factors.append(1.0)
        else:
            spread = held[target.name + DEVIATION]
            factors.append(widening(labels[has], held[target.name][has], spread[has]))
    ensemble.widening = tuple(factors)
    ensemble.save(folder, metadata | {"members": [job.model for job in jobs]})
    return ensemble.combine([job.predictions("test") for job in jobs])
