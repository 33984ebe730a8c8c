"""Which structures a table holds, and of which content: 20 bytes a row, so that ten million fit in memory."""

import threading
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
import pyarrow as pa

from cloud_core.lake.schemas import WITHDRAWN

ABSENT = -1  # revision of a structure that the table does not hold

# What decides whether a structure has to be encoded again.
STATE_COLUMNS = ("content_hash", "request", "status", "labels", "label_units", "licence")

_ODD = np.uint64(0x9E3779B97F4A7C15)


def _mix(values: np.ndarray) -> np.ndarray:
    """Finaliser of splitmix64: equal in, equal out, and no structure left."""
    values = values.astype(np.uint64)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def hash_strings(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """64-bit hashes `[n]` of a string column; null hashes as the empty string."""
    values = _flat(column).fill_null("").to_numpy(zero_copy_only=False)
    return pd.util.hash_array(values.astype(object), categorize=False).astype(np.uint64)


def _hash_maps(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """64-bit hashes `[n]` of a map column, whatever the order of a map's keys."""
    maps = _flat(column)
    n = len(maps)
    hashes = np.zeros(n, np.uint64)
    offsets = maps.offsets.to_numpy()
    first, last = int(offsets[0]) if n else 0, int(offsets[-1]) if n else 0
    if last == first:
        return hashes
    keys = maps.keys.slice(first, last - first)
    items = maps.items.slice(first, last - first)
    if pa.types.is_floating(items.type):
        numbers = items.fill_null(float("nan")).to_numpy(zero_copy_only=False)
        values = _mix((numbers + 0.0).view(np.uint64))  # -0.0 is 0.0
    else:
        values = hash_strings(items)
    entries = _mix(hash_strings(keys) * _ODD + values)
    total = np.concatenate([[np.uint64(0)], np.cumsum(entries, dtype=np.uint64)])
    bounds = offsets - first
    return total[bounds[1:]] - total[bounds[:-1]]


def states_of(rows: pa.Table) -> np.ndarray:
    """64-bit hashes `[n]` of what decides whether a structure has to be encoded again; 0 when withdrawn.

    `rows` has STATE_COLUMNS; `status` may be missing (then nothing is withdrawn).
    """
    state = np.zeros(rows.num_rows, np.uint64)
    with np.errstate(over="ignore"):
        for name in ("content_hash", "request", "licence"):
            state = _mix(state * _ODD + hash_strings(rows[name]))
        for name in ("labels", "label_units"):
            state = _mix(state * _ODD + _hash_maps(rows[name]))
    state |= np.uint64(1)
    if "status" in rows.column_names:
        withdrawn = _flat(rows["status"]).to_numpy(zero_copy_only=False) == WITHDRAWN
        state[withdrawn] = 0
    return state


def _find(held: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether each id `[n]` is among the ascending `held`, and the places of those that are."""
    places = np.searchsorted(held, ids)
    found = places < len(held)
    found[found] = held[places[found]] == ids[found]
    return found, places[found]


@dataclass(frozen=True)
class _Sorted:
    """Id hashes in ascending order, each once, with what is known of each."""

    ids: np.ndarray
    states: np.ndarray
    revisions: np.ndarray

    @classmethod
    def of(cls, ids: np.ndarray, states: np.ndarray, revisions: np.ndarray) -> Self:
        """Rows in any order; of two with one id the higher revision holds, the later one where equal."""
        order = np.lexsort((revisions, ids))  # stable: later rows stay behind earlier ones
        ordered = ids[order]
        last = np.ones(len(order), bool)
        last[:-1] = ordered[1:] != ordered[:-1]
        keep = order[last]
        return cls(ids[keep], states[keep], revisions[keep])

    def merged(self, later: Self) -> Self:
        """As in `of`. Column by column: sorting all of it anew would take four times the memory."""
        found, places = _find(self.ids, later.ids)
        wins = later.revisions[found] >= self.revisions[places]
        self.states[places[wins]] = later.states[found][wins]
        self.revisions[places[wins]] = later.revisions[found][wins]
        at = np.searchsorted(self.ids, later.ids[~found])
        return type(self)(
            np.insert(self.ids, at, later.ids[~found]),
            np.insert(self.states, at, later.states[~found]),
            np.insert(self.revisions, at, later.revisions[~found]),
        )

    def without(self, rows: np.ndarray) -> Self:
        return type(self)(self.ids[~rows], self.states[~rows], self.revisions[~rows])


def _nothing() -> _Sorted:
    return _Sorted(np.empty(0, np.uint64), np.empty(0, np.uint64), np.empty(0, np.int32))


_PARTS = 8  # by the first bits of the hash: what is merged, and held twice meanwhile, is a part


def _rows_by_part(ids: np.ndarray) -> list[np.ndarray]:
    """Numbers of the rows whose id hash `[n]` belongs to each part, in their order."""
    part = ids // np.uint64(2**64 // _PARTS)
    return [np.flatnonzero(part == number) for number in range(_PARTS)]


def _is_large(recent: np.ndarray, main: np.ndarray) -> bool:
    """When to merge recent rows into the main ones: doing it each time would be slow."""
    return len(recent) > 65_536 // _PARTS + len(main) // 8


class _IndexPart:
    """Rows of an Index, sorted but for the recent ones."""

    def __init__(self) -> None:
        self._main, self._recent = _nothing(), _nothing()

    def __len__(self) -> int:
        found, _ = _find(self._main.ids, self._recent.ids)
        return len(self._main.ids) + int((~found).sum())

    def look_up(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        known = np.zeros(len(ids), np.uint64)
        revisions = np.full(len(ids), ABSENT, np.int32)
        for run in (self._main, self._recent):
            found, places = _find(run.ids, ids)
            known[found] = run.states[places]
            revisions[found] = run.revisions[places]
        return known, revisions

    def put(self, ids: np.ndarray, states: np.ndarray, revisions: np.ndarray) -> None:
        recent = self._recent.merged(_Sorted.of(ids, states, revisions))
        found, places = _find(self._main.ids, recent.ids)
        stale = np.zeros(len(found), bool)
        stale[found] = self._main.revisions[places] > recent.revisions[found]
        self._recent = recent.without(stale) if stale.any() else recent
        if _is_large(self._recent.ids, self._main.ids):
            self._main, self._recent = self._main.merged(self._recent), _nothing()


class Index:
    """Structure id -> (state, revision), by 64-bit hashes of the ids in sorted arrays."""

    def __init__(self) -> None:
        self._parts = [_IndexPart() for _ in range(_PARTS)]

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def look_up(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """States `[n]` (0: absent or withdrawn) and revisions `[n]` (ABSENT where absent) of id hashes."""
        known, revisions = np.empty(len(ids), np.uint64), np.empty(len(ids), np.int32)
        for part, rows in zip(self._parts, _rows_by_part(ids), strict=True):
            known[rows], revisions[rows] = part.look_up(ids[rows])
        return known, revisions

    def compare(self, rows: pa.Table) -> "Compared":
        """Rows as in `states_of`, with `structure_id`, beside what is here."""
        ids = hash_strings(rows["structure_id"])
        return Compared(ids, states_of(rows), *self.look_up(ids))

    def put(self, ids: np.ndarray, states: np.ndarray, revisions: np.ndarray) -> None:
        """Take rows in; of two with one id the higher revision holds, the later one where they are equal."""
        revisions = revisions.astype(np.int32)
        for part, rows in zip(self._parts, _rows_by_part(ids), strict=True):
            part.put(ids[rows], states[rows], revisions[rows])


@dataclass(frozen=True)
class Compared:
    """Rows beside what an index knows of their ids; all `[n]`."""

    ids: np.ndarray
    states: np.ndarray
    known: np.ndarray
    """states in the index, 0 where absent or withdrawn"""
    revisions: np.ndarray
    """in the index, ABSENT where absent"""

    @property
    def is_known(self) -> np.ndarray:
        """Whether `[n]` the index has the row's structure in this very state."""
        return self.known == self.states


class _IdSetPart:
    """Ids of an IdSet, sorted but for the recent ones."""

    def __init__(self) -> None:
        self._main = self._recent = np.empty(0, np.uint64)

    def __len__(self) -> int:
        return len(self._main) + len(self._recent)

    def has(self, ids: np.ndarray) -> np.ndarray:
        return _find(self._main, ids)[0] | _find(self._recent, ids)[0]

    def add(self, ids: np.ndarray) -> None:
        new = np.unique(ids)
        new = new[~self.has(new)]
        self._recent = np.insert(self._recent, np.searchsorted(self._recent, new), new)
        if _is_large(self._recent, self._main):
            places = np.searchsorted(self._main, self._recent)
            self._main, self._recent = np.insert(self._main, places, self._recent), self._recent[:0].copy()


class IdSet:
    """A set of id hashes: 8 bytes each."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parts = [_IdSetPart() for _ in range(_PARTS)]

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def has(self, ids: np.ndarray) -> np.ndarray:
        """Whether each id `[n]` is here."""
        found = np.empty(len(ids), bool)
        for part, rows in zip(self._parts, _rows_by_part(ids), strict=True):
            found[rows] = part.has(ids[rows])
        return found

    def add(self, ids: np.ndarray) -> None:
        for part, rows in zip(self._parts, _rows_by_part(ids), strict=True):
            part.add(ids[rows])

    def see(self, column: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Add ids `[n]` of a string column; whether `[n]` each was known, or comes again among these. Several
        threads may call it."""
        ids = hash_strings(column)
        again = np.ones(len(ids), bool)
        again[np.unique(ids, return_index=True)[1]] = False
        with self._lock:
            again |= self.has(ids)
            self.add(ids)
        return again
