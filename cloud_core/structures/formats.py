"""Readers: whatever a structure comes as, a Cell comes out."""

import json
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cloud_core.structures.cell import Cell
from cloud_core.structures.errors import Reason, StructureError

FORMATS = ("cif", "poscar", "pymatgen", "optimade", "cell")


def read(payload: Any, format: str | None = None) -> Cell:
    """The cell of a structure.

    payload: CIF or POSCAR text, a path (`Path`, or one line of text), a pymatgen Structure or its JSON
    (text or dict), an OPTIMADE structure (text or dict), a Cell. format: one of `FORMATS`, or None to
    tell from the payload. Raises StructureError with a reason code.
    """
    if isinstance(payload, Cell):
        return payload
    if isinstance(payload, bytes):
        payload = payload.decode("utf-8", errors="replace")
    if isinstance(payload, Path):
        return _read_file(payload, format)
    if isinstance(payload, str):
        if format is None:
            format = _format_of_text(payload)
            if format == "path":
                return _read_file(Path(payload.strip()), None)
        if format == "cif":
            return _read_cif(payload)
        if format == "poscar":
            return _read_poscar(payload)
        if format in ("pymatgen", "optimade", "json"):
            try:
                payload = json.loads(payload)
            except json.JSONDecodeError as error:
                raise StructureError(Reason.PARSE_ERROR, f"invalid JSON: {error}") from error
    if isinstance(payload, Mapping):
        return (
            _read_optimade(payload)
            if "attributes" in payload or "cartesian_site_positions" in payload
            else _read_pymatgen_dict(payload)
        )
    if hasattr(payload, "lattice") and hasattr(payload, "frac_coords"):
        return from_pymatgen(payload)
    raise StructureError(Reason.UNKNOWN_FORMAT, f"cannot read a structure from {type(payload).__name__}")


def _format_of_text(text: str) -> str:
    head = text.lstrip()[:1]
    if head in ("{", "["):
        return "json"
    if "\n" not in text.strip():
        return "path"
    if re.search(r"^\s*data_", text, re.MULTILINE):
        return "cif"
    return "poscar"


def _read_file(path: Path, format: str | None) -> Cell:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise StructureError(Reason.FILE_NOT_FOUND, f"{path}: {os.strerror(error.errno or 0)}") from error
    return read(text, format or ("cif" if path.suffix.lower() in (".cif", ".mcif") else None))


def _read_cif(text: str) -> Cell:
    from pymatgen.core import Structure

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            structure = Structure.from_str(text, fmt="cif")
        except (
            ValueError,
            KeyError,
            IndexError,
            TypeError,
            AttributeError,
            ZeroDivisionError,
            AssertionError,
            NotImplementedError,
        ) as error:
            raise StructureError(Reason.PARSE_ERROR, f"CIF: {type(error).__name__}: {error}") from error
    return from_pymatgen(structure)


def _read_poscar(text: str) -> Cell:
    from pymatgen.io.vasp import Poscar

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            structure = Poscar.from_str(text).structure
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise StructureError(Reason.PARSE_ERROR, f"POSCAR: {type(error).__name__}: {error}") from error
    return from_pymatgen(structure)


def _read_pymatgen_dict(payload: Mapping[str, Any]) -> Cell:
    from pymatgen.core import Structure

    try:
        return from_pymatgen(Structure.from_dict(dict(payload)))
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise StructureError(
            Reason.PARSE_ERROR, f"structure JSON: {type(error).__name__}: {error}"
        ) from error


def _read_optimade(payload: Mapping[str, Any]) -> Cell:
    attributes = payload.get("attributes", payload)
    try:
        lattice = np.array(attributes["lattice_vectors"], dtype=float)
        positions = np.array(attributes["cartesian_site_positions"], dtype=float)
        fractions = positions @ np.linalg.inv(lattice)
        species = {s["name"]: s for s in attributes["species"]}
        labels = tuple(attributes["species_at_sites"])
        occupancies = []
        for label in labels:
            entry = species[label]
            occupancies.append(
                {
                    symbol: float(amount)
                    for symbol, amount in zip(entry["chemical_symbols"], entry["concentration"], strict=True)
                    if symbol not in ("vacancy",)
                }
            )
    except (KeyError, TypeError, ValueError, np.linalg.LinAlgError) as error:
        raise StructureError(Reason.PARSE_ERROR, f"OPTIMADE: {type(error).__name__}: {error}") from error
    if all(len(o) == 1 and abs(sum(o.values()) - 1) < 1e-8 for o in occupancies):
        return Cell(lattice, tuple(next(iter(o)) for o in occupancies), fractions)
    return Cell(lattice, labels, fractions, tuple(occupancies))


def from_pymatgen(structure: Any) -> Cell:
    """The cell of a pymatgen Structure, its numbers unchanged."""
    lattice = np.array(structure.lattice.matrix, dtype=float)
    fractions = np.array(structure.frac_coords, dtype=float).reshape(-1, 3)
    kinds: list[Any] = []
    labels: list[str] = []
    occupancies: list[dict[str, float]] = []
    plain = True
    for site in structure:
        species = site.species
        if species not in kinds:
            kinds.append(species)
            occupancy = {str(s): float(x) for s, x in species.items()}
            is_plain = len(occupancy) == 1 and next(iter(occupancy.values())) == 1.0
            name = next(iter(occupancy)) if is_plain else repr(sorted(occupancy.items()))
            plain = plain and is_plain and name.isalpha()
            labels.append(name)
            occupancies.append(occupancy)
    index = [kinds.index(site.species) for site in structure]
    names = tuple(labels[i] for i in index)
    return Cell(lattice, names, fractions, None if plain else tuple(occupancies[i] for i in index))
