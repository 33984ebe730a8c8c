"""Crystals with known answers, written as CIF in any setting of gemmi's table and in many ways.

A `Crystal` is the truth: a setting, a cell and one site of each orbit, with exact coordinates. `write` makes
the text of a CIF of it; which statements of the symmetry, which digits and which formula it holds is the
caller's. Nothing here is shared with our reader: operators are gemmi's, orbits are worked out below.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
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
        return _hall_numbers().get(_fingerprint(self.rotations, self.translations))

    def operators(self) -> list[str]:
        return [op.triplet() for op in self.table.operations()]


def _fingerprint(rotations: FloatArray, translations: FloatArray) -> frozenset[tuple[int, ...]]:
    turns = np.rint(rotations).astype(int).reshape(-1, 9)
    shifts = np.rint(translations * 24).astype(int) % 24
    return frozenset(tuple(row) for row in np.hstack([turns, shifts]).tolist())


@cache
def _hall_numbers() -> dict[frozenset[tuple[int, ...]], int]:
    numbers: dict[frozenset[tuple[int, ...]], int] = {}
    for number in range(1, 531):
        operators = spglib.get_symmetry_from_database(number)
        numbers.setdefault(_fingerprint(operators["rotations"], operators["translations"]), number)
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
        return _mass(self.counts) * _DALTON / self.volume


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
            matrix, vector = _mean_of_powers(turn, shift)
            if np.abs(turn @ vector + shift - vector).max() < 1e-9:
                chosen.append((matrix, vector))
                break
    moved = _on_all(chosen, point)
    return point if moved is None else moved


def _on_all(projections: Sequence[tuple[FloatArray, FloatArray]], point: FloatArray) -> FloatArray | None:
    """The point moved to where all projections leave it; None where there is no such place."""
    for _ in range(60):
        before = point
        for matrix, vector in projections:
            point = matrix @ point + vector
        if np.abs(point - before).max() < 1e-10:
            return point
    return None


def _mean_of_powers(turn: FloatArray, shift: FloatArray) -> tuple[FloatArray, FloatArray]:
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
        position = settled(setting, std_lattice, position)
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


def settled(setting: Setting, lattice: FloatArray, position: FloatArray, within: float = 0.06) -> FloatArray:
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


# The text of a CIF.


@dataclass(frozen=True)
class Statement:
    """What a file says, beside its cell and sites.

    operators, hall, hm, number: the statements of the symmetry, None for none. tags: how those are named,
    "old" (`_symmetry_…`), "new" (`_space_group_…`) or "dotted" (DDLm). formula: "sum" (the reduced formula
    with Z), "cell" (the whole cell's, Z beside it as pymatgen writes), "unit" (the reduced formula without Z)
    or None. density: in g/cm³. coordinates: words for each site, else its position with `decimals`.
    multiplicities, letters: columns of the site loop. decimals: of the coordinates, which are rounded, or cut
    where `cut`.
    """

    operators: Sequence[str] | None = None
    hall: str | None = None
    hm: str | None = None
    number: int | None = None
    tags: str = "old"
    formula: str | None = None
    density: float | None = None
    multiplicities: Sequence[int] | None = None
    letters: Sequence[str] | None = None
    coordinates: Sequence[Sequence[str]] | None = None
    decimals: int = 6
    cut: bool = False


_TAGS = {
    "old": (
        "_symmetry_space_group_name_H-M",
        "_symmetry_space_group_name_Hall",
        "_symmetry_Int_Tables_number",
        "_symmetry_equiv_pos_as_xyz",
    ),
    "new": (
        "_space_group_name_H-M_alt",
        "_space_group_name_Hall",
        "_space_group_IT_number",
        "_space_group_symop_operation_xyz",
    ),
    "dotted": (
        "_space_group.name_H-M_alt",
        "_space_group.name_Hall",
        "_space_group.IT_number",
        "_space_group_symop.operation_xyz",
    ),
    "full": (
        "_space_group_name_H-M_full",
        "_space_group_name_Hall",
        "_space_group_IT_number",
        "_space_group_symop_operation_xyz",
    ),
}


def parameters(lattice: FloatArray) -> list[float]:
    """a, b, c in Å and alpha, beta, gamma in degrees."""
    lengths = np.linalg.norm(lattice, axis=1)
    cosines = lattice @ lattice.T / np.outer(lengths, lengths)
    angles = np.degrees(np.arccos([cosines[1, 2], cosines[0, 2], cosines[0, 1]]))
    return [*lengths.tolist(), *angles.tolist()]


def digits(value: float, decimals: int, cut: bool = False) -> str:
    """A coordinate as a file gives it; `cut` leaves further digits away instead of rounding."""
    if cut:
        value = math.trunc(value * 10**decimals + math.copysign(1e-7, value)) / 10**decimals
    return f"{value + 0.0:.{decimals}f}"


def formula_of(counts: dict[str, int], units: int) -> str:
    return " ".join(f"{element}{count // units}" for element, count in sorted(counts.items()))


def write(crystal: Crystal, statement: Statement) -> str:
    """The text of a CIF."""
    hm, hall, number, operators = _TAGS[statement.tags]
    lines = ["data_crystal"]
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    dot = "." if statement.tags == "dotted" else "_"
    for name, value in zip(names, parameters(crystal.lattice), strict=True):
        lines.append(f"_cell{dot}{name} {value:.5f}")
    if statement.hm is not None:
        lines.append(f"{hm} '{statement.hm}'")
    if statement.hall is not None:
        lines.append(f"{hall} '{statement.hall}'" if '"' in statement.hall else f'{hall} "{statement.hall}"')
    if statement.number is not None:
        lines.append(f"{number} {statement.number}")
    units = math.gcd(*crystal.counts.values())
    if statement.formula is not None:
        divisor = 1 if statement.formula == "cell" else units
        lines.append(f"_chemical_formula{dot}sum '{formula_of(crystal.counts, divisor)}'")
        if statement.formula != "unit":
            lines.append(f"_cell{dot}formula_units_Z {units}")
    if statement.density is not None:
        lines.append(f"_exptl_crystal{dot}density_diffrn {statement.density:.3f}")
    if statement.operators is not None:
        lines += ["loop_", operators, *(f"'{operator}'" for operator in statement.operators)]
    columns = ["label", "type_symbol", "fract_x", "fract_y", "fract_z"]
    rows = []
    for i, site in enumerate(crystal.sites):
        if statement.coordinates is not None:
            values = list(statement.coordinates[i])
        else:
            values = [digits(value, statement.decimals, statement.cut) for value in site.position]
        rows.append([f"{site.element}{i + 1}", site.element, *values])
    if statement.multiplicities is not None:
        columns.append("symmetry_multiplicity" if statement.tags == "old" else "site_symmetry_multiplicity")
        rows = [[*row, str(m)] for row, m in zip(rows, statement.multiplicities, strict=True)]
    if statement.letters is not None:
        columns.append("Wyckoff_symbol")
        rows = [[*row, letter] for row, letter in zip(rows, statement.letters, strict=True)]
    lines += ["loop_", *(f"_atom_site{dot}{column}" for column in columns), *map(" ".join, rows), ""]
    return "\n".join(lines)


def as_written(crystal: Crystal, decimals: int, cut: bool) -> Crystal | None:
    """The crystal of coordinates with so few digits, each site moved back to its special position; None where
    the digits bring a site to another position than its own, or atoms together."""
    sites = []
    for site in crystal.sites:
        position = np.array([float(digits(value, decimals, cut)) for value in site.position])
        written = _on_all(stabiliser(crystal, site), position)
        assert written is not None
        if len(images(crystal.setting, written)) != site.multiplicity:
            return None
        sites.append(replace(site, position=written))
    moved = replace(crystal, sites=tuple(sites))
    if shortest(moved.cell) < 1.2:
        return None
    found = encode(moved.cell)
    sure = found.space_group == crystal.setting.number and "tolerance_sensitive" not in found.flags
    return moved if sure else None


def stabiliser(crystal: Crystal, site: Site) -> list[tuple[FloatArray, FloatArray]]:
    """The projections of the operators that leave a site where it is; one for each of them."""
    found = []
    for turn, shift in zip(crystal.setting.rotations, crystal.setting.translations, strict=True):
        offset = turn @ site.position + shift - site.position
        whole = np.rint(offset)
        if np.abs(offset - whole).max() < _SAME:
            found.append(_mean_of_powers(turn, shift - whole))
    return found


def farthest_move(crystal: Crystal, decimals: int, cut: bool) -> float:
    """How far the digits put a site from its special position, in Å."""
    farthest = 0.0
    for site in crystal.sites:
        position = np.array([float(digits(value, decimals, cut)) for value in site.position])
        settled_at = _on_all(stabiliser(crystal, site), position)
        assert settled_at is not None
        farthest = max(farthest, float(np.linalg.norm((settled_at - position) @ crystal.lattice)))
    return farthest


# Spellings of symbols.


def icsd_suffix(group: gemmi.SpaceGroup) -> str | None:
    """ICSD's letter of an origin or of axes: S and Z for origins 1 and 2, H and R."""
    return {"1": "S", "2": "Z", "H": "H", "R": "R"}.get(group.ext)


def spellings(setting: Setting) -> Iterator[tuple[str, str]]:
    """(kind, symbol): ways to write the symbol with its setting."""
    group = setting.table
    hm, ext = group.hm, group.ext
    colon = f":{ext}" if ext in ("1", "2", "H", "R") else ""
    yield "gemmi", f"{hm}{colon}"
    yield "blank before the colon", f"{hm} {colon}".strip()
    yield "unspaced", f"{hm}{colon}".replace(" ", "")
    yield "underscores", f"{hm} {colon}".strip().replace(" ", "_")
    yield "upper case", f"{hm} {colon}".strip().upper()
    yield "lower case", f"{hm} {colon}".strip().lower()
    yield "unspaced upper case", f"{hm}{colon}".replace(" ", "").upper()
    if suffix := icsd_suffix(group):
        yield "ICSD", f"{hm} {suffix}"
        yield "ICSD unspaced", f"{hm}{suffix}".replace(" ", "")
        yield "ICSD half spaced", f"{hm.replace(' ', '')} {suffix}"
    if subscripted := _subscripts(hm):
        yield "screws as 2_1", f"{subscripted}{colon}"
        yield "screws as 2(1)", f"{_subscripts(hm, '({})')}{colon}"
    if (old := _old(group)) is not None:
        yield "old", f"{old} {colon}".strip()
        yield "old unspaced", f"{old}{colon}".replace(" ", "")
    if (full := _full(setting)) is not None:
        yield "full", f"{full} {colon}".strip()
    short = group.short_name()
    if group.crystal_system_str() == "monoclinic" and _is_standard(setting):
        yield "short monoclinic", _spaced(short)
        yield "short monoclinic unspaced", short


def _subscripts(hm: str, form: str = "_{}") -> str | None:
    """'P 21/c' → 'P 2_1/c'; None where the symbol has no screw axis."""
    text = re.sub(r"(?<= )([2346])([1-5])(?=[ /]|$)", lambda found: found[1] + form.format(found[2]), hm)
    return text if text != hm else None


def _old(group: gemmi.SpaceGroup) -> str | None:
    """Cubic symbols before 1983 had no bar: F m 3 m for F m -3 m."""
    words = group.hm.split()
    if group.crystal_system_str() == "cubic" and len(words) > 2 and words[2] == "-3":
        return " ".join([*words[:2], "3", *words[3:]])
    return None


def _full(setting: Setting) -> str | None:
    """spglib's full symbol, spaced; only of settings that it has."""
    if setting.hall_number is None or setting.table.ext not in ("", "\0", "1", "2", "H"):
        return None
    if not _is_standard(setting) or setting.table.crystal_system_str() == "monoclinic":
        return None
    full = spglib.get_spacegroup_type(setting.hall_number).international_full.replace("_", "")
    return None if full == setting.table.hm else str(full)


def _is_standard(setting: Setting) -> bool:
    """Whether the symbol, with its origin, is the one that International Tables list first."""
    reference = gemmi.get_spacegroup_reference_setting(setting.number)
    return bool(reference.hm == setting.table.hm)


def _spaced(short: str) -> str:
    """'P21/c' → 'P 21/c'."""
    return f"{short[0]} {short[1:]}"


# What else a text may mean.


@dataclass(frozen=True)
class Readings:
    """What the sites of a file give in the settings that its symbol or number may mean.

    keys: the element-resolved keys of those that nothing excludes for certain; clear: whether each of the
    others is excluded for certain.
    """

    keys: frozenset[str]
    clear: bool


def readings(crystal: Crystal, candidates: Iterable[Setting], evidence: str) -> Readings:
    """What the sites give in each setting that neither the lattice nor the evidence nor a clash excludes.

    evidence: "nothing", or what a file states: "unit" (a formula), "sum" (a formula and Z), "cell" (the sum
    of the cell, with Z), "density", "multiplicities".
    """
    keys: set[str] = set()
    clear = True
    for setting in candidates:
        if not fits(setting, crystal.lattice):
            continue
        orders = [len(images(setting, site.position)) for site in crystal.sites]
        counts: dict[str, int] = {}
        for site, order in zip(crystal.sites, orders, strict=True):
            counts[site.element] = counts.get(site.element, 0) + order
        if not _allowed(crystal, evidence, counts, orders):
            continue
        cell = expand(setting, crystal.lattice, [(site.element, site.position) for site in crystal.sites])
        near = shortest(cell)
        if near < 0.45:
            continue
        if near < 1.3:
            clear = False
        try:
            keys.add(str(encode(cell).element_key))
        except StructureError:
            clear = False
    return Readings(frozenset(keys), clear)


def _allowed(crystal: Crystal, evidence: str, counts: dict[str, int], orders: list[int]) -> bool:
    """Whether the atoms in the cell are what the evidence says of the crystal."""
    truth = crystal.counts
    units = math.gcd(*truth.values())
    if evidence == "multiplicities":
        return orders == [site.multiplicity for site in crystal.sites]
    if evidence == "density":
        return abs(_mass(counts) / _mass(truth) - 1) < 0.03
    if evidence == "nothing" or _reduced(counts) != _reduced(truth):
        return evidence == "nothing"
    times = sum(counts.values()) / sum(truth.values()) * units  # how many formulas are in the cell
    # The cell's own sum, written beside Z, reads as that of a formula too; a reduced one is none of a cell.
    return times in {"unit": {times}, "sum": {units}, "cell": {units, units**2}}[evidence]


def _mass(counts: dict[str, int]) -> float:
    return float(sum(gemmi.Element(element).weight * count for element, count in counts.items()))


def _reduced(counts: dict[str, int]) -> dict[str, int]:
    units = math.gcd(*counts.values())
    return {element: count // units for element, count in counts.items()}


def fits(setting: Setting, lattice: FloatArray) -> bool:
    """Whether the rotations of a setting leave the metric of a lattice alone."""
    metric = lattice @ lattice.T
    scale = float(np.trace(metric))
    return all(np.abs(turn.T @ metric @ turn - metric).max() < 1e-4 * scale for turn in setting.rotations)


def same_symbol(setting: Setting) -> list[Setting]:
    """The settings that the symbol without its origin or axes may mean."""
    return [other for other in settings() if other.table.hm == setting.table.hm]


def same_number(setting: Setting) -> list[Setting]:
    return [other for other in settings() if other.number == setting.number]
