"""Which tokens are hidden, and behind what: pure functions of (seed, epoch, row), drawn afresh each epoch.

As published (BERT): each word is chosen with 15 %; of those 80 % become [MASK], 10 % another word of the
vocabulary in use, 10 % stay. [CLS] and [SEP] are never chosen.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cloud_core.scope.tokenizer import ELEMENT, FRACTION, WYCKOFF, Tokenizer
from cloud_core.training import counter
from cloud_core.training.batches import Batches, token_indices

LONGEST_SPAN = 12


@dataclass(frozen=True)
class Masking:
    """What is hidden.

    rate: share of words chosen. strategy: "token" draws each alone; "span" draws runs of neighbours of mean
    length `span_length` (tokens); "field" hides a row's whole Wyckoff list or composition with probability
    `field_share`, and draws tokens in the other rows. Of the chosen, `mask_share` become [MASK] and
    `random_share` a random word.
    """

    rate: float = 0.15
    strategy: Literal["token", "span", "field"] = "token"
    mask_share: float = 0.8
    random_share: float = 0.1
    span_length: float = 3.0
    field_share: float = 0.25

    def __post_init__(self) -> None:
        for name in ("rate", "mask_share", "random_share", "field_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share between 0 and 1, not {getattr(self, name)}")
        if self.mask_share + self.random_share > 1:
            raise ValueError("mask_share and random_share add up to more than 1")
        if self.span_length < 1:
            raise ValueError(f"span_length is at least one token, not {self.span_length}")


class Tokens(NamedTuple):
    """The tokens of some rows, end to end, with what each is."""

    ids: NDArray[np.int64]  # [T]
    rows: NDArray[np.int64]  # [T] the row of the corpus
    positions: NDArray[np.int64]  # [T] place in its row
    fields: NDArray[np.uint8]  # [T]

    @staticmethod
    def of(corpus: Batches, rows: NDArray[np.int64]) -> "Tokens":
        lengths = corpus.lengths[rows]
        places = token_indices(corpus.offsets[:-1][rows], lengths)
        positions = places - np.repeat(corpus.offsets[:-1][rows], lengths)
        return Tokens(
            corpus.ids[places].astype(np.int64), np.repeat(rows, lengths), positions, corpus.fields[places]
        )


def choose(tokens: Tokens, masking: Masking, seed: int, epoch: int) -> NDArray[np.bool_]:
    """`[T]` True where the model has to predict the token."""
    tokenizer = Tokenizer()
    if masking.strategy == "span":
        chosen = _spans(tokens, masking, seed, epoch)
    else:
        draw = counter.uniform(seed, counter.CHOICE, epoch, tokens.rows, tokens.positions)
        chosen = draw < masking.rate
    if masking.strategy == "field":
        draw = counter.uniform(seed, counter.FIELD, epoch, tokens.rows)
        wyckoff = tokens.fields == WYCKOFF
        composition = (tokens.fields == ELEMENT) | (tokens.fields == FRACTION)
        whole = np.where(draw < masking.field_share / 2, wyckoff, composition)
        chosen = np.where(draw < masking.field_share, whole, chosen)
    return chosen & (tokens.ids != tokenizer.cls_id) & (tokens.ids != tokenizer.sep_id)


def _spans(tokens: Tokens, masking: Masking, seed: int, epoch: int) -> NDArray[np.bool_]:
    """Runs of geometric length begin anywhere, before the row too, so all tokens are as likely covered."""
    survival = (1 - 1 / masking.span_length) ** np.arange(LONGEST_SPAN)  # P(length > k)
    begin = _span_starts(masking.rate, survival)
    chosen = np.zeros(len(tokens.ids), bool)
    for back in range(LONGEST_SPAN):
        draw = counter.uniform(seed, counter.SPAN, epoch, tokens.rows, tokens.positions - back)
        chosen |= draw < begin * survival[back]
    return chosen


def _span_starts(rate: float, survival: NDArray[np.floating[Any]]) -> float:
    """How often a run begins at a place: p in `rate` = 1 - product over k of (1 - p survival[k])."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if 1 - np.prod(1 - middle * survival) < rate else (low, middle)
    return high


def corrupt(
    tokens: Tokens, chosen: NDArray[np.bool_], masking: Masking, seed: int, epoch: int
) -> NDArray[np.int64]:
    """`[T]` what the model sees: [MASK], a random word or the word itself at the chosen places."""
    tokenizer = Tokenizer()
    rows, positions = tokens.rows[chosen], tokens.positions[chosen]
    fate = counter.uniform(seed, counter.FATE, epoch, rows, positions)
    drawn = counter.uniform(seed, counter.REPLACEMENT, epoch, rows, positions)
    random_words = (drawn * tokenizer.vocabulary_size).astype(np.int64)
    seen = tokens.ids.copy()
    seen[chosen] = np.select(
        [fate < masking.mask_share, fate < masking.mask_share + masking.random_share],
        [np.full(len(rows), tokenizer.mask_id), random_words],
        tokens.ids[chosen],
    )
    return seen
