"""OPTIMADE structures (specification 1.2, entry type `structures`) as cells."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from cloud_core.structures.cell import Cell
from cloud_core.structures.errors import Reason, StructureError
from cloud_core.structures.sites import cell_of, check_lattice, fractions_of, periodicity_note

_NEEDED = ("lattice_vectors", "cartesian_site_positions", "species_at_sites")
_UNSUPPORTED = {"assemblies", "unknown_positions", "implicit_atoms", "site_attachments"}


def is_optimade(payload: Mapping[str, Any]) -> bool:
    """Whether a JSON object is an OPTIMADE structure, whole or its attributes alone."""
    attributes = payload.get("attributes")
    return isinstance(attributes, Mapping) or "species_at_sites" in payload


def read_optimade(payload: Mapping[str, Any]) -> Cell:
    """The cell of an OPTIMADE structure. Raises StructureError.

    Vacancies lower the occupancy of their site. One that is not periodic in three dimensions has a note.
    A value may be JSON text, as tables of OPTIMADE structures have it (LeMat-Bulk: `species`).
    """
    attributes = {key: _value(value) for key, value in payload.get("attributes", payload).items()}
    name = f"optimade: {str(payload.get('id', 'entry'))[:60]}"
    if missing := [key for key in _NEEDED if attributes.get(key) is None]:
        raise StructureError(Reason.PARSE_ERROR, f"{name}: no {missing[0]}")
    if features := _UNSUPPORTED.intersection(attributes.get("structure_features") or ()):
        raise StructureError(Reason.UNSUPPORTED, f"{name}: structure feature {min(features)}")
    if attributes.get("assemblies"):
        raise StructureError(Reason.UNSUPPORTED, f"{name}: assemblies")
    dimensions = [bool(along) for along in attributes.get("dimension_types") or (1, 1, 1)]
    labels = [str(label) for label in attributes["species_at_sites"]]
    vectors = attributes["lattice_vectors"]
    if any(entry is None for vector in vectors for entry in vector or (None,)):
        raise StructureError(Reason.UNSUPPORTED, f"{name}: not periodic in three dimensions")
    lattice = np.array(vectors, dtype=float).reshape(3, 3)
    check_lattice(lattice, name)
    positions = np.array(attributes["cartesian_site_positions"], dtype=float).reshape(len(labels), 3)
    kinds = {str(kind["name"]): _occupancy(kind) for kind in attributes.get("species") or ()}
    mixtures = [kinds.get(label, {label: 1.0}) for label in labels]
    fractions = fractions_of(lattice, positions, name)
    return cell_of(lattice, mixtures, fractions, name, periodicity_note(dimensions, name))


def _value(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) and value.lstrip()[:1] == "[" else value


def _occupancy(kind: Mapping[str, Any]) -> dict[str, float]:
    occupancy: dict[str, float] = {}
    if any(kind.get("attached") or ()):
        raise StructureError(Reason.UNSUPPORTED, "optimade: atoms attached to a site, without coordinates")
    symbols = [str(symbol) for symbol in kind["chemical_symbols"]]
    concentrations = kind.get("concentration") or [1.0] * len(symbols)
    for symbol, amount in zip(symbols, concentrations, strict=True):
        # at 1e-8 a whole atom is meant
        value = 1.0 if abs(float(amount) - 1) < 1e-8 else float(amount)
        occupancy[symbol] = occupancy.get(symbol, 0.0) + value
    return occupancy
