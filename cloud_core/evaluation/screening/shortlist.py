"""Candidates ranked by stability or by a target window, known and double ones marked."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cloud_core.errors import CloudError

FloatArray = NDArray[np.float64]


class ShortlistError(CloudError):
    """Candidates that cannot be ranked; names the column and the remedy."""


@dataclass(frozen=True)
class Window:
    """A range that a property should fall in, in the property's unit; either end may be open."""

    low: float = -np.inf
    high: float = np.inf

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ShortlistError(f"a window from {self.low} to {self.high} holds nothing; swap its ends")

    def miss(self, values: FloatArray) -> FloatArray:
        """How far outside [n] each value lies; 0 inside."""
        return np.maximum(0.0, np.maximum(self.low - values, values - self.high))


def rank(
    table: pd.DataFrame,
    by: str | Mapping[str, Window],
    reference_keys: Collection[str] = (),
    key: str = "element_key",
) -> pd.DataFrame:
    """All candidates, best first.

    Args:
        table: one row a candidate, with `key` and the columns of `by`; a property `p` may have its standard
            deviation in `p_std`.
        by: a column whose smallest values come first (`hull_distance`), or target windows of columns: rows
            are ordered by the sum of how far they miss each window, in standard deviations of that column,
            and among those that hit all by their uncertainty.
        reference_keys: keys of known crystals, such as those of the training table.
        key: column that tells crystals apart, None where it is not known.

    Returns:
        The rows with `rank` (1 is best; candidates without a value come last and have none), `score`, `novel`
        (its key is not among the reference's; None without a key or a reference) and `duplicate_of` (id of
        the better ranked candidate with the same key).

    Raises:
        ShortlistError: a column is missing.
    """
    columns = [by] if isinstance(by, str) else list(by)
    missing = [column for column in ["id", key, *columns] if column not in table.columns]
    if missing:
        raise ShortlistError(
            f"candidates have no column {', '.join(missing)}; columns: {', '.join(map(str, table.columns))}"
        )
    if isinstance(by, str):
        score = table[by].to_numpy(dtype=float)
        uncertainty = _uncertainty(table, [by])
    else:
        score = np.zeros(len(table))
        for column, window in by.items():
            values = table[column].to_numpy(dtype=float)
            spread = float(np.nanstd(values)) or 1.0
            score = score + np.where(np.isnan(values), np.nan, window.miss(values) / spread)
        uncertainty = _uncertainty(table, columns)
    order = np.lexsort((table["id"].to_numpy(dtype=str), uncertainty, np.nan_to_num(score, nan=np.inf)))
    ranked = table.iloc[order].reset_index(drop=True)
    ranked["score"] = score[order]
    known = ~np.isnan(score[order])
    ranked["rank"] = pd.array(np.where(known, np.arange(1, len(ranked) + 1), 0), dtype="Int64")
    ranked.loc[~known, "rank"] = pd.NA
    keys = ranked[key].tolist()
    ranked["novel"] = pd.array(
        [None if text is None or not reference_keys else text not in reference_keys for text in keys],
        dtype="boolean",
    )
    ranked["duplicate_of"] = _first_of_each(keys, ranked["id"].tolist())
    return ranked


def _uncertainty(table: pd.DataFrame, columns: Sequence[str]) -> FloatArray:
    total = np.zeros(len(table))
    for column in columns:
        if f"{column}_std" in table.columns:
            total += np.nan_to_num(table[f"{column}_std"].to_numpy(dtype=float), nan=np.inf)
    return total


def _first_of_each(keys: Sequence[str | None], ids: Sequence[str]) -> list[str | None]:
    first: dict[str, str] = {}
    duplicates: list[str | None] = []
    for key, name in zip(keys, ids, strict=True):
        best = name if key is None else first.setdefault(key, name)
        duplicates.append(None if best == name else best)
    return duplicates


def shortlist(ranked: pd.DataFrame, size: int, novel_only: bool = False) -> pd.DataFrame:
    """The best `size` rows of `rank`, without duplicates and, if asked for, without known crystals."""
    chosen = ranked[ranked["rank"].notna() & ranked["duplicate_of"].isna()]
    if novel_only:
        if ranked["novel"].isna().all():
            raise ShortlistError("novelty is not known without a reference table; name one, or ask for all")
        chosen = chosen[chosen["novel"].fillna(False)]
    return chosen.head(size).reset_index(drop=True)
