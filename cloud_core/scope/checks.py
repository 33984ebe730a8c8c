"""What is asked of a cell before it is encoded, and what its notes mean under the settings."""

from collections.abc import Mapping, Sequence

import numpy as np

from cloud_core.scope.kinds import Kinds, element_of, kinds_of
from cloud_core.scope.settings import EncoderSettings
from cloud_core.scope.tables import ISOTOPES
from cloud_core.structures.cell import Cell, Note
from cloud_core.structures.distances import OVERLAP, OVERLAP_OF_HYDROGEN, close_pairs
from cloud_core.structures.errors import Reason, StructureError

OCCUPANCY_SLACK = 0.0101  # two occupancies of two decimals, each rounded up


def checked(cell: Cell, settings: EncoderSettings) -> tuple[Kinds, tuple[Note, ...]]:
    """What sits on the sites of a cell, and the notes of its reader and of the distances.

    Raises StructureError for what would crash the C libraries of symmetry, for sites that no crystal has, and
    where the settings refuse a note.
    """
    _check_numbers(cell, settings.max_sites)
    kinds = kinds_of(cell)
    notes = cell.notes
    if cell.clearance < OVERLAP and (pairs := close_pairs(cell.lattice, cell.fractions, OVERLAP)):
        notes += _overlaps(cell, kinds, pairs)
    for note in notes:
        if note.flag == "formula_mismatch" and settings.formula == "refuse":
            raise StructureError(Reason.FORMULA_MISMATCH, note.text)
        if note.flag == "overlapping_sites" and settings.overlaps == "refuse":
            raise StructureError(Reason.OVERLAPPING_SITES, note.text)
        if note.flag == "not_periodic" and not settings.assume_periodic:
            text = f"{note.text}; the setting assume_periodic=true encodes it as the crystal of its cell"
            raise StructureError(Reason.UNSUPPORTED, text)
    return kinds, notes


def _check_numbers(cell: Cell, max_sites: int) -> None:
    """Raise StructureError for what would crash the C libraries of symmetry."""
    n_sites = len(cell.species)
    if n_sites == 0:
        raise StructureError(Reason.NO_ATOMS, "no atoms")
    if n_sites > max_sites:
        raise StructureError(Reason.TOO_MANY_SITES, f"{n_sites} sites, more than {max_sites}")
    if cell.lattice.shape != (3, 3):
        raise StructureError(Reason.INVALID_LATTICE, f"a lattice of shape {cell.lattice.shape}")
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = cell.lattice.tolist()
    volume = ax * (by * cz - bz * cy) - ay * (bx * cz - bz * cx) + az * (bx * cy - by * cx)
    if not 1e-3 < abs(volume) < 1e15:
        raise StructureError(Reason.INVALID_LATTICE, f"a cell volume of {abs(volume):.3g} Å³")
    if cell.fractions.shape != (n_sites, 3):
        raise StructureError(
            Reason.INVALID_POSITIONS, f"{n_sites} sites, but positions of shape {cell.fractions.shape}"
        )
    if not np.vdot(cell.fractions, cell.fractions) < 1e12:
        raise StructureError(Reason.INVALID_POSITIONS, "a position is not finite")


def _overlaps(cell: Cell, kinds: Kinds, pairs: Sequence[tuple[int, int, float]]) -> tuple[Note, ...]:
    """A note on the closest two atoms that cannot both be there, if there are such."""
    for i, j, distance in sorted(pairs, key=lambda pair: pair[2]):
        first, second = _atoms_at(cell, kinds, i), _atoms_at(cell, kinds, j)
        if distance >= OVERLAP_OF_HYDROGEN and {"H"} in (first.keys(), second.keys()):
            continue
        if sum(first.values()) + sum(second.values()) <= 1 + OCCUPANCY_SLACK:
            continue
        what, other = _name(cell, i, first), _name(cell, j, second)
        if i == j:
            text = f"{what} and its own image are {distance:.3f} Å apart"
        elif cell.labels and cell.labels[i] == cell.labels[j]:
            text = (
                f"two images of {what} are {distance:.3f} Å apart: give more digits of its position, or the "
                "exact special position"
            )
        else:
            text = f"{what} and {other} are {distance:.3f} Å apart"
        return (Note("overlapping_sites", text),)
    return ()


def _name(cell: Cell, site: int, atoms: Mapping[str, float]) -> str:
    label = cell.labels[site] if cell.labels else ""
    return f"site {label or site + 1} ({'/'.join(sorted(atoms))})"


def _atoms_at(cell: Cell, kinds: Kinds, site: int) -> Mapping[str, float]:
    """Element → occupancy of a site."""
    if cell.occupancies is None:
        return {kinds.names[site]: 1.0}
    amounts: dict[str, float] = {}
    for species, amount in cell.occupancies[site].items():
        element = element_of(species)
        element = ISOTOPES.get(element, element)
        amounts[element] = amounts.get(element, 0.0) + amount
    return amounts
