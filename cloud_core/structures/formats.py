"""Readers: whatever a structure comes as, a Cell comes out. The one list of formats."""

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from cloud_core.structures.ase import is_atoms
from cloud_core.structures.cell import Cell
from cloud_core.structures.cif import read_cif, read_plain
from cloud_core.structures.cif_block import split_blocks
from cloud_core.structures.documents import read_document, split_document
from cloud_core.structures.errors import Reason, StructureError, shown
from cloud_core.structures.extxyz import is_extxyz, read_extxyz, split_frames
from cloud_core.structures.json_text import loads, split_json
from cloud_core.structures.poscar import is_poscar, read_poscar
from cloud_core.structures.text import MAX_BYTES, check_size, plain_text, read_file, text_of

# "json" is an object of one of the four kinds that follow it, told by its keys.
TextFormat = Literal["cif", "poscar", "extxyz", "json", "pymatgen", "ase", "jarvis", "optimade"]
DOCUMENTS = ("json", "pymatgen", "ase", "jarvis", "optimade")
FORMATS: tuple[str, ...] = (*get_args(TextFormat), "cell")
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
SUFFIXES = {
    ".cif": "cif",
    ".mcif": "cif",
    ".vasp": "poscar",
    ".poscar": "poscar",
    ".extxyz": "extxyz",
    ".xyz": "extxyz",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
}
_IS_CIF = re.compile(r"^[ \t]*(data_|_cell|_atom_site|loop_)", re.IGNORECASE | re.MULTILINE)
_SITE_TAG = re.compile(r"_atom_site[_.]", re.IGNORECASE)
_HAS_SITES = re.compile(r"^[ \t]*_atom_site[_.](fract|cartn|label|type_symbol)", re.IGNORECASE | re.MULTILINE)


def read(payload: Any, format: str | None = None, fast: bool = True) -> Cell:
    """The cell of a structure.

    payload: content as text or bytes; a `Path` of a file, compressed or not; a JSON object as a mapping; a
    pymatgen Structure; ASE Atoms; a Cell. A text is never taken for a path.
    format: one of `FORMATS`, or None to tell from the payload. `fast=False` switches the fast reader of plain
    CIFs off; the cells are the same.

    Raises StructureError with a reason code, also where the payload holds several structures.
    """
    if isinstance(payload, Cell):
        return payload
    if fast and format == "cif" and isinstance(payload, str) and len(payload) <= MAX_BYTES:
        cell = read_plain(payload)
        if cell is not None:
            return cell
        fast = False  # no need to look again
    found = split(payload, format)
    first = next(found, None)
    if first is None:
        raise StructureError(Reason.NO_ATOMS, "no structure in it")
    second = next(found, None)
    if second is not None:
        names = [first[0], second[0], *[name for name, *_ in islice(found, 2)]]
        count = len(names) + sum(1 for _ in found)
        shown = ", ".join(names) + (", …" if count > len(names) else "")
        raise StructureError(Reason.SEVERAL_STRUCTURES, f"{count} structures: {shown}")
    return read_part(*first[1:], fast=fast)


def read_all(payload: Any, format: str | None = None) -> Iterator[tuple[str, Cell | StructureError]]:
    """(name, cell) of each structure of a payload, or why it was refused; the name is "" for a single one.

    Raises StructureError where nothing of the payload can be read.
    """
    if isinstance(payload, Cell):
        yield "", payload
        return
    for name, part, part_format in split(payload, format):
        try:
            yield name, read_part(part, part_format)
        except StructureError as error:
            yield name, error


def read_quickly(payload: Any, format: str | None) -> Cell | None:
    """The cell where the fast reader is certain of it, else None: then call `read`."""
    if isinstance(payload, Cell):
        return payload
    return read_plain(payload) if format == "cif" and isinstance(payload, str) else None


def split(payload: Any, format: str | None = None) -> Iterator[tuple[str, Any, str]]:
    """(name, part, format) of each structure in a payload; parts are texts, objects or arrays, not read yet.

    Raises StructureError for what is no structure in any format.
    """
    if format is not None and format not in FORMATS:
        raise StructureError(Reason.UNKNOWN_FORMAT, f"format {format!r} is none of {', '.join(FORMATS)}")
    if isinstance(payload, Path):
        text = read_file(payload)
        yield from split_text(text, format or format_of_name(payload.name) or format_of_text(text))
    elif isinstance(payload, bytes | str):
        check_size(payload)
        text = plain_text(payload) if isinstance(payload, str) else text_of(io.BytesIO(payload), "content")
        try:
            told = format or format_of_text(text)
        except StructureError as error:
            if isinstance(payload, str) and "\n" not in payload.strip():
                what = shown(text.strip(), 60)
                said = f"{what} is the text of no structure; a file is given as Path({what})"
                raise StructureError(Reason.UNKNOWN_FORMAT, said) from error
            raise
        yield from split_text(text, told)
    elif isinstance(payload, Mapping | list | tuple):
        for name, document in split_document(list(payload) if isinstance(payload, tuple) else payload):
            yield name, document, format or "json"
    elif hasattr(payload, "lattice") and hasattr(payload, "frac_coords"):
        yield "", payload, "cell"
    elif is_atoms(payload):
        yield "", payload, "ase"
    elif hasattr(getattr(payload, "structure", None), "frac_coords"):  # an entry of pymatgen
        yield "", payload.structure, "cell"
    elif hasattr(payload, "cart_coords"):
        message = f"{type(payload).__name__}: no lattice; a molecule is no crystal"
        raise StructureError(Reason.UNSUPPORTED, message)
    else:
        raise StructureError(Reason.UNKNOWN_FORMAT, f"cannot read a structure from {type(payload).__name__}")


def split_text(text: str, format: str) -> Iterable[tuple[str, Any, str]]:
    """(name, text, format) of each structure in a text of a format.

    The name is empty for a text of one structure, `#name` for the blocks of a CIF (`#name~2` for one that
    comes twice) and `#index` (from 0) for frames, lists and lines.
    """
    if format == "cif":
        return [(name, block, format) for name, block in _split_cif(text)]
    if format == "extxyz":
        frames = list(split_frames(text))
        return [("" if len(frames) == 1 else f"#{i}", frame, format) for i, frame in enumerate(frames)]
    if format in DOCUMENTS:
        return ((name, document, format) for name, document in split_json(text))
    return [("", text, format)]


def read_part(part: Any, format: str, fast: bool = True) -> Cell:
    """The cell of one part of `split`. Raises StructureError."""
    if isinstance(part, str):
        if format == "cif":
            return read_cif(part, fast)
        if format == "poscar":
            return read_poscar(part)
        if format == "extxyz":
            return read_extxyz(part)
        if format in DOCUMENTS:
            return read_document(loads(part))
        raise StructureError(Reason.UNKNOWN_FORMAT, f"no text is of the format {format!r}")
    if isinstance(part, Cell):
        return part
    return read_document(part)


# -- telling formats


def format_of_name(path: str) -> str | None:
    """The format that a file's name tells, compressed or not; None for a name that is no structure's."""
    name = _uncompressed(PurePosixPath(path).name).lower()
    for suffix, format in SUFFIXES.items():
        if name.endswith(suffix):
            return format
    return "poscar" if name.startswith(("poscar", "contcar")) else None


def stem_of_name(path: str) -> str:
    """The name of a file without the suffixes of a structure: `a/Li0.5CoO2.cif.gz` → `Li0.5CoO2`."""
    name = _uncompressed(PurePosixPath(path).name)
    suffix = next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)] or name


def _uncompressed(name: str) -> str:
    for suffix in COMPRESSIONS:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def format_of_text(text: str) -> str:
    """The format that a text tells: JSON by its bracket, CIF by its tags, the others by their first lines.

    Raises StructureError for a text of none.
    """
    head = text.lstrip("\ufeff \t\r\n")
    if head[:1] in ("{", "["):
        return "json"
    if _IS_CIF.search(text):
        return "cif"
    if is_poscar(text):
        return "poscar"
    if is_extxyz(text):
        return "extxyz"
    if "\n" not in head.strip():
        raise StructureError(Reason.UNKNOWN_FORMAT, f"{shown(head.strip(), 60)} is the text of no structure")
    raise StructureError(Reason.UNKNOWN_FORMAT, "the text is no structure in a known format")


# -- inside


def _split_cif(text: str) -> list[tuple[str, str]]:
    """(name, text) of the blocks that list atoms; the whole text where no more than one does."""
    blocks = split_blocks(text) if len(re.findall(r"data_", text, re.IGNORECASE)) > 1 else []
    with_sites = [(name, block) for name, block in blocks if _HAS_SITES.search(block)]
    if len(with_sites) > 1:
        with_sites = [(name, block) for name, block in with_sites if _may_hold_atoms(block)]
    if len(with_sites) < 2:
        return [("", text)]
    seen: Counter[str] = Counter()
    named = []
    for name, block in with_sites:
        seen[name] += 1
        named.append((f"#{name}" + (f"~{seen[name]}" if seen[name] > 1 else ""), block))
    return named


def _may_hold_atoms(block: str) -> bool:
    """Whether a site of a block may have known coordinates: a row of its list in which not all three are `?`.

    Told from the text, since nothing is parsed here; where it cannot be told, the block has its own record.
    """
    tags: list[str] = []
    rows: list[str] = []
    for line in block.split("\n"):
        words = line.split()
        if words and _SITE_TAG.match(words[0]):
            if rows:
                break
            tags += [word.lower().replace(".", "_") for word in words if word.startswith("_")]
        elif tags and re.match(r"\s*(loop_|_|#|data_)", line, re.IGNORECASE):
            if rows or not line.lstrip().startswith("_"):
                break
            tags += [word.lower().replace(".", "_") for word in words]
        elif tags and words:
            rows.append(line)
    places = [place for place, tag in enumerate(tags) if re.search(r"_(fract|cartn)_[xyz]$", tag)]
    for row in rows:
        words = row.split()
        if len(words) != len(tags) or not places or any(words[place] not in ("?", ".") for place in places):
            return True
    return not rows
