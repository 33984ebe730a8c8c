"""The two symmetry engines: spglib for the official form, moyo for the canonical one.

Near the tolerance they can see another space group, so they are never mixed in one string.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from cloud_core.structures.cell import Cell, Note
from cloud_core.structures.distances import OVERLAP, close_pairs
from cloud_core.structures.errors import Reason, StructureError


@dataclass(frozen=True, slots=True)
class Symmetry:
    """A space group and the Wyckoff letter of each site.

    orbits: for each site the first one that a symmetry operation carries to it; n_primitive: atoms in the
    primitive cell (spglib is asked for neither). notes: what the engine did beside what it was asked for.
    """

    number: int
    letters: str
    orbits: Sequence[int] = ()
    n_primitive: int = 0
    notes: tuple[Note, ...] = ()

    def occupation(self, names: Sequence[str]) -> Mapping[str, str]:
        """What sits on the sites, by its name of each site -> the letters of its orbits."""
        found: dict[str, str] = {}
        for site in set(self.orbits):
            name = names[site]
            found[name] = found.get(name, "") + self.letters[site]
        return found


@cache
def _spglib() -> Any:
    import spglib

    return spglib


@cache
def _moyo() -> Any:
    import logging

    import moyopy

    # moyo reports each step of its search for tolerances, up to a warning for some supercells.
    logging.getLogger("moyo").setLevel(logging.ERROR)
    return moyopy


def spglib_symmetry(cell: Cell, numbers: list[int], symprec: float, angle_tolerance: float) -> Symmetry:
    """Symmetry by spglib, as the published encoder calls it.

    numbers `[n]`: equal for sites of one kind. symprec in Å, angle_tolerance in degrees. Raises
    StructureError where spglib finds none.
    """
    spglib = _spglib()
    with warnings.catch_warnings():
        # spglib announces that it will raise one day; both ways are handled.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            dataset = spglib.get_symmetry_dataset(
                (cell.lattice, cell.fractions, numbers), symprec=symprec, angle_tolerance=angle_tolerance
            )
        except spglib.error.SpglibError as error:
            raise _failure("spglib", str(error), cell, symprec) from error
    if dataset is None:
        raise _failure("spglib", "no symmetry found", cell, symprec)
    return Symmetry(int(dataset.number), "".join(dataset.wyckoffs))


def moyo_symmetry(cell: Cell, numbers: list[int], symprec: float) -> Symmetry:
    """Symmetry by moyo; arguments and errors as in `spglib_symmetry`.

    Angles are compared by symprec alone: at 5°, the published tolerance, moyo 0.21 did not end within
    minutes on some sheared cells (carbon-24's C-170350-1491-29).
    """
    moyopy = _moyo()
    try:
        dataset = moyopy.MoyoDataset(
            moyopy.Cell(cell.lattice.tolist(), cell.fractions.tolist(), numbers),
            symprec=symprec,
        )
    except ValueError as error:
        raise _failure("moyo", str(error), cell, symprec) from error
    except BaseException as error:
        # A panic of the Rust library is no Exception and has no importable name.
        if type(error).__name__ != "PanicException":
            raise
        raise StructureError(Reason.SYMMETRY_FAILED, f"moyo panicked: {error}") from error
    notes: tuple[Note, ...] = ()
    if dataset.symprec != symprec:
        text = f"moyo found no symmetry at symprec {symprec} Å, but at {dataset.symprec:.3g} Å"
        notes = (Note("tolerance_changed", text),)
    return Symmetry(
        dataset.number, "".join(dataset.wyckoffs), dataset.orbits, dataset.prim_std_cell.num_atoms, notes
    )


def _failure(engine: str, message: str, cell: Cell, symprec: float) -> StructureError:
    """The error for a structure in which an engine found no symmetry."""
    text = f"{engine} at symprec {symprec} Å: {message}"
    if pairs := close_pairs(cell.lattice, cell.fractions, 2 * symprec):
        distance = min(distance for _, _, distance in pairs)
        text = f"{text}; two sites are {distance:.4f} Å apart"
        if distance < OVERLAP:
            return StructureError(Reason.OVERLAPPING_SITES, text)
    return StructureError(Reason.SYMMETRY_FAILED, text)
