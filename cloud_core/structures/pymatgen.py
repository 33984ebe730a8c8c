"""pymatgen's structures as cells."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from cloud_core.structures.cell import Cell
from cloud_core.structures.errors import Reason, StructureError

# What pymatgen's readers raise on bad input.
PARSER_ERRORS = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    StopIteration,
    re.error,
)


def from_pymatgen(structure: Any) -> Cell:
    """The cell of a pymatgen Structure, its numbers and order unchanged."""
    lattice = np.array(structure.lattice.matrix, dtype=float)
    fractions = np.array(structure.frac_coords, dtype=float).reshape(-1, 3)
    kinds: list[Any] = []
    for site in structure:
        if site.species not in kinds:
            kinds.append(site.species)
    index = [kinds.index(site.species) for site in structure]
    occupancies = [{str(species): float(x) for species, x in kind.items()} for kind in kinds]
    whole = [len(o) == 1 and next(iter(o.values())) == 1.0 for o in occupancies]
    labels = [
        next(iter(o)) if ordered else repr(sorted(o.items()))
        for o, ordered in zip(occupancies, whole, strict=True)
    ]
    species = tuple(labels[i] for i in index)
    if all(whole) and all(label.isalpha() for label in labels):
        return Cell(lattice, species, fractions)
    return Cell(lattice, species, fractions, tuple(occupancies[i] for i in index))


def read_pymatgen(payload: Mapping[str, Any], fast: bool = True) -> Cell:
    """The cell of a pymatgen Structure's JSON. Raises StructureError."""
    cell = _read_plain(payload) if fast else None
    if cell is not None:
        return cell
    from pymatgen.core import Structure

    try:
        return from_pymatgen(Structure.from_dict(dict(payload)))
    except PARSER_ERRORS as error:
        raise StructureError(
            Reason.PARSE_ERROR, f"structure JSON: {type(error).__name__}: {error}"
        ) from error


def _read_plain(payload: Mapping[str, Any]) -> Cell | None:
    """The cell of ordered, neutral atoms; None for anything else."""
    try:
        sites = payload["sites"]
        species = []
        for site in sites:
            (kind,) = site["species"]
            if (
                kind["occu"] != 1
                or kind.keys() != {"element", "occu"}
                or "spin" in site.get("properties", ())
            ):
                return None
            species.append(kind["element"])
        lattice = np.array(payload["lattice"]["matrix"], dtype=float)
        fractions = np.array([site["abc"] for site in sites], dtype=float)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    if lattice.shape != (3, 3) or fractions.shape != (len(species), 3) or not species:
        return None
    return Cell(lattice, tuple(species), fractions)
