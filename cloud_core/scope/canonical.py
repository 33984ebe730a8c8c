"""The canonical form: one crystal, one string.

Wyckoff letters depend on the origin and setting that a symmetry search picked; the choices are related
by the normaliser of the space group, which permutes the letters. The canonical form takes the least
representation over these permutations, sorts symbols and elements, and folds enantiomorphic pairs of
space groups to the lower number.
"""

from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from cloud_core.scope.grammar import Occupant, Parts, ScopeError, decode
from cloud_core.scope.kinds import canonical_composition, without_isotopes
from cloud_core.scope.tables import ENANTIOMORPHS, letter_order, space_groups

_PARTNERS = ENANTIOMORPHS | {low: high for high, low in ENANTIOMORPHS.items()}


@lru_cache(maxsize=65536)
def canonical_letters(number: int, letters: frozenset[str]) -> str:
    """The least set of letters, sorted and joined, that the relabelings of a space group give."""
    word = "".join(letters)
    images = (word.translate(table) for table in space_groups()[number].translations)
    return min(("".join(sorted(image, key=letter_order)) for image in images), key=word_order)


def word_order(word: Iterable[str]) -> list[tuple[bool, str]]:
    """Sort key of Wyckoff letters in a row."""
    return [letter_order(letter) for letter in word]


@lru_cache(maxsize=65536)
def canonical_head(number: int, letters: frozenset[str]) -> tuple[str, tuple[str, ...]]:
    """The canonical string up to its composition, and its Wyckoff symbols.

    number: the space group; of an enantiomorphic pair, the lower one is written.
    """
    group = space_groups()[ENANTIOMORPHS.get(number, number)]
    symbols = tuple(group.symbols[letter] for letter in canonical_letters(group.number, letters))
    return f"{group.generators} | {' '.join(symbols)} | ", symbols


def canonicalise(text: str) -> str:
    """The canonical string of an official, full, resolved or canonical one, from the string alone.

    Agrees with `encode(structure).canonical` wherever both symmetry engines see the same space group.
    Raises ScopeError for an invalid string.
    """
    parts = decode(text)
    head, _ = canonical_head(parts.space_group, frozenset(parts.letters))
    return head + canonical_composition(without_isotopes(parts.composition))


def equivalent(text: str, rng: np.random.Generator) -> str:
    """One of the equivalent strings of the same crystal, drawn at random: an augmentation for training.

    Draws a relabeling of the normaliser, the hand of an enantiomorphic space group, the order of the
    orbits and that of the elements, in the composition and on mixed sites. `canonicalise` maps every draw of
    an official or canonical string to the same string, `resolve` every one of a resolved string. Raises
    ScopeError for an invalid string and for the full form.
    """
    parts = decode(text)
    if parts.is_full:
        raise ScopeError(text, 0, "the augmentation takes the reduced form")
    number = parts.space_group
    if number in _PARTNERS and rng.random() < 0.5:
        number = _PARTNERS[number]
    group = space_groups()[number]
    table = group.translations[rng.integers(len(group.translations))]
    letters = "".join(parts.letters).translate(table)
    orbits = rng.permutation(len(letters))
    elements = rng.permutation(len(parts.elements))
    return Parts(
        number,
        tuple(group.symbols[letters[i]] for i in orbits),
        tuple(parts.elements[i] for i in elements),
        tuple(parts.fractions[i] for i in elements),
        tuple(_shuffled(parts.occupants[i], rng) for i in orbits) if parts.occupants else (),
    ).text


def _shuffled(occupant: Occupant, rng: np.random.Generator) -> Occupant:
    if len(occupant) == 1:
        return occupant
    return tuple(occupant[i] for i in rng.permutation(len(occupant)))
