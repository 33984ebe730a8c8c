"""The two symmetry engines: spglib for the official form, moyo for the canonical one.

Near the tolerance they can see another space group, so they are never mixed in one string.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from cloud_core.scope.tables import space_groups
from cloud_core.structures.cell import FloatArray
from cloud_core.structures.errors import Reason, StructureError


@dataclass(frozen=True, slots=True)
class Symmetry:
    """A space group and the Wyckoff letter of each site.

    n_primitive: atoms in the primitive cell (0 where the engine was not asked).
    """

    number: int
    letters: str
    n_primitive: int = 0


@cache
def _spglib() -> Any:
    import spglib

    return spglib


@cache
def _moyo() -> Any:
    import logging

    import moyopy

    # moyo reports each step of its search for tolerances as a warning.
    logging.getLogger("moyo").setLevel(logging.ERROR)
    return moyopy


def spglib_symmetry(
    lattice: FloatArray, fractions: FloatArray, numbers: list[int], symprec: float, angle_tolerance: float
) -> Symmetry:
    """Symmetry by spglib, as the published encoder calls it.

    lattice `[3, 3]` rows in Å, fractions `[n, 3]`, numbers `[n]` (equal for sites of one kind), symprec
    in Å, angle_tolerance in degrees. Raises StructureError where spglib finds none.
    """
    spglib = _spglib()
    try:
        dataset = spglib.get_symmetry_dataset(
            (lattice, fractions, numbers), symprec=symprec, angle_tolerance=angle_tolerance
        )
    except spglib.error.SpglibError as error:
        raise StructureError(Reason.SYMMETRY_FAILED, f"spglib found no symmetry: {error}") from error
    if dataset is None:
        raise StructureError(Reason.SYMMETRY_FAILED, "spglib found no symmetry")
    return Symmetry(int(dataset.number), "".join(dataset.wyckoffs))


def moyo_symmetry(
    lattice: FloatArray, fractions: FloatArray, numbers: list[int], symprec: float, angle_tolerance: float
) -> Symmetry:
    """Symmetry by moyo; arguments and errors as in `spglib_symmetry`."""
    moyopy = _moyo()
    try:
        cell = moyopy.Cell(lattice.tolist(), fractions.tolist(), numbers)
        dataset = moyopy.MoyoDataset(cell, symprec=symprec, angle_tolerance=np.deg2rad(angle_tolerance))
    except (ValueError, RuntimeError) as error:
        raise StructureError(Reason.SYMMETRY_FAILED, f"moyo found no symmetry: {error}") from error
    return Symmetry(dataset.number, "".join(dataset.wyckoffs), dataset.prim_std_cell.num_atoms)


def conventional_atoms(symmetry: Symmetry) -> int:
    """Atoms in the conventional cell."""
    return symmetry.n_primitive * space_groups()[symmetry.number].lattice_points
