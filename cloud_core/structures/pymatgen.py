"""pymatgen's structures as cells: its objects, and the JSON that it writes.

Of the JSON only the few fields that make a structure are read, by this module alone: pymatgen's own decoder
imports whatever `@module` a document names, and calls its `@class`.
"""

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from cloud_core.structures.arrays import matrix, number, truths, vectors
from cloud_core.structures.cell import Cell, FloatArray, Note
from cloud_core.structures.elements import is_element, is_vacancy
from cloud_core.structures.errors import Reason, StructureError, shown
from cloud_core.structures.lattice import lattice_from_parameters
from cloud_core.structures.sites import (
    cell_of,
    check_lattice,
    check_positions,
    fractions_of,
    periodicity_note,
    symbol_of,
)

_TOLERANCE = 1e-8  # of amounts that pymatgen takes for equal
_PARAMETERS = ("a", "b", "c", "alpha", "beta", "gamma")


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
    notes = periodicity_note([bool(along) for along in structure.lattice.pbc], "pymatgen")
    return cell_of(lattice, mixtures, fractions, "pymatgen", notes)


def _label(species: Any) -> str:
    if type(species).__name__ == "DummySpecies":
        raise StructureError(Reason.UNKNOWN_ELEMENT, f"pymatgen: {species} is no element")
    # pymatgen writes deuterium as H where it has no charge
    name = getattr(species, "name", "")
    return name if name in ("D", "T") else str(species)


def read_pymatgen(structure: Mapping[str, Any]) -> Cell:
    """The cell of a pymatgen Structure's JSON, bit for bit that of the object. Raises StructureError."""
    sites = structure.get("sites")
    if not isinstance(sites, list | tuple) or not all(isinstance(site, Mapping) for site in sites):
        raise StructureError(Reason.PARSE_ERROR, "pymatgen: `sites` is no list of objects")
    if not sites:
        raise StructureError(Reason.NO_ATOMS, "pymatgen: no sites")
    lattice, notes = _lattice(structure.get("lattice"))
    mixtures = [_mixture(site.get("species"), place) for place, site in enumerate(sites, start=1)]
    mixtures = _equated(mixtures)
    if all("abc" in site for site in sites):
        fractions = vectors([site["abc"] for site in sites], "pymatgen: abc of the sites")
        check_positions(fractions, "pymatgen")
    elif all("xyz" in site for site in sites):
        positions = vectors([site["xyz"] for site in sites], "pymatgen: xyz of the sites")
        fractions = fractions_of(lattice, positions, "pymatgen")
    else:
        raise StructureError(Reason.INVALID_POSITIONS, "pymatgen: a site without coordinates (abc or xyz)")
    return cell_of(lattice, mixtures, fractions, "pymatgen", notes)


def _lattice(value: Any) -> tuple[FloatArray, tuple[Note, ...]]:
    if value is None:
        raise StructureError(Reason.UNSUPPORTED, "pymatgen: no lattice; a molecule is no crystal")
    if not isinstance(value, Mapping):
        raise StructureError(Reason.INVALID_LATTICE, "pymatgen: the lattice is no object")
    if "matrix" in value:
        lattice = matrix(value["matrix"], "pymatgen: the lattice")
    elif missing := [name for name in _PARAMETERS if name not in value]:
        raise StructureError(Reason.INVALID_LATTICE, f"pymatgen: a lattice without {missing[0]}")
    else:
        values = [number(value[name], f"pymatgen: {name}", Reason.INVALID_LATTICE) for name in _PARAMETERS]
        found = lattice_from_parameters(*values)
        if found is None:
            shown = " ".join(f"{parameter:g}" for parameter in values)
            raise StructureError(Reason.INVALID_LATTICE, f"pymatgen: no cell has the parameters {shown}")
        lattice = found
    check_lattice(lattice, "pymatgen")
    periodic = value.get("pbc")
    if periodic is None:
        return lattice, ()
    return lattice, periodicity_note(truths(periodic, "pymatgen: pbc"), "pymatgen")


def _mixture(kinds: Any, place: int) -> dict[str, float]:
    """Species → amount of one site."""
    if not isinstance(kinds, list | tuple) or not all(isinstance(kind, Mapping) for kind in kinds):
        raise StructureError(Reason.PARSE_ERROR, f"pymatgen: site {place}: `species` is no list of objects")
    mixture: dict[str, float] = {}
    for kind in kinds:
        element, amount = kind.get("element"), kind.get("occu")
        if not isinstance(element, str):
            raise StructureError(
                Reason.UNKNOWN_ELEMENT, f"pymatgen: site {place}: no element, but {shown(str(element))}"
            )
        # As in pymatgen, a species without the key has no charge and no spin either.
        if "oxidation_state" in kind and not is_vacancy(element):
            element = _charged(element, kind["oxidation_state"], kind.get("spin"), place)
        if type(amount) is not float:
            amount = number(amount, f"pymatgen: site {place}: occu", Reason.INVALID_OCCUPANCY)
        mixture[element] = mixture.get(element, 0.0) + amount
    return mixture


def _equated(mixtures: list[dict[str, float]]) -> list[dict[str, float]]:
    """The mixtures, each as the first one that pymatgen takes for equal: a species without a charge equals
    the charged ones of its element there, if it comes first."""
    labels = {label for mixture in mixtures for label in mixture}
    if {symbol_of(label) for label in labels if not label.isalpha()}.isdisjoint(labels):
        return mixtures
    kinds: list[dict[str, float]] = []
    found = []
    for mixture in mixtures:
        kind = next((kind for kind in kinds if _equals(kind, mixture)), None)
        if kind is None:
            kinds.append(kind := mixture)
        found.append(kind)
    return found


def _equals(kind: dict[str, float], other: dict[str, float]) -> bool:
    def amount(label: str) -> float:
        if not label.isalpha():
            return other.get(label, 0.0)
        return sum(value for species, value in other.items() if symbol_of(species) == label)

    return len(kind) == len(other) and all(
        abs(value - amount(label)) <= _TOLERANCE for label, value in kind.items()
    )


def _charged(element: str, charge: Any, spin: Any, place: int) -> str:
    if not is_element(element):
        if symbol_of(element) is not None and charge is None and spin is None:  # "Fe3+"
            return element
        raise StructureError(
            Reason.UNKNOWN_ELEMENT, f"pymatgen: site {place}: {shown(element)} is no element"
        )
    for value in (charge, spin):
        if value is not None and not math.isfinite(number(value, f"pymatgen: site {place}: charge, spin")):
            raise StructureError(Reason.PARSE_ERROR, f"pymatgen: site {place}: a charge that is not finite")
    return species_label(element, charge, spin)


@lru_cache(maxsize=4096, typed=True)
def species_label(element: str, charge: float | None, spin: float | None) -> str:
    """A species as pymatgen's `str(Species)` writes it: "Fe3+", "O2-", "Na+", "Fe2.50+,spin=5"."""
    label = element
    if charge is not None:
        size = abs(charge)
        if math.isclose(size, 1, abs_tol=1e-8):
            text = ""
        elif math.isclose(size, round(size), abs_tol=1e-8, rel_tol=0):
            text = str(round(size))
        else:
            text = f"{round(size, 8):.2f}"
        label += f"{text}{'+' if charge >= 0 else '-'}"
    return label if spin is None else f"{label},spin={spin!r}"
