"""Structure in, SCOPE out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from cloud_core.scope.canonical import (
    canonical_composition,
    canonical_head,
    element_key,
    fraction_text,
    occupation_of,
)
from cloud_core.scope.settings import EncoderSettings
from cloud_core.scope.symmetry import Symmetry, moyo_symmetry, spglib_symmetry
from cloud_core.scope.tables import ATOMIC_NUMBERS, ISOTOPES, space_groups
from cloud_core.structures.cell import Cell
from cloud_core.structures.errors import Reason, StructureError


@dataclass(frozen=True, slots=True)
class Scope:
    """The SCOPE strings of one structure and what they were made of.

    A form that was not asked for is None. `space_group` is the true one of the engine behind the
    canonical form (moyo), or of the official one where only that was asked for; `space_group_official`
    is spglib's. `wyckoff` lists the symbols of the first form asked for, each once. `composition` maps
    elements to unrounded fractions. `n_atoms_primitive` and `n_atoms_conventional` are None where only
    the official forms were asked for.
    """

    canonical: str | None
    official: str | None
    full: str | None
    element_key: str | None
    space_group: int
    space_group_official: int | None
    wyckoff: tuple[str, ...]
    composition: Mapping[str, float]
    n_sites: int
    n_atoms_primitive: int | None
    n_atoms_conventional: int | None
    flags: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        return self.canonical or self.official or self.full or ""


def encode(
    structure: Any, forms: Sequence[str] = ("canonical",), settings: EncoderSettings | None = None
) -> Scope:
    """The SCOPE of a structure: CIF or POSCAR text, a path, JSON, a pymatgen Structure or a Cell.

    forms: what to compute, out of "canonical", "official", "full"; `settings.forms` rules where settings
    are given and forms are left at the default. Raises StructureError with a reason code for a structure
    that cannot be read or has no symmetry at the tolerance.
    """
    from cloud_core.structures.formats import read

    if settings is None:
        settings = EncoderSettings(forms=tuple(forms))
    elif tuple(forms) != ("canonical",):
        settings = EncoderSettings(
            settings.symprec,
            settings.angle_tolerance,
            tuple(forms),
            settings.check_tolerance,
            settings.max_sites,
        )
    return encode_cell(structure if isinstance(structure, Cell) else read(structure), settings)


def encode_cell(cell: Cell, settings: EncoderSettings) -> Scope:
    """The SCOPE of a cell; see `encode`."""
    n_sites = len(cell)
    _check(cell, settings)
    canonical = official = full = key = official_group = n_primitive = n_conventional = None
    flags: list[str] = []
    composition, kinds = _kinds(cell)
    symmetry: Symmetry | None = None
    if "canonical" in settings.forms:
        symmetry = moyo_symmetry(
            cell.lattice, cell.fractions, kinds.numbers, settings.symprec, settings.angle_tolerance
        )
        group = space_groups()[symmetry.number]
        n_primitive = symmetry.n_primitive
        n_conventional = n_primitive * group.lattice_points
        canonical = canonical_head(symmetry.number, frozenset(symmetry.letters)) + canonical_composition(
            composition
        )
        occupation = occupation_of(group, symmetry.letters, kinds.names, n_sites / n_conventional)
        key = element_key(symmetry.number, occupation)
    if "official" in settings.forms or "full" in settings.forms:
        found = spglib_symmetry(
            cell.lattice, cell.fractions, _official_numbers(cell), settings.symprec, settings.angle_tolerance
        )
        official_group = found.number
        symmetry = symmetry or found
        amounts = _official_composition(cell)
        group = space_groups()[found.number]
        if "official" in settings.forms:
            symbols = " ".join([group.symbols[letter] for letter in dict.fromkeys(found.letters)])
            parts = " ".join([f"{element} {fraction_text(x)}" for element, x in amounts.items()])
            official = f"{group.generators} | {symbols} | {parts}"
        if "full" in settings.forms:
            symbols = " ".join([group.symbols[letter] for letter in found.letters])
            full = f"{group.generators} | {symbols} | {' '.join(_site_elements(cell))}"
    assert symmetry is not None
    group = space_groups()[symmetry.number]
    wyckoff = tuple(group.symbols[letter] for letter in sorted(set(symmetry.letters)))
    return Scope(
        canonical, official, full, key, symmetry.number, official_group, wyckoff, composition, n_sites,
        n_primitive, n_conventional, tuple(flags),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Kinds:
    """Kinds of atoms: a number and a name (the element, or the mixture) for each site."""

    numbers: list[int]
    names: tuple[str, ...]


def _check(cell: Cell, settings: EncoderSettings) -> None:
    n_sites = len(cell)
    if n_sites == 0:
        raise StructureError(Reason.NO_ATOMS, "no atoms")
    if n_sites > settings.max_sites:
        raise StructureError(Reason.TOO_MANY_SITES, f"{n_sites} sites, more than {settings.max_sites}")


def _kinds(cell: Cell) -> tuple[dict[str, float], _Kinds]:
    """Composition (fractions) and kinds, charges and isotopes left aside."""
    if cell.occupancies is None:
        names = tuple(ISOTOPES.get(s, s) for s in cell.species)
        fractions = {s: names.count(s) / len(names) for s in dict.fromkeys(names)}
        return fractions, _Kinds([ATOMIC_NUMBERS[s] for s in names], names)
    totals: dict[str, float] = {}
    labels = []
    for occupancy in cell.occupancies:
        amounts: dict[str, float] = {}
        for species, amount in occupancy.items():
            element = _element(species)
            element = ISOTOPES.get(element, element)
            amounts[element] = amounts.get(element, 0.0) + amount
        for element, amount in amounts.items():
            totals[element] = totals.get(element, 0.0) + amount
        whole = len(amounts) == 1 and abs(next(iter(amounts.values())) - 1) < 1e-6
        labels.append(
            next(iter(amounts)) if whole else ",".join(f"{e}{amounts[e]:.4g}" for e in sorted(amounts))
        )
    numbers = {label: i for i, label in enumerate(dict.fromkeys(labels), start=1)}
    total = sum(totals.values())
    fractions = {e: round(x / total, 9) for e, x in totals.items()}
    return fractions, _Kinds([numbers[label] for label in labels], tuple(labels))


@lru_cache(maxsize=4096)
def _element(species: str) -> str:
    """The element of a species: "Fe" of "Fe3+"."""
    return species[:2] if species[1:2].islower() else species[:1]


def _official_numbers(cell: Cell) -> list[int]:
    """Species numbered by first appearance, as the published route does."""
    numbers = {label: i for i, label in enumerate(dict.fromkeys(cell.species), start=1)}
    return [numbers[label] for label in cell.species]


def _official_composition(cell: Cell) -> dict[str, float]:
    """Elements in order of appearance with their fractions, in the published order of arithmetic."""
    totals: dict[str, float] = {}
    if cell.occupancies is None:
        for species in cell.species:
            totals[species] = totals.get(species, 0.0) + 1.0
    else:
        for occupancy in cell.occupancies:
            for species, amount in occupancy.items():
                totals[species] = totals.get(species, 0.0) + amount
    total = sum(totals.values())
    fractions: dict[str, float] = {}
    for species, amount in totals.items():
        element = species if cell.occupancies is None else _element(species)
        fractions[element] = fractions.get(element, 0.0) + amount / total
    return fractions


def _site_elements(cell: Cell) -> list[str]:
    if cell.occupancies is None:
        return list(cell.species)
    return [_element(next(iter(occupancy))) for occupancy in cell.occupancies]
