"""What a model came to on test rows, beside the baselines, target by target."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cloud_core.evaluation.baselines import BASELINES
from cloud_core.evaluation.data.dataset import Dataset
from cloud_core.evaluation.data.folds import Split
from cloud_core.evaluation.leakage import leakage_by_form
from cloud_core.evaluation.metrics.classification import classification_metrics
from cloud_core.evaluation.metrics.regression import regression_metrics
from cloud_core.evaluation.metrics.uncertainty import uncertainty_metrics
from cloud_core.models.targets import DEVIATION, Target

MODEL = "model"
Predictions = dict[str, NDArray[np.float64]]


def score(
    target: Target, labels: NDArray[np.float64], predicted: NDArray[np.float64], dummy: float
) -> dict[str, float]:
    """Metrics of one target over the rows that have a label.

    Args:
        labels: `[n]`, nan where there is none.
        predicted: `[n]`, or class probabilities `[n, classes]`.
        dummy: the mean label of the training rows; of no effect on a classification.
    """
    has = ~np.isnan(labels)
    if target.kind == "classification":
        return classification_metrics(labels[has], predicted[has])
    return regression_metrics(labels[has], predicted[has], dummy)


def training_rows(split: Split) -> NDArray[np.int64]:
    """Training and validation rows: what a baseline, which needs no validation, is fitted to."""
    return np.sort(np.concatenate([split.train, split.validation]))


def run_baselines(data: Dataset, split: Split, names: Sequence[str], seed: int = 0) -> dict[str, Predictions]:
    """Baseline name -> target -> predictions for the test rows.

    Raises:
        KeyError: a name that is not in `BASELINES`.
    """
    rows, test = training_rows(split), data.take_texts(split.test)
    found: dict[str, Predictions] = {name: {} for name in names}
    for place, target in enumerate(data.targets):
        has = rows[~np.isnan(data.labels[rows, place])]
        texts, labels = data.take_texts(has), data.labels[has, place]
        for name in names:
            predicted = BASELINES[name](texts, labels, test, len(target.classes) or None, seed)
            found[name][target.name] = predicted
    return found


@dataclass(frozen=True)
class Evaluated:
    """A split, and what each model (the one in question under `MODEL`) says of its test rows."""

    split: Split
    models: Mapping[str, Predictions]


def compare(data: Dataset, part: Evaluated, fold: int = 0) -> list[dict[str, Any]]:
    """One row a target and model, ready for a table: target, unit, model, fold, test rows, metrics."""
    rows: list[dict[str, Any]] = []
    for place, target in enumerate(data.targets):
        labels = data.labels[part.split.test, place]
        known = data.labels[training_rows(part.split), place]
        dummy = float(np.nanmean(known))
        has = ~np.isnan(labels)
        for name, predictions in part.models.items():
            row = {
                "target": target.name,
                "unit": target.unit,
                "model": name,
                "fold": fold,
                "test_rows": int(has.sum()),
                **score(target, labels, predictions[target.name], dummy),
            }
            if (sigma := predictions.get(target.name + DEVIATION)) is not None:
                row |= uncertainty_metrics(labels[has], predictions[target.name][has], sigma[has])
            rows.append(row)
    return rows


def over_folds(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """`compare`'s rows of several folds as one a target and model: means, and `<metric>_std` over folds.

    The deviation is the population's, as MatBench takes it. One fold has none.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["target"], row["model"]), []).append(row)
    joined = []
    for members in groups.values():
        first = members[0]
        entry = {key: first[key] for key in ("target", "unit", "model")} | {
            "folds": len(members),
            "test_rows": sum(row["test_rows"] for row in members),
        }
        for key in [key for key, value in first.items() if isinstance(value, float)]:
            values = [row[key] for row in members]
            entry[key] = float(np.mean(values))
            if len(members) > 1:
                entry[f"{key}_std"] = float(np.std(values))
        joined.append(entry)
    return joined


def leakage_rows(data: Dataset, split: Split, predictions: Predictions) -> list[dict[str, Any]]:
    """Strings shared by training and test rows, with the error on shared and unshared ones, by target."""
    rows = []
    for place, target in enumerate(data.targets):
        labels = data.labels[split.test, place]
        has = ~np.isnan(labels)
        errors = absolute_errors(target, labels, predictions[target.name])[has]
        reports = leakage_by_form(data.forms(), training_rows(split), split.test[has], errors)
        rows += [{"target": target.name, **report.as_dict()} for report in reports]
    return rows


def absolute_errors(
    target: Target, labels: NDArray[np.float64], predicted: NDArray[np.float64]
) -> NDArray[np.float64]:
    """`[n]`: |predicted - true|; of a classification, one minus the probability of the true class."""
    if target.kind == "regression":
        return np.abs(predicted - labels)
    chosen = predicted[np.arange(len(labels)), np.nan_to_num(labels).astype(int)]
    return np.where(np.isnan(labels), np.nan, 1.0 - chosen)


def prediction_table(data: Dataset, part: Evaluated, fold: int = 0) -> pd.DataFrame:
    """Test rows with their labels and what each model says; of a classification each class's probability."""
    split, models = part.split, part.models
    columns: dict[str, Any] = {
        "fold": np.full(len(split.test), fold),
        "id": [data.ids[i] for i in split.test],
        "scope": data.take_texts(split.test),
        "canonical": [data.keys[i] for i in split.test],
    }
    for place, target in enumerate(data.targets):
        columns[target.name] = data.labels[split.test, place]
        for name, predictions in models.items():
            for key, values in predictions.items():
                if key == target.name and target.kind == "classification":
                    for index, label in enumerate(target.classes):
                        columns[f"{target.name}: {name}, {label}"] = values[:, index]
                elif key in (target.name, target.name + DEVIATION):
                    suffix = " (std)" if key.endswith(DEVIATION) and key != target.name else ""
                    columns[f"{target.name}: {name}{suffix}"] = values
    return pd.DataFrame(columns)


def file_name(name: str) -> str:
    """A target's or baseline's name as a file, a folder of artifacts or a part of a metric's key."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name)
