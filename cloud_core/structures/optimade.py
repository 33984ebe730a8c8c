"""OPTIMADE structures (specification 1.2, entry type `structures`) as cells."""

from collections.abc import Mapping, Sequence
from typing import Any

from cloud_core.structures.arrays import matrix, number, vectors
from cloud_core.structures.cell import Cell, Note
from cloud_core.structures.elements import ISOTOPES
from cloud_core.structures.errors import Reason, StructureError, shown
from cloud_core.structures.formula import Amount, compare, formula_text, parse_formula
from cloud_core.structures.json_text import loads
from cloud_core.structures.sites import cell_of, check_lattice, fractions_of, periodicity_note, symbol_of

_NEEDED = ("lattice_vectors", "cartesian_site_positions", "species_at_sites")
_UNSUPPORTED = {"assemblies", "unknown_positions", "implicit_atoms", "site_attachments"}


def is_optimade(value: Any) -> bool:
    """Whether a value is an OPTIMADE structure, whole or its attributes alone."""
    if not isinstance(value, Mapping):
        return False
    return isinstance(value.get("attributes"), Mapping) or any(key in value for key in _NEEDED)


def read_optimade(entry: Mapping[str, Any]) -> Cell:
    """The cell of an OPTIMADE structure, whole or its attributes alone. Raises StructureError.

    Vacancies lower the occupancy of their site. One that is not periodic in three dimensions has a note.
    A value may be JSON text, as tables of OPTIMADE structures have it (LeMat-Bulk: `species`).
    """
    attributes = entry["attributes"] if isinstance(entry.get("attributes"), Mapping) else entry
    attributes = {key: _value(value) for key, value in attributes.items()}
    name = f"optimade: {str(entry.get('id', 'entry'))[:60]}"
    if missing := [key for key in _NEEDED if attributes.get(key) is None]:
        raise StructureError(Reason.PARSE_ERROR, f"{name}: no {missing[0]}")
    if features := _UNSUPPORTED.intersection(_names(attributes.get("structure_features"), name)):
        raise StructureError(Reason.UNSUPPORTED, f"{name}: structure feature {min(features)}")
    if attributes.get("assemblies"):
        raise StructureError(Reason.UNSUPPORTED, f"{name}: assemblies")
    if (span := attributes.get("site_coordinate_span")) not in (None, "unit_cell"):
        raise StructureError(Reason.UNSUPPORTED, f"{name}: sites of {shown(str(span))}, not of the unit cell")
    if "disorder" in _names(attributes.get("structure_features"), name) and not attributes.get("species"):
        raise StructureError(Reason.UNSUPPORTED, f"{name}: disordered, and no species say what is where")
    labels = _names(attributes["species_at_sites"], name)
    vectors_given = attributes["lattice_vectors"]
    if isinstance(vectors_given, list) and any(
        v is None or (isinstance(v, list) and None in v) for v in vectors_given
    ):
        raise StructureError(Reason.UNSUPPORTED, f"{name}: not periodic in three dimensions")
    lattice = matrix(vectors_given, f"{name}: lattice_vectors")
    check_lattice(lattice, name)
    positions = vectors(attributes["cartesian_site_positions"], f"{name}: cartesian_site_positions")
    if len(positions) != len(labels) or attributes.get("nsites") not in (None, len(labels)):
        raise StructureError(
            Reason.INVALID_POSITIONS,
            f"{name}: {len(labels)} species at sites, {len(positions)} positions, "
            f"nsites {str(attributes.get('nsites'))[:20]}",
        )
    kinds = _kinds(attributes.get("species"), name)
    mixtures = [_mixture(label, kinds, name) for label in labels]
    fractions = fractions_of(lattice, positions, name)
    notes = periodicity_note(_periodic(attributes, name), name) + _formula_note(attributes, mixtures, name)
    return cell_of(lattice, mixtures, fractions, name, notes)


def _formula_note(
    attributes: Mapping[str, Any], mixtures: Sequence[Mapping[str, float]], name: str
) -> tuple[Note, ...]:
    """A note where ordered sites have another composition than the reduced formula."""
    stated = attributes.get("chemical_formula_reduced")
    formula = parse_formula(stated) if isinstance(stated, str) else None
    amounts: dict[str, Amount] = {}
    for mixture in mixtures:
        for species, amount in mixture.items():
            symbol = symbol_of(species)
            if symbol is None or amount != 1.0:
                return ()
            element = ISOTOPES.get(symbol, symbol)
            amounts[element] = amounts.get(element, Amount(0.0)) + Amount(1.0)
    if formula is None or compare(formula, amounts).agrees:
        return ()
    text = f"{name}: chemical_formula_reduced {shown(str(stated))}, sites {formula_text(amounts)}"
    return (Note("formula_mismatch", text),)


def _value(value: Any) -> Any:
    return loads(value) if isinstance(value, str) and value.lstrip()[:1] == "[" else value


def _periodic(attributes: Mapping[str, Any], name: str) -> tuple[bool, ...]:
    types = attributes.get("dimension_types")
    if types is None:
        return (attributes.get("nperiodic_dimensions", 3) in (3, None),) * 3
    if not isinstance(types, list | tuple) or len(types) != 3 or any(kind not in (0, 1) for kind in types):
        raise StructureError(Reason.PARSE_ERROR, f"{name}: dimension_types {str(types)[:40]}")
    return tuple(kind == 1 for kind in types)


def _names(value: Any, name: str) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list | tuple) or not all(isinstance(word, str) for word in value):
        raise StructureError(
            Reason.PARSE_ERROR, f"{name}: a list of names is expected, not {shown(str(value))}"
        )
    return list(value)


def _kinds(species: Any, name: str) -> dict[str, dict[str, float]] | None:
    """Name of a species → what it stands for; None where the entry has no list of species."""
    if species is None:
        return None
    if not isinstance(species, list | tuple) or not all(isinstance(kind, Mapping) for kind in species):
        raise StructureError(Reason.PARSE_ERROR, f"{name}: species is no list of objects")
    kinds: dict[str, dict[str, float]] = {}
    for kind in species:
        label = str(kind.get("name"))
        if label in kinds:
            raise StructureError(Reason.PARSE_ERROR, f"{name}: two species are named {shown(label)}")
        if any(symbol != "vacancy" for symbol in _names(kind.get("attached"), name)):
            raise StructureError(Reason.UNSUPPORTED, f"{name}: atoms attached to {shown(label)}")
        symbols = _names(kind.get("chemical_symbols"), name)
        amounts = kind.get("concentration")
        if amounts is None and len(symbols) == 1:
            amounts = [1.0]
        if not symbols or not isinstance(amounts, list | tuple) or len(amounts) != len(symbols):
            raise StructureError(
                Reason.INVALID_OCCUPANCY,
                f"{name}: species {shown(label)} has no concentration for each symbol",
            )
        kinds[label] = {}
        for symbol, given in zip(symbols, amounts, strict=True):
            amount = number(given, f"{name}: concentration", Reason.INVALID_OCCUPANCY)
            # at 1e-8 a whole atom is meant
            amount = 1.0 if abs(amount - 1) < 1e-8 else amount
            kinds[label][symbol] = kinds[label].get(symbol, 0.0) + amount
    return kinds


def _mixture(label: str, kinds: dict[str, dict[str, float]] | None, name: str) -> dict[str, float]:
    if kinds is None:
        return {label: 1.0}
    if label not in kinds:
        raise StructureError(Reason.PARSE_ERROR, f"{name}: no species is named {shown(label)}")
    return kinds[label]
