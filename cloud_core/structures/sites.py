"""Sites as readers find them, put together as a cell."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from cloud_core.structures.cell import Cell, FloatArray, Note
from cloud_core.structures.elements import ISOTOPES, SYMBOLS, is_element, is_vacancy
from cloud_core.structures.errors import Reason, StructureError, shown
from cloud_core.structures.numbers import parse_number, scale_to_one

MAX_SITES = 100_000
# "Fe", "Fe3+", "O2-", "Cl-", "Fe2.50+,spin=5".
_SPECIES = re.compile(r"([A-Z][a-z]?)(?:\d*\.?\d*[+-])?(?:,spin=[-+.\de]+)?")
# The sum of occupancies up to which a site is full to pymatgen, and the amount that it takes for none.
_SUM_TOLERANCE = 1e-8


def cell_of(
    lattice: FloatArray,
    mixtures: Sequence[Mapping[str, float]],
    fractions: FloatArray,
    name: str,
    notes: Sequence[Note] = (),
) -> Cell:
    """The cell of sites that hold each one species or several.

    mixtures: for each site, species → amount; an element's symbol, with its charge where there is one.
    Empty places are left out, and a site that holds nothing else is none. name: of the format, for messages.
    Raises StructureError for amounts and species that cannot be.
    """
    cleaned: list[dict[str, float]] = []
    kept: list[int] = []
    found: list[Note] = list(notes)
    known: dict[tuple[tuple[str, float], ...], tuple[dict[str, float], Note | None]] = {}
    for place, mixture in enumerate(mixtures):
        kind = tuple(mixture.items())
        if kind not in known:
            known[kind] = _cleaned(mixture, f"{name}: site {place + 1}")
        amounts, note = known[kind]
        if note is not None:
            found.append(note)
        if amounts:
            cleaned.append(amounts)
            kept.append(place)
    if not kept:
        raise StructureError(Reason.NO_ATOMS, f"{name}: no site holds an atom")
    if len(kept) < len(mixtures):
        fractions = np.ascontiguousarray(fractions[kept])
    first_notes = tuple({note.flag: note for note in reversed(found)}.values())
    if all(len(amounts) == 1 and next(iter(amounts.values())) == 1.0 for amounts in cleaned):
        species = tuple(next(iter(amounts)) for amounts in cleaned)
        if all(label.isalpha() for label in species):
            return Cell(lattice, species, fractions, notes=first_notes)
        labels = species
    else:
        labels = tuple(
            next(iter(amounts))
            if len(amounts) == 1 and next(iter(amounts.values())) == 1.0
            else repr(sorted(amounts.items()))
            for amounts in cleaned
        )
    return Cell(lattice, labels, fractions, tuple(cleaned), first_notes)


def _cleaned(mixture: Mapping[str, float], where: str) -> tuple[dict[str, float], Note | None]:
    amounts: dict[str, float] = {}
    for species, amount in mixture.items():
        if is_vacancy(species):
            continue
        if symbol_of(species) is None:
            raise StructureError(Reason.UNKNOWN_ELEMENT, f"{where}: {shown(species)} is no element")
        if not 0 <= amount < 1e3:
            raise StructureError(Reason.INVALID_OCCUPANCY, f"{where}: an occupancy of {amount} of {species}")
        if amount >= _SUM_TOLERANCE:
            amounts[species] = float(amount)
    note = None
    if sum(amounts.values()) > 1 + _SUM_TOLERANCE:
        written = [number for amount in amounts.values() if (number := parse_number(f"{amount!r}"))]
        written = [number if number.value != 1.0 else parse_number("1") or number for number in written]
        divisor, note = scale_to_one(amounts, written, where)
        amounts = {species: amount / divisor for species, amount in amounts.items()}
    if note is None and len({s for s in map(symbol_of, amounts) if s and ISOTOPES.get(s, s) == "H"}) > 1:
        note = Note("isotope", f"{where}: isotopes of hydrogen on one site")
    return amounts, note


@lru_cache(maxsize=4096)
def symbol_of(species: str) -> str | None:
    """The element's symbol of a species: "Fe" of "Fe3+", "Fe3+,spin=5"; None where it is no species."""
    found = _SPECIES.fullmatch(species)
    return found[1] if found and is_element(found[1]) else None


def symbol_of_number(number: float, name: str) -> str:
    """The element of an atomic number; 0, which ASE calls X, is none. Raises StructureError."""
    if not 1 <= number <= len(SYMBOLS) or number != int(number):
        raise StructureError(Reason.UNKNOWN_ELEMENT, f"{name}: {number:g} is no element's atomic number")
    return SYMBOLS[int(number) - 1]


def check_lattice(lattice: FloatArray, name: str) -> None:
    """Raise StructureError for a lattice `[3, 3]` (rows, Å) that is not finite or has no volume."""
    if not np.isfinite(lattice).all() or np.abs(lattice).max() > 1e5:
        raise StructureError(Reason.INVALID_LATTICE, f"{name}: a lattice that is not finite")
    if not abs(np.linalg.det(lattice)) > 1e-3:
        raise StructureError(Reason.INVALID_LATTICE, f"{name}: the lattice vectors span no volume")


def fractions_of(lattice: FloatArray, positions: FloatArray, name: str) -> FloatArray:
    """Fractional coordinates `[n, 3]` of Cartesian ones in Å."""
    check_positions(positions, name)
    return np.ascontiguousarray(np.linalg.solve(lattice.T, positions.T).T)


def check_positions(positions: FloatArray, name: str) -> None:
    """Raise StructureError for positions `[n, 3]` that are too many or not finite."""
    if len(positions) > MAX_SITES:
        raise StructureError(Reason.TOO_MANY_SITES, f"{name}: {len(positions)} sites")
    if not np.isfinite(positions).all() or (len(positions) and np.abs(positions).max() > 1e6):
        raise StructureError(Reason.INVALID_POSITIONS, f"{name}: a position that is not finite")


def periodicity_note(periodic: Sequence[bool], name: str, remedy: str = "") -> tuple[Note, ...]:
    """A note where a structure is not periodic in all three directions."""
    if len(periodic) == 3 and all(periodic):
        return ()
    axes = " ".join("T" if along else "F" for along in periodic)
    return (Note("not_periodic", f"{name}: periodic along {axes} only{remedy}"),)
