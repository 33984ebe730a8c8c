"""Whether predicted standard deviations are as large as the errors."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import erf

Floats = NDArray[np.float64]


def widening(y_true: ArrayLike, y_pred: ArrayLike, deviation: ArrayLike) -> float:
    """The factor for `deviation` `[n]` with which validation errors have a mean square z-score of one.

    Of Gaussian errors it is the likeliest factor (Levi et al., arXiv 1905.11659). Rows with no spread at all
    are left out.
    """
    error = np.asarray(y_pred, dtype=np.float64) - np.asarray(y_true, dtype=np.float64)
    sigma = np.asarray(deviation, dtype=np.float64)
    use = (sigma > 0) & np.isfinite(error)
    if not use.any():
        raise ValueError("no row with a finite error and a positive standard deviation to calibrate on")
    return float(np.sqrt(np.mean(np.square(error[use] / sigma[use]))))


def coverage(
    y_true: ArrayLike, y_pred: ArrayLike, deviation: ArrayLike, points: int = 21
) -> tuple[Floats, Floats]:
    """(expected, observed) shares `[points]` of rows inside the central interval of a Gaussian.

    A model whose deviations are right lies on the diagonal; one below it is too sure.
    """
    error = np.abs(np.asarray(y_pred, dtype=np.float64) - np.asarray(y_true, dtype=np.float64))
    sigma = np.asarray(deviation, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(sigma > 0, error / sigma, np.where(error > 0, np.inf, 0.0))
    inside = erf(z / np.sqrt(2.0))  # the narrowest central interval that holds each row
    expected = np.linspace(0.0, 1.0, points)
    return expected, np.array([(inside <= share).mean() for share in expected])


def miscalibration_area(expected: Floats, observed: Floats) -> float:
    """Area between the coverage curve and the diagonal: 0 is right, 0.5 the worst."""
    return float(np.trapezoid(np.abs(observed - expected), expected))
