"""Finetuning and its evaluation as Prefect tasks: one model on one split with one seed is one task."""

import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from pydantic import Field
from safetensors.numpy import load_file, save_file

from cloud_core.evaluation import plots
from cloud_core.evaluation.dataset import Dataset
from cloud_core.evaluation.folds import Split
from cloud_core.evaluation.report import (
    MODEL,
    Evaluated,
    Predictions,
    absolute_errors,
    compare,
    leakage_rows,
    over_folds,
    prediction_table,
    run_baselines,
)
from cloud_core.evaluation.uncertainty import widening
from cloud_core.models.ensemble import DEVIATION, Ensemble
from cloud_core.models.heads import PropertyModel, Target
from cloud_core.training.finetune import FitSettings
from cloud_core.training.progress import METRICS, read_lines
from cloud_core.training.property import PARTS, RESULT, Job, run
from tasks.tracking import Run, tracked_run
from tasks.training import LOG, POLL_S, Launch, Relay, TrainingError, launched

MODULE = "cloud_core.training.property"
ROWS = "rows.parquet"
PREDICTIONS = "test_predictions.csv"


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
    with tracked_run(experiment, name, parent_run_id=parent_run_id) as child:
        child.log_params({"seed": job.settings.seed, "job": job_file})
        relay = Relay(Path(job.folder) / METRICS, child)
        result = run(job) if launch is None else _launch(job, launch, job_file, relay)
        relay.pump()
        child.log_metrics(
            {"best_epoch": result["best_epoch"], "best_validation_loss": result["validation_loss"]}
        )
    return result


def _launch(job: Job, launch: FitLaunch, job_file: str, relay: Relay) -> dict[str, Any]:
    log = Path(job.folder) / LOG
    with launched(launch, MODULE, [job_file], log) as process:
        while process.poll() is None:
            relay.try_pump()
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
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            save_file({key: np.ascontiguousarray(values) for key, values in predictions.items()}, partial)
            partial.replace(path)


def baseline_file(examples: Path, name: str) -> Path:
    return examples / "baselines" / f"{artifact_name(name)}.safetensors"


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
    """GPUs of the ranks of one of several fits side by side: neighbours, taken in turn."""
    count = torch.cuda.device_count()
    if not count:
        return None
    return ",".join(str((slot * processes + rank) % count) for rank in range(processes))


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


@dataclass(frozen=True)
class Report:
    """What was logged of an evaluation."""

    folds: list[dict[str, Any]]
    """a row for each fold, target and model"""
    comparison: list[dict[str, Any]]
    """a row for each target and model: means over folds"""
    leakage: list[dict[str, Any]]
    predictions: Path


def report(
    run: Run, folder: Path, data: Dataset, parts: Sequence[Evaluated], jobs: Sequence[Sequence[Job]]
) -> Report:
    """Score one split or several folds and log it all: tables, figures over all test rows, predictions.

    Args:
        jobs: of each part, the model's members.
    """
    folds = [row for fold, part in enumerate(parts) for row in compare(data, part, fold)]
    comparison = over_folds(folds)
    leaks = [
        {"fold": fold, **row}
        for fold, part in enumerate(parts)
        for row in leakage_rows(data, part.split, part.models[MODEL])
    ]
    run.log_metrics(flat_metrics(comparison))
    run.log_table(pd.DataFrame(comparison), "comparison.json")
    run.log_table(pd.DataFrame(folds), "folds.json")
    run.log_table(pd.DataFrame(leaks), "leakage.json")
    curves = {
        f"fold {fold}, {Path(job.folder).name}" if len(parts) > 1 else Path(job.folder).name: [
            (step, line["train_loss"], line["validation_loss"])
            for step, line in read_lines(Path(job.folder) / METRICS)
        ]
        for fold, members in enumerate(jobs)
        for job in members
    }
    run.log_figure(plots.learning_curves(curves), "learning_curves.png")
    for place, _ in enumerate(data.targets):
        log_figures(run, data, place, parts, jobs)
    path = folder / PREDICTIONS
    partial = path.with_suffix(f".{os.getpid()}.partial")
    tables = [prediction_table(data, part, fold) for fold, part in enumerate(parts)]
    pd.concat(tables).to_csv(partial, index=False)
    partial.replace(path)
    run.log_artifact(path)
    return Report(folds, comparison, leaks, path)


def log_figures(
    run: Run, data: Dataset, place: int, parts: Sequence[Evaluated], jobs: Sequence[Sequence[Job]]
) -> None:
    """Parity, calibration, and error by crystal system and element, of one target over all test rows."""
    target = data.targets[place]
    tested = np.concatenate([part.split.test for part in parts])
    has = ~np.isnan(data.labels[tested, place])
    labels, texts = data.labels[tested, place][has], data.take_texts(tested[has])

    def gather(key: str) -> Any:
        return np.concatenate([part.models[MODEL][key] for part in parts])[has]

    predicted = gather(target.name)
    errors = absolute_errors(target, labels, predicted)
    name = artifact_name(target.name)
    run.log_figure(
        plots.error_by_crystal_system(texts, errors, target.unit), f"{name}/error_by_crystal_system.png"
    )
    run.log_figure(plots.error_by_element(texts, errors, target.unit), f"{name}/error_by_element.png")
    if target.kind == "classification":
        return
    deviation = target.name + DEVIATION
    if deviation not in parts[0].models[MODEL]:
        run.log_figure(plots.parity(labels, predicted, target.name, target.unit), f"{name}/parity.png")
        return
    spread = gather(deviation)
    run.log_figure(plots.parity(labels, predicted, target.name, target.unit, spread), f"{name}/parity.png")
    raw = np.concatenate(
        [np.stack([job.predictions("test")[target.name] for job in m]).std(axis=0, ddof=1) for m in jobs]
    )[has]
    both = {"as the members say": raw, "fitted to validation errors": spread}
    run.log_figure(plots.calibration(labels, predicted, both), f"{name}/calibration.png")


def artifact_name(name: str) -> str:
    """A target's name as a folder of MLflow artifacts."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name)


def flat_metrics(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """`{"test/<target>/<metric>": …, "baseline/<name>/<target>/<metric>": …}` of comparison rows."""
    flat: dict[str, float] = {}
    for row in rows:
        name = artifact_name(row["model"])
        prefix = "test" if row["model"] == MODEL else f"baseline/{name}"
        for key, value in row.items():
            if isinstance(value, float) and np.isfinite(value):
                flat[f"{prefix}/{artifact_name(row['target'])}/{key}"] = value
    return flat
