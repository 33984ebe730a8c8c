"""Structures as JSON objects: pymatgen's, ASE's, JARVIS' and OPTIMADE's.

Only the few fields that make a structure are read. Nothing in a document names code: `@module`, `@class` and
the properties of sites are data that no structure depends on, and are not looked at.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from cloud_core.structures.cell import Cell, FloatArray, Note
from cloud_core.structures.elements import SYMBOLS, is_element, is_vacancy
from cloud_core.structures.errors import Reason, StructureError
from cloud_core.structures.optimade import is_optimade, read_optimade
from cloud_core.structures.pymatgen import species_label
from cloud_core.structures.sites import (
    cell_of,
    check_lattice,
    check_positions,
    fractions_of,
    periodicity_note,
)

# What malformed documents raise on the way; each becomes a StructureError.
_MALFORMED = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, RecursionError)
_ASE_REMEDY = "; where the cell is a crystal's, set atoms.pbc = True"


def split_document(document: Any) -> Iterator[tuple[str, Any]]:
    """(suffix, document) of each structure in a JSON value: lists, `{"entries": […]}`, OPTIMADE answers and
    ASE's databases hold several. The suffix is empty for a single one, `#index` (from 0) for others."""
    items = _items(document)
    if items is None:
        yield "", document
        return
    for index, item in enumerate(items):
        yield f"#{index}", item


def _items(document: Any) -> list[Any] | None:
    if isinstance(document, list):
        return document
    if not isinstance(document, Mapping):
        return None
    if len(rows := _ase_rows(document)) > 1:
        return rows
    if _format(document) is not None:
        return None
    for key in ("entries", "data", "structures"):
        found = document.get(key)
        if isinstance(found, list):
            return found
    return None


def _ase_rows(document: Mapping[str, Any]) -> list[Any]:
    """The rows of ASE's JSON database, whose keys are their numbers."""
    rows = [document[key] for key in document if isinstance(key, str) and key.isdigit()]
    return rows if all(_has(row, "positions") for row in rows) else []


def _format(document: Mapping[str, Any]) -> str | None:
    """The format that the keys of an object tell."""
    if is_optimade(document):
        return "optimade"
    if "sites" in document or isinstance(document.get("structure"), Mapping):
        return "pymatgen"
    if "lattice_mat" in document or _has(document.get("atoms"), "lattice_mat"):
        return "jarvis"
    if "positions" in document and ("numbers" in document or "symbols" in document):
        return "ase"
    if _ase_rows(document):
        return "ase"
    return None


def _has(value: Any, key: str) -> bool:
    return isinstance(value, Mapping) and key in value


def read_document(document: Any, format: str | None = None) -> Cell:
    """The cell of one JSON object.

    format: pymatgen, ase, jarvis or optimade; None to tell by its keys. Raises StructureError.
    """
    if not isinstance(document, Mapping):
        raise StructureError(Reason.PARSE_ERROR, "structure JSON: an object is expected")
    told = _format(document)
    if told is None and isinstance(data := document.get("data"), Mapping) and is_optimade(data):
        document, told = data, "optimade"
    kind = told or format
    if kind is None or kind not in _READERS:
        keys = ", ".join(str(key)[:20] for key in list(document)[:6])
        raise StructureError(
            Reason.PARSE_ERROR, f"structure JSON: no structure of a known kind (keys: {keys or 'none'})"
        )
    try:
        return _READERS[kind](document)
    except StructureError:
        raise
    except np.linalg.LinAlgError as error:
        raise StructureError(Reason.INVALID_LATTICE, f"{kind}: the lattice spans no volume") from error
    except _MALFORMED as error:
        raise StructureError(Reason.PARSE_ERROR, f"{kind}: {_words(error)}") from error


def _words(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"no {str(error.args[0])[:60]!r}"
    return f"malformed: {str(error)[:200] or type(error).__name__}"


# -- pymatgen


def _read_pymatgen(document: Mapping[str, Any]) -> Cell:
    structure = document["structure"] if isinstance(document.get("structure"), Mapping) else document
    sites = structure["sites"]
    if not isinstance(sites, list):
        raise TypeError("sites are no list")
    if not sites:
        raise StructureError(Reason.NO_ATOMS, "pymatgen: no sites")
    lattice, notes = _pymatgen_lattice(structure.get("lattice"))
    mixtures = [_species(site) for site in sites]
    if all("abc" in site for site in sites):
        fractions = np.array([site["abc"] for site in sites], dtype=float).reshape(len(sites), 3)
        check_positions(fractions, "pymatgen")
    else:
        positions = np.array([site["xyz"] for site in sites], dtype=float).reshape(len(sites), 3)
        fractions = fractions_of(lattice, positions, "pymatgen")
    return cell_of(lattice, mixtures, fractions, "pymatgen", notes)


def _pymatgen_lattice(value: Any) -> tuple[FloatArray, tuple[Note, ...]]:
    if not isinstance(value, Mapping):
        raise StructureError(Reason.INVALID_LATTICE, "pymatgen: no lattice; a molecule is no crystal")
    if "matrix" in value:
        lattice = np.array(value["matrix"], dtype=float).reshape(3, 3)
    else:
        from cloud_core.structures.lattice import lattice_from_parameters

        names = ("a", "b", "c", "alpha", "beta", "gamma")
        found = lattice_from_parameters(*[float(value[name]) for name in names])
        if found is None:
            raise StructureError(Reason.INVALID_LATTICE, "pymatgen: a cell without a reasonable volume")
        lattice = found
    check_lattice(lattice, "pymatgen")
    periodic = value.get("pbc", (True, True, True))
    return lattice, periodicity_note([bool(along) for along in periodic], "pymatgen")


def _species(site: Mapping[str, Any]) -> dict[str, float]:
    mixture: dict[str, float] = {}
    for kind in site["species"]:
        amount = kind["occu"]
        if isinstance(amount, bool) or not isinstance(amount, int | float):
            raise TypeError(f"an occupancy of {str(amount)[:40]!r}")
        charge, spin = kind.get("oxidation_state"), kind.get("spin")
        if spin is None and isinstance(kind.get("properties"), Mapping):
            spin = kind["properties"].get("spin")
        label = _label(str(kind["element"]), charge, spin)
        mixture[label] = mixture.get(label, 0.0) + amount
    return mixture


def _label(element: str, charge: Any, spin: Any) -> str:
    if (charge is None and spin is None) or is_vacancy(element):
        return element
    for number in (charge, spin):
        if number is not None and (isinstance(number, bool) or not isinstance(number, int | float)):
            raise TypeError(f"a charge or spin of {str(number)[:40]!r}")
    if not is_element(element):
        raise StructureError(Reason.UNKNOWN_ELEMENT, f"pymatgen: {element[:40]!r} is no element")
    return species_label(element, charge, spin)


# -- ASE and JARVIS


def _read_ase(document: Mapping[str, Any]) -> Cell:
    if "positions" not in document and (rows := _ase_rows(document)):
        document = rows[0]
    if "symbols" in document:
        symbols = [str(symbol) for symbol in document["symbols"]]
    else:
        symbols = [symbol_of_number(number) for number in _array(document["numbers"]).ravel().tolist()]
    cell = document["cell"]
    lattice = _array(cell["array"] if _has(cell, "array") else cell).astype(float)
    if lattice.shape == (3,):
        lattice = np.diag(lattice)
    positions = _array(document["positions"]).astype(float).reshape(len(symbols), 3)
    pbc = document.get("pbc", True)
    periodic = [bool(pbc)] * 3 if isinstance(pbc, bool) else [bool(along) for along in _array(pbc).ravel()]
    return ase_cell(symbols, lattice.reshape(3, 3), positions, periodic)


def ase_cell(symbols: list[str], lattice: FloatArray, positions: FloatArray, periodic: list[bool]) -> Cell:
    """The cell of ASE's arrays: lattice `[3, 3]` rows and positions `[n, 3]`, both in Å."""
    if not lattice.any():
        raise StructureError(Reason.INVALID_LATTICE, "ase: no cell; a molecule is no crystal")
    check_lattice(lattice, "ase")
    fractions = fractions_of(lattice, positions, "ase")
    notes = periodicity_note(periodic, "ase", _ASE_REMEDY)
    return cell_of(lattice, [{symbol: 1.0} for symbol in symbols], fractions, "ase", notes)


def symbol_of_number(number: Any) -> str:
    """The element of an atomic number; ASE's 0 is "X", which is none."""
    if number != int(number):
        raise ValueError(f"an atomic number of {number}")
    return SYMBOLS[int(number) - 1] if 1 <= number <= len(SYMBOLS) else "X"


def _array(value: Any) -> np.ndarray:
    """Numbers as ASE writes them: a list, or `{"__ndarray__": [shape, type, flat list]}`."""
    if _has(value, "__ndarray__"):
        shape, kind, flat = value["__ndarray__"]
        if not str(kind).startswith(("float", "int", "bool", "uint")):
            raise ValueError(f"an array of {str(kind)[:20]}")
        value = np.array(flat, dtype=float).reshape(shape)
    array = np.array(value)
    if array.dtype.kind not in "biuf":
        raise ValueError("numbers are expected")
    return array


def _read_jarvis(document: Mapping[str, Any]) -> Cell:
    atoms = document["atoms"] if _has(document.get("atoms"), "lattice_mat") else document
    symbols = [str(symbol).strip() for symbol in atoms["elements"]]
    lattice = np.array(atoms["lattice_mat"], dtype=float).reshape(3, 3)
    check_lattice(lattice, "jarvis")
    positions = np.array(atoms["coords"], dtype=float).reshape(len(symbols), 3)
    if atoms.get("cartesian"):
        fractions = fractions_of(lattice, positions, "jarvis")
    else:
        check_positions(positions, "jarvis")
        fractions = positions
    return cell_of(lattice, [{symbol: 1.0} for symbol in symbols], fractions, "jarvis")


_READERS = {
    "pymatgen": _read_pymatgen,
    "ase": _read_ase,
    "jarvis": _read_jarvis,
    "optimade": read_optimade,
}
