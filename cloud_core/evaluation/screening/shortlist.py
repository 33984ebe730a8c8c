"""Candidates ranked by stability or by a target window; which of them are known or double."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cloud_core.errors import CloudError

FloatArray = NDArray[np.float64]
Known = Literal["crystals", "formulas"]


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


def rank(table: pd.DataFrame, by: str | Mapping[str, Window], k: float = 0.0) -> pd.DataFrame:
    """All candidates, best first.

    Args:
        table: one row a candidate, with `id`, `key` (what tells crystals apart, None where it is not known)
            and the columns of `by`; a property `p` may have its standard deviation in `p_std`.
        by: a column whose smallest values come first (`hull_distance`), or target windows of columns: rows
            are ordered by the sum of how far they miss each window, in standard deviations of that column,
            and among those that hit all by their uncertainty.
        k: of a column, rank by the value plus k standard deviations.

    Returns:
        The rows with `rank` (1 is best; candidates without a value come last and have none), `score` (what
        they are ordered by) and `duplicate_of` (id of the better ranked candidate with the same key).

    Raises:
        ShortlistError: a column is missing, or `k` asks for a standard deviation that there is not.
    """
    columns = [by] if isinstance(by, str) else list(by)
    missing = [column for column in ["id", "key", *columns] if column not in table.columns]
    if missing:
        raise ShortlistError(
            f"candidates have no column {', '.join(missing)}; columns: {', '.join(map(str, table.columns))}"
        )
    if isinstance(by, str):
        score = table[by].to_numpy(dtype=float)
        if k:
            if f"{by}_std" not in table.columns:
                raise ShortlistError(
                    f"k is {k:g}, and the model gives no standard deviation; finetune an ensemble "
                    "(`seeds: [0, 1, 2]`), or set k to 0"
                )
            score = score + k * table[f"{by}_std"].to_numpy(dtype=float)
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
    ranked["duplicate_of"] = _first_of_each(ranked["key"].tolist(), ranked["id"].tolist())
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


def mark_known(table: pd.DataFrame, formulas: Collection[str], crystals: Collection[str]) -> pd.DataFrame:
    """The rows with `known_formula` and `known_crystal`: whether a candidate's `formula` and `canonical`
    string are among those given; missing where it has none, or where none are given."""
    marks = {}
    for name, column, there in (
        ("known_formula", "formula", formulas),
        ("known_crystal", "canonical", crystals),
    ):
        found = [None if text is None or not there else text in there for text in table[column]]
        marks[name] = pd.array(found, dtype="boolean")
    return table.assign(**marks)


def eligible(ranked: pd.DataFrame, drop_known: Collection[Known] = ()) -> tuple[pd.DataFrame, dict[str, int]]:
    """The rows of `rank` that a shortlist may name, and how many were dropped for what, in this order: no
    score, a known crystal, another crystal of a known formula, the same crystal as a better ranked candidate.

    Raises:
        ShortlistError: the known crystals are not known.
    """
    reasons = {"without a score": ranked["rank"].isna()}
    for name in ("crystal", "formula"):
        if f"{name}s" in drop_known:
            mark = ranked[f"known_{name}"]
            if mark.isna().all():
                raise ShortlistError(
                    f"drop_known: there are no known {name}s to compare with; name a table as `known`"
                )
            reasons[f"known {name}"] = mark.fillna(False).astype(bool)
    reasons["duplicate"] = ranked["duplicate_of"].notna()
    left = np.ones(len(ranked), dtype=bool)
    dropped = {}
    for reason, mask in reasons.items():
        dropped[reason] = int((left & mask).sum())
        left &= ~mask
    return ranked[left].reset_index(drop=True), dropped
