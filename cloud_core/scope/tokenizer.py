"""Tokens of SCOPE strings, with the ids of the published vocabulary.

Every word of a valid string is a whole word of the vocabulary, so tokenizing is a look-up. Elements that
the vocabulary lacks (At, Fr, Es, …) fall apart into word pieces as they do in BERT (Devlin et al. 2019,
arXiv 1810.04805: greedy longest match first).
"""

from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import ArrayLike, NDArray

SPECIAL, GENERATOR, WYCKOFF, ELEMENT, FRACTION = range(5)
FIELDS = ("special", "generator", "wyckoff", "element", "fraction")


@cache
def _vocabulary() -> dict[str, int]:
    words = files("cloud_core.scope").joinpath("data", "vocabulary.txt").read_text(encoding="utf-8").split()
    words += [str(hundredth / 100) for hundredth in range(101)]
    return {word: index for index, word in enumerate(words)}


def in_vocabulary(word: str) -> bool:
    """Whether a word of a SCOPE string is a word of the published vocabulary."""
    return word in _vocabulary()


class Tokenizer:
    """Turns SCOPE strings into ids and back; ids equal those of the published `BertTokenizer`."""

    def __init__(self) -> None:
        self._ids = _vocabulary()
        self.words = tuple(self._ids)  # word i has id i
        self._lookup: dict[str, tuple[int, ...]] = {word: (index,) for word, index in self._ids.items()}
        self.vocabulary_size = len(self._ids)
        self.cls_id, self.pad_id, self.sep_id, self.unk_id, self.mask_id = (
            self._ids[word] for word in ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")
        )
        self.separator_id = self._ids["|"]
        self.first_fraction_id = self._ids["0.0"]
        # Words that are no Wyckoff symbol: among the symbols of the resolved form they say what sits there.
        self._names = np.array([not word[0].isdigit() and word != "[MASK]" for word in self.words])

    def encode(self, text: str) -> list[int]:
        """Ids of one string, from [CLS] to [SEP]."""
        ids = [self.cls_id]
        lookup = self._lookup
        for word in text.split():
            found = lookup.get(word)
            ids += found if found is not None else self._learn(word)
        ids.append(self.sep_id)
        return ids

    def encode_many(self, texts: Iterable[str]) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
        """Ids of many strings laid end to end, and offsets `[n + 1]`.

        String i is `ids[offsets[i]:offsets[i + 1]]`.
        """
        flat: list[int] = []
        ends = [0]
        for text in texts:
            flat += self.encode(text)
            ends.append(len(flat))
        return np.array(flat, dtype=np.uint16), np.array(ends, dtype=np.int64)

    def decode(self, ids: Sequence[int]) -> str:
        """The string of ids; special tokens are left out, word pieces joined."""
        words = [self.words[i] for i in ids if i not in (self.cls_id, self.sep_id, self.pad_id)]
        return " ".join(words).replace(" ##", "")

    def field_of(self, ids: ArrayLike) -> NDArray[np.uint8]:
        """The field of each token of one or many strings laid end to end: an index into `FIELDS`.

        ids: `[length]`, each string from [CLS] on. [CLS], [SEP], [PAD] and the separators are special. A
        masked token has the field of its place, but in the composition and between the symbols of the
        resolved form, where a mask stands for one or the other: take the fields before masking.
        """
        flat = np.asarray(ids)
        bars = np.cumsum(flat == self.separator_id)
        starts = np.maximum.accumulate(np.where(flat == self.cls_id, np.arange(len(flat)), 0))
        field = (GENERATOR + bars - bars[starts]).astype(np.uint8) if len(flat) else flat.astype(np.uint8)
        field[(field == WYCKOFF) & self._names[flat]] = ELEMENT
        field[(field >= WYCKOFF) & (flat >= self.first_fraction_id)] = FRACTION
        special = (self.cls_id, self.sep_id, self.pad_id, self.separator_id)
        field[np.isin(flat, special)] = SPECIAL
        return field

    def _learn(self, word: str) -> tuple[int, ...]:
        """Word pieces of a word that is not in the vocabulary, remembered."""
        pieces: list[int] = []
        start = 0
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = word[start:end] if start == 0 else f"##{word[start:end]}"
                if piece in self._ids:
                    pieces.append(self._ids[piece])
                    start = end
                    break
            else:
                pieces = [self.unk_id]
                break
        # Only short words: the memory of a long-lived process must not grow with bad input.
        if len(word) <= 4:
            self._lookup[word] = tuple(pieces)
        return tuple(pieces)
