"""Counter-based random numbers: each a pure function of its coordinates, whoever draws it and in what order.

What a batch or a mask holds must not depend on how many processes there are, or where a run was interrupted;
so every draw is a hash of (seed, epoch, row, …) by the finaliser of SplitMix64 (Steele, Lea and Flood,
OOPSLA 2014), chained over the coordinates.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FIRST = np.uint64(0xBF58476D1CE4E5B9)
SECOND = np.uint64(0x94D049BB133111EB)

# What a draw is for: the first coordinate after the seed, so that no two uses share numbers.
ORDER, CHOICE, FATE, REPLACEMENT, SPAN, FIELD, RELABEL, SPLIT, DROPOUT = range(9)


def bits(*coordinates: ArrayLike) -> NDArray[np.uint64]:
    """64 random bits per broadcast element of the integer coordinates, of at least one dimension."""
    state = np.zeros(1, np.uint64)
    for coordinate in coordinates:
        number = np.asarray(coordinate).astype(np.int64).astype(np.uint64)
        state = _mix((state ^ _mix(np.atleast_1d(number) + GOLDEN)) + GOLDEN)
    return state


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    value = (value ^ (value >> np.uint64(30))) * FIRST
    value = (value ^ (value >> np.uint64(27))) * SECOND
    return value ^ (value >> np.uint64(31))


def uniform(*coordinates: ArrayLike) -> NDArray[np.float64]:
    """Uniform on [0, 1) with 53 bits."""
    return (bits(*coordinates) >> np.uint64(11)).astype(np.float64) * 2.0**-53
