"""Tokenized strings with numbers beside them: what a model is fitted to, and what it predicts for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from cloud_core.files import atomic
from cloud_core.scope.tokenizer import Tokenizer
from cloud_core.training.corpus import Corpus, pad, token_places

_COLUMN = "columns."


@dataclass(frozen=True)
class Examples:
    """Rows of token ids, end to end (row r is `ids[offsets[r]:offsets[r + 1]]`), and columns `[rows, …]`."""

    ids: NDArray[np.uint16]  # [tokens]
    offsets: NDArray[np.int64]  # [rows + 1]
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, values in self.columns.items():
            if len(values) != len(self):
                raise ValueError(f"column '{name}' has {len(values)} values for {len(self)} strings")

    @classmethod
    def from_texts(
        cls, texts: Sequence[str], columns: Mapping[str, NDArray[Any]] | None = None, positions: int = 64
    ) -> "Examples":
        """One row a SCOPE string, in order; longer ones keep `positions` tokens and end in [SEP]."""
        tokenizer = Tokenizer()
        ids, offsets = tokenizer.encode_many(texts)
        lengths = np.diff(offsets)
        over = lengths > positions
        if over.any():
            kept = np.minimum(lengths, positions)
            ids = ids[token_places(offsets[:-1], kept)]
            offsets = np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)
            ids[offsets[1:][over] - 1] = tokenizer.sep_id
        return cls(ids, offsets, dict(columns or {}))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def corpus(self) -> Corpus:
        """The same rows without their columns."""
        return Corpus(self.ids, self.offsets)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row."""
        return self.corpus.lengths

    def take(self, rows: NDArray[Any]) -> "Examples":
        """The given rows, by number or by mask."""
        chosen = np.arange(len(self))[rows]
        part = self.corpus.take(chosen)
        return Examples(
            part.ids, part.offsets, {name: values[chosen] for name, values in self.columns.items()}
        )

    def padded(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(input_ids `[B, L]`, lengths `[B]`) of some rows, as wide as the longest of them."""
        return pad(self.corpus, rows, Tokenizer().pad_id)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, under another name until it is whole."""
        tensors: dict[str, NDArray[Any]] = {"ids": self.ids, "offsets": self.offsets}
        tensors |= {_COLUMN + name: np.ascontiguousarray(values) for name, values in self.columns.items()}
        with atomic(path) as partial:
            save_file(tensors, partial)

    @classmethod
    def load(cls, path: str | Path) -> "Examples":
        tensors = load_file(path)
        columns = {
            name.removeprefix(_COLUMN): values for name, values in tensors.items() if name.startswith(_COLUMN)
        }
        return cls(tensors["ids"], tensors["offsets"], columns)
