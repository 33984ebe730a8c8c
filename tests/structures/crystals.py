"""Crystals with known answers, in any setting of gemmi's table: made up, or real ones put into a setting.

A `Crystal` is the truth: a setting, a cell and one site of each orbit, with exact coordinates. Nothing here
is shared with our reader: operators are gemmi's, orbits are worked out below.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from typing import Any

import gemmi
import numpy as np
import spglib
from numpy.typing import NDArray

from cloud_core.scope import encode
from cloud_core.structures import Cell, StructureError

FloatArray = NDArray[np.float64]
_SAME = 1e-5  # of images that exact coordinates bring together, fractional
_APART = 1.7  # Å, the least distance in a crystal made up here
_DALTON = 1.66053907  # g/cm³ of one dalton in one Å³


@dataclass(frozen=True)
class Setting:
    """One setting of a space group: `symbol` as gemmi writes it, e.g. "F d -3 m:2"."""

    symbol: str
    rotations: FloatArray
    translations: FloatArray

    @cached_property
    def table(self) -> gemmi.SpaceGroup:
        return gemmi.SpaceGroup(self.symbol)

    @property
    def number(self) -> int:
        return int(self.table.number)

    @cached_property
    def hall_number(self) -> int | None:
        """spglib's number of the setting, None for those that only gemmi has."""
        return _hall_numbers().get(fingerprint(self.rotations, self.translations))

    def operators(self) -> list[str]:
        return [op.triplet() for op in self.table.operations()]


def fingerprint(rotations: FloatArray, translations: FloatArray) -> frozenset[tuple[int, ...]]:
    turns = np.rint(rotations).astype(int).reshape(-1, 9)
    shifts = np.rint(translations * 24).astype(int) % 24
    return frozenset(tuple(row) for row in np.hstack([turns, shifts]).tolist())


@cache
def _hall_numbers() -> dict[frozenset[tuple[int, ...]], int]:
    numbers: dict[frozenset[tuple[int, ...]], int] = {}
    for number in range(1, 531):
        operators = spglib.get_symmetry_from_database(number)
        numbers.setdefault(fingerprint(operators["rotations"], operators["translations"]), number)
    return numbers


@cache
def settings() -> tuple[Setting, ...]:
    """All settings of gemmi's table: the 530 of International Tables and 30 more."""
    return tuple(_setting(group) for group in gemmi.spacegroup_table())


def _setting(group: gemmi.SpaceGroup) -> Setting:
    operators = list(group.operations())
    rotations = np.array([op.rot for op in operators], dtype=float) / gemmi.Op.DEN
    translations = np.array([op.tran for op in operators], dtype=float) / gemmi.Op.DEN
    return Setting(group.xhm(), rotations, translations % 1.0)


@dataclass(frozen=True)
class Site:
    element: str
    position: FloatArray  # fractional, exact
    multiplicity: int
    letter: str | None = None


@dataclass(frozen=True)
class Crystal:
    """A setting, a lattice `[3, 3]` in Å (rows), and one site of each orbit."""

    setting: Setting
    lattice: FloatArray
    sites: tuple[Site, ...]

    @cached_property
    def cell(self) -> Cell:
        return expand(self.setting, self.lattice, [(site.element, site.position) for site in self.sites])

    @cached_property
    def key(self) -> str:
        """The element-resolved key, by our encoder from numbers alone."""
        key = encode(self.cell).element_key
        assert key is not None
        return key

    @cached_property
    def counts(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for element in self.cell.species:
            counts[element] = counts.get(element, 0) + 1
        return counts

    @property
    def volume(self) -> float:
        return abs(float(np.linalg.det(self.lattice)))

    @property
    def density(self) -> float:
        """In g/cm³."""
        return mass(self.counts) * _DALTON / self.volume


def images(setting: Setting, position: FloatArray) -> FloatArray:
    """The positions `[m, 3]` of an orbit of exact coordinates."""
    everywhere = setting.rotations @ position + setting.translations
    between = everywhere[:, None, :] - everywhere
    same = (np.abs(between - np.rint(between)) < _SAME).all(axis=-1)
    first = same.argmax(axis=1) == np.arange(len(everywhere))
    orbit: FloatArray = everywhere[first] % 1.0
    return orbit


def distances(lattice: FloatArray, positions: FloatArray, position: FloatArray) -> FloatArray:
    """From each of `positions` `[n, 3]` to the nearest image of `position`, in Å (lattices that are not
    skew)."""
    between = positions - position
    between = between - np.rint(between)
    shifts = np.array(list(product((-1, 0, 1), repeat=3)), dtype=float)
    vectors = (between[:, None, :] + shifts) @ lattice
    nearest: FloatArray = np.sqrt((vectors**2).sum(axis=-1)).min(axis=-1)
    return nearest


def expand(setting: Setting, lattice: FloatArray, sites: Iterable[tuple[str, FloatArray]]) -> Cell:
    """The whole cell of sites in a setting."""
    species: list[str] = []
    fractions: list[FloatArray] = []
    for element, position in sites:
        orbit = images(setting, position)
        species += [element] * len(orbit)
        fractions += list(orbit)
    return Cell(lattice, tuple(species), np.array(fractions))


def shortest(cell: Cell) -> float:
    """The least distance between two atoms in Å, a lattice translation included."""
    least = min(float(np.linalg.norm(shift @ cell.lattice)) for shift in _translations())
    for i in range(1, len(cell)):
        least = min(least, float(distances(cell.lattice, cell.fractions[:i], cell.fractions[i]).min()))
    return least


@cache
def _translations() -> tuple[FloatArray, ...]:
    return tuple(np.array(shift, dtype=float) for shift in product((-1, 0, 1), repeat=3) if any(shift))


# Crystals from nothing.


def made_up(
    setting: Setting, rng: np.random.Generator, elements: Sequence[str] = ("Ca", "Ti", "O", "S")
) -> Crystal:
    """A crystal without clashes whose space group is that of the setting, on special and general
    positions."""
    for _ in range(3000):
        metric = _metric(setting, rng)
        sites = [(elements[0], _special(setting, rng))]
        sites += [(element, _special(setting, rng)) for element in elements[1 : int(rng.integers(2, 4))]]
        if len(setting.rotations) <= 48:
            sites.append((elements[3], rng.uniform(0, 1, 3)))
        crystal = _without_clashes(setting, metric, sites)
        if crystal is not None and is_of(crystal, setting.number):
            return crystal
    raise RuntimeError(f"no crystal found in {setting.symbol}")


def _without_clashes(
    setting: Setting, lattice: FloatArray, places: Sequence[tuple[str, FloatArray]]
) -> Crystal | None:
    lattice = lattice * (60.0 / abs(np.linalg.det(lattice))) ** (1 / 3)
    orders = [len(images(setting, position)) for _, position in places]
    if sum(orders) > 200:
        return None
    lattice = lattice * (sum(orders) * 26.0 / 60.0) ** (1 / 3)
    sites = tuple(
        Site(element, position % 1.0, len(images(setting, position))) for element, position in places
    )
    crystal = Crystal(setting, lattice, sites)
    return crystal if shortest(crystal.cell) > _APART else None


def _metric(setting: Setting, rng: np.random.Generator) -> FloatArray:
    """A lattice (rows) that the rotations of the setting leave alone, with no more symmetry than they ask
    for."""
    shape = np.diag(rng.uniform(0.75, 1.35, 3)) + rng.uniform(-0.25, 0.25, (3, 3))
    metric = shape @ shape.T
    metric = np.mean([turn.T @ metric @ turn for turn in setting.rotations], axis=0)
    return standing(metric)


def standing(metric: FloatArray) -> FloatArray:
    """Rows of a lattice with this metric tensor."""
    lattice: FloatArray = np.linalg.cholesky(metric)
    return lattice


def _special(setting: Setting, rng: np.random.Generator) -> FloatArray:
    """A random point that one to three operators of the setting leave where it is."""
    point: FloatArray = rng.uniform(0, 1, 3)
    chosen: list[tuple[FloatArray, FloatArray]] = []
    for index in rng.permutation(len(setting.rotations))[: int(rng.integers(1, 4))]:
        turn = setting.rotations[index]
        for _ in range(6):
            shift = setting.translations[index] + rng.integers(-1, 2, 3)
            matrix, vector = mean_of_powers(turn, shift)
            if np.abs(turn @ vector + shift - vector).max() < 1e-9:
                chosen.append((matrix, vector))
                break
    moved = on_all(chosen, point)
    return point if moved is None else moved


def on_all(projections: Sequence[tuple[FloatArray, FloatArray]], point: FloatArray) -> FloatArray | None:
    """The point moved to where all projections leave it; None where there is no such place."""
    for _ in range(60):
        before = point
        for matrix, vector in projections:
            point = matrix @ point + vector
        if np.abs(point - before).max() < 1e-10:
            return point
    return None


def mean_of_powers(turn: FloatArray, shift: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The mean of the powers of an operator, as matrix and vector: the projection to the points that it
    fixes, if there are such."""
    matrix, vector = np.eye(3), np.zeros(3)
    matrices, vectors = [], []
    while not matrices or (matrix != np.eye(3)).any():
        matrices.append(matrix)
        vectors.append(vector)
        matrix, vector = turn @ matrix, turn @ vector + shift
    return np.mean(matrices, axis=0), np.mean(vectors, axis=0)


def is_of(crystal: Crystal, number: int) -> bool:
    """Whether spglib and moyo both find this space group, moyo also at half and double the tolerance."""
    cell = crystal.cell
    names = sorted(set(cell.species))
    numbers = [names.index(element) + 1 for element in cell.species]
    try:
        dataset = spglib.get_symmetry_dataset((cell.lattice, cell.fractions, numbers), symprec=0.01)
    except spglib.error.SpglibError:
        return False
    if dataset is None or dataset.number != number:
        return False
    try:
        found = encode(cell)
    except StructureError:
        return False
    return found.space_group == number and "tolerance_sensitive" not in found.flags


# Real crystals, in any setting.


def in_setting(
    lattice: FloatArray, fractions: FloatArray, elements: Sequence[str], setting: Setting
) -> Crystal | None:
    """A crystal given as numbers, standardised by spglib in a setting; None where that is not possible."""
    if setting.hall_number is None:
        return None
    names = sorted(set(elements))
    numbers = [names.index(element) + 1 for element in elements]
    dataset = spglib.get_symmetry_dataset((lattice, fractions, numbers), hall_number=setting.hall_number)
    if dataset is None or dataset.number != setting.number:
        return None
    std_lattice = np.array(dataset.std_lattice)
    metric = std_lattice @ std_lattice.T
    metric = np.mean([turn.T @ metric @ turn for turn in setting.rotations], axis=0)
    std_lattice = standing(metric)
    positions = np.array(dataset.std_positions)
    sites: list[Site] = []
    seen = np.zeros(len(positions), dtype=bool)
    for i, position in enumerate(positions):
        if seen[i]:
            continue
        position = purged(setting, std_lattice, position)
        orbit = images(setting, position)
        for image in orbit:
            near = distances(std_lattice, positions, image)
            same = (near < 0.03) & (np.array(dataset.std_types) == dataset.std_types[i])
            if same.sum() != 1:
                return None
            seen |= same
        sites.append(Site(names[dataset.std_types[i] - 1], position % 1.0, len(orbit)))
    crystal = Crystal(setting, std_lattice, tuple(sites))
    if len(crystal.cell) != len(positions):
        return None
    return crystal


def purged(setting: Setting, lattice: FloatArray, position: FloatArray, within: float = 0.06) -> FloatArray:
    """A position moved to the special position on which its images within `within` Å put it: their mean."""
    everywhere = setting.rotations @ position + setting.translations
    offsets = everywhere - position
    offsets = offsets - np.rint(offsets)
    near = np.linalg.norm(offsets @ lattice, axis=1) < within
    return position + offsets[near].mean(axis=0)


def same_distances(one: Cell, other: Cell, shells: int = 6) -> bool:
    """Whether the atoms of two cells see the same nearest distances, whatever the cells."""
    return _spectrum(one, shells) == _spectrum(other, shells)


def _spectrum(cell: Cell, shells: int) -> set[tuple[Any, ...]]:
    shifts = np.array(list(product((-2, -1, 0, 1, 2), repeat=3)), dtype=float)
    spectrum = set()
    for i, element in enumerate(cell.species):
        between = cell.fractions - cell.fractions[i]
        vectors = ((between - np.rint(between))[:, None, :] + shifts) @ cell.lattice
        lengths = np.sort(np.linalg.norm(vectors, axis=-1).ravel())[1 : shells + 1]
        spectrum.add((element, *np.round(lengths, 2).tolist()))
    return spectrum


def stabiliser(crystal: Crystal, site: Site) -> list[tuple[FloatArray, FloatArray]]:
    """The projections of the operators that leave a site where it is; one for each of them."""
    found = []
    for turn, shift in zip(crystal.setting.rotations, crystal.setting.translations, strict=True):
        offset = turn @ site.position + shift - site.position
        whole = np.rint(offset)
        if np.abs(offset - whole).max() < _SAME:
            found.append(mean_of_powers(turn, shift - whole))
    return found


def mass(counts: dict[str, int]) -> float:
    return float(sum(gemmi.Element(element).weight * count for element, count in counts.items()))
