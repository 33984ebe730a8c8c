"""POSCAR and CONTCAR files of VASP 4 to 6.

The arithmetic is that of pymatgen's `Poscar` (2026.10), so that official strings are the published encoder's.
"""

import math
import re
from itertools import takewhile

import numpy as np

from cloud_core.structures.cell import Cell, FloatArray, Note
from cloud_core.structures.elements import is_element, is_vacancy
from cloud_core.structures.errors import Reason, StructureError, shown
from cloud_core.structures.numbers import to_float
from cloud_core.structures.sites import MAX_SITES, cell_of, check_lattice, check_positions

_FORMULA = re.compile(r"(?:[A-Z][a-z]?\d*)+")
_ELEMENT_COUNT = re.compile(r"([A-Z][a-z]?)(\d*)")
_MOST_LINES_OF_SPECIES = 40


def is_poscar(text: str) -> bool:
    """Whether a text has the numbers of a POSCAR where they stand: factors, then three vectors."""
    lines = text.split("\n", 6)
    return (
        len(lines) > 6
        and len(_leading(lines[1])) in (1, 3)
        and all(len(_leading(v)) >= 3 for v in lines[2:5])
    )


def _leading(line: str) -> list[float]:
    """The numbers at the beginning of a line."""
    found = []
    for word in line.split():
        try:
            found.append(to_float(re.sub("[dD]", "e", word)))
        except ValueError:
            break
    return found


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
    mode = _word(lines, at)
    if mode[0] in "sS":
        at += 1
        mode = _word(lines, at)
    if not mode[0].isalpha():
        raise _error(at, f"{shown(mode, 20)} in place of Direct or Cartesian")
    first = at + 1
    if len(lines) < first + total:
        raise _error(first, f"{total} atoms announced, {len(lines) - first} lines follow")
    positions = np.array([_numbers(lines, first + i, Reason.INVALID_POSITIONS) for i in range(total)])
    _check_end(lines, first + total, total)
    check_positions(positions, "POSCAR")
    if mode[0] in "cCkK":  # anything else is Direct to VASP
        inverse = np.linalg.inv(lattice)
        positions = np.array([np.dot(position, inverse) for position in positions * scales])
    species = [symbol for symbol, count in zip(symbols, counts, strict=True) for _ in range(count)]
    return cell_of(lattice, [{symbol: 1.0} for symbol in species], positions, "POSCAR", notes)


def _lattice(lines: list[str]) -> tuple[FloatArray, FloatArray]:
    """The lattice in Å, and the factors of Cartesian coordinates."""
    factors = np.array(_leading(_line(lines, 1)))
    if len(factors) not in (1, 3):
        raise _error(1, f"one or three scaling factors expected: {shown(lines[1], 60)}")
    if not np.isfinite(factors).all() or (factors == 0).any():
        raise _error(
            1, f"a scaling factor of 0, or not finite: {shown(lines[1], 60)}", Reason.INVALID_LATTICE
        )
    lattice = np.array([_numbers(lines, at, Reason.INVALID_LATTICE) for at in (2, 3, 4)])
    if len(factors) == 3:  # along x, y and z
        if (factors < 0).any():
            raise _error(1, "three scaling factors are above 0", Reason.INVALID_LATTICE)
        scales = factors
    elif factors[0] < 0:  # the volume
        check_lattice(lattice, "POSCAR")
        volume = abs(np.linalg.det(lattice))
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
        symbols = _symbols_of_comment(lines[0], counts)
        text = f"POSCAR: elements {' '.join(symbols)} taken from the comment line"
        return symbols, counts, 6, [Note("symbols_from_comment", text)]
    symbols, counts = [], []
    at = 5
    # VASP breaks lines of more than twenty groups
    while not _are_counts(words):
        symbols += [_element(word, at) for word in words]
        at += 1
        words = _line(lines, at).split()
        is_more = words and all(word[0].isupper() for word in words) and not words[0].startswith("Direct")
        if not (is_more or _are_counts(words)) or at > _MOST_LINES_OF_SPECIES:
            raise _error(at, f"numbers of atoms expected: {shown(lines[at], 60)}")
    while len(counts) < len(symbols) and _are_counts(words):
        counts += [int(word) for word in words]
        at += 1
        words = _line(lines, at).split()
    if len(counts) != len(symbols):
        raise _error(at - 1, f"{len(symbols)} elements and {len(counts)} numbers of atoms")
    return symbols, counts, at, []


def _symbols_of_comment(comment: str, counts: list[int]) -> list[str]:
    """The elements that the comment line of a VASP 4 file begins with: one for each count, as symbols or as a
    formula that the counts do not contradict; words may follow. Raises StructureError."""
    words = comment.split()
    formulas = list(takewhile(_FORMULA.fullmatch, words))
    found = [pair for word in formulas for pair in _ELEMENT_COUNT.findall(word)]
    symbols = [symbol for symbol, _ in found]
    # "In situ", "As grown": a word before others is no element for certain
    is_certain = len(formulas) == len(words) or (
        len(formulas) > 1 and not any(map(_FORMULA.fullmatch, words[len(formulas) :]))
    )
    if not is_certain or len(symbols) != len(counts) or not all(map(is_element, symbols)):
        raise StructureError(
            Reason.PARSE_ERROR,
            f"POSCAR: no line of elements (VASP 4), and the comment line {shown(comment.strip())} "
            f"does not name one for each of {len(counts)} counts; write the elements in a line above them",
        )
    stated = [int(number or 1) for _, number in found]
    if any(number for _, number in found) and any(
        a * counts[0] != b * stated[0] for a, b in zip(stated, counts, strict=True)
    ):
        raise StructureError(
            Reason.PARSE_ERROR,
            f"POSCAR: no line of elements (VASP 4), and the counts {counts} contradict the comment line; "
            "write the elements in a line above the counts",
        )
    return symbols


def _element(word: str, at: int) -> str:
    """The element of "Fe", "Fe_pv", "Fe/1a2b3c"; not of "H1.25", which is no atom of hydrogen."""
    symbol = re.split(r"[/_]", word)[0]
    if not is_element(symbol) and not is_vacancy(symbol):
        message = f"POSCAR: line {at + 1}: {shown(word)} is no element"
        raise StructureError(Reason.UNKNOWN_ELEMENT, message)
    return symbol


def _check_end(lines: list[str], at: int, total: int) -> None:
    """After the coordinates comes an empty line, or the title of what follows, which is left aside."""
    if at >= len(lines):
        return
    if lines[at].strip().lower().startswith("direct configuration") or _is_header(lines[at : at + 8]):
        message = f"POSCAR: line {at + 1}: another configuration follows; give each as a POSCAR of its own"
        raise StructureError(Reason.UNSUPPORTED, message)
    if len(_leading(lines[at])) >= 3:
        raise _error(at, f"more coordinates than the {total} atoms announced")


def _is_header(lines: list[str]) -> bool:
    """Whether a POSCAR begins here: its numbers, then elements and counts, or counts and a mode."""
    if len(lines) < 7 or not lines[0].strip() or not is_poscar("\n".join(lines)):
        return False
    first, second = lines[5].split(), lines[6].split()
    if _are_counts(first):
        return bool(second) and second[0][0].isalpha()
    return bool(first) and first[0][0].isalpha() and _are_counts(second)


def _are_counts(words: list[str]) -> bool:
    return bool(words) and all(re.fullmatch(r"\d{1,9}", word, re.ASCII) for word in words)


def _line(lines: list[str], at: int) -> str:
    """A line without its comment."""
    if at >= len(lines):
        raise _error(at, "the file ends before it")
    return re.split(r"[!#]", lines[at], maxsplit=1)[0]


def _word(lines: list[str], at: int) -> str:
    words = _line(lines, at).split()
    if not words:
        raise _error(at, "Direct or Cartesian expected")
    return words[0]


def _numbers(lines: list[str], at: int, reason: Reason) -> list[float]:
    """The first three numbers of a line."""
    line = _line(lines, at)
    words = line.split()[:3]
    if len(words) < 3:  # Fortran leaves no blank before a minus sign where the columns are full
        words = re.sub(r"(?<=[\d.])-", " -", line).split()[:3]
    try:
        values = [to_float(re.sub("[dD]", "e", word)) for word in words]
    except ValueError as error:
        raise _error(at, f"three numbers expected: {shown(lines[at], 60)}") from error
    if len(values) < 3:
        raise _error(at, f"three numbers expected: {shown(lines[at], 60)}")
    if not all(map(math.isfinite, values)):
        raise _error(at, f"a number that is not finite: {shown(lines[at], 60)}", reason)
    return values


def _error(at: int, message: str, reason: Reason = Reason.PARSE_ERROR) -> StructureError:
    return StructureError(reason, f"POSCAR: line {at + 1}: {message}")
