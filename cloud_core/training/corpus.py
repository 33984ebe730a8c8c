"""A tokenized corpus in memory, and its batches: pure functions of the seed, the epoch and the strings.

Six million strings are 0.4 GB as uint16. Rows are the distinct strings in sorted order, so a corpus depends
on which strings a table holds and not on how its files are cut.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from cloud_core.errors import CloudError
from cloud_core.files import atomic
from cloud_core.models.encoder import EncoderConfig
from cloud_core.scope.tokenizer import Tokenizer
from cloud_core.training import counter

TOKENIZED_AT_ONCE = 100_000  # strings; bounds the memory of Python integers on the way to uint16


class CorpusError(CloudError):
    """A corpus that cannot be made or read; names the file or column and the remedy."""


@dataclass(frozen=True)
class Corpus:
    """Token ids of all rows, end to end: row r is `ids[offsets[r]:offsets[r + 1]]`, from [CLS] to [SEP]."""

    ids: NDArray[np.uint16]  # [tokens]
    offsets: NDArray[np.int64]  # [rows + 1]
    truncated: int = 0  # rows that were cut to fit the encoder's positions

    @classmethod
    def from_texts(cls, texts: Iterable[str], positions: int = 64) -> "Corpus":
        """Distinct SCOPE strings, sorted and tokenized; longer ones keep `positions` tokens and end in [SEP].

        Raises:
            CorpusError: there is no string.
        """
        return cls.of_rows(sorted(set(texts)), positions)

    @classmethod
    def of_rows(cls, texts: Sequence[str], positions: int = 64) -> "Corpus":
        """A row for each string, in the order given; see `from_texts`."""
        if not texts:
            raise CorpusError("no SCOPE strings; give a table or file that holds some")
        tokenizer = Tokenizer()
        parts = [
            tokenizer.encode_many(texts[start : start + TOKENIZED_AT_ONCE])
            for start in range(0, len(texts), TOKENIZED_AT_ONCE)
        ]
        ids = np.concatenate([ids for ids, _ in parts])
        lengths = np.concatenate([np.diff(offsets) for _, offsets in parts])
        return cls._truncate(ids, lengths, positions, tokenizer.sep_id)

    @classmethod
    def _truncate(
        cls, ids: NDArray[np.uint16], lengths: NDArray[np.int64], positions: int, sep_id: int
    ) -> "Corpus":
        kept = np.minimum(lengths, positions)
        starts = np.cumsum(lengths) - lengths
        cut = ids[token_places(starts, kept)]
        offsets = np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)
        over = lengths > positions
        cut[offsets[1:][over] - 1] = sep_id
        return cls(cut, offsets, int(over.sum()))

    @classmethod
    def read(
        cls, files: Sequence[str], column: str = "canonical", positions: int = 64, filesystem: Any = None
    ) -> "Corpus":
        """The strings of one column of Parquet files, rows without one left out.

        Files not on this machine need their `filesystem` (of pyarrow or fsspec).
        """
        return cls.from_texts(read_column(files, column, filesystem), positions)

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

    def take(self, rows: NDArray[np.integer[Any]] | NDArray[np.bool_]) -> "Corpus":
        """The given rows, by number or by mask."""
        chosen = np.arange(len(self))[rows]
        lengths = self.lengths[chosen]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return Corpus(self.ids[token_places(self.offsets[:-1][chosen], lengths)], offsets, self.truncated)

    def row_hashes(self) -> NDArray[np.uint64]:
        """A number for each row by its string alone, the same in every corpus that holds the string."""
        place = np.arange(len(self.ids)) - np.repeat(self.offsets[:-1], self.lengths)
        return np.add.reduceat(counter.bits(counter.SPLIT, place, self.ids), self.offsets[:-1])

    def split(self, fraction: float, keys: "Corpus | None" = None) -> tuple["Corpus", "Corpus"]:
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

    def subset(self, fraction: float) -> "Corpus":
        """A share of the rows by their strings; smaller shares lie inside larger ones."""
        return (
            self if fraction >= 1 else self.take(counter.uniform(self.row_hashes().view(np.int64)) < fraction)
        )

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, under another name until it is whole."""
        with atomic(path) as partial:
            save_file(
                {"ids": np.ascontiguousarray(self.ids), "offsets": np.ascontiguousarray(self.offsets)},
                partial,
                {"truncated": str(self.truncated)},
            )

    @classmethod
    def load(cls, path: str | Path) -> "Corpus":
        try:
            with safe_open(path, "numpy") as file:
                truncated = int((file.metadata() or {}).get("truncated", "0"))
                return cls(file.get_tensor("ids"), file.get_tensor("offsets"), truncated)
        except FileNotFoundError as error:
            raise CorpusError(f"{path}: no such corpus; prepare it with the pretraining flow") from error


def read_column(files: Sequence[str], column: str, filesystem: Any = None) -> list[str]:
    """Distinct strings of a column of Parquet files, without nulls, unsorted.

    Raises:
        CorpusError: there is no file, or no such column.
    """
    strings = _read(files, (column,), filesystem)[column]
    return list(pc.unique(pc.drop_null(strings)).to_pylist())


def read_pairs(files: Sequence[str], column: str, filesystem: Any = None) -> set[tuple[str, str]]:
    """(canonical string, string of `column`) of each row of Parquet files that has one in `column`.

    Raises:
        CorpusError: there is no file, no such column, or no canonical string beside one of `column`.
    """
    if column == "canonical":
        return {(text, text) for text in read_column(files, column, filesystem)}
    table = _read(files, ("canonical", column), filesystem).filter(pc.is_valid(pc.field(column)))
    lacking = table["canonical"].null_count
    if lacking:
        raise CorpusError(
            f"{files[0]}: {lacking} rows have a string in '{column}' and none in 'canonical', by which a "
            "corpus is split; encode the structures in both forms"
        )
    return set(zip(table["canonical"].to_pylist(), table[column].to_pylist(), strict=True))


def _read(files: Sequence[str], columns: Sequence[str], filesystem: Any) -> pa.Table:
    if not files:
        raise CorpusError("no files to read: the snapshot has no encoded structure")
    paths = [file if filesystem is None else file.split("://")[-1] for file in files]
    data = ds.dataset(paths, format="parquet", filesystem=filesystem)
    for column in columns:
        if column not in data.schema.names:
            raise CorpusError(f"{files[0]}: no column '{column}' (columns: {', '.join(data.schema.names)})")
    return data.to_table(columns=list(columns))


def token_places(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places of all tokens of rows that start at `starts`: `[sum of lengths]`."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)


def knows_every_word(encoder: EncoderConfig) -> EncoderConfig:
    """An encoder's geometry whose word embedding has a row for each word of SCOPE.

    Raises ValueError where it has fewer.
    """
    words = Tokenizer().vocabulary_size
    if encoder.vocabulary_size < words:
        raise ValueError(f"vocabulary_size {encoder.vocabulary_size} is less than SCOPE's {words} words")
    return encoder


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


def pad(corpus: Corpus, rows: NDArray[np.int64], pad_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(input_ids `[B, L]`, lengths `[B]`) of some rows, as wide as the longest."""
    lengths = corpus.lengths[rows]
    grid = np.full((len(rows), int(lengths.max())), pad_id, np.int64)
    real = np.arange(grid.shape[1]) < lengths[:, None]
    grid[real] = corpus.ids[token_places(corpus.offsets[:-1][rows], lengths)]
    return grid, lengths
