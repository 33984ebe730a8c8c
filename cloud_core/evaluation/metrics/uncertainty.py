"""Whether predicted standard deviations are as large as the errors.

Errors are taken to be Laplace distributed: a few crystals are far off, and would alone decide what fits a
Gaussian.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.stats import spearmanr

Floats = NDArray[np.float64]
_LEAST_SHARE = 1e-3  # of the mean error: no deviation is smaller


def scale_of(
    y_true: ArrayLike, y_pred: ArrayLike, spread: ArrayLike, distance: ArrayLike | None = None
) -> tuple[float, float, float]:
    """(a, b, p) of σ = √(a² s² + b² d^(2p)) for the spread s `[n]` of an ensemble and the distances d
    `[n]` to
    its training crystals: the likeliest for the errors of validation rows. a or p are 0 where spread or
    distance tell nothing beyond chance (by the Bayesian information criterion); without both, σ is the same
    for all crystals.

    Raises:
        ValueError: no row with a finite error, spread and distance.
    """
    error = np.abs(np.asarray(y_pred, dtype=np.float64) - np.asarray(y_true, dtype=np.float64))
    s = np.asarray(spread, dtype=np.float64)
    d = np.ones_like(s) if distance is None else np.asarray(distance, dtype=np.float64)
    use = np.isfinite(error) & np.isfinite(s) & np.isfinite(d)
    error, s, d = error[use], s[use], d[use]
    if not len(error):
        raise ValueError("no row with a finite error and spread to calibrate on")
    constant = max(np.sqrt(2.0) * error.mean(), np.finfo(float).tiny)
    least = np.log(_LEAST_SHARE * constant)
    found = [(2 * len(error) * likelihood_loss(error, np.full(len(error), constant)), (0.0, constant, 0.0))]
    for by_spread, by_distance in ((True, False), (False, True), (True, True)):
        if (by_spread and not s.any()) or (by_distance and not np.ptp(d)):
            continue

        def loss(values: Floats, spread: bool = by_spread, distant: bool = by_distance) -> float:
            return likelihood_loss(error, _sigma(_scale(values, spread, distant), s, d))

        bounds = [(least, None), *[(None, None)] * by_spread, *[(0.0, 3.0)] * by_distance]
        starts = [
            [
                np.log(share * constant),
                *([np.log(constant / s.mean())] if by_spread else []),
                *[0.5] * by_distance,
            ]
            for share in ((0.03, 0.3, 1.0) if by_spread else (1.0,))
        ]
        fits = [minimize(loss, start, method="Nelder-Mead", bounds=bounds) for start in starts]
        best = min(fits, key=lambda each: float(each.fun))
        penalty = (by_spread + by_distance) * np.log(len(error))
        found.append((2 * len(error) * float(best.fun) + penalty, _scale(best.x, by_spread, by_distance)))
    return min(found)[1]


def _scale(values: Floats, by_spread: bool, by_distance: bool) -> tuple[float, float, float]:
    """(a, b, p) from what is minimised over: log b, log a, p."""
    b, *rest = values
    a = float(np.exp(rest.pop(0))) if by_spread else 0.0
    return a, float(np.exp(b)), float(rest[0]) if by_distance else 0.0


def _sigma(scale: tuple[float, float, float], s: Floats, d: Floats) -> Floats:
    a, b, p = scale
    return np.hypot(a * s, b * d**p)


def likelihood_loss(error: Floats, sigma: Floats) -> float:
    """Mean negative log-likelihood, nats, of absolute errors `[n]` under Laplace distributions of standard
    deviation `sigma` `[n]`."""
    return float(np.mean(np.log(np.sqrt(2.0) * sigma) + np.sqrt(2.0) * error / sigma))


def uncertainty_metrics(y_true: ArrayLike, y_pred: ArrayLike, sigma: ArrayLike) -> dict[str, float]:
    """What standard deviations `sigma` `[n]` are worth: `nll`, the mean negative log-likelihood, and
    `nll_constant` that of the likeliest constant one; the shares of rows inside their 68 and 95 % intervals;
    and Spearman's correlation of `sigma` with the absolute error (nan of a constant)."""
    error = np.abs(np.asarray(y_pred, dtype=np.float64) - np.asarray(y_true, dtype=np.float64))
    deviation = np.asarray(sigma, dtype=np.float64)
    constant = np.full(len(error), max(np.sqrt(2.0) * error.mean(), np.finfo(float).tiny))
    varies = np.ptp(deviation) > 0 and np.ptp(error) > 0
    return {
        "nll": likelihood_loss(error, deviation),
        "nll_constant": likelihood_loss(error, constant),
        "coverage_68": float((_interval(error, deviation) <= 0.68).mean()),
        "coverage_95": float((_interval(error, deviation) <= 0.95).mean()),
        "spearman": float(spearmanr(deviation, error).statistic) if varies else float("nan"),
    }


def coverage(
    y_true: ArrayLike, y_pred: ArrayLike, deviation: ArrayLike, points: int = 21
) -> tuple[Floats, Floats]:
    """(expected, observed) shares `[points]` of rows inside the central interval.

    A model whose deviations are right lies on the diagonal; one below it is too sure.
    """
    error = np.abs(np.asarray(y_pred, dtype=np.float64) - np.asarray(y_true, dtype=np.float64))
    inside = _interval(error, np.asarray(deviation, dtype=np.float64))
    expected = np.linspace(0.0, 1.0, points)
    return expected, np.array([(inside <= share).mean() for share in expected])


def _interval(error: Floats, sigma: Floats) -> Floats:
    """The share of the narrowest central interval that holds each row."""
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(sigma > 0, error / sigma, np.where(error > 0, np.inf, 0.0))
    return -np.expm1(-np.sqrt(2.0) * z)


def miscalibration_area(expected: Floats, observed: Floats) -> float:
    """Area between the coverage curve and the diagonal: 0 is right, 0.5 the worst."""
    return float(np.trapezoid(np.abs(observed - expected), expected))
