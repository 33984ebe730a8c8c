"""Structure in, SCOPE out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

import numpy as np

from cloud_core.scope.canonical import canonical_composition, canonical_head, element_key, fraction_text
from cloud_core.scope.settings import EncoderSettings
from cloud_core.scope.symmetry import Symmetry, moyo_symmetry, spglib_symmetry
from cloud_core.scope.tables import ATOMIC_NUMBERS, ISOTOPES, space_groups
from cloud_core.scope.tokenizer import in_vocabulary
from cloud_core.structures.cell import Cell, Note
from cloud_core.structures.distances import close_pairs
from cloud_core.structures.errors import READER_FLAGS, Reason, StructureError


@dataclass(frozen=True, slots=True)
class Scope:
    """The SCOPE strings of one structure and what they were made of.

    A form that was not asked for is None.

    space_group: the true one by moyo; by spglib where only official forms were asked for.
    space_group_official: spglib's, where an official form was asked for.
    wyckoff: the symbols of the canonical string (of the official one where that alone was asked for).
    composition: element → unrounded fraction.
    n_sites: sites of the input cell; n_atoms_primitive and n_atoms_conventional: sites of moyo's
        standard cells, None without the canonical form.
    flags: what a reader of the string should know, out of `FLAGS`. message: the words of those flags that
    have some.
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
    flags: tuple[str, ...]
    message: str = ""


FLAGS = READER_FLAGS | {
    "disordered": "a site holds more than one element, or less than a whole atom",
    "zero_fraction": 'an element\'s fraction rounds to "0.0"',
    "not_in_vocabulary": "the published vocabulary lacks an element; it falls apart into word pieces",
    "engines_disagree": "spglib and moyo see another space group",
    "tolerance_sensitive": "the space group or a letter moves at symprec/2 or 2·symprec",
    "tolerance_changed": "the symmetry engine found a symmetry at another tolerance than symprec alone",
    "overlapping_sites": "atoms are closer than 0.5 Å (hydrogen: 0.3 Å)",
    "official_missing": "an official form was asked for and is not there",
}
# Å. Of atoms closer than this only one can be there.
OVERLAP, OVERLAP_OF_HYDROGEN = 0.5, 0.3
OCCUPANCY_SLACK = 0.0101  # two occupancies of two decimals, each rounded up


def encode(
    structure: Any, forms: Sequence[str] = ("canonical",), settings: EncoderSettings | None = None
) -> Scope:
    """The SCOPE of a structure: CIF or POSCAR text, a path, JSON, a pymatgen Structure or a Cell.

    forms: what to compute, out of "canonical", "official", "full". settings: tolerances; its own `forms`
    rule where forms are left at the default. Raises StructureError with a reason code for a structure that
    cannot be read or has no symmetry at the tolerance.
    """
    from cloud_core.structures.formats import read

    if settings is None:
        settings = EncoderSettings(forms=tuple(forms))
    elif tuple(forms) != ("canonical",):
        settings = replace(settings, forms=tuple(forms))
    return encode_cell(structure if isinstance(structure, Cell) else read(structure), settings)


def encode_cell(cell: Cell, settings: EncoderSettings) -> Scope:
    """The SCOPE of a cell; see `encode`."""
    _check(cell, settings)
    kinds = _kinds(cell)
    notes = _judged(cell, kinds, settings)
    flags = [*dict.fromkeys([*[note.flag for note in notes], *kinds.flags])]
    canonical = official = full = key = official_group = n_primitive = n_conventional = None
    wyckoff: tuple[str, ...] = ()
    if "canonical" in settings.forms:
        symmetry = _moyo(cell, kinds, settings.symprec)
        if symmetry.note is not None:
            flags.append(symmetry.note.flag)
            notes += (symmetry.note,)
        n_primitive = symmetry.n_primitive
        n_conventional = n_primitive * space_groups()[symmetry.number].lattice_points
        head, wyckoff = canonical_head(symmetry.number, frozenset(symmetry.letters))
        canonical = head + canonical_composition(kinds.fractions)
        key = element_key(symmetry.number, _occupation(symmetry, kinds.names))
        if settings.check_tolerance and _is_sensitive(cell, kinds, settings, symmetry.number, canonical):
            flags.append("tolerance_sensitive")
    if "official" in settings.forms or "full" in settings.forms:
        found = spglib_symmetry(
            cell.lattice, cell.fractions, _official_numbers(cell), settings.symprec, settings.angle_tolerance
        )
        official_group = found.number
        group = space_groups()[found.number]
        if "official" in settings.forms:
            unique = " ".join([group.symbols[letter] for letter in dict.fromkeys(found.letters)])
            official = f"{group.generators} | {unique} | {_official_composition(cell)}"
        if "full" in settings.forms:
            symbols = " ".join([group.symbols[letter] for letter in found.letters])
            full = f"{group.generators} | {symbols} | {' '.join(_site_elements(cell))}"
        if canonical is None:
            symmetry = found
            wyckoff = tuple(group.symbols[letter] for letter in sorted(set(found.letters)))
        elif symmetry.number != found.number:
            flags.append("engines_disagree")
    return Scope(
        canonical, official, full, key, symmetry.number, official_group, wyckoff, kinds.fractions, len(cell),
        n_primitive, n_conventional, tuple(flags), "; ".join([note.text for note in notes]),
    )  # fmt: skip


def _check(cell: Cell, settings: EncoderSettings) -> None:
    """Refuse what would crash the C libraries below."""
    n_sites = len(cell.species)
    if n_sites == 0:
        raise StructureError(Reason.NO_ATOMS, "no atoms")
    if n_sites > settings.max_sites:
        raise StructureError(Reason.TOO_MANY_SITES, f"{n_sites} sites, more than {settings.max_sites}")
    if cell.lattice.shape != (3, 3):
        raise StructureError(Reason.INVALID_LATTICE, f"a lattice of shape {cell.lattice.shape}")
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = cell.lattice.tolist()
    volume = ax * (by * cz - bz * cy) - ay * (bx * cz - bz * cx) + az * (bx * cy - by * cx)
    if not 1e-3 < abs(volume) < 1e15:
        raise StructureError(Reason.INVALID_LATTICE, f"a cell volume of {abs(volume):.3g} Å³")
    if cell.fractions.shape != (n_sites, 3):
        raise StructureError(
            Reason.INVALID_POSITIONS, f"{n_sites} sites, but positions of shape {cell.fractions.shape}"
        )
    if not np.vdot(cell.fractions, cell.fractions) < 1e12:
        raise StructureError(Reason.INVALID_POSITIONS, "a position is not finite")


def _judged(cell: Cell, kinds: "_Kinds", settings: EncoderSettings) -> tuple[Note, ...]:
    """The notes of the cell and of its distances. Raises StructureError for those that refuse it."""
    notes = cell.notes
    if pairs := close_pairs(cell.lattice, cell.fractions, OVERLAP):
        notes += _overlaps(cell, kinds, pairs)
    for note in notes:
        flag = note.flag
        if flag == "formula_mismatch" and settings.formula == "refuse":
            raise StructureError(Reason.FORMULA_MISMATCH, note.text)
        if flag == "overlapping_sites" and settings.overlaps == "refuse":
            raise StructureError(Reason.OVERLAPPING_SITES, note.text)
        if flag == "not_periodic" and not settings.assume_periodic:
            raise StructureError(Reason.UNSUPPORTED, note.text)
    if cell.alternatives:
        _check_alternatives(cell, settings)
        notes = tuple([note for note in notes if note.flag != "ambiguous_setting"])
    return notes


def _check_alternatives(cell: Cell, settings: EncoderSettings) -> None:
    """Raise StructureError where the readings of an input are not one crystal by the element-resolved key."""
    plain = replace(settings, forms=("canonical",), check_tolerance=False)
    keys = set()
    for reading in (replace(cell, alternatives=()), *cell.alternatives):
        try:
            keys.add(encode_cell(reading, plain).element_key)
        except StructureError as error:
            keys.add(str(error))
    if len(keys) > 1:
        note = next(note for note in cell.notes if note.flag in _SEVERAL_READINGS)
        raise StructureError(_SEVERAL_READINGS[note.flag], note.text)


# Notes of an input with several readings, and the reason for refusing it where they are several crystals.
_SEVERAL_READINGS = {
    "ambiguous_setting": Reason.AMBIGUOUS_SETTING,
    "symmetry_contradicted": Reason.CONTRADICTORY_SYMMETRY,
}


def _overlaps(cell: Cell, kinds: "_Kinds", pairs: Sequence[tuple[int, int, float]]) -> tuple[Note, ...]:
    """A note on the closest two atoms that cannot both be there, if there are such."""
    for i, j, distance in sorted(pairs, key=lambda pair: pair[2]):
        elements = [_elements_at(cell, kinds, site) for site in (i, j)]
        if distance >= OVERLAP_OF_HYDROGEN and ["H"] in [sorted(at) for at in elements]:
            continue
        if sum(sum(at.values()) for at in elements) <= 1 + OCCUPANCY_SLACK:
            continue
        names = " and ".join("/".join(sorted(at)) for at in elements)
        return (
            Note(
                "overlapping_sites",
                f"two atoms ({names}, sites {i + 1} and {j + 1}) are {distance:.3f} Å apart",
            ),
        )
    return ()


def _elements_at(cell: Cell, kinds: "_Kinds", site: int) -> Mapping[str, float]:
    if cell.occupancies is None:
        return {kinds.names[site]: 1.0}
    return {element_of(species): amount for species, amount in cell.occupancies[site].items()}


@dataclass(frozen=True, slots=True)
class _Kinds:
    """What sits on the sites, charges and isotopes left aside.

    numbers: equal for sites of one kind; names: the element, or the mixture, of each site.
    """

    fractions: dict[str, float]
    numbers: list[int]
    names: Sequence[str]
    flags: tuple[str, ...]


def _kinds(cell: Cell) -> _Kinds:
    if cell.occupancies is not None:
        return _mixed_kinds(cell)
    names = cell.species
    symbols = dict.fromkeys(names)
    flags: tuple[str, ...] = ()
    if not ISOTOPES.keys().isdisjoint(symbols):
        flags = ("isotope",)
        names = tuple([ISOTOPES.get(symbol, symbol) for symbol in names])
        symbols = dict.fromkeys(names)
    fractions = {symbol: names.count(symbol) / len(names) for symbol in symbols}
    flags += _composition_flags(fractions)
    return _Kinds(fractions, [ATOMIC_NUMBERS[symbol] for symbol in names], names, flags)


def _mixed_kinds(cell: Cell) -> _Kinds:
    """Kinds of a cell with occupancies: mixtures are told apart to four digits."""
    totals: dict[str, float] = {}
    names: list[str] = []
    flags: set[str] = set()
    for occupancy in cell.occupancies or ():
        amounts: dict[str, float] = {}
        for species, amount in occupancy.items():
            element = element_of(species)
            if element in ISOTOPES:
                element = ISOTOPES[element]
                flags.add("isotope")
            if not 0 < amount <= 1 + 1e-6:
                raise StructureError(Reason.INVALID_OCCUPANCY, f"an occupancy of {amount} of {element}")
            amounts[element] = amounts.get(element, 0.0) + amount
        for element, amount in amounts.items():
            totals[element] = totals.get(element, 0.0) + amount
        if not 0 < sum(amounts.values()) <= 1 + 1e-6:
            raise StructureError(Reason.INVALID_OCCUPANCY, f"occupancies of {amounts} on one site")
        mixture = sorted(amounts.items())
        if len(mixture) > 1 or abs(mixture[0][1] - 1) > 1e-4:
            flags.add("disordered")
            names.append(",".join(f"{element}{amount:.4f}" for element, amount in mixture))
        else:
            names.append(mixture[0][0])
    numbers = {name: i for i, name in enumerate(dict.fromkeys(names), start=1)}
    total = sum(totals.values())
    # Sums in another order differ in the last bits; a tie must not hang on them.
    fractions = {element: round(amount / total, 9) for element, amount in totals.items()}
    return _Kinds(
        fractions, [numbers[name] for name in names], names, (*sorted(flags), *_composition_flags(fractions))
    )


def _composition_flags(fractions: Mapping[str, float]) -> tuple[str, ...]:
    flags: tuple[str, ...] = ()
    if _in_vocabulary().issuperset(fractions) and min(fractions.values()) > 0.0051:
        return flags
    for element, fraction in fractions.items():
        if element not in ATOMIC_NUMBERS:
            raise StructureError(Reason.UNKNOWN_ELEMENT, f"{element!r} is no element")
        if fraction_text(fraction) == "0.0" and "zero_fraction" not in flags:
            flags += ("zero_fraction",)
        if element not in _in_vocabulary() and "not_in_vocabulary" not in flags:
            flags += ("not_in_vocabulary",)
    return flags


@cache
def _in_vocabulary() -> frozenset[str]:
    """The elements that are words of the published vocabulary."""
    return frozenset(filter(in_vocabulary, ATOMIC_NUMBERS))


@lru_cache(maxsize=4096)
def element_of(species: str) -> str:
    """The element of a species: "Fe" of "Fe3+"."""
    return species[:2] if species[1:2].islower() else species[:1]


def _moyo(cell: Cell, kinds: _Kinds, symprec: float) -> Symmetry:
    return moyo_symmetry(cell.lattice, cell.fractions, kinds.numbers, symprec)


def _is_sensitive(cell: Cell, kinds: _Kinds, settings: EncoderSettings, number: int, canonical: str) -> bool:
    """Whether the space group or the string moves at half or double the tolerance."""
    for symprec in (settings.symprec / 2, settings.symprec * 2):
        try:
            symmetry = _moyo(cell, kinds, symprec)
        except StructureError:
            return True
        head, _ = canonical_head(symmetry.number, frozenset(symmetry.letters))
        if symmetry.number != number or not canonical.startswith(head):
            return True
    return False


def _occupation(symmetry: Symmetry, names: Sequence[str]) -> Mapping[str, str]:
    """Kind of atom → the letters of its orbits."""
    occupation: dict[str, str] = {}
    for site in set(symmetry.orbits):
        name = names[site]
        occupation[name] = occupation.get(name, "") + symmetry.letters[site]
    return occupation


def _official_numbers(cell: Cell) -> list[int]:
    """Species numbered by first appearance, as the published route does."""
    numbers = {label: i for i, label in enumerate(dict.fromkeys(cell.species), start=1)}
    return [numbers[label] for label in cell.species]


def _official_composition(cell: Cell) -> str:
    """Elements in order of appearance; fractions in the order of arithmetic of pymatgen's Composition."""
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
        element = species if cell.occupancies is None else element_of(species)
        fractions[element] = fractions.get(element, 0.0) + amount / total
    return " ".join([f"{element} {fraction_text(x)}" for element, x in fractions.items()])


def _site_elements(cell: Cell) -> Sequence[str]:
    """The element of each site; the first one of a mixture."""
    if cell.occupancies is None:
        return cell.species
    return [element_of(next(iter(occupancy))) for occupancy in cell.occupancies]
