"""The resolved form: which element sits on which position.

    1 4 b O O O c O O O d O O O e O O O 0 | 1a Cl 1b Cs | Cl 0.5 Cs 0.5
                                            └ symbol of each orbit and what sits on it

The element-resolved key says the same in fewer words: "221 Cl:a Cs:b". Both are the least over the
relabelings of the normaliser, from one look-up. Occupancies have four digits in the key and, as published
fractions, two in the string.
"""

import re
from collections.abc import Mapping
from functools import lru_cache

from cloud_core.scope.canonical import word_order
from cloud_core.scope.grammar import ScopeError, decode, occupant_text
from cloud_core.scope.kinds import canonical_composition, fraction_text, without_isotopes
from cloud_core.scope.tables import ENANTIOMORPHS, letter_order, space_groups

_AMOUNT = re.compile(r"([A-Z][a-z]?)(\d\.\d{4})")


def key_and_head(number: int, occupation: Mapping[str, str]) -> tuple[str, str]:
    """The element-resolved key of a structure, and its resolved string up to the composition.

    occupation: element, or mixture as in "K0.2500,Na0.7500" → the Wyckoff letters of its orbits. Two
    structures share a key if and only if the same elements sit on equivalent sets of positions. A count
    above one goes before its letter: "225 Cl:a Na:b", "167 Ge:c Li:b O:2f P:e". The string lists the orbits
    in the order of the key, equal ones again and again. Mixtures that are equal to hundredths are one there.
    """
    kinds, (key, head) = _least(number, occupation)
    written = kinds
    if any(len(kind) > 2 for kind in kinds):
        written, (_, head) = _least(number, _in_hundredths(occupation))
    return key.format(*kinds), head.format(*written)


def resolve(text: str) -> str:
    """The least of the resolved strings that are equivalent to a resolved one: what `encode` gives.

    Raises ScopeError for an invalid string and for the other forms, which do not say what sits where.
    """
    parts = decode(text)
    if not parts.occupants:
        raise ScopeError(text, 0, "only the resolved form says which element sits on which position")
    occupation: dict[str, str] = {}
    for letter, occupant in zip(parts.letters, parts.occupants, strict=True):
        what = occupant_text(tuple(sorted(without_isotopes(dict(occupant)).items())))
        occupation[what] = occupation.get(what, "") + letter
    kinds, (_, head) = _least(parts.space_group, occupation)
    return head.format(*kinds) + canonical_composition(without_isotopes(parts.composition))


def _in_hundredths(occupation: Mapping[str, str]) -> dict[str, str]:
    """What sits on the sites as the string writes it → letters."""
    written: dict[str, str] = {}
    for kind, letters in occupation.items():
        amounts = [(element, float(fraction_text(float(x)))) for element, x in _AMOUNT.findall(kind)]
        text = occupant_text(tuple(amounts)) if amounts else kind
        written[text] = written.get(text, "") + letters
    return written


def _least(number: int, occupation: Mapping[str, str]) -> tuple[list[str], tuple[str, str]]:
    """What sits on the sites, sorted, and the forms that take it."""
    kinds = sorted(occupation)
    return kinds, _forms(number, tuple(["".join(sorted(occupation[kind])) for kind in kinds]))


@lru_cache(maxsize=65536)
def _forms(number: int, words: tuple[str, ...]) -> tuple[str, str]:
    """Key and head of any kinds with these letters: "225 {0}:a {1}:b", "… | 4a {0} 4b {1} | "."""
    group = space_groups()[ENANTIOMORPHS.get(number, number)]
    # Orbits of one kind and one count are alike: only where they are can differ under a relabeling.
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
    least = min(rows, key=lambda row: [word_order(word) for word in row])
    keys: list[str] = []
    orbits: list[str] = []
    for (place, count), letters in zip(kinds, least, strict=True):
        for letter in letters:
            keys.append(f"{{{place}}}:{count if count > 1 else ''}{letter}")
            orbits += [f"{group.symbols[letter]} {{{place}}}"] * count
    return f"{group.number} {' '.join(keys)}", f"{group.generators} | {' '.join(orbits)} | "
