"""Readers: whatever a structure comes as, a Cell comes out."""

import gzip
import json
import os
import re
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cloud_core.structures.cell import Cell
from cloud_core.structures.cif import read_cif, read_plain
from cloud_core.structures.errors import Reason, StructureError
from cloud_core.structures.optimade import is_optimade, read_optimade
from cloud_core.structures.pymatgen import PARSER_ERRORS, from_pymatgen, read_pymatgen

FORMATS = ("cif", "poscar", "pymatgen", "optimade", "cell")
_BY_SUFFIX = {".cif": "cif", ".mcif": "cif", ".vasp": "poscar", ".poscar": "poscar"}


def read(payload: Any, format: str | None = None, fast: bool = True) -> Cell:
    """The cell of a structure.

    payload: CIF or POSCAR text (str or bytes), a path (a `Path`, or text of one line where no format is
    given), a pymatgen Structure or its JSON (text or mapping), an OPTIMADE structure (text or mapping), a
    Cell. format: one of `FORMATS`, or None to tell from the payload. `fast=False` switches the fast readers
    off; the cells are the same. Raises StructureError with a reason code.
    """
    if isinstance(payload, Cell):
        return payload
    if format is not None and format not in FORMATS:
        raise StructureError(Reason.UNKNOWN_FORMAT, f"format {format!r} is none of {', '.join(FORMATS)}")
    if isinstance(payload, bytes):
        payload = payload.decode("utf-8", errors="replace")
    # with a format it is content, whatever it looks like: data must not name files of this machine
    if isinstance(payload, str) and format is None and _is_path(payload):
        payload = Path(payload)
    if isinstance(payload, Path):
        payload, format = _read_file(payload, format)
    if isinstance(payload, str):
        return _read_text(payload, format or _format_of(payload), fast)
    if isinstance(payload, Mapping):
        return read_optimade(payload) if is_optimade(payload) else read_pymatgen(payload, fast)
    if hasattr(payload, "lattice") and hasattr(payload, "frac_coords"):
        return from_pymatgen(payload)
    raise StructureError(Reason.UNKNOWN_FORMAT, f"cannot read a structure from {type(payload).__name__}")


def read_quickly(payload: Any, format: str | None) -> Cell | None:
    """The cell where it needs no pymatgen and is certain to be right, else None: then call `read`."""
    if isinstance(payload, Cell):
        return payload
    return read_plain(payload) if format == "cif" and isinstance(payload, str) else None


def _read_text(text: str, format: str, fast: bool) -> Cell:
    if format == "cif":
        return read_cif(text, fast)
    if format == "poscar":
        return _read_poscar(text)
    if format == "cell":
        raise StructureError(Reason.UNKNOWN_FORMAT, "a cell does not come as text")
    try:
        payload = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise StructureError(Reason.PARSE_ERROR, f"invalid JSON: {error}") from error
    if not isinstance(payload, Mapping):
        raise StructureError(Reason.PARSE_ERROR, "the JSON is no object")
    return read_optimade(payload) if is_optimade(payload) else read_pymatgen(payload, fast)


def _is_path(text: str) -> bool:
    return "\n" not in text and "\r" not in text and text.lstrip()[:1] != "{"


def _format_of(text: str) -> str:
    """The format of a text: JSON by its brace, CIF by its tags, else POSCAR."""
    if text.lstrip()[:1] == "{":
        return "pymatgen"
    if re.search(r"^\s*(data_|_cell_|_atom_site_)", text, re.MULTILINE | re.IGNORECASE):
        return "cif"
    return "poscar"


def _read_file(path: Path, format: str | None) -> tuple[str, str | None]:
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode(errors="replace")
    except (EOFError, zlib.error) as error:
        raise StructureError(Reason.PARSE_ERROR, f"{path}: {error}") from error
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise StructureError(Reason.FILE_NOT_FOUND, f"{path}: {reason}") from error
    except ValueError as error:
        raise StructureError(Reason.FILE_NOT_FOUND, f"{str(path)!r}: {error}") from error
    name = path.with_suffix("") if path.suffix == ".gz" else path
    suffix = _BY_SUFFIX.get(name.suffix.lower())
    if suffix is None and path.name.upper().startswith(("POSCAR", "CONTCAR")):
        suffix = "poscar"
    return text, format or suffix or _format_of(text)


def _read_poscar(text: str) -> Cell:
    from pymatgen.io.vasp import Poscar

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            structure = Poscar.from_str(text).structure
        except PARSER_ERRORS as error:
            raise StructureError(Reason.PARSE_ERROR, f"POSCAR: {type(error).__name__}: {error}") from error
    return from_pymatgen(structure)
