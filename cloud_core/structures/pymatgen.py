"""pymatgen's objects as cells."""

from functools import lru_cache
from typing import Any

import numpy as np

from cloud_core.structures.cell import Cell, Note
from cloud_core.structures.errors import Reason, StructureError
from cloud_core.structures.sites import cell_of, check_lattice, check_positions, periodicity_note


def from_pymatgen(structure: Any) -> Cell:
    """The cell of a pymatgen Structure, its numbers and order unchanged. Raises StructureError."""
    lattice = np.array(structure.lattice.matrix, dtype=float)
    check_lattice(lattice, "pymatgen")
    fractions = np.array(structure.frac_coords, dtype=float).reshape(-1, 3)
    check_positions(fractions, "pymatgen")
    kinds: list[Any] = []
    for site in structure:
        if site.species not in kinds:
            kinds.append(site.species)
    labels = [{_label(species): float(amount) for species, amount in kind.items()} for kind in kinds]
    mixtures = [labels[kinds.index(site.species)] for site in structure]
    notes: tuple[Note, ...] = periodicity_note([bool(along) for along in structure.pbc], "pymatgen")
    return cell_of(lattice, mixtures, fractions, "pymatgen", notes)


def _label(species: Any) -> str:
    if type(species).__name__ == "DummySpecies":
        raise StructureError(Reason.UNKNOWN_ELEMENT, f"pymatgen: {species} is no element")
    # pymatgen writes deuterium as H where it has no charge
    name = getattr(species, "name", "")
    return name if name in ("D", "T") else str(species)


@lru_cache(maxsize=4096)
def species_label(element: str, charge: float | None, spin: float | None) -> str:
    """The label of a species as pymatgen writes it: "Fe3+", "Fe3+,spin=5"."""
    from pymatgen.core import Species

    try:
        return str(Species(element, charge, spin=spin))
    except (ValueError, TypeError) as error:
        raise StructureError(
            Reason.PARSE_ERROR, f"pymatgen: no species {element} with charge {charge} and spin {spin}"
        ) from error
