"""The canonical form: one crystal, one string.

Wyckoff letters depend on the origin and setting that a symmetry search picked; the choices are related
by the normaliser of the space group, which permutes the letters. The canonical form takes the least
representation over these permutations, sorts symbols and elements, and folds enantiomorphic pairs of
space groups to the lower number.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache

import numpy as np

from cloud_core.scope.grammar import Parts, ScopeError, decode
from cloud_core.scope.tables import ENANTIOMORPHS, ISOTOPES, letter_order, space_groups

_PARTNERS = ENANTIOMORPHS | {low: high for high, low in ENANTIOMORPHS.items()}


@lru_cache(maxsize=65536)
def canonical_letters(number: int, letters: frozenset[str]) -> str:
    """The least set of letters, sorted and joined, that the relabelings of a space group give."""
    word = "".join(letters)
    images = (word.translate(table) for table in space_groups()[number].translations)
    return min(("".join(sorted(image, key=letter_order)) for image in images), key=_word_order)


def _word_order(word: Iterable[str]) -> list[tuple[bool, str]]:
    return [letter_order(letter) for letter in word]


@lru_cache(maxsize=65536)
def canonical_head(number: int, letters: frozenset[str]) -> tuple[str, tuple[str, ...]]:
    """The canonical string up to its composition, and its Wyckoff symbols.

    number: the space group; of an enantiomorphic pair, the lower one is written.
    """
    group = space_groups()[ENANTIOMORPHS.get(number, number)]
    symbols = tuple(group.symbols[letter] for letter in canonical_letters(group.number, letters))
    return f"{group.generators} | {' '.join(symbols)} | ", symbols


@lru_cache(maxsize=65536)
def fraction_text(fraction: float) -> str:
    """A fraction to hundredths as the published encoder rounds: numpy's rule, so 9/40 is "0.22"."""
    return str(float(np.round(fraction, 2)))


def canonical_composition(fractions: Mapping[str, float]) -> str:
    """Elements sorted by symbol, each with its fraction."""
    return " ".join([f"{element} {fraction_text(fractions[element])}" for element in sorted(fractions)])


def canonicalise(text: str) -> str:
    """The canonical string of an official, full or canonical one, from the string alone.

    Agrees with `encode(structure).canonical` wherever both symmetry engines see the same space group.
    Raises ScopeError for an invalid string.
    """
    parts = decode(text)
    fractions: dict[str, float] = {}
    for element, fraction in parts.composition.items():
        element = ISOTOPES.get(element, element)
        fractions[element] = round(fractions.get(element, 0.0) + fraction, 9)
    head, _ = canonical_head(parts.space_group, frozenset(parts.letters))
    return head + canonical_composition(fractions)


def element_key(number: int, occupation: Mapping[str, str]) -> str:
    """The element-resolved key of a structure: space group, then each element with its letters.

    occupation: element or mixture → the Wyckoff letters of its orbits. Least over the relabelings, so two
    structures share a key if and only if the same elements sit on equivalent sets of positions. A count
    above one goes before its letter: "225 Cl:a Na:b", "167 Ge:c Li:b O:2f P:e".
    """
    elements = sorted(occupation)
    form = _key_form(number, tuple(["".join(sorted(occupation[element])) for element in elements]))
    return form.format(*elements)


@lru_cache(maxsize=65536)
def _key_form(number: int, words: tuple[str, ...]) -> str:
    """The key of any elements whose orbits have these letters: "225 {0}:a {1}:b"."""
    group = space_groups()[ENANTIOMORPHS.get(number, number)]
    # Orbits of one element and one count are alike: only where they are can differ under a relabeling.
    alike: dict[tuple[int, int], str] = {}
    for place, word in enumerate(words):
        for letter in dict.fromkeys(word):
            kind = (place, word.count(letter))
            alike[kind] = alike.get(kind, "") + letter
    kinds = sorted(alike)
    joined = ",".join([alike[kind] for kind in kinds])
    rows = [
        [sorted(word, key=letter_order) for word in image.split(",")]
        for image in {joined.translate(table) for table in group.translations}
    ]
    least = min(rows, key=lambda row: [_word_order(word) for word in row])
    keys = [
        f"{{{place}}}:{count if count > 1 else ''}{letter}"
        for (place, count), letters in zip(kinds, least, strict=True)
        for letter in letters
    ]
    return f"{group.number} {' '.join(keys)}"


def equivalent(text: str, rng: np.random.Generator) -> str:
    """One of the equivalent strings of the same crystal, drawn at random: an augmentation for training.

    Draws a relabeling of the normaliser, the hand of an enantiomorphic space group, the order of the
    Wyckoff symbols and that of the elements. `canonicalise` maps every draw to the same string. Raises
    ScopeError for an invalid string.
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
    elements = rng.permutation(len(parts.elements))
    return Parts(
        number,
        tuple(group.symbols[letters[i]] for i in rng.permutation(len(letters))),
        tuple(parts.elements[i] for i in elements),
        tuple(parts.fractions[i] for i in elements),
    ).text
