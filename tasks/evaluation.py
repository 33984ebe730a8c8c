"""Finetuning and its evaluation as Prefect tasks: one model on one split with one seed is one task."""

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import Field
from safetensors.numpy import load_file, save_file

from cloud_core.evaluation import plots
from cloud_core.evaluation.dataset import Dataset
from cloud_core.evaluation.folds import Split
from cloud_core.evaluation.report import (
    MODEL,
    Predictions,
    absolute_errors,
    compare,
    leakage_rows,
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
        child.log_metrics({key: result[key] for key in ("best_epoch", "validation_loss", "rows_per_second")})
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


def report(
    run: Run,
    folder: Path,
    data: Dataset,
    split: Split,
    predictions: Predictions,
    baselines: dict[str, Predictions],
    jobs: Sequence[Job],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], Path]:
    """Score a split and log it: (rows by target and model, leakage rows, file of test predictions)."""
    models = {MODEL: predictions, **baselines}
    rows = compare(data, split, models)
    leaks = leakage_rows(data, split, predictions)
    run.log_metrics(flat_metrics(rows))
    run.log_table(pd.DataFrame(rows), "comparison.json")
    run.log_table(pd.DataFrame(leaks), "leakage.json")
    curves = {
        Path(job.folder).name: [
            (step, line["train_loss"], line["validation_loss"])
            for step, line in read_lines(Path(job.folder) / METRICS)
        ]
        for job in jobs
    }
    run.log_figure(plots.learning_curves(curves), "learning_curves.png")
    for place, target in enumerate(data.targets):
        labels = data.labels[split.test, place]
        has = ~np.isnan(labels)
        predicted = predictions[target.name][has]
        texts = [text for text, use in zip(data.take_texts(split.test), has, strict=True) if use]
        errors = absolute_errors(target, labels[has], predicted)
        name = artifact_name(target.name)
        run.log_figure(
            plots.error_by_crystal_system(texts, errors, target.unit), f"{name}/error_by_crystal_system.png"
        )
        run.log_figure(plots.error_by_element(texts, errors, target.unit), f"{name}/error_by_element.png")
        if target.kind == "classification":
            continue
        deviation = predictions.get(target.name + DEVIATION)
        spread = None if deviation is None else deviation[has]
        run.log_figure(
            plots.parity(labels[has], predicted, target.name, target.unit, spread), f"{name}/parity.png"
        )
        if spread is not None:
            raw = np.stack([job.predictions("test")[target.name][has] for job in jobs]).std(axis=0, ddof=1)
            both = {"as the members say": raw, "fitted to validation errors": spread}
            run.log_figure(plots.calibration(labels[has], predicted, both), f"{name}/calibration.png")
    path = folder / PREDICTIONS
    partial = path.with_suffix(f".{os.getpid()}.partial")
    prediction_table(data, split, models).to_csv(partial, index=False)
    partial.replace(path)
    run.log_artifact(path)
    return rows, leaks, path


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
