"""Structures as JSON objects: pymatgen's, ASE's, JARVIS' and OPTIMADE's.

Only the few fields that make a structure are read. Nothing in a document names code: `@module`, `@class` and
the properties of sites are data that no structure depends on, and are not looked at.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from cloud_core.structures.arrays import matrix, vectors
from cloud_core.structures.ase import from_ase, is_atoms, read_ase
from cloud_core.structures.cell import Cell
from cloud_core.structures.errors import Reason, StructureError, shown
from cloud_core.structures.optimade import is_optimade, read_optimade
from cloud_core.structures.pymatgen import from_pymatgen, read_pymatgen
from cloud_core.structures.sites import cell_of, check_lattice, check_positions, fractions_of

_DEEPEST = 3  # an answer, the entry in it, the structure of that


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


def _format(document: Any) -> str | None:
    """The format that the keys of an object, or of the structure in it, tell."""
    for _ in range(_DEEPEST):
        if not isinstance(document, Mapping):
            return None
        if (told := _format_of_keys(document)) is not None:
            return told
        document = _inner(document)
    return None


def _format_of_keys(document: Mapping[str, Any]) -> str | None:
    if is_optimade(document):
        return "optimade"
    if "sites" in document:
        return "pymatgen"
    if "lattice_mat" in document:
        return "jarvis"
    if "positions" in document and ("numbers" in document or "symbols" in document):
        return "ase"
    return None


def _inner(document: Mapping[str, Any]) -> Any:
    """What an object that is no structure itself holds: pymatgen's entries have one as `structure`, JARVIS'
    as `atoms`, OPTIMADE's answers as `data`, ASE's database as the row of a number."""
    for key in ("structure", "atoms", "data"):
        value = document.get(key)
        if isinstance(value, Mapping) or _is_object(value):
            return value
    rows = _ase_rows(document)
    return rows[0] if rows else None


def _is_object(value: Any) -> bool:
    """Whether a value is a structure of pymatgen, or ASE's atoms."""
    return is_atoms(value) or (hasattr(value, "lattice") and hasattr(value, "frac_coords"))


def _has(value: Any, key: str) -> bool:
    return isinstance(value, Mapping) and key in value


def read_document(document: Any) -> Cell:
    """The cell of one JSON object, or of the structure in it; its keys tell of which kind. Raises
    StructureError."""
    outer = document
    for _ in range(_DEEPEST):
        if is_atoms(document):
            return from_ase(document)
        if _is_object(document):
            return from_pymatgen(document)
        if not isinstance(document, Mapping):
            break
        if (told := _format_of_keys(document)) is not None:
            return _READERS[told](document)
        document = _inner(document)
    if isinstance(outer, Mapping):
        keys = ", ".join(str(key)[:20] for key in list(outer)[:6])
        message = f"JSON: no structure of pymatgen, ASE, JARVIS or OPTIMADE (keys: {keys or 'none'})"
        raise StructureError(Reason.PARSE_ERROR, message)
    found = f"{type(outer).__name__} {shown(str(outer))}"
    raise StructureError(Reason.PARSE_ERROR, f"JSON: an object is expected, not {found}")


def _read_jarvis(atoms: Mapping[str, Any]) -> Cell:
    symbols = atoms.get("elements")
    if not isinstance(symbols, list | tuple) or not all(isinstance(symbol, str) for symbol in symbols):
        raise StructureError(Reason.PARSE_ERROR, "jarvis: no list of elements")
    lattice = matrix(atoms.get("lattice_mat"), "jarvis: lattice_mat")
    check_lattice(lattice, "jarvis")
    fractions = vectors(atoms.get("coords"), "jarvis: coords")
    if len(fractions) != len(symbols):
        message = f"jarvis: {len(symbols)} elements and {len(fractions)} coordinates"
        raise StructureError(Reason.INVALID_POSITIONS, message)
    is_cartesian = atoms.get("cartesian")
    if is_cartesian not in (True, False, None):
        raise StructureError(Reason.PARSE_ERROR, "jarvis: `cartesian` is neither true nor false")
    if is_cartesian:
        fractions = fractions_of(lattice, fractions, "jarvis")
    check_positions(fractions, "jarvis")
    return cell_of(lattice, [{symbol.strip(): 1.0} for symbol in symbols], fractions, "jarvis")


_READERS = {"pymatgen": read_pymatgen, "ase": read_ase, "jarvis": _read_jarvis, "optimade": read_optimade}
