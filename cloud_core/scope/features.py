"""What SCOPE strings say, as numbers for models that learn from tables.

Statistics of the properties of the elements are those of Magpie (Ward et al., npj Comput. Mater. 2, 16028,
2016), over the properties of data/elements.json.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cloud_core.scope.grammar import Parts, decode
from cloud_core.scope.sites import LETTERS, element_properties
from cloud_core.scope.tables import ATOMIC_NUMBERS, ISOTOPES, space_groups

STATISTICS = ("mean", "deviation", "minimum", "maximum", "range")
_ELEMENTS = len(ATOMIC_NUMBERS) + 1  # by atomic number


def composition_of(texts: Sequence[str]) -> NDArray[np.float64]:
    """The fraction of each element by atomic number, `[n, 119]`, as the strings state it; isotopes count with
    their element."""
    return _compositions([decode(text) for text in texts])


def features(texts: Sequence[str]) -> NDArray[np.float32]:
    """`[n, features]`: fractions of the elements, statistics of their properties, the space group, how many
    atoms of a cell are on each Wyckoff letter; and of resolved strings, of each element.

    The columns are the same for all strings of a form.
    """
    parts = [decode(text) for text in texts]
    fractions = _compositions(parts)
    columns = [fractions, statistics(fractions), (fractions**2).sum(1, keepdims=True), _symmetry(parts)]
    if parts and all(each.occupants for each in parts):
        columns.append(_pairs(parts))
    return np.concatenate([column.astype(np.float32) for column in columns], axis=1)


def statistics(fractions: NDArray[np.float64]) -> NDArray[np.float64]:
    """fractions `[n, 119]` -> `[n, 5 · properties]`: mean, mean absolute deviation, least, greatest, range of
    each property over the elements of a crystal, those without a value left out; nan where none has one."""
    _, properties = element_properties()
    found = np.full((len(fractions), properties.shape[1], len(STATISTICS)), np.nan)
    for place, values in enumerate(properties.T.astype(np.float64)):
        known = ~np.isnan(values)
        values, weights = values[known], fractions[:, known]
        total = weights.sum(1)
        has = total > 0
        weights = weights[has] / total[has, None]
        average = weights @ values
        deviation = (weights * np.abs(values - average[:, None])).sum(1)
        least = np.where(weights > 0, values, np.inf).min(1)
        greatest = np.where(weights > 0, values, -np.inf).max(1)
        found[has, place] = np.stack([average, deviation, least, greatest, greatest - least], axis=1)
    return found.reshape(len(fractions), -1)


def _compositions(parts: Sequence[Parts]) -> NDArray[np.float64]:
    fractions = np.zeros((len(parts), _ELEMENTS))
    for row, each in enumerate(parts):
        for element, fraction in each.composition.items():
            fractions[row, _number(element)] += fraction
    return fractions


def _symmetry(parts: Sequence[Parts]) -> NDArray[np.float64]:
    """`[n, 3 + 27]`: space group, kinds of orbits, atoms of the cell; and atoms on each letter."""
    found = np.zeros((len(parts), 3 + len(LETTERS)))
    for row, each in enumerate(parts):
        multiplicities = space_groups()[each.space_group].multiplicities
        for letter in each.letters:
            found[row, 3 + LETTERS.index(letter)] += multiplicities[letter]
        found[row, :3] = each.space_group, len(each.letters), found[row, 3:].sum()
    return found


def _pairs(parts: Sequence[Parts]) -> NDArray[np.float32]:
    """`[n, 119 · 27]` atoms of each element on each letter."""
    found = np.zeros((len(parts), _ELEMENTS, len(LETTERS)), np.float32)
    for row, each in enumerate(parts):
        multiplicities = space_groups()[each.space_group].multiplicities
        for letter, occupant in zip(each.letters, each.occupants, strict=True):
            for element, occupancy in occupant:
                found[row, _number(element), LETTERS.index(letter)] += multiplicities[letter] * occupancy
    return found.reshape(len(parts), -1)


def _number(element: str) -> int:
    return ATOMIC_NUMBERS.get(element) or ATOMIC_NUMBERS[ISOTOPES[element]]
