"""POSCAR and CONTCAR files of VASP 4 to 6.

The arithmetic is that of pymatgen's `Poscar` (2026.10), so that official strings are the published encoder's.
"""

import math
import re

import numpy as np

from cloud_core.structures.cell import Cell, Note
from cloud_core.structures.elements import is_element, is_vacancy
from cloud_core.structures.errors import Reason, StructureError
from cloud_core.structures.numbers import to_float
from cloud_core.structures.sites import MAX_SITES, cell_of, check_lattice, check_positions


def read_poscar(text: str) -> Cell:
    """The cell of a POSCAR's text. Raises StructureError; the message names the line."""
    lines = text.split("\n", MAX_SITES + 100)
    lattice, scales = _lattice(lines)
    symbols, counts, at, notes = _species(lines)
    total = sum(counts)
    if total > MAX_SITES:
        raise StructureError(Reason.TOO_MANY_SITES, f"POSCAR: {total} atoms")
    if total == 0:
        raise StructureError(Reason.NO_ATOMS, "POSCAR: no atoms")
    mode = _word(lines, at, "Direct or Cartesian")
    if mode[0] in "sS":
        at += 1
        mode = _word(lines, at, "Direct or Cartesian")
    is_cartesian = mode[0] in "cCkK"
    if not is_cartesian and mode[0] not in "dD":
        raise _error(at, f"{mode[:20]!r} in place of Direct or Cartesian")
    positions = np.array([_numbers(lines, at + 1 + i, 3, Reason.INVALID_POSITIONS) for i in range(total)])
    check_positions(positions, "POSCAR")
    _check_end(lines, at + 1 + total, total)
    if is_cartesian:
        inverse = np.linalg.inv(lattice)
        positions = np.array([np.dot(position, inverse) for position in positions * scales])
    species = [symbol for symbol, count in zip(symbols, counts, strict=True) for _ in range(count)]
    return cell_of(lattice, [{symbol: 1.0} for symbol in species], positions, "POSCAR", notes)


def _check_end(lines: list[str], at: int, total: int) -> None:
    """Raise StructureError where coordinates go on beyond the atoms: the numbers of atoms are wrong then.

    A blank line or a word stands before velocities.
    """
    words = _line(lines, at).split() if at < len(lines) else []
    if len(words) >= 3 and all(re.fullmatch(r"[+-]?\d*\.?\d+([eEdD][+-]?\d+)?", word) for word in words[:3]):
        raise _error(at, f"{total} atoms announced, more coordinates follow: {lines[at][:60]!r}")


def _lattice(lines: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The lattice in Å, and the factors of Cartesian coordinates."""
    words = _line(lines, 1).split()
    if len(words) not in (1, 3):
        raise _error(1, "one or three scaling factors expected")
    factors = np.array(_numbers(lines, 1, len(words), Reason.INVALID_LATTICE))
    lattice = np.array([_numbers(lines, at, 3, Reason.INVALID_LATTICE) for at in (2, 3, 4)])
    if len(factors) == 3:
        if (factors <= 0).any():
            raise _error(1, "three scaling factors are above 0", Reason.INVALID_LATTICE)
        scales = factors
    elif factors[0] < 0:  # the volume
        volume = abs(np.linalg.det(lattice))
        check_lattice(lattice, "POSCAR")
        scales = np.full(3, (-factors[0] / volume) ** (1 / 3))
    else:
        scales = np.full(3, factors[0])
    lattice = lattice * scales
    check_lattice(lattice, "POSCAR")
    return lattice, scales


def _species(lines: list[str]) -> tuple[list[str], list[int], int, list[Note]]:
    """Symbols and counts, the line that follows them, and notes."""
    words = _line(lines, 5).split()
    if not words:
        raise _error(5, "no elements and no numbers of atoms")
    if _are_counts(words):  # VASP 4
        counts = [int(word) for word in words]
        symbols = re.findall(r"[A-Za-z]+", lines[0])
        if len(symbols) != len(counts) or not all(map(is_element, symbols)):
            raise StructureError(
                Reason.UNKNOWN_ELEMENT,
                "POSCAR: no line of elements (VASP 4), and the comment line does not name one for each count",
            )
        note = Note(
            "symbols_from_comment", f"POSCAR: elements {' '.join(symbols)} taken from the comment line"
        )
        return symbols, counts, 6, [note]
    symbols = list(words)
    at = 6
    # VASP breaks lines of more than twenty groups
    while not _are_counts(more := _line(lines, at).split()):
        if not more or at > 20:
            raise _error(at, "no numbers of atoms")
        symbols += more
        at += 1
    counts = [int(word) for word in more]
    at += 1
    while len(counts) < len(symbols) and _are_counts(more := _line(lines, at).split()):
        counts += [int(word) for word in more]
        at += 1
    if len(counts) != len(symbols):
        raise _error(at - 1, f"{len(symbols)} elements and {len(counts)} numbers of atoms")
    return [_element(symbol) for symbol in symbols], counts, at, []


def _element(word: str) -> str:
    """The element of "Fe", "Fe_pv", "Fe/1a2b3c", "Fe.3"."""
    symbol = re.split(r"[/_.]", word)[0]
    if not is_element(symbol) and not is_vacancy(symbol):
        raise StructureError(Reason.UNKNOWN_ELEMENT, f"POSCAR: {word[:40]!r} is no element")
    return symbol


def _are_counts(words: list[str]) -> bool:
    return bool(words) and all(re.fullmatch(r"\d{1,7}", word) for word in words)


def _line(lines: list[str], at: int) -> str:
    if at >= len(lines):
        raise _error(at, "the file ends before it")
    return re.split(r"[!#]", lines[at])[0] if at > 0 else lines[at]


def _word(lines: list[str], at: int, expected: str) -> str:
    words = _line(lines, at).split()
    if not words:
        raise _error(at, f"{expected} expected")
    return words[0]


def _numbers(lines: list[str], at: int, count: int, reason: Reason) -> list[float]:
    words = _line(lines, at).split()[:count]
    if len(words) < count:  # Fortran leaves no blank before a minus sign where the columns are full
        words = re.sub(r"(?<=[\d.])-", " -", _line(lines, at)).split()[:count]
    try:
        values = [to_float(word.replace("d", "e").replace("D", "E")) for word in words]
    except ValueError as error:
        raise _error(at, f"{count} numbers expected: {lines[at][:60]!r}") from error
    if len(values) < count:
        raise _error(at, f"{count} numbers expected: {lines[at][:60]!r}")
    if not all(map(math.isfinite, values)):
        raise _error(at, f"a number that is not finite: {lines[at][:60]!r}", reason)
    return values


def _error(at: int, message: str, reason: Reason = Reason.PARSE_ERROR) -> StructureError:
    return StructureError(reason, f"POSCAR: line {at + 1}: {message}")
