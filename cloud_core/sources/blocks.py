"""The structures in one file: CIF blocks, extended XYZ frames, pymatgen JSON, POSCAR."""

import io
import json
import re
from collections.abc import Iterator

import numpy as np

from cloud_core.sources.opening import bare_name, whole_lines
from cloud_core.structures.cell import Cell

FORMATS = ("cif", "poscar", "extxyz", "pymatgen")

_BLOCK = re.compile(r"^[ \t]*data_", re.IGNORECASE | re.MULTILINE)
_KEY_VALUE = re.compile(r"""([\w.-]+)\s*=\s*(?:"([^"]*)"|'([^']*)'|\{([^}]*)\}|\[([^\]]*)\]|(\S+))""")


def format_of(path: str) -> str | None:
    """The format that a file's name tells, compressed or not; None for a name that is no structure's."""
    name = bare_name(path)
    if name.endswith((".cif", ".mcif")):
        return "cif"
    if name.endswith((".vasp", ".poscar")) or name.startswith(("poscar", "contcar")):
        return "poscar"
    if name.endswith((".extxyz", ".xyz")):
        return "extxyz"
    if name.endswith(".json"):
        return "pymatgen"
    return None


def split(text: str, format: str) -> Iterator[tuple[str, str | Cell, str]]:
    """The structures of one file's text, as (suffix of the id, payload, payload's format).

    The suffix is empty for a file of one structure, `#name` for the blocks of a CIF (`#name~2` for
    a name that comes twice) and `#index` (from 0) for frames and lists.

    Raises:
        ValueError: the text is not of that format; the message says where.
    """
    text = whole_lines(text)
    if format == "cif":
        for suffix, block in _cif_blocks(text):
            yield suffix, block, "cif"
    elif format == "extxyz":
        frames = list(_frames(text))
        for index, frame in enumerate(frames):
            yield ("" if len(frames) == 1 else f"#{index}"), frame, "cell"
    elif format == "pymatgen" and text.lstrip()[:1] == "[":
        for index, entry in enumerate(json.loads(text)):
            yield f"#{index}", json.dumps(entry), "pymatgen"
    else:
        yield "", text, format


def _cif_blocks(text: str) -> Iterator[tuple[str, str]]:
    """(id suffix, text) of each block. A `data_` inside a text field (`;` to `;`) begins none."""
    starts = _BLOCK.findall(text)
    if len(starts) < 2:
        yield "", text
        return
    blocks: list[tuple[str, list[str]]] = []
    head: list[str] = []
    in_field = False
    for line in io.StringIO(text, newline="\n"):
        if line.startswith(";"):
            in_field = not in_field
        elif not in_field and line.lstrip()[:5].lower() == "data_":
            name = line.split()[0][5:]
            blocks.append((name, head if not blocks else []))
        (blocks[-1][1] if blocks else head).append(line)
    if len(blocks) < 2:
        yield "", text
        return
    seen: dict[str, int] = {}
    for name, lines in blocks:
        seen[name] = seen.get(name, 0) + 1
        yield f"#{name}" + (f"~{seen[name]}" if seen[name] > 1 else ""), "".join(lines)


def _frames(text: str) -> Iterator[Cell]:
    """The frames of an extended XYZ file; lattice vectors are the rows, positions Cartesian in Å."""
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        if not lines[at].strip():
            at += 1
            continue
        try:
            n_atoms = int(lines[at])
        except ValueError as error:
            raise ValueError(
                f"line {at + 1}: expected the number of atoms, found {lines[at][:40]!r}"
            ) from error
        if at + 2 + n_atoms > len(lines):
            raise ValueError(
                f"line {at + 1}: {n_atoms} atoms announced, the file ends after {len(lines)} lines"
            )
        yield _frame(lines[at + 1], lines[at + 2 : at + 2 + n_atoms], at + 2)
        at += 2 + n_atoms


def _frame(comment: str, atoms: list[str], line_number: int) -> Cell:
    info = {
        m[1].lower(): next(v for v in m.groups()[1:] if v is not None) for m in _KEY_VALUE.finditer(comment)
    }
    if "lattice" not in info:
        raise ValueError(f'line {line_number}: no Lattice="…"; a molecule without a cell is no crystal')
    try:
        lattice = np.array(info["lattice"].split(), dtype=np.float64).reshape(3, 3)
    except ValueError as error:
        raise ValueError(
            f"line {line_number}: Lattice is not nine numbers: {info['lattice'][:80]!r}"
        ) from error
    columns = info.get("properties", "species:S:1:pos:R:3").split(":")
    offsets: dict[str, int] = {}
    width = 0
    for name, count in zip(columns[::3], columns[2::3], strict=True):
        offsets[name.lower()] = width
        width += int(count)
    if "species" not in offsets or "pos" not in offsets:
        raise ValueError(f"line {line_number}: Properties lacks species or pos: {info['properties'][:80]!r}")
    symbol, first = offsets["species"], offsets["pos"]
    species, positions = [], []
    for number, line in enumerate(atoms, line_number + 1):
        fields = line.split()
        try:
            species.append(fields[symbol])
            positions.append([float(x) for x in fields[first : first + 3]])
            if len(positions[-1]) != 3:
                raise IndexError
        except (IndexError, ValueError) as error:
            raise ValueError(f"line {number}: not an atom of these Properties: {line[:80]!r}") from error
    try:
        fractions = np.linalg.solve(lattice.T, np.array(positions, dtype=np.float64).reshape(-1, 3).T).T
    except np.linalg.LinAlgError as error:
        raise ValueError(f"line {line_number}: the lattice has no volume") from error
    return Cell(lattice=lattice, species=tuple(species), fractions=np.ascontiguousarray(fractions))
