"""Tokenized strings in memory, with columns beside them, and their batches: pure functions of the seed, the
epoch and the strings.

Six million strings are 0.4 GB as uint16. Rows of a corpus are the distinct strings in sorted order, so that
it depends on which strings a table holds and not on how its files are cut.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from cloud_core.errors import CloudError
from cloud_core.files import atomic
from cloud_core.models.geometry import FIELDS, Geometry, SitesConfig
from cloud_core.scope.sites import sites_of
from cloud_core.scope.tokenizer import Tokenizer
from cloud_core.training import counter

TOKENIZED_AT_ONCE = 100_000  # strings; bounds the memory of Python integers on the way to uint16
_COLUMN = "columns."


class CorpusError(CloudError):
    """A corpus that cannot be made or read; names the file or column and the remedy."""


@dataclass(frozen=True)
class Batches:
    """Tokens of all rows, end to end: row r is `ids[offsets[r]:offsets[r + 1]]`; of a string from [CLS] to
    [SEP], of sites the crystal's own token and then the sites, with the fields of
    `cloud_core.models.sites_encoder`. And columns `[rows, …]` of what belongs to the rows (labels, numbers of
    atoms)."""

    ids: NDArray[np.uint16]  # [tokens] or [tokens, fields]
    offsets: NDArray[np.int64]  # [rows + 1]
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)
    truncated: int = 0  # rows that were cut to fit the encoder's positions

    def __post_init__(self) -> None:
        for name, values in self.columns.items():
            if len(values) != len(self):
                raise ValueError(f"column '{name}' has {len(values)} values for {len(self)} strings")

    @classmethod
    def distinct(cls, texts: Iterable[str], positions: int = 64) -> "Batches":
        """Distinct SCOPE strings, sorted; see `of_rows`.

        Raises:
            CorpusError: there is no string.
        """
        rows = sorted(set(texts))
        if not rows:
            raise CorpusError("no SCOPE strings; give a table or file that holds some")
        return cls.of_rows(rows, positions=positions)

    @classmethod
    def of_rows(
        cls, texts: Sequence[str], columns: Mapping[str, NDArray[Any]] | None = None, positions: int = 64
    ) -> "Batches":
        """A row for each string, in the order given; longer ones keep `positions` tokens and end in [SEP]."""
        tokenizer = Tokenizer()
        parts = [
            tokenizer.encode_many(texts[start : start + TOKENIZED_AT_ONCE])
            for start in range(0, max(len(texts), 1), TOKENIZED_AT_ONCE)
        ]
        ids = np.concatenate([ids for ids, _ in parts])
        lengths = np.concatenate([np.diff(offsets) for _, offsets in parts])
        kept = np.minimum(lengths, positions)
        cut = ids[token_indices(np.cumsum(lengths) - lengths, kept)]
        offsets = np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)
        over = lengths > positions
        cut[offsets[1:][over] - 1] = tokenizer.sep_id
        return cls(cut, offsets, dict(columns or {}), int(over.sum()))

    @classmethod
    def of_sites(cls, texts: Sequence[str], columns: Mapping[str, NDArray[Any]] | None = None) -> "Batches":
        """A row for each resolved string, in the order given.

        Raises:
            ScopeError: an invalid string, or one of another form.
        """
        sites = sites_of(texts)
        tokens = len(sites.elements)
        starts = sites.offsets + np.arange(len(sites) + 1)  # with a token for each crystal before its sites
        ids = np.zeros((tokens + len(sites), len(FIELDS)), np.uint16)
        ids[starts[:-1], FIELDS.index("space_group")] = sites.space_groups
        own = np.arange(tokens) + sites.crystals + 1
        of_sites: dict[str, NDArray[Any]] = {
            "element": sites.elements,
            "position": sites.positions,
            "site_symmetry": sites.site_symmetries.astype(np.uint16) + 1,
            "multiplicity": sites.multiplicities,
            "count": sites.counts,
            "occupancy": np.round(sites.occupancies * 100),
        }
        for name, values in of_sites.items():
            ids[own, FIELDS.index(name)] = values
        return cls(ids, starts, dict(columns or {}))

    @classmethod
    def of_texts(
        cls, texts: Sequence[str], encoder: Geometry, columns: Mapping[str, NDArray[Any]] | None = None
    ) -> "Batches":
        """A row for each string as an encoder of this geometry reads it."""
        if isinstance(encoder, SitesConfig):
            return cls.of_sites(texts, columns)
        return cls.of_rows(texts, columns, encoder.positions)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row."""
        return np.diff(self.offsets)

    @cached_property
    def digest(self) -> str:
        """sha256 of all tokens: two runs with equal digests train on the same rows."""
        content = hashlib.sha256(self.offsets.tobytes())
        content.update(self.ids.tobytes())
        return content.hexdigest()

    @cached_property
    def fields(self) -> NDArray[np.uint8]:
        """Field of each token (`Tokenizer.field_of`): one word means other things in two of them."""
        return Tokenizer().field_of(self.ids)

    def take(self, rows: NDArray[np.integer[Any]] | NDArray[np.bool_]) -> "Batches":
        """The given rows, by number or by mask."""
        chosen = np.arange(len(self))[rows]
        lengths = self.lengths[chosen]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        columns = {name: values[chosen] for name, values in self.columns.items()}
        return Batches(
            self.ids[token_indices(self.offsets[:-1][chosen], lengths)], offsets, columns, self.truncated
        )

    def row_hashes(self) -> NDArray[np.uint64]:
        """A number for each row by its string alone, the same in every corpus that holds the string."""
        place = np.arange(len(self.ids)) - np.repeat(self.offsets[:-1], self.lengths)
        fields = self.ids[None] if self.ids.ndim == 1 else self.ids.T
        return np.add.reduceat(counter.bits(counter.SPLIT, place, *fields), self.offsets[:-1])

    def split(self, fraction: float, keys: "Batches | None" = None) -> tuple["Batches", "Batches"]:
        """(training, validation): a string is always on the same side, however the table grows.

        Where `keys` are given, a row for each row here, the side is that of the key.

        Raises:
            CorpusError: one side would be empty.
        """
        hashes = (self if keys is None else keys).row_hashes()
        held = (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53 < fraction
        if held.all() or not held.any():
            raise CorpusError(
                f"{len(self)} distinct strings do not split with a validation fraction of {fraction}; "
                "give more strings or another fraction"
            )
        return self.take(~held), self.take(held)

    def subset(self, fraction: float) -> "Batches":
        """A share of the rows by their strings; smaller shares lie inside larger ones."""
        return (
            self if fraction >= 1 else self.take(counter.uniform(self.row_hashes().view(np.int64)) < fraction)
        )

    def padded(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(input_ids `[B, L]` or `[B, L, fields]`, lengths `[B]`) of some rows, as wide as the longest of
        them."""
        lengths = self.lengths[rows]
        shape = (len(rows), int(lengths.max()), *self.ids.shape[1:])
        grid = np.full(shape, Tokenizer().pad_id if self.ids.ndim == 1 else 0, np.int64)
        real = np.arange(grid.shape[1]) < lengths[:, None]
        grid[real] = self.ids[token_indices(self.offsets[:-1][rows], lengths)]
        return grid, lengths

    def save(self, path: str | Path) -> None:
        """Write one safetensors file."""
        tensors: dict[str, NDArray[Any]] = {"ids": self.ids, "offsets": self.offsets}
        tensors |= {_COLUMN + name: values for name, values in self.columns.items()}
        contiguous = {name: np.ascontiguousarray(values) for name, values in tensors.items()}
        with atomic(path) as partial:
            save_file(contiguous, partial, {"truncated": str(self.truncated)})

    @classmethod
    def load(cls, path: str | Path) -> "Batches":
        try:
            with safe_open(path, "numpy") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                truncated = int((file.metadata() or {}).get("truncated", "0"))
        except FileNotFoundError as error:
            raise CorpusError(f"{path}: no such file of tokens; prepare it with the flow again") from error
        ids, offsets = tensors.pop("ids"), tensors.pop("offsets")
        columns = {name.removeprefix(_COLUMN): values for name, values in tensors.items()}
        return cls(ids, offsets, columns, truncated)


def token_indices(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places of all tokens of rows that start at `starts`: `[sum of lengths]`."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)


def batches_per_epoch(n_rows: int, batch_size: int) -> int:
    return -(-n_rows // batch_size)


def smallest_batch(n_rows: int, batch_size: int) -> int:
    """Rows of the smaller of the batches that `epoch_batches` makes."""
    return n_rows // max(1, batches_per_epoch(n_rows, batch_size))


def epoch_batches(n_rows: int, batch_size: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """Every row once, in an order drawn afresh each epoch, in batches of at most `batch_size` rows.

    Sizes differ by one row at most, so no step works on a small remainder.
    """
    order = np.argsort(counter.bits(seed, counter.ORDER, epoch, np.arange(n_rows)), kind="stable")
    return np.array_split(order, batches_per_epoch(n_rows, batch_size))


def share(rows: NDArray[np.int64], lengths: NDArray[np.int64], rank: int, ranks: int) -> NDArray[np.int64]:
    """A rank's part of a global batch, sorted: every `ranks`-th row by length, for equal work."""
    return rows[np.argsort(lengths[rows], kind="stable")][rank::ranks]
