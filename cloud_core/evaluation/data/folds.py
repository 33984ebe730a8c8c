"""Splits in which one crystal is never on two sides; test rows of a fold stay as they are."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cloud_core.errors import CloudError
from cloud_core.lake.duplicates import split_by_string

N_FOLDS = 5
MATBENCH_SEED = 18012019  # Dunn et al., npj Computational Materials 6, 138 (2020)


class SplitError(CloudError):
    """Rows that cannot be split as asked; says why and what to change."""


class Split(NamedTuple):
    """Row numbers, ascending."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


def groups_of(keys: Sequence[str]) -> NDArray[np.int64]:
    """A number for each distinct key, in sorted order of the keys: `[n]`."""
    return np.unique(np.asarray(keys, dtype=object).astype(str), return_inverse=True)[1].astype(np.int64)


def take_groups(
    rows: NDArray[np.int64], groups: NDArray[np.int64], fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(rest, taken) of `rows`: about `fraction` of them are taken, by whole groups, as `seed` draws them.

    Raises:
        SplitError: one part would be empty.
    """
    distinct, inverse, counts = np.unique(groups[rows], return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(distinct))
    before = np.cumsum(counts[order]) - counts[order]
    taken = np.zeros(len(distinct), dtype=bool)
    taken[order[before < round(fraction * len(rows))]] = True
    mask = taken[inverse]
    if mask.all() or not mask.any():
        raise SplitError(
            f"{len(rows)} rows of {len(distinct)} distinct crystals do not split with a share of "
            f"{fraction:g}; give more rows or another share"
        )
    return rows[~mask], rows[mask]


def split_by_group(keys: Sequence[str], test: float, validation: float, seed: int) -> Split:
    """Rows of one key (a canonical string) are all on one side, by a hash of key and seed: a table that grows
    keeps its test crystals.

    Of a handful of rows, none of which the hash gives to validation, a training crystal goes there.

    Args:
        test, validation: shares of the distinct keys, on average.

    Raises:
        SplitError: a part would be empty.
    """
    shares = {"test": test, "validation": validation, "train": 1 - test - validation}
    parts = split_by_string(keys, shares, seed)
    if not (parts == "validation").any():
        parts[np.asarray(keys) == min(set(np.asarray(keys)[parts == "train"]), default="")] = "validation"
    split = Split(*(np.flatnonzero(parts == name) for name in Split._fields))
    for name, rows in zip(Split._fields, split, strict=True):
        if not len(rows):
            raise SplitError(
                f"{len(keys)} rows of {len(set(keys))} distinct crystals leave no {name} rows with "
                f"shares of {test:g} to test and {validation:g} to validate; give more rows or other shares"
            )
    return split


def split_fold(test: NDArray[np.int64], keys: Sequence[str], validation: float, seed: int) -> Split:
    """A fold's training rows, with validation rows cut from them by whole groups.

    Args:
        test: row numbers of the fold's test part, which stays as it is.
        keys: of all rows.
        validation: share of the rows outside `test`.
    """
    rest = np.setdiff1d(np.arange(len(keys)), test)
    train, validation_rows = take_groups(rest, groups_of(keys), validation, seed)
    return Split(train, validation_rows, np.sort(test))
