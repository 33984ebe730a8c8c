"""How many more stable crystals a ranking finds than another one, or than chance."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

RANDOM = "random"


@dataclass(frozen=True)
class Lift:
    """The share of stable crystals among the first `taken` of a ranking, over that of another ranking."""

    against: str
    taken: int
    rows: int
    """that the first are taken from"""
    precision: float
    """share of stable ones among those taken"""
    reference: float
    """the same of the other ranking; at random, the share among all rows"""
    lift: float
    low: float
    high: float
    """95 % interval of `lift`"""


def lifts(
    stable: ArrayLike,
    score: ArrayLike,
    others: Mapping[str, ArrayLike],
    taken: int,
    resamples: int = 1000,
    seed: int = 0,
) -> list[Lift]:
    """Lift over a random choice and over other rankings, with 95 % intervals by bootstrap over the rows.

    Each resample draws the rows with replacement, ranks them and takes the first anew; the rankings see the
    same draws. Ties are broken at random, missing scores come last.

    Args:
        stable: `[n]` booleans.
        score: `[n]` of the ranking, smallest first.
        others: name -> `[n]` score of another ranking.
        taken: how many are taken; where there are no more rows than that, nothing is chosen and the answer is
            empty.

    Returns:
        A lift is nan where neither ranking finds a stable crystal, infinite where only the other finds none.
    """
    truth = np.asarray(stable, dtype=np.int64)
    n = len(truth)
    if n <= taken:
        return []
    rng = np.random.default_rng(seed)
    # rows beyond these are never among the first `taken` of a resample (ten standard deviations)
    most = min(n, 2 * taken + 100)
    orders = [
        np.lexsort((rng.random(n), np.asarray(each, dtype=float)))[:most]
        for each in (score, *others.values())
    ]

    def shares(weights: NDArray[np.int64]) -> list[float]:
        """Of stable rows: among the first of each ranking, and among all."""
        firsts = [_among_first(truth[order], weights[order], taken) for order in orders]
        return [*firsts, float(weights @ truth) / n]

    found = np.array(shares(np.ones(n, dtype=np.int64)))
    drawn = np.array([shares(np.bincount(rng.integers(0, n, n), minlength=n)) for _ in range(resamples)])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = found[0] / found[1:]
        spread = np.nan_to_num(drawn[:, :1] / drawn[:, 1:], nan=1.0, posinf=np.inf)  # neither: no difference
    low, high = np.quantile(spread, [0.025, 0.975], axis=0, method="inverted_cdf")
    names = [*others, RANDOM]
    return [
        Lift(name, taken, n, *(float(x) for x in (found[0], found[1 + i], ratios[i], low[i], high[i])))
        for i, name in reversed(list(enumerate(names)))
    ]


def _among_first(stable: NDArray[np.int64], weights: NDArray[np.int64], taken: int) -> float:
    """The share of stable ones among the first `taken`, where each row is there `weights` times."""
    total = np.cumsum(weights)
    last = int(np.searchsorted(total, taken))
    hits = int(weights[:last] @ stable[:last])
    return (hits + (taken - (int(total[last - 1]) if last else 0)) * int(stable[last])) / taken
