"""OPTIMADE structures (specification 1.2, entry type `structures`) as cells."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cloud_core.structures.cell import Cell
from cloud_core.structures.errors import Reason, StructureError

_NEEDED = ("lattice_vectors", "cartesian_site_positions", "species_at_sites")
_UNSUPPORTED = {"assemblies", "unknown_positions", "implicit_atoms", "site_attachments"}


def is_optimade(payload: Mapping[str, Any]) -> bool:
    """Whether a JSON object is an OPTIMADE structure, whole or its attributes alone."""
    attributes = payload.get("attributes")
    return isinstance(attributes, Mapping) or "species_at_sites" in payload


def read_optimade(payload: Mapping[str, Any]) -> Cell:
    """The cell of an OPTIMADE structure. Raises StructureError.

    Vacancies lower the occupancy of their site. Structures that are not periodic in three dimensions
    (molecules, slabs without a third vector) are refused.
    """
    attributes = payload.get("attributes", payload)
    name = str(payload.get("id", "OPTIMADE structure"))
    if missing := [key for key in _NEEDED if attributes.get(key) is None]:
        raise StructureError(Reason.PARSE_ERROR, f"{name}: no {missing[0]}")
    if features := _UNSUPPORTED.intersection(attributes.get("structure_features") or ()):
        raise StructureError(Reason.UNSUPPORTED, f"{name}: structure feature {min(features)}")
    if list(attributes.get("dimension_types") or (1, 1, 1)) != [1, 1, 1]:
        raise StructureError(Reason.UNSUPPORTED, f"{name}: not periodic in three dimensions")
    labels = tuple(attributes["species_at_sites"])
    try:
        lattice = np.array(attributes["lattice_vectors"], dtype=float).reshape(3, 3)
        positions = np.array(attributes["cartesian_site_positions"], dtype=float).reshape(len(labels), 3)
        kinds = {kind["name"]: _occupancy(kind) for kind in attributes.get("species") or ()}
        occupancies = [kinds.get(label, {label: 1.0}) for label in labels]
        fractions = np.linalg.solve(lattice.T, positions.T).T
    except np.linalg.LinAlgError as error:
        raise StructureError(Reason.INVALID_LATTICE, f"{name}: the lattice vectors span no volume") from error
    except (KeyError, TypeError, ValueError) as error:
        raise StructureError(Reason.PARSE_ERROR, f"{name}: {type(error).__name__}: {error}") from error
    # A site that holds vacancies only is no site.
    kept = [i for i, occupancy in enumerate(occupancies) if occupancy]
    fractions = np.ascontiguousarray(fractions[kept])
    occupancies = [occupancies[i] for i in kept]
    if all(len(o) == 1 and abs(next(iter(o.values())) - 1) < 1e-8 for o in occupancies):
        return Cell(lattice, tuple(next(iter(o)) for o in occupancies), fractions)
    return Cell(lattice, tuple(repr(sorted(o.items())) for o in occupancies), fractions, tuple(occupancies))


def _occupancy(kind: Mapping[str, Any]) -> dict[str, float]:
    occupancy: dict[str, float] = {}
    concentrations = kind.get("concentration") or [1.0] * len(kind["chemical_symbols"])
    for symbol, amount in zip(kind["chemical_symbols"], concentrations, strict=True):
        if symbol != "vacancy" and amount > 0:
            occupancy[symbol] = occupancy.get(symbol, 0.0) + float(amount)
    return occupancy
