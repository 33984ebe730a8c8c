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


def regression_metrics(y_true: ArrayLike, y_pred: ArrayLike, dummy: float | None = None) -> dict[str, float]:
    """Errors over `[n]` test rows, in the target's unit.

    Args:
        dummy: what the dummy regressor says, which MatBench's leaderboard has too: the mean of the training
            targets (`sklearn.dummy.DummyRegressor(strategy="mean")`).

    Returns:
        mae, rmse, max_error; r2 (nan where the targets do not vary); and where `dummy` is given mae_over_mad:
        the mean absolute error divided by the dummy's on the same rows. This is the only MAE/MAD here.
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
        deviation = float(np.abs(true - dummy).mean())
        metrics["mae_over_mad"] = metrics["mae"] / deviation if deviation > 0 else float("nan")
    return metrics
