"""The gate between a trained model and the registry's `champion`: paired comparisons on test rows."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEAST_ROWS = 20
"""test rows that a comparison needs: of fewer, a bootstrap tells too small intervals"""
CONFIDENCE = 0.95


@dataclass(frozen=True)
class GateDecision:
    """Whether a model may serve, and the figures that decided it, in a sentence that follows its name."""

    passed: bool
    message: str


def gain_bound(gains: ArrayLike, seed: int = 0) -> float:
    """The one-sided lower bound of a mean over rows, by the percentile bootstrap over the rows.

    Args:
        gains: `[n]` absolute error of the other model less that of the model in question, row by row.
    """
    from scipy.stats import bootstrap  # a second of imports, which every flow would pay

    values = np.asarray(gains, dtype=float)
    if np.ptp(values) == 0:
        return float(values[0])
    found = bootstrap(
        (values,), np.mean, confidence_level=CONFIDENCE, alternative="greater", method="percentile",
        n_resamples=2000, rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(found.confidence_interval.low)


def decide(errors: ArrayLike, references: Mapping[str, ArrayLike], unit: str = "") -> GateDecision:
    """Pass where a model's absolute errors are smaller than those of every reference beyond chance.

    Args:
        errors: `[n]` absolute errors of the model on test rows; nan where a row does not count.
        references: name -> `[n]` errors on the same rows; nan where that reference has no say.
        unit: of the errors, for the message.

    Raises:
        ValueError: no reference, or arrays of unequal length.
    """
    own = np.asarray(errors, dtype=float)
    others = {name: np.asarray(values, dtype=float) for name, values in references.items()}
    if not others or any(values.shape != own.shape or own.ndim != 1 for values in others.values()):
        raise ValueError(f"the gate needs references with errors of the same {own.shape} rows")
    counted = np.isfinite(own)
    if counted.sum() < LEAST_ROWS:
        return GateDecision(
            False, f"is not promoted: {counted.sum()} test crystals to compare on, {LEAST_ROWS} are needed"
        )
    passed, parts = True, []
    for name, values in others.items():
        rows = counted & np.isfinite(values)
        if rows.sum() < LEAST_ROWS:
            passed = False
            parts.append(f"{rows.sum()} crystals to compare with {name}, {LEAST_ROWS} are needed")
            continue
        gains = values[rows] - own[rows]
        bound = gain_bound(gains)
        passed &= bound > 0
        where = (
            ""
            if rows.sum() == counted.sum()
            else f" on {rows.sum()} crystals, where it has {own[rows].mean():.4g}"
        )
        parts.append(
            f"{name} {values[rows].mean():.4g}{where} "
            f"(gain {gains.mean():.3g}, {CONFIDENCE:.0%} bound {bound:.3g})"
        )
    outcome = "passes" if passed else "is not promoted"
    mean = (
        f"mean absolute error {own[counted].mean():.4g}{f' {unit}' * bool(unit)}"
        if counted.any()
        else "no error"
    )
    return GateDecision(
        passed, f"{outcome}: {mean} on {counted.sum()} test crystals; beside it {', '.join(parts)}"
    )


def all_of(decisions: Mapping[str, GateDecision]) -> GateDecision:
    """Of several targets: every one has to pass."""
    if len(decisions) == 1:
        return next(iter(decisions.values()))
    passed = all(decision.passed for decision in decisions.values())
    return GateDecision(passed, "; ".join(f"{name} {each.message}" for name, each in decisions.items()))


def masked(errors: ArrayLike, rows: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Errors `[n]` with nan on the given rows."""
    return np.where(rows, np.nan, np.asarray(errors, dtype=float))
