"""Scores of a model beside its baselines, logged: tables, figures, predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from prefect import task
from prefect.cache_policies import NO_CACHE

from cloud_core.evaluation import plots
from cloud_core.evaluation.data.dataset import Dataset
from cloud_core.evaluation.report import (
    MODEL,
    Evaluated,
    absolute_errors,
    compare,
    file_name,
    leakage_rows,
    over_folds,
    prediction_table,
)
from cloud_core.files import atomic
from cloud_core.models.targets import DEVIATION
from cloud_core.training.job import FitJob
from cloud_core.training.progress import METRICS, read_lines
from tasks.tracking import Run

PREDICTIONS = "test_predictions.csv"


@dataclass(frozen=True)
class Report:
    """What was logged of an evaluation."""

    folds: list[dict[str, Any]]
    """a row for each fold, target and model"""
    comparison: list[dict[str, Any]]
    """a row for each target and model: means over folds"""
    leakage: list[dict[str, Any]]
    predictions: Path


@task(name="report", cache_policy=NO_CACHE, cache_result_in_memory=False, persist_result=False)
def report(
    run: Run,
    folder: Path,
    data: Dataset,
    parts: Mapping[int, Evaluated],
    jobs: Mapping[int, Sequence[FitJob]],
) -> Report:
    """Score one split or several folds and log it all: tables, figures over all test rows, predictions.

    Args:
        parts: by number of the fold; a single split has number 0.
        jobs: of each part, the model's members.
    """
    folds = [row for fold, part in parts.items() for row in compare(data, part, fold)]
    comparison = over_folds(folds)
    leaks = [
        {"fold": fold, **row}
        for fold, part in parts.items()
        for row in leakage_rows(data, part.split, part.models[MODEL])
    ]
    run.log_metrics(flat_metrics(comparison))
    run.log_table(pd.DataFrame(comparison), "comparison.json")
    run.log_table(pd.DataFrame(folds), "folds.json")
    run.log_table(pd.DataFrame(leaks), "leakage.json")
    curves = {
        f"fold {fold}, {Path(job.folder).name}" if list(parts) != [0] else Path(job.folder).name: [
            (step, line["train_loss"], line["validation_loss"])
            for step, line in read_lines(Path(job.folder) / METRICS)
        ]
        for fold, members in jobs.items()
        for job in members
    }
    run.log_figure(plots.learning_curves(curves), "learning_curves.png")
    for place, _ in enumerate(data.targets):
        log_figures(run, data, place, list(parts.values()), [jobs[fold] for fold in parts])
    path = folder / PREDICTIONS
    tables = [prediction_table(data, part, fold) for fold, part in parts.items()]
    with atomic(path) as partial:
        pd.concat(tables).to_csv(partial, index=False)
    run.log_artifact(path)
    return Report(folds, comparison, leaks, path)


def log_figures(
    run: Run, data: Dataset, place: int, parts: Sequence[Evaluated], jobs: Sequence[Sequence[FitJob]]
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
    name = file_name(target.name)
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


def flat_metrics(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """`{"test/<target>/<metric>": …, "baseline/<name>/<target>/<metric>": …}` of comparison rows."""
    flat: dict[str, float] = {}
    for row in rows:
        name = file_name(row["model"])
        prefix = "test" if row["model"] == MODEL else f"baseline/{name}"
        for key, value in row.items():
            if isinstance(value, float) and np.isfinite(value):
                flat[f"{prefix}/{file_name(row['target'])}/{key}"] = value
    return flat
