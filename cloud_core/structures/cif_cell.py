"""A CIF block as a cell: what it says read by the rules of docs/reading.md, doubts noted, the rest refused.

The order of sites is that of pymatgen's `Structure.from_file` (2026.10), on which the official SCOPE string
hangs: by electronegativity, then as listed, then in the order of the operators.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import numpy as np

from cloud_core.structures.cell import Cell, FloatArray, Note
from cloud_core.structures.cif_block import CELL_TAGS, Block
from cloud_core.structures.cif_readings import Evidence, Reading, choose, evidence_of
from cloud_core.structures.cif_sites import SiteList, read_sites
from cloud_core.structures.cif_symmetry import StatedSymmetry, stated_symmetry
from cloud_core.structures.elements import ISOTOPES
from cloud_core.structures.errors import Reason, StructureError, shown
from cloud_core.structures.formula import Comparison, formula_text
from cloud_core.structures.lattice import RANKS, lattice_from_parameters
from cloud_core.structures.numbers import Number, parse_number, scale_to_one
from cloud_core.structures.orbits import is_same
from cloud_core.structures.pymatgen import from_pymatgen


def read_block(block: Block) -> Cell:
    """The cell of a block that holds atoms, with the notes of the reader; other readings of it that nothing
    excludes as `alternatives`.

    Raises StructureError.
    """
    _check_kind(block)
    lattice = _lattice(block)
    evidence = evidence_of(block)
    listed = read_sites(block, lattice, frozenset(evidence.formula or ()))
    if not listed.sites:
        what = f"; {listed.unknown[0]} is no element" if listed.unknown else ""
        reason = Reason.UNKNOWN_ELEMENT if listed.unknown else Reason.NO_ATOMS
        raise StructureError(reason, f"CIF: no site holds an atom{what}")
    stated = stated_symmetry(block)
    readings, decided_by = choose(stated, listed.sites, lattice, evidence)
    charges = _charges(block)
    cells = [_cell(reading, charges) for reading in readings]
    notes = _notes(stated, listed, readings, decided_by, evidence, block)
    first = replace(cells[0], notes=(*cells[0].notes, *notes), alternatives=tuple(cells[1:]))
    return first


def _check_kind(block: Block) -> None:
    """Refuse what is no plain crystal structure."""
    dimension = block.one("_cell_modulation_dimension") or "0"
    for tag in sorted(block.tags):
        if (
            tag.startswith(
                ("_space_group_ssg_", "_space_group_symop_ssg_", "_cell_wave_vector", "_atom_site_fourier")
            )
            or dimension != "0"
        ):
            raise StructureError(Reason.UNSUPPORTED, "CIF: a modulated structure")
        if tag in ("_atom_site_group_pdb", "_atom_site_label_asym_id", "_atom_site_label_atom_id"):
            raise StructureError(Reason.UNSUPPORTED, "CIF: an mmCIF of a macromolecule")


def _lattice(block: Block) -> FloatArray:
    words = [block.one(tag) for tag in CELL_TAGS]
    for tag, word in zip(CELL_TAGS[:3], words[:3], strict=True):
        if word is None:
            raise StructureError(Reason.INVALID_LATTICE, f"CIF: no {tag}")
    # The dictionary's default of an angle is 90°.
    numbers = [parse_number("90" if word is None else word) for word in words]
    for tag, word, number in zip(CELL_TAGS, words, numbers, strict=True):
        if number is None:
            raise StructureError(Reason.INVALID_LATTICE, f"CIF: {tag} is {shown(str(word))}")
    values = [number.value for number in numbers if number is not None]
    lattice = lattice_from_parameters(*values)
    if lattice is None:
        raise StructureError(
            Reason.INVALID_LATTICE,
            f"CIF: a cell of {values[:3]} Å and {values[3:]}° has no reasonable volume",
        )
    return lattice


def _charges(block: Block) -> Mapping[str, float] | None:
    """Type symbol → oxidation state; None where the block does not give them all."""
    symbols, states = block.column("_atom_type_symbol"), block.column("_atom_type_oxidation_number")
    if symbols is None or states is None or len(symbols) != len(states):
        return None
    charges: dict[str, float] = {}
    for symbol, state in zip(symbols, states, strict=True):
        number = Number(0.0, 0.0, 0) if state.strip() == "." else parse_number(state)
        if number is None:
            return None
        charges[symbol] = number.value
        charges.setdefault(re.sub(r"\d?[\+,\-]?$", "", symbol), number.value)
    return charges


# -- notes


def _notes(
    stated: StatedSymmetry,
    listed: SiteList,
    readings: Sequence[Reading],
    decided_by: str,
    evidence: Evidence,
    block: Block,
) -> list[Note]:
    notes = []
    reading = readings[0]
    if stated.is_assumed:
        notes.append(_without_symmetry(reading))
    if stated.conflict:
        text = f"CIF: {stated.conflict}; taken: {reading.operators.name}, by {decided_by}"
        notes.append(Note("symmetry_contradicted", text))
    elif len(readings) > 1:
        names = " or ".join(reading.operators.name for reading in readings[:4])
        text = f"CIF: {stated.statement} can be {names}, and neither cell, formula nor distances say which"
        if evidence.units is None or not evidence.formula:
            text += "; a formula with Z, a density or multiplicities would"
        notes.append(Note("ambiguous_setting", text))
    comparison = reading.comparison
    if listed.unknown and not (comparison and comparison.agrees and reading.has_right_count):
        raise StructureError(Reason.UNKNOWN_ELEMENT, f"CIF: site {listed.unknown[0]} is no element")
    if evidence.formula_text and evidence.formula is None:
        text = f"CIF: formula {shown(evidence.formula_text, 60)}; the composition is not compared"
        notes.append(Note("formula_not_understood", text))
    is_missing = listed.has_lost_hydrogen
    if comparison is not None:
        if not comparison.agrees:
            notes.append(_mismatch(reading, evidence, comparison))
        is_missing |= comparison.hydrogen < 0
        if comparison.hydrogen > 0 and not listed.has_lost_hydrogen:
            text = f"CIF: formula {evidence.formula_text}, sites {formula_text(reading.amounts)}"
            notes.append(Note("hydrogen_excess", text))
    if is_missing:
        notes.append(Note("hydrogen_missing", "CIF: hydrogen without coordinates is left out"))
    if any(tag.startswith("_atom_site_moment") for tag in block.tags):
        notes.append(Note("moments_ignored", "CIF: magnetic moments are left aside"))
    return notes


def _without_symmetry(reading: Reading) -> Note:
    """The note of a block that says nothing of symmetry.

    Raises StructureError where its sites are not the whole cell by what else it says.
    """
    stated = [site.multiplicity for site in reading.sites if site.multiplicity is not None]
    if any(count > 1 for count in stated) or not reading.has_right_count:
        raise StructureError(
            Reason.UNKNOWN_SYMMETRY, "CIF: nothing says the symmetry, and the sites are not the whole cell"
        )
    return Note("no_symmetry_given", "CIF: no symmetry is stated; the sites are taken as the whole cell")


def _mismatch(reading: Reading, evidence: Evidence, comparison: Comparison) -> Note:
    text = f"CIF: formula {evidence.formula_text}, sites {formula_text(reading.amounts)}"
    if comparison.lacking:
        text += f"; no site holds {', '.join(comparison.lacking)}"
    elif comparison.short:
        text += f"; of {', '.join(comparison.short)} there is less than the formula has"
    if {"C", "O", "N", "Cl", "S"} & {*comparison.lacking, *comparison.short} and "C" in (
        evidence.formula or ()
    ):
        text += " (solvent that was not located?)"
    return Note("formula_mismatch", text)


# -- assembly


@dataclass(slots=True)
class _Place:
    """A position of the list with all that is on it."""

    position: tuple[float, float, float]
    images: FloatArray
    label: str
    amounts: dict[tuple[str, str], float] = field(default_factory=dict)  # (element, type symbol) → occupancy
    occupancies: list[Number] = field(default_factory=list)


def _cell(reading: Reading, charges: Mapping[str, float] | None) -> Cell:
    places = _places(reading)
    notes: tuple[Note, ...] = ()
    for place in places:
        notes += _one_hydrogen(place) + _check_occupancy(place)
    whole = charges is None and all(
        len(place.amounts) == 1 and next(iter(place.amounts.values())) == 1.0 for place in places
    )
    elements = [next(iter(place.amounts))[0] for place in places]
    ranks = [RANKS.get(ISOTOPES.get(element, element), -1) for element in elements]
    if not whole or -1 in ranks:
        if any(element in ISOTOPES for place in places for element, _ in place.amounts):
            notes += (Note("isotope", "CIF: isotopes of hydrogen are listed"),)
        return replace(_with_pymatgen(places, reading.lattice, charges), notes=_first(notes))
    order = sorted(range(len(places)), key=ranks.__getitem__)
    fractions = np.concatenate([places[index].images for index in order])
    owners = [index for index in order for _ in range(len(places[index].images))]
    species = tuple([elements[index] for index in owners])
    labels = tuple([places[index].label for index in owners])
    return Cell(reading.lattice, species, fractions, notes=_first(notes), labels=labels)


def _first(notes: Sequence[Note]) -> tuple[Note, ...]:
    """One note of each flag."""
    return tuple({note.flag: note for note in reversed(notes)}.values())


def _places(reading: Reading) -> list[_Place]:
    """Sites that are on one position are one place."""
    places: list[_Place] = []
    positions = np.zeros((0, 3))
    for site, found in zip(reading.sites, reading.orbits, strict=True):
        place = (
            next(
                (
                    places[same[0]]
                    for image in found.images
                    if len(same := np.flatnonzero(is_same(image, positions)))
                ),
                None,
            )
            if len(positions) and _may_meet(found.images, positions)
            else None
        )
        if place is None:
            place = _Place(found.position, found.images, site.label)
            places.append(place)
            positions = np.concatenate([positions, [found.position]])
        kind = (site.element, site.type_symbol)
        place.amounts[kind] = place.amounts.get(kind, 0.0) + site.occupancy.value
        place.occupancies.append(site.occupancy)
    return places


def _may_meet(images: FloatArray, positions: FloatArray) -> bool:
    between = images[:, None] - positions
    between -= np.rint(between)
    return bool((np.abs(between) < 1e-4).all(axis=-1).any())


def _one_hydrogen(place: _Place) -> tuple[Note, ...]:
    """Isotopes of hydrogen on one place are one species, H."""
    isotopes = [kind for kind in place.amounts if ISOTOPES.get(kind[0], kind[0]) == "H"]
    if len({element for element, _ in isotopes}) < 2:
        return ()
    place.amounts["H", "H"] = sum(place.amounts.pop(kind) for kind in isotopes)
    return (Note("isotope", f"CIF: isotopes of hydrogen on one site, {place.label}"),)


def _check_occupancy(place: _Place) -> tuple[Note, ...]:
    amounts = {element: amount for (element, _), amount in place.amounts.items()}
    if len(amounts) < len(place.amounts):  # an element with two type symbols
        amounts = {f"{element} {symbol}": amount for (element, symbol), amount in place.amounts.items()}
    divisor, note = scale_to_one(amounts, place.occupancies, f"CIF: site {place.label}")
    if divisor != 1.0:
        place.amounts = {kind: amount / divisor for kind, amount in place.amounts.items()}
    return () if note is None else (note,)


def _with_pymatgen(
    places: Sequence[_Place], lattice: FloatArray, charges: Mapping[str, float] | None
) -> Cell:
    """The cell of mixed, charged or rare species, in the order and with the species of pymatgen."""
    from pymatgen.core import Composition, Lattice, Structure

    mixtures: list[tuple[Any, FloatArray, str]] = []
    for place in places:
        amounts: dict[Any, float] = {}
        for (element, symbol), amount in place.amounts.items():
            species = _species(element, symbol, charges)
            amounts[species] = amounts.get(species, 0.0) + amount
        mixtures.append((Composition(amounts), place.images, place.label))
    kinds: list[Any] = []
    images: list[FloatArray] = []
    labels: list[str] = []
    for composition, group in groupby(sorted(mixtures, key=lambda m: m[0]), key=lambda m: m[0]):
        for _, found, label in group:
            kinds += [composition] * len(found)
            images.append(found)
            labels += [label] * len(found)
    structure = Structure(
        Lattice(lattice), kinds, np.concatenate(images), labels=labels
    ).get_sorted_structure()
    return replace(from_pymatgen(structure), labels=tuple(map(str, structure.labels)))


def _species(element: str, symbol: str, charges: Mapping[str, float] | None) -> Any:
    from pymatgen.core import Species
    from pymatgen.core.periodic_table import get_el_sp

    if charges is None:
        return get_el_sp(element)
    return Species(element, charges.get(symbol, charges.get(element, 0)))
