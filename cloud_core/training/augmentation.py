"""Other names of the same crystal: what an encoder should learn not to mind.

Wyckoff letters depend on the origin that somebody chose, and the order of symbols and elements on a file. In
each epoch a row gets a random relabeling of its space group's normaliser, and a random order of its Wyckoff
symbols and of its elements; a pure function of (seed, epoch, row), as masks are.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cloud_core.scope.tables import numbers_by_generators, space_groups
from cloud_core.scope.tokenizer import ELEMENT, FRACTION, GENERATOR, WYCKOFF, Tokenizer
from cloud_core.training import counter
from cloud_core.training.batches import Batches
from cloud_core.training.masking import Tokens


class Relabelings(NamedTuple):
    """Tables of words: those of space group n are `words[first[n]:first[n] + size[n]]`."""

    words: NDArray[np.int64]  # [tables, vocabulary] what becomes of each word in the Wyckoff list
    first: NDArray[np.int64]  # [231]
    size: NDArray[np.int64]  # [231]; group 0 stands for an unknown one and has the identity alone


@cache
def relabelings() -> Relabelings:
    """Of all 230 groups, and the identity for what is none of them."""
    ids = {word: number for number, word in enumerate(Tokenizer().words)}
    identity = np.arange(len(ids))
    tables, first, size = [identity], np.zeros(231, np.int64), np.ones(231, np.int64)
    for number, group in space_groups().items():
        first[number], size[number] = len(tables), len(group.translations)
        for translation in group.translations:
            table = identity.copy()
            for letter, symbol in group.symbols.items():
                image = group.symbols[letter.translate(translation)]
                # Symbols that the vocabulary lacks are word pieces, and stay what they are.
                if symbol in ids and image in ids:
                    table[ids[symbol]] = ids[image]
            tables.append(table)
    return Relabelings(np.stack(tables), first, size)


def space_group_numbers(corpus: Batches) -> NDArray[np.int64]:
    """`[rows]` by the generator string; 0 where it is none of the 230."""
    place = np.arange(len(corpus.ids)) - np.repeat(corpus.offsets[:-1], corpus.lengths)
    of_generator = np.where(corpus.fields == GENERATOR, counter.bits(0, place, corpus.ids), np.uint64(0))
    hashes = np.add.reduceat(of_generator, corpus.offsets[:-1])
    _, representatives, group_of = np.unique(hashes, return_index=True, return_inverse=True)
    tokenizer = Tokenizer()
    numbers = [
        numbers_by_generators().get(
            tokenizer.decode(
                [int(i) for i, f in zip(*_row(corpus, int(row)), strict=True) if f == GENERATOR]
            ),
            0,
        )
        for row in representatives
    ]
    return np.array(numbers, np.int64)[group_of]


def _row(corpus: Batches, row: int) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    places = slice(corpus.offsets[row], corpus.offsets[row + 1])
    return corpus.ids[places], corpus.fields[places]


def augment(tokens: Tokens, numbers: NDArray[np.int64], seed: int, epoch: int) -> Tokens:
    """Relabel and reorder; `numbers` `[rows of the corpus]` are the space groups."""
    known, group = relabelings(), numbers[tokens.rows]
    draw = counter.uniform(seed, counter.RELABEL, epoch, tokens.rows)
    table = known.first[group] + (draw * known.size[group]).astype(np.int64)
    wyckoff = tokens.fields == WYCKOFF
    ids = np.where(wyckoff, known.words[table, tokens.ids], tokens.ids)

    composition = (tokens.fields == ELEMENT) | (tokens.fields == FRACTION)
    # An element and its fraction move together: the unit begins where an element follows none.
    before = np.concatenate([[np.uint8(GENERATOR)], tokens.fields[:-1]])
    begins = wyckoff | ((tokens.fields == ELEMENT) & (before != ELEMENT)) | ~(wyckoff | composition)
    unit = np.maximum.accumulate(np.where(begins, np.arange(len(ids)), 0))
    order = counter.uniform(seed, counter.RELABEL, epoch, tokens.rows, tokens.positions[unit])
    row = np.cumsum(tokens.positions == 0)
    # What does not move keeps its place: it is a segment of its own.
    fixed = ~(wyckoff | composition)
    segment = np.cumsum(fixed | np.concatenate([[True], fixed[:-1]]))
    permutation = np.lexsort((tokens.positions, unit, np.where(fixed, 0.0, order), segment, row))
    return Tokens(ids[permutation], tokens.rows, tokens.positions, tokens.fields[permutation])
