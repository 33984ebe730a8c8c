"""Figures of merit of a regression."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def finite_pair(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both as `[n]`.

    Raises:
        ValueError: unequal lengths, no rows, or a value that is not finite: a missing prediction is not an
            error of zero.
    """
    true, predicted = np.asarray(y_true, dtype=np.float64), np.asarray(y_pred, dtype=np.float64)
    if true.shape != predicted.shape or true.ndim != 1 or not len(true):
        raise ValueError(f"{true.shape} targets and {predicted.shape} predictions; both must be [n], n >= 1")
    if not (np.isfinite(true).all() and np.isfinite(predicted).all()):
        raise ValueError("targets and predictions must be finite; leave out rows without a label")
    return true, predicted


def mae_over_mad(y_true: ArrayLike, y_pred: ArrayLike, dummy: ArrayLike) -> float:
    """The mean absolute error divided by that of a dummy on the same `[n]` rows: the only MAE/MAD here.

    Args:
        dummy: what the dummy regressor says, one value or `[n]`: the mean of the training targets, as on
            MatBench's leaderboard (`sklearn.dummy.DummyRegressor(strategy="mean")`).

    Returns:
        nan where the dummy makes no error.
    """
    true, predicted = finite_pair(y_true, y_pred)
    deviation = float(np.abs(true - np.asarray(dummy, dtype=np.float64)).mean())
    return float(np.abs(predicted - true).mean()) / deviation if deviation > 0 else float("nan")


def regression_metrics(
    y_true: ArrayLike, y_pred: ArrayLike, dummy: ArrayLike | None = None
) -> dict[str, float]:
    """Errors over `[n]` test rows, in the target's unit.

    Args:
        dummy: as in `mae_over_mad`.

    Returns:
        mae, rmse, max_error; r2 (nan where the targets do not vary); and where `dummy` is given mae_over_mad.
    """
    true, predicted = finite_pair(y_true, y_pred)
    error = predicted - true
    around = float(np.square(true - true.mean()).sum())
    metrics = {
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt(np.square(error).mean())),
        "max_error": float(np.abs(error).max()),
        "r2": 1.0 - float(np.square(error).sum()) / around if around > 0 else float("nan"),
    }
    if dummy is not None:
        metrics["mae_over_mad"] = mae_over_mad(true, predicted, dummy)
    return metrics
