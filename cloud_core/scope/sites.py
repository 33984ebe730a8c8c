"""What resolved strings say, as arrays: a token for each element, occupancy and Wyckoff letter of a crystal.

    … | 4a Cl 4b Na | Cl 0.5 Na 0.5     two tokens: Cl on letter 0 (a), Na on letter 1 (b)

Equal orbits are one token with a count; a mixed site gives a token for each of its elements.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from cloud_core.scope.grammar import Parts, ScopeError, decode
from cloud_core.scope.kinds import without_isotopes
from cloud_core.scope.tables import ATOMIC_NUMBERS, load, space_groups

LETTERS = "abcdefghijklmnopqrstuvwxyzA"
# The 32 crystal classes, by crystal system; a site-symmetry index is a place in this row.
CRYSTAL_CLASSES = (
    "1", "-1", "2", "m", "2/m", "222", "mm2", "mmm", "4", "-4", "4/m", "422", "4mm", "-42m", "4/mmm",
    "3", "-3", "32", "3m", "-3m", "6", "-6", "6/m", "622", "6mm", "-6m2", "6/mmm",
    "23", "m-3", "432", "-43m", "m-3m",
)  # fmt: skip
_TRACE = 0.001  # what an occupancy that was rounded to 0.0 counts as in sums

Token = tuple[int, float, int, int, int, int]


@dataclass(frozen=True, eq=False, slots=True)
class Sites:
    """The sites of n crystals as t tokens laid end to end: crystal i has `offsets[i]:offsets[i + 1]`.

    space_groups: `[n]`, 1 … 230. offsets: `[n + 1]`. The others are `[t]`:
    elements: atomic numbers; D and T are hydrogen. occupancies: atoms of the element on each site, in
    hundredths. letters: places in `LETTERS`. multiplicities: of the letter, in the conventional cell.
    counts: orbits that are equal in element, occupancy and letter. site_symmetries: places in
    `CRYSTAL_CLASSES`.
    """

    space_groups: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    elements: NDArray[np.uint8]
    occupancies: NDArray[np.float32]
    letters: NDArray[np.uint8]
    multiplicities: NDArray[np.uint8]
    counts: NDArray[np.uint16]
    site_symmetries: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.space_groups)

    @property
    def crystals(self) -> NDArray[np.int64]:
        """The crystal of each token, `[t]`."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @property
    def positions(self) -> NDArray[np.int64]:
        """Wyckoff positions `[t]`, 1 … 1731: those of space group 1, a first, then those of 2 …"""
        return _first_position()[self.space_groups[self.crystals]] + self.letters

    @property
    def shares(self) -> NDArray[np.float64]:
        """The share of the atoms of its crystal that each token stands for, `[t]`."""
        atoms = self.multiplicities * self.counts * np.maximum(self.occupancies.astype(float), _TRACE)
        return atoms / np.bincount(self.crystals, atoms, len(self))[self.crystals]

    @property
    def composition(self) -> NDArray[np.float64]:
        """The fraction of each element by atomic number, `[n, 119]`; not rounded, as it is in the string."""
        fractions = np.zeros((len(self), len(ATOMIC_NUMBERS) + 1))
        np.add.at(fractions, (self.crystals, self.elements), self.shares)
        return fractions


def sites_of(texts: Iterable[str]) -> Sites:
    """The sites of resolved strings, in the order in which they first stand there.

    Raises ScopeError for an invalid string, and for one that does not say what sits on its orbits.
    """
    groups: list[int] = []
    offsets = [0]
    tokens: list[Token] = []
    for text in texts:
        parts = decode(text)
        if not parts.occupants:
            raise ScopeError(text, 0, "only the resolved form says which element sits on which position")
        groups.append(parts.space_group)
        tokens += _tokens(parts)
        offsets.append(len(tokens))
    elements, occupancies, letters, multiplicities, symmetries, counts = (
        zip(*tokens, strict=True) if tokens else ((),) * 6
    )
    return Sites(
        np.array(groups, dtype=np.uint8),
        np.array(offsets, dtype=np.int64),
        np.array(elements, dtype=np.uint8),
        np.array(occupancies, dtype=np.float32),
        np.array(letters, dtype=np.uint8),
        np.array(multiplicities, dtype=np.uint8),
        np.array(counts, dtype=np.uint16),
        np.array(symmetries, dtype=np.uint8),
    )


def _tokens(parts: Parts) -> Iterator[Token]:
    counts: dict[tuple[int, float, str], int] = {}
    for letter, occupant in zip(parts.letters, parts.occupants, strict=True):
        for element, occupancy in without_isotopes(dict(occupant)).items():
            token = ATOMIC_NUMBERS[element], occupancy, letter
            counts[token] = counts.get(token, 0) + 1
    positions = _positions(parts.space_group)
    for (number, occupancy, letter), count in counts.items():
        yield number, occupancy, *positions[letter], count


@cache
def _positions(number: int) -> Mapping[str, tuple[int, int, int]]:
    """Wyckoff letter → its place in `LETTERS`, its multiplicity, the place of its site symmetry."""
    multiplicities, symmetries = space_groups()[number].multiplicities, site_symmetries()[number]
    return {
        letter: (LETTERS.index(letter), count, CRYSTAL_CLASSES.index(symmetries[letter]))
        for letter, count in multiplicities.items()
    }


@cache
def _first_position() -> NDArray[np.int64]:
    """`[231]` the number of each space group's Wyckoff position a."""
    sizes = [len(space_groups()[number].multiplicities) for number in range(1, 231)]
    return np.concatenate([[0, 1], 1 + np.cumsum(sizes)[:-1]])


@cache
def site_symmetries() -> Mapping[int, Mapping[str, str]]:
    """Space group → Wyckoff letter → crystal class of the site symmetry: 225 → "c" → "-43m"."""
    return {
        int(number): dict(zip(space_groups()[int(number)].multiplicities, classes.split(), strict=True))
        for number, classes in load("site_symmetries").items()
    }


@cache
def element_properties() -> tuple[tuple[str, ...], NDArray[np.float32]]:
    """Names of the properties, and their values `[119, properties]` by atomic number.

    NaN where there is no value; row 0 is no element. Units are in data/elements.json.
    """
    table = load("elements")
    values = np.full((len(ATOMIC_NUMBERS) + 1, len(table["properties"])), np.nan, dtype=np.float32)
    for element, row in table["elements"].items():
        values[ATOMIC_NUMBERS[element]] = row
    values.flags.writeable = False  # shared by all callers
    return tuple(table["properties"]), values


@cache
def standardised_properties() -> NDArray[np.float32]:
    """`element_properties` with mean 0 and standard deviation 1 over the elements; 0 where unknown."""
    _, values = element_properties()
    scaled = (values - np.nanmean(values, axis=0)) / np.nanstd(values, axis=0)
    scaled = np.nan_to_num(scaled)
    scaled.flags.writeable = False
    return scaled


@cache
def letter_of_position() -> NDArray[np.int64]:
    """`[1732]` the place in `LETTERS` of each Wyckoff position, numbered as in `Sites.positions`."""
    sizes = [len(space_groups()[number].multiplicities) for number in range(1, 231)]
    return np.concatenate([[0], *(np.arange(size) for size in sizes)])
