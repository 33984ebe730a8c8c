"""Fits as Prefect tasks: one model on one split with one seed is one task."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from safetensors.numpy import save_file

from cloud_core.evaluation.data.dataset import Dataset
from cloud_core.evaluation.data.folds import Split
from cloud_core.evaluation.finetuning import ROWS, FitConfig, Start, baseline_file, find_settings
from cloud_core.evaluation.report import run_baselines
from cloud_core.files import atomic
from cloud_core.training.fit import run
from cloud_core.training.job import RESULT, FitJob, FitSettings
from cloud_core.training.launch import (
    LOG,
    FitLaunch,
    TrainingError,
    devices_of,
    last_lines,
)
from cloud_core.training.progress import METRICS
from tasks.reporting import Progress
from tasks.tracking import Run, flatten, tracked_run
from tasks.training import POLL_S, Relay, train


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
    job = FitJob.read(job_file)
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


def _launch(job: FitJob, launch: FitLaunch, job_file: str, follow: Callable[[], None]) -> dict[str, Any]:
    log = Path(job.folder) / LOG
    status = train(launch, "cloud_core.training.fit", job_file, log, follow)
    result = job.result()
    if status != 0 or result is None:
        raise TrainingError(
            f"{job.folder}: the fit ended with status {status} and no {RESULT}. {LOG}: {last_lines(log)}"
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


def fit_all(
    jobs: Mapping[str, FitJob],
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

    def arguments(name: str, job: FitJob) -> tuple[str, str, str, str]:
        return str(job.file), experiment, name, parent_run_id

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


def search_settings(
    config: FitConfig, start: Start, folder: Path, data: Dataset, split: Split, run: Run, prefix: str = ""
) -> FitSettings:
    """The settings to fit with: the configuration's, or the best that its search finds, a child run a trial.

    prefix: of the names under which trials and findings are logged, where a run has several searches.
    """

    def validation_loss(job: FitJob, number: int) -> float:
        name = f"{prefix}trial-{number}"
        found = fit_member(str(job.file), config.experiment, name, run.run_id, config.launch)
        return float(found["validation_loss"])

    best, value = find_settings(config, start, folder, data, split, validation_loss)
    if value is not None:
        run.log_params({f"{prefix}found.{key}": value for key, value in flatten(asdict(best)).items()})
        run.log_metrics({f"{prefix}search/validation_loss": value})
    return best
