"""Discovery metrics: how well predicted hull distances tell stable crystals from unstable ones.

Definitions of Matbench Discovery (J. Riebesell et al., Nature Machine Intelligence 7, 836 (2025)): its
`stable_metrics`, on predictions that its loader has cleaned (`max_error_threshold`). Energies are in eV/atom,
the names of the metrics the leaderboard's.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cloud_core.errors import CloudError

FULL = "full"
UNIQUE_PROTOTYPES = "unique_prototypes"
MOST_STABLE = "most_stable_10k"
N_MOST_STABLE = 10_000
MAX_ERROR = 5.0
"""eV/atom: beyond it the leaderboard takes a prediction for a failed calculation, and so for a missing one"""


class DiscoveryError(CloudError):
    """Predictions that do not fit the labels; names the rows and the remedy."""


def hull_distance(
    each_true: ArrayLike, e_form_true: ArrayLike, e_form_pred: ArrayLike
) -> NDArray[np.float64]:
    """Predicted hull distance [n]: the true one shifted by the error of the formation energy.

    The hull itself is the reference's, so an error in the formation energy moves a crystal up or down
    against hull points that do not move. nan where a prediction is missing.
    """
    true, form, predicted = (np.asarray(a, dtype=float) for a in (each_true, e_form_true, e_form_pred))
    return true + (predicted - form)


def without_failed(true: ArrayLike, predicted: ArrayLike) -> NDArray[np.float64]:
    """Predictions [n] with nan for those that are off by more than `MAX_ERROR`.

    Of formation energies or hull distances alike: both have the same error.
    """
    true, predicted = np.asarray(true, dtype=float), np.asarray(predicted, dtype=float)
    return np.where(np.abs(predicted - true) > MAX_ERROR, np.nan, predicted)


def discovery_metrics(
    each_true: ArrayLike,
    each_pred: ArrayLike,
    stability_threshold: float = 0.0,
    prevalence: float | None = None,
) -> dict[str, float]:
    """Classification as stable (hull distance ≤ threshold) and regression of the hull distance.

    Args:
        each_true, each_pred: [n] true and predicted distances to the convex hull, eV/atom. A missing
            prediction (nan), or one that is off by more than `MAX_ERROR`, counts as not stable and is left
            out of MAE, RMSE and R2.
        stability_threshold: eV/atom.
        prevalence: share of stable crystals that the discovery acceleration factor (DAF) is measured against;
            that of these rows unless given. For the 10k most stable it is that of the unique prototypes.

    Returns:
        F1, DAF, Precision, Recall, Accuracy, TPR, FPR, TNR, FNR, MAE, RMSE, R2; the counts TP, FP, TN, FN,
        `missing` (no prediction) and `excluded` (off by more than `MAX_ERROR`). A rate over no rows is 0, as
        in scikit-learn; errors over no rows are nan.

    Raises:
        DiscoveryError: unequal numbers of rows, none, true distances that are not finite, or predictions
            that are infinite.
    """
    true = np.asarray(each_true, dtype=float)
    predicted = np.asarray(each_pred, dtype=float)
    if true.ndim != 1 or true.shape != predicted.shape or len(true) == 0:
        raise DiscoveryError(
            f"{true.shape} true and {predicted.shape} predicted hull distances: give one of each per row, "
            "nan where a prediction is missing"
        )
    if not np.isfinite(true).all():
        raise DiscoveryError(
            f"{(~np.isfinite(true)).sum()} of {len(true)} true hull distances are not finite; "
            "leave crystals without a label out"
        )
    if np.isinf(predicted).any():
        raise DiscoveryError(f"{np.isinf(predicted).sum()} predicted hull distances are infinite")
    missing = int(np.isnan(predicted).sum())
    predicted = without_failed(true, predicted)
    stable = true <= stability_threshold
    called = predicted <= stability_threshold  # nan compares false: missing means not stable
    tp, fp = int((stable & called).sum()), int((~stable & called).sum())
    fn, tn = int((stable & ~called).sum()), int((~stable & ~called).sum())
    precision = _share(tp, tp + fp)
    if prevalence is None:
        prevalence = _share(tp + fn, len(true))
    known = ~np.isnan(predicted)
    return {
        "F1": _share(2 * tp, 2 * tp + fp + fn),
        "DAF": _share(precision, prevalence),
        "Precision": precision,
        "Recall": _share(tp, tp + fn),
        "Accuracy": _share(tp + tn, len(true)),
        "TPR": _share(tp, tp + fn),
        "FPR": _share(fp, fp + tn),
        "TNR": _share(tn, fp + tn),
        "FNR": _share(fn, tp + fn),
        "TP": tp,
        "FP": fp,
        "TN": tn,
        "FN": fn,
        "missing": missing,
        "excluded": int((~known).sum()) - missing,
        **_errors(true[known], predicted[known]),
    }


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _errors(true: NDArray[np.float64], predicted: NDArray[np.float64]) -> dict[str, float]:
    if len(true) == 0:
        return {"MAE": math.nan, "RMSE": math.nan, "R2": math.nan}
    error = predicted - true
    spread = float(((true - true.mean()) ** 2).sum())
    return {
        "MAE": float(np.abs(error).mean()),
        "RMSE": float(np.sqrt((error**2).mean())),
        "R2": 1 - float((error**2).sum()) / spread if spread else math.nan,
    }


def formation_energy_errors(e_form_true: ArrayLike, e_form_pred: ArrayLike) -> dict[str, float]:
    """MAE, RMSE (eV/atom) and R2 over the crystals with a label and a prediction; `rows` is their number,
    `missing` that of the labelled ones without a prediction, `excluded` of those that are off by more than
    `MAX_ERROR` and so left out.

    Args:
        e_form_true, e_form_pred: [n] eV/atom, nan where there is none.
    """
    true, predicted = np.asarray(e_form_true, dtype=float), np.asarray(e_form_pred, dtype=float)
    missing = int((~np.isnan(true) & np.isnan(predicted)).sum())
    predicted = without_failed(true, predicted)
    known = ~np.isnan(true) & ~np.isnan(predicted)
    excluded = int((~np.isnan(true)).sum() - known.sum()) - missing
    counts: dict[str, float] = {"rows": int(known.sum()), "missing": missing, "excluded": excluded}
    return counts | _errors(true[known], predicted[known])


@dataclass(frozen=True)
class SubsetMetrics:
    """Metrics of one named subset."""

    subset: str
    n_rows: int
    prevalence: float
    """share of stable crystals that DAF is measured against"""
    metrics: dict[str, float]


def subset_metrics(
    each_true: ArrayLike,
    each_pred: ArrayLike,
    unique_prototype: ArrayLike | None = None,
    stability_threshold: float = 0.0,
    n_most_stable: int = N_MOST_STABLE,
) -> dict[str, SubsetMetrics]:
    """`discovery_metrics` of the full set and, where it is known which rows are unique prototypes, of those
    and of the `n_most_stable` among them that are predicted most stable.

    Args:
        each_true, each_pred: [n] hull distances, eV/atom, nan where a prediction is missing.
        unique_prototype: [n] booleans, or None where the labels do not say.
    """
    true, predicted = np.asarray(each_true, dtype=float), np.asarray(each_pred, dtype=float)
    rows = {FULL: np.arange(len(true))}
    if unique_prototype is not None:
        mask = np.asarray(unique_prototype, dtype=bool)
        if mask.shape != true.shape:
            raise DiscoveryError(f"{mask.shape} unique-prototype marks for {true.shape} crystals")
        unique = np.flatnonzero(mask)
        order = np.argsort(without_failed(true, predicted)[unique], kind="stable")  # missing ones last
        ranked = unique[order]
        rows |= {UNIQUE_PROTOTYPES: unique, MOST_STABLE: ranked[:n_most_stable]}
    results = {}
    for name, index in rows.items():
        stable = true[rows[UNIQUE_PROTOTYPES] if name == MOST_STABLE else index] <= stability_threshold
        prevalence = float(stable.mean()) if len(stable) else 0.0
        metrics = discovery_metrics(true[index], predicted[index], stability_threshold, prevalence)
        results[name] = SubsetMetrics(name, len(index), prevalence, metrics)
    return results


def align(predictions: pd.Series, labels: pd.DataFrame, *, drop_unknown: bool = False) -> pd.Series:
    """Predictions [n labels] in the order of the labels.

    A crystal that a model could not handle is a row with nan. A crystal without a row is an error, and so is
    a row that the labels do not know, for both mean that something was mixed up.

    Args:
        predictions: indexed by material id.
        labels: indexed by material id.
        drop_unknown: leave out rows that the labels do not know (some published files carry withdrawn ids).

    Raises:
        DiscoveryError: duplicate, unknown or absent ids.
    """
    for name, index in (("predictions", predictions.index), ("labels", labels.index)):
        if index.has_duplicates:
            twice = index[index.duplicated()]
            raise DiscoveryError(
                f"{name}: {len(twice)} ids appear twice, such as {twice[0]}; keep one row each"
            )
    unknown = predictions.index.difference(labels.index)
    if len(unknown) and not drop_unknown:
        raise DiscoveryError(
            f"predictions: {len(unknown)} ids are not among the {len(labels):,} labels, as {unknown[0]}; "
            "check the data set, or drop them by name (drop_unknown)"
        )
    absent = labels.index.difference(predictions.index)
    if len(absent):
        raise DiscoveryError(
            f"predictions: {len(predictions) - len(unknown):,} rows for {len(labels):,} labels, "
            f"{absent[0]} is absent; give a row with an empty value for a crystal that could not be predicted"
        )
    return predictions.reindex(labels.index)


def summary_rows(results: Mapping[str, SubsetMetrics]) -> list[dict[str, Any]]:
    """One row a subset, rounded for tables."""
    return [
        {"subset": result.subset, "rows": result.n_rows, "prevalence": round(result.prevalence, 4)}
        | {
            name: value if isinstance(value, int) else round(value, 4)
            for name, value in result.metrics.items()
        }
        for result in results.values()
    ]
