"""Extended XYZ: frames of a file, and the cell of one."""

import re
from collections.abc import Iterator

import numpy as np

from cloud_core.structures.cell import Cell
from cloud_core.structures.elements import SYMBOLS
from cloud_core.structures.errors import Reason, StructureError
from cloud_core.structures.sites import MAX_SITES, cell_of, check_lattice, fractions_of, periodicity_note

_KEY_VALUE = re.compile(r"""([\w.-]+)\s*=\s*(?:"([^"]*)"|'([^']*)'|\{([^}]*)\}|\[([^\]]*)\]|(\S+))""")
_HEADER = re.compile(r"\b(lattice|properties)\s*=", re.IGNORECASE)
_COUNT = re.compile(r"\s*\d{1,9}\s*")


def is_extxyz(text: str) -> bool:
    """Whether a text looks like extended XYZ: a number of atoms, then a line with a lattice or columns."""
    head = text.lstrip("\n").split("\n", 2)
    return len(head) > 1 and bool(_COUNT.fullmatch(head[0])) and bool(_HEADER.search(head[1]))


def split_frames(text: str) -> Iterator[str]:
    """The text of each frame. One whose number of atoms is wrong or cannot be read costs itself: reading goes
    on at the next line of one word before a line with a lattice or columns."""
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        if not lines[at].strip():
            at += 1
            continue
        end = _end_of_frame(lines, at)
        yield "\n".join(lines[at:end]) + "\n"
        at = end


def _end_of_frame(lines: list[str], at: int) -> int:
    if _COUNT.fullmatch(lines[at]):
        end = at + 2 + int(lines[at])
        if end < len(lines) and len(lines[end].split()) < 2:  # a line of an atom has four words
            return end
    following = range(at + 1, len(lines))
    return next((place for place in following if _starts_frame(lines, place)), len(lines))


def _starts_frame(lines: list[str], at: int) -> bool:
    if at + 1 >= len(lines) or len(lines[at].split()) != 1:
        return False
    comment = lines[at + 1]
    return bool(_HEADER.search(comment)) or ("=" in comment and bool(_COUNT.fullmatch(lines[at])))


def read_extxyz(text: str) -> Cell:
    """The cell of one frame: lattice vectors are the rows, positions Cartesian in Å.

    Raises StructureError; the message names the line of the frame.
    """
    lines = text.rstrip().split("\n")
    if not _COUNT.fullmatch(lines[0]):
        raise _error(1, f"the number of atoms expected, not {lines[0][:40]!r}")
    count = int(lines[0])
    if count > MAX_SITES:
        raise StructureError(Reason.TOO_MANY_SITES, f"extended XYZ: {count} atoms")
    if len(lines) != 2 + count:
        raise _error(1, f"{count} atoms announced, the frame has {max(len(lines) - 2, 0)}")
    comment = lines[1]
    info = {
        m[1].lower(): next(v for v in m.groups()[1:] if v is not None) for m in _KEY_VALUE.finditer(comment)
    }
    if "lattice" not in info:
        message = 'extended XYZ: no Lattice="…"; a molecule without a cell is no crystal'
        raise StructureError(Reason.INVALID_LATTICE, message)
    lattice = _lattice(info["lattice"])
    symbol, is_number, first = _columns(info.get("properties", "species:S:1:pos:R:3"))
    species: list[str] = []
    positions = []
    for number, line in enumerate(lines[2 : 2 + count], 3):
        fields = line.split()
        try:
            species.append(_symbol(fields[symbol], is_number))
            x, y, z = (float(field) for field in fields[first : first + 3])
        except (IndexError, ValueError) as error:
            raise _error(number, f"no atom of these columns: {line[:60]!r}") from error
        positions.append((x, y, z))
    fractions = fractions_of(lattice, np.array(positions, dtype=float).reshape(-1, 3), "extended XYZ")
    periodic = [
        word.upper() in ("T", "TRUE", "1") for word in info.get("pbc", "T T T").replace(",", " ").split()
    ]
    notes = periodicity_note(periodic, "extended XYZ")
    return cell_of(lattice, [{element: 1.0} for element in species], fractions, "extended XYZ", notes)


def _lattice(text: str) -> np.ndarray:
    try:
        lattice = np.array(text.replace(",", " ").split(), dtype=np.float64).reshape(3, 3)
    except ValueError as error:
        message = f"extended XYZ: Lattice is not nine numbers: {text[:80]!r}"
        raise StructureError(Reason.INVALID_LATTICE, message) from error
    check_lattice(lattice, "extended XYZ")
    return lattice


def _columns(properties: str) -> tuple[int, bool, int]:
    """Where a line holds the species (whether as an atomic number) and the first coordinate."""
    parts = properties.split(":")
    offsets: dict[str, int] = {}
    width = 0
    for name, count in zip(parts[::3], parts[2::3], strict=False):
        if not re.fullmatch(r"\d{1,4}", count):
            raise _error(2, f"Properties: {properties[:60]!r}")
        offsets[name.lower()] = width
        width += int(count)
    for name in ("species", "z", "numbers"):
        if name in offsets and "pos" in offsets:
            return offsets[name], name != "species", offsets["pos"]
    raise _error(2, f"Properties lacks species (or Z) or pos: {properties[:60]!r}")


def _symbol(word: str, is_number: bool) -> str:
    if not is_number:
        return word
    number = int(word)
    return SYMBOLS[number - 1] if 1 <= number <= len(SYMBOLS) else "X"


def _error(line: int, message: str) -> StructureError:
    return StructureError(Reason.PARSE_ERROR, f"extended XYZ: line {line} of the frame: {message}")
