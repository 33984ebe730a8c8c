"""The gate between a trained model and the registry's `champion`."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import bootstrap


@dataclass(frozen=True)
class GateDecision:
    """Whether a model may serve, and the figures that decided it."""

    passed: bool
    gain: float
    """mean absolute error of the reference minus the model's, in the target's unit; positive is better"""
    lower_bound: float
    """one-sided bootstrap bound of `gain`"""
    message: str


def better_than(
    y_true: ArrayLike,
    y_model: ArrayLike,
    y_reference: ArrayLike,
    reference: str = "the training mean",
    confidence: float = 0.95,
    seed: int = 0,
) -> GateDecision:
    """Pass where the model's absolute errors are smaller than the reference's beyond chance.

    Args:
        y_true, y_model, y_reference: [n] test targets and the two predictions, in one unit;
            `y_reference` may be one number (a mean).
        reference: what the reference is, for the message.
        confidence: one-sided confidence of the percentile bootstrap over test rows (paired by row).

    Raises:
        ValueError: fewer than two rows, rows of unequal number, or a value that is not finite.
    """
    true = np.asarray(y_true, dtype=float)
    model = np.asarray(y_model, dtype=float)
    other = np.broadcast_to(np.asarray(y_reference, dtype=float), true.shape)
    if true.ndim != 1 or model.shape != true.shape or len(true) < 2:
        raise ValueError(
            f"the gate needs equal rows, at least two: {true.shape} targets, {model.shape} predictions"
        )
    if not (np.isfinite(true).all() and np.isfinite(model).all() and np.isfinite(other).all()):
        raise ValueError("the gate needs finite targets and predictions")
    gains = np.abs(other - true) - np.abs(model - true)
    gain = float(gains.mean())
    if np.ptp(gains) == 0:
        bound = gain
    else:
        bound = float(
            bootstrap(
                (gains,),
                np.mean,
                confidence_level=confidence,
                alternative="greater",
                method="percentile",
                n_resamples=2000,
                rng=np.random.default_rng(seed),
            ).confidence_interval.low
        )
    passed = bound > 0
    outcome = "passes" if passed else "is refused"
    message = (
        f"{outcome}: mean absolute error {np.abs(model - true).mean():.4g} against "
        f"{np.abs(other - true).mean():.4g} of {reference} on {len(true)} test rows; "
        f"gain {gain:.4g}, {confidence:.0%} bound {bound:.4g}"
    )
    return GateDecision(passed, gain, bound, message)
