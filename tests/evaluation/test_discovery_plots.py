"""Pictures of a discovery benchmark: what they draw is what the metrics say."""

import numpy as np
import pytest
from sklearn import metrics as sk

from cloud_core.evaluation.discovery import discovery_metrics
from cloud_core.evaluation.screening.plots import (
    hull_distance_histogram,
    precision_recall_curve,
    roc_curve,
    rolling_error,
)

RNG = np.random.default_rng(0)
TRUE = RNG.normal(0.1, 0.2, 500)
PREDICTED = np.where(RNG.random(500) < 0.1, np.nan, TRUE + RNG.normal(0, 0.1, 500))


def labels(figure: object) -> list[str]:
    (axes,) = figure.axes  # type: ignore[attr-defined]
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_histogram_is_coloured_by_correctness() -> None:
    known = ~np.isnan(PREDICTED)
    found = discovery_metrics(TRUE[known], PREDICTED[known])
    figure = hull_distance_histogram(TRUE, PREDICTED, limit=5.0)
    assert labels(figure) == [
        f"true positive ({found['TP']:,})",
        f"false negative ({found['FN']:,})",
        f"false positive ({found['FP']:,})",
        f"true negative ({found['TN']:,})",
    ]
    bars = sum(patch.get_height() for patch in figure.axes[0].patches)
    assert bars == pytest.approx(known.sum())


def test_rolling_error_is_the_mean_in_the_window() -> None:
    axes = rolling_error(TRUE, PREDICTED, window=0.1).axes[0]
    centres, means = axes.get_lines()[0].get_data()
    at = int(np.argmin(np.abs(np.asarray(centres) - 0.1)))
    inside = (np.abs(TRUE - 0.1) < 0.05) & ~np.isnan(PREDICTED)
    assert np.asarray(means)[at] == pytest.approx(np.abs(PREDICTED - TRUE)[inside].mean())


def test_roc_has_missing_predictions_last() -> None:
    filled = np.where(np.isnan(PREDICTED), 100.0, PREDICTED)
    assert labels(roc_curve(TRUE, PREDICTED)) == [f"area {sk.roc_auc_score(TRUE <= 0, -filled):.3f}"]


def test_the_stars_stand_at_the_precision_and_recall_of_the_metrics() -> None:
    found = discovery_metrics(TRUE, PREDICTED)
    stars = [
        line
        for line in precision_recall_curve(TRUE, PREDICTED).axes[0].get_lines()
        if len(line.get_xdata()) == 1
    ]
    assert [line.get_ydata()[0] for line in stars] == pytest.approx([found["Precision"], found["Recall"]])
    assert {line.get_xdata()[0] for line in stars} == {found["TP"] + found["FP"]}
