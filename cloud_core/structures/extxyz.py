"""Extended XYZ: frames of a file, and the cell of one."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cloud_core.structures.ase import mixtures_of
from cloud_core.structures.cell import Cell, FloatArray, Note
from cloud_core.structures.errors import Reason, StructureError, shown
from cloud_core.structures.json_text import loads
from cloud_core.structures.numbers import parse_number, to_float
from cloud_core.structures.sites import (
    MAX_SITES,
    cell_of,
    check_lattice,
    fractions_of,
    periodicity_note,
    symbol_of_number,
)

_NAME = "extended XYZ"
_KEY = re.compile(r"(?<![\w.-])([\w.-]++)\s*+=\s*+")
_WORD = re.compile(r"\S*")
_CLOSING = {'"': '"', "'": "'", "{": "}", "[": "]"}
_COUNT = re.compile(r"[ \t]*+\d{1,9}[ \t]*+")
_OURS = ("lattice", "properties", "pbc")
_TRUE, _FALSE = ("T", "TRUE", "1"), ("F", "FALSE", "0")


def is_extxyz(text: str) -> bool:
    """Whether a text begins like XYZ: a number of atoms, then a comment with keys or followed by an atom."""
    lines = text.lstrip("\n").split("\n", 3)
    if len(lines) < 2 or not _is_number(lines[0]):
        return False
    if re.search(r"\b(lattice|properties)\s*=", lines[1], re.IGNORECASE):
        return True
    return len(lines) > 2 and bool(re.match(r"\s*[A-Z][a-z]?(\s+[-+]?[\d.]+){3}", lines[2]))


def split_frames(text: str) -> Iterator[str]:
    """The text of each frame.

    One whose number of atoms is wrong costs itself: it ends where the next one begins, a number alone and
    then a line with a lattice.
    """
    lines = text.split("\n")
    headers = [
        place
        for place in range(len(lines) - 1)
        if _is_number(lines[place]) and "lattice" in lines[place + 1].lower()
    ]
    headers.append(len(lines))
    at = passed = 0
    while at < len(lines):
        if not lines[at].strip():
            at += 1
            continue
        while headers[passed] <= at:
            passed += 1
        end = at + 2 + int(lines[at]) if _COUNT.fullmatch(lines[at]) else len(lines) + 1
        if end > headers[passed] or not _may_follow(lines, end):
            end = headers[passed]
        yield "\n".join(lines[at:end]) + "\n"
        at = end


def _is_number(line: str) -> bool:
    word = line.strip()
    return len(word) < 20 and word.lstrip("+-").isdigit()


def _may_follow(lines: list[str], at: int) -> bool:
    """Whether a frame may end before this line: it is none of an atom."""
    if at >= len(lines):
        return at == len(lines)
    words = lines[at].split(maxsplit=20)
    return len(words) < 4 or sum(map(_is_float, words)) < 3


def _is_float(word: str) -> bool:
    try:
        to_float(word)
    except ValueError:
        return False
    return True


def read_extxyz(text: str) -> Cell:
    """The cell of one frame: lattice vectors are the rows, positions Cartesian in Å.

    Raises StructureError; the message names the line of the frame.
    """
    lines = text.rstrip().split("\n")
    if not _COUNT.fullmatch(lines[0]):
        raise _error(1, f"the number of atoms expected, not {shown(lines[0])}")
    count = int(lines[0])
    if count > MAX_SITES:
        raise StructureError(Reason.TOO_MANY_SITES, f"{_NAME}: {count} atoms")
    if len(lines) < 2 or len(lines) != 2 + count:
        raise _error(1, f"{count} atoms announced, the frame has {max(len(lines) - 2, 0)}")
    info = _key_values(lines[1])
    if "lattice" not in info:
        message = f'{_NAME}: no Lattice="…"; a molecule without a cell is no crystal'
        raise StructureError(Reason.UNSUPPORTED, message)
    lattice = _lattice(info["lattice"])
    columns = _columns(info.get("properties", ""))
    species: list[str] = []
    positions = []
    rows = []
    for number, line in enumerate(lines[2:], 3):
        try:
            fields = line.split()
            symbol, position = columns.atom(fields)
        except StructureError:
            raise
        except ValueError as error:
            raise _error(number, f"{error}: {shown(line, 60)}") from error
        species.append(symbol)
        positions.append(position)
        if columns.occupancy is not None or columns.kind is not None:
            rows.append(fields)
    fractions = fractions_of(lattice, np.array(positions, dtype=float).reshape(-1, 3), _NAME)
    return cell_of(lattice, _mixtures(species, rows, columns, info), fractions, _NAME, _periodicity(info))


def _mixtures(
    species: Sequence[str], rows: Sequence[Sequence[str]], columns: "_Columns", info: Mapping[str, str]
) -> Sequence[Mapping[str, float]]:
    """What is on each site: whole atoms, those of a column `occupancy`, or what ASE notes of disorder."""
    if "occupancy" in info:
        try:
            occupancy = loads(info["occupancy"].removeprefix("_JSON").strip())
        except StructureError:
            occupancy = None
        if not isinstance(occupancy, Mapping) or columns.kind is None:
            raise StructureError(Reason.UNSUPPORTED, f"{_NAME}: occupancies without the kind of each site")
        kinds = [row[columns.kind] for row in rows]
        return mixtures_of(species, occupancy, kinds, _NAME)
    if columns.occupancy is None:
        return [{symbol: 1.0} for symbol in species]
    amounts = [parse_number(row[columns.occupancy]) for row in rows]
    if None in amounts:
        raise StructureError(Reason.INVALID_OCCUPANCY, f"{_NAME}: an occupancy that is no number")
    return [{s: amount.value} for s, amount in zip(species, amounts, strict=True) if amount is not None]


def _key_values(comment: str) -> dict[str, str]:
    """`key=value` of a comment line, keys in lower case; values may stand in quotes or brackets."""
    values: dict[str, str] = {}
    unclosed: set[str] = set()  # not looked for again: a line may hold millions
    at = 0
    while found := _KEY.search(comment, at):
        at = found.end()
        closing = "]]" if comment.startswith("[[", at) else _CLOSING.get(comment[at : at + 1])
        end = comment.find(closing, at + 1) if closing and closing not in unclosed else -1
        if closing and end < 0:
            unclosed.add(closing)
        if end < 0:
            word = _WORD.match(comment, at)
            value, at = (word[0], word.end()) if word else ("", at)
        else:
            if closing == '"' and comment[end - 1] == "\\":  # quotes inside quotes, as ASE writes JSON
                end = _end_of_quotes(comment, at + 1)
            value, at = comment[at + 1 : end].replace('\\"', '"'), end + 1
        key = found[1].lower()
        if key in values and key in _OURS:
            raise _error(2, f"{found[1][:40]} appears twice")
        values[key] = value
    return values


def _end_of_quotes(comment: str, at: int) -> int:
    """Where a quoted value ends: at the first quote that no backslash precedes, or at the end of the line."""
    found = re.compile(r'(?<!\\)"').search(comment, at)
    return found.start() if found else len(comment)


def _words(value: str) -> list[str]:
    """The words of a list: `1 0 0`, `[1, 0, 0]`, `[[1, 0], [0, 1]]`."""
    return re.sub(r"[\[\]{},]", " ", value).split()


def _lattice(text: str) -> FloatArray:
    try:
        lattice = np.array([to_float(word) for word in _words(text)]).reshape(3, 3)
    except ValueError as error:
        message = f"{_NAME}: Lattice is not nine numbers: {shown(text, 80)}"
        raise StructureError(Reason.INVALID_LATTICE, message) from error
    check_lattice(lattice, _NAME)
    return lattice


def _periodicity(info: dict[str, str]) -> tuple[Note, ...]:
    """Without `pbc` a lattice is one of a crystal."""
    words = [word.upper() for word in _words(info.get("pbc", "T T T"))]
    if len(words) == 1:
        words *= 3
    if len(words) != 3 or not set(words) <= {*_TRUE, *_FALSE}:
        raise _error(2, f"pbc is {shown(info['pbc'])}")
    return periodicity_note([word in _TRUE for word in words], _NAME)


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where the line of an atom holds what. All but position may be None; width is where it is open."""

    species: int | None
    number: int | None
    position: int
    width: int | None
    occupancy: int | None = None
    kind: int | None = None

    def atom(self, fields: Sequence[str]) -> tuple[str, list[float]]:
        """Symbol and coordinates of an atom. Raises ValueError for a line of other columns."""
        if len(fields) != (self.width or max(len(fields), self.position + 3)):
            raise ValueError(f"{len(fields)} columns, {self.width or 4} expected")
        position = [to_float(word) for word in fields[self.position : self.position + 3]]
        symbol = fields[self.species] if self.species is not None else ""
        if self.number is not None:
            named = symbol_of_number(to_float(fields[self.number]), _NAME)
            if symbol and symbol != named:
                raise ValueError(f"the atomic number of {named} beside {symbol}")
            symbol = named
        return symbol, position


def _columns(properties: str) -> _Columns:
    if not properties:
        return _Columns(0, None, 1, None)
    parts = properties.split(":")
    offsets: dict[str, tuple[int, int]] = {}
    width = 0
    for name, kind, count in zip(parts[::3], parts[1::3], parts[2::3], strict=False):
        if kind not in ("S", "R", "I", "L") or not re.fullmatch(r"[1-9]\d?", count):
            raise _error(2, f"Properties: {shown(properties, 60)}")
        if name.lower() in offsets:
            raise _error(2, f"Properties has {name[:20]} twice")
        offsets[name.lower()] = (width, int(count))
        width += int(count)
    species = offsets.get("species") or offsets.get("element")
    number = offsets.get("z") or offsets.get("numbers")
    position, n = offsets.get("pos", (0, 0))
    if len(parts) % 3 or (species is None and number is None) or n != 3:
        raise _error(2, f"Properties lacks species (or Z) or pos: {shown(properties, 60)}")
    occupancy, site_kind = offsets.get("occupancy"), offsets.get("spacegroup_kinds")
    return _Columns(
        species and species[0], number and number[0], position, width, occupancy and occupancy[0],
        site_kind and site_kind[0],
    )  # fmt: skip


def _error(line: int, message: str) -> StructureError:
    return StructureError(Reason.PARSE_ERROR, f"{_NAME}: line {line} of the frame: {message}")
