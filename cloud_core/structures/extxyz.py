"""Extended XYZ: frames of a file, and the cell of one."""

import re
from collections.abc import Iterator

import numpy as np

from cloud_core.structures.cell import Cell
from cloud_core.structures.elements import SYMBOLS
from cloud_core.structures.errors import Reason, StructureError
from cloud_core.structures.numbers import to_float
from cloud_core.structures.sites import MAX_SITES, cell_of, check_lattice, fractions_of, periodicity_note

_KEY = re.compile(r"(?<![\w.-])([\w.-]++)\s*+=\s*+")
_WORD = re.compile(r"\S*")
_CLOSING = {'"': '"', "'": "'", "{": "}", "[": "]"}
_COUNT = re.compile(r"\s*\d{1,9}\s*")


def is_extxyz(text: str) -> bool:
    """Whether a text looks like extended XYZ: a number of atoms, then a line with a lattice or columns."""
    head = text.lstrip("\n").split("\n", 2)
    return (
        len(head) > 1
        and bool(_COUNT.fullmatch(head[0]))
        and bool(re.search(r"\b(lattice|properties)\s*=", head[1], re.IGNORECASE))
    )


def split_frames(text: str) -> Iterator[str]:
    """The text of each frame. One whose number of atoms cannot be read costs itself: reading goes on at the
    next line that holds a number alone, followed by one with `=`."""
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
    following = next((place for place in range(at + 1, len(lines)) if _starts_frame(lines, place)), len(lines))
    if _COUNT.fullmatch(lines[at]):
        end = at + 2 + int(lines[at])
        if end <= following and (end == len(lines) or not lines[end].strip() or _COUNT.fullmatch(lines[end])):
            return end
    return following


def _starts_frame(lines: list[str], at: int) -> bool:
    return at + 1 < len(lines) and bool(_COUNT.fullmatch(lines[at])) and "=" in lines[at + 1]


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
    if len(lines) < 2 + count:
        raise _error(1, f"{count} atoms announced, the frame has {max(len(lines) - 2, 0)}")
    if len(lines) > 2 + count:
        raise _error(1, f"{count} atoms announced, the frame has {len(lines) - 2}")
    info = _key_values(lines[1])
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
            x, y, z = (to_float(field) for field in fields[first : first + 3])
        except (IndexError, ValueError) as error:
            raise _error(number, f"no atom of these columns: {line[:60]!r}") from error
        positions.append((x, y, z))
    fractions = fractions_of(lattice, np.array(positions, dtype=float).reshape(-1, 3), "extended XYZ")
    periodic = [
        word.upper() in ("T", "TRUE", "1") for word in info.get("pbc", "T T T").replace(",", " ").split()
    ]
    notes = periodicity_note(periodic, "extended XYZ")
    return cell_of(lattice, [{element: 1.0} for element in species], fractions, "extended XYZ", notes)


def _key_values(comment: str) -> dict[str, str]:
    """`key=value` of a comment line, keys in lower case; values may stand in quotes or brackets."""
    values: dict[str, str] = {}
    unclosed: set[str] = set()
    at = 0
    while found := _KEY.search(comment, at):
        at = found.end()
        closing = _CLOSING.get(comment[at : at + 1])
        end = comment.find(closing, at + 1) if closing and closing not in unclosed else -1
        if closing and end < 0:
            unclosed.add(closing)  # not looked for again: a line may hold millions
        if end < 0:
            word = _WORD.match(comment, at)
            value, at = (word[0], word.end()) if word else ("", at)
        else:
            value, at = comment[at + 1 : end], end + 1
        values.setdefault(found[1].lower(), value)
    return values


def _lattice(text: str) -> np.ndarray:
    try:
        lattice = np.array([to_float(word) for word in text.replace(",", " ").split()]).reshape(3, 3)
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
    if not word.isdecimal():
        raise ValueError("no atomic number")
    number = int(word)
    return SYMBOLS[number - 1] if 1 <= number <= len(SYMBOLS) else "X"


def _error(line: int, message: str) -> StructureError:
    return StructureError(Reason.PARSE_ERROR, f"extended XYZ: line {line} of the frame: {message}")
