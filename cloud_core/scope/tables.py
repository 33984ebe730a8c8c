"""Tables of facts: generator strings, Wyckoff letters, relabelings, elements.

The data files and their sources are named in `data/NOTICE`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import Any

from cloud_core.structures.elements import ATOMIC_NUMBERS, ISOTOPES
from cloud_core.structures.space_group import wyckoff_multiplicities

__all__ = [
    "ATOMIC_NUMBERS",
    "ENANTIOMORPHS",
    "ISOTOPES",
    "LATTICE_POINTS",
    "SpaceGroup",
    "letter_order",
    "load",
    "space_groups",
]

# The lower number of each enantiomorphic pair, by the higher one (International Tables A, section 3.5).
ENANTIOMORPHS = {
    78: 76, 95: 91, 96: 92, 145: 144, 153: 151, 154: 152, 170: 169, 172: 171, 179: 178, 181: 180, 213: 212,
}  # fmt: skip

# Lattice points in the conventional cell, by the first letter of the Hermann-Mauguin symbol.
_CENTERED = {
    "A": (2, (38, 39, 40, 41)),
    "C": (2, (5, 8, 9, 12, 15, 20, 21, 35, 36, 37, 63, 64, 65, 66, 67, 68)),
    "F": (4, (22, 42, 43, 69, 70, 196, 202, 203, 209, 210, 216, 219, 225, 226, 227, 228)),
    "I": (2, (23, 24, 44, 45, 46, 71, 72, 73, 74, 79, 80, 82, 87, 88, 97, 98, 107, 108, 109, 110, 119, 120,
              121, 122, 139, 140, 141, 142, 197, 199, 204, 206, 211, 214, 217, 220, 229, 230)),
    "R": (3, (146, 148, 155, 160, 161, 166, 167)),
}  # fmt: skip
LATTICE_POINTS = {number: points for points, numbers in _CENTERED.values() for number in numbers}


@dataclass(frozen=True)
class SpaceGroup:
    """What SCOPE knows of one space group.

    generators: the published generator string, a blank between its characters.
    multiplicities: Wyckoff letter → multiplicity in the conventional cell, letters in order a … z, A.
    relabelings: permutations of the letters that the affine normaliser induces, each written as the
        images of the letters in order; the identity is the first.
    """

    number: int
    generators: str
    multiplicities: Mapping[str, int]
    relabelings: tuple[str, ...]

    @cached_property
    def symbols(self) -> Mapping[str, str]:
        """Wyckoff letter → symbol, e.g. "a" → "4a"."""
        return {letter: f"{count}{letter}" for letter, count in self.multiplicities.items()}

    @cached_property
    def translations(self) -> tuple[dict[int, int], ...]:
        """The relabelings as tables for `str.translate`."""
        letters = "".join(self.multiplicities)
        return tuple(str.maketrans(letters, images) for images in self.relabelings)

    @cached_property
    def lattice_points(self) -> int:
        """Primitive cells in the conventional cell."""
        return LATTICE_POINTS.get(self.number, 1)


def load(name: str) -> dict[str, Any]:
    """The JSON object in a data file: "generators"."""
    return json.loads(files("cloud_core.scope").joinpath("data", f"{name}.json").read_text(encoding="utf-8"))


@cache
def space_groups() -> Mapping[int, SpaceGroup]:
    """All 230 space groups by number."""
    generators, relabelings = (load(name) for name in ("generators", "relabelings"))
    return {
        int(number): SpaceGroup(
            int(number),
            " ".join(generators[number]),
            wyckoff_multiplicities()[int(number)],
            tuple(relabelings[number]),
        )
        for number in generators
    }


@cache
def numbers_by_generators() -> Mapping[str, int]:
    """Space-group number by its generator string (all 230 differ)."""
    return {group.generators: number for number, group in space_groups().items()}


def letter_order(letter: str) -> tuple[bool, str]:
    """Sort key of Wyckoff letters: a … z, then A (space group 47)."""
    return (letter.isupper(), letter)
