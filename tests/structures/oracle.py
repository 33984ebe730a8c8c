"""A reader of CIF that shares nothing with ours: gemmi's small structures, and spglib for their symmetry.

gemmi takes the symmetry from the block, applies it to each site, and drops the images of a site that come
closer than 0.4 Å to it (`SmallStructure.get_all_unit_cell_sites`), whatever else is there. Nothing is
corrected here: where it is weaker than our rules, the difference is what `test_oracle.py` explains.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import gemmi
import numpy as np
import spglib
from numpy.typing import NDArray
from scipy.spatial import cKDTree

FloatArray = NDArray[np.float64]
SYMPREC = 0.01  # Å


class UnreadableError(ValueError):
    """What gemmi or spglib cannot make a crystal of, with the reason."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One crystal as gemmi and spglib see it.

    space_group: spglib's at `SYMPREC`; wyckoff: its letters, one a site. composition: element → amount in the
    cell. lattice `[3, 3]` rows in Å, fractions `[n, 3]`, names: the element of each of the n sites.
    stated: the symbol of the symmetry that gemmi took from the block, "" for none.
    """

    space_group: int
    wyckoff: str
    composition: Mapping[str, float]
    lattice: FloatArray
    fractions: FloatArray
    names: tuple[str, ...]
    stated: str

    @property
    def n_sites(self) -> int:
        return len(self.names)


def read_independently(path: Path) -> list[Reading | UnreadableError]:
    """The crystals in a CIF file (gzip too), one for each block with sites; or why there are none."""
    try:
        document = gemmi.cif.read(str(path))
    except (ValueError, RuntimeError, UnicodeDecodeError) as error:
        return [UnreadableError(f"gemmi: {error}")]
    found: list[Reading | UnreadableError] = []
    for block in document:
        try:
            small = gemmi.make_small_structure_from_block(block)
            if small.sites:
                found.append(_reading(small))
        except UnreadableError as error:
            found.append(error)
        except (ValueError, RuntimeError) as error:
            found.append(UnreadableError(f"gemmi: {error}"))
    return found or [UnreadableError("gemmi: no block with sites")]


def _reading(small: gemmi.SmallStructure) -> Reading:
    cell = small.cell
    if not cell.is_crystal():
        raise UnreadableError("gemmi: no cell")
    sites = small.get_all_unit_cell_sites()
    fractions = np.array([site.fract.tolist() for site in sites])
    if not np.isfinite(fractions).all():
        raise UnreadableError("gemmi: a coordinate is no number")
    lattice = np.array(cell.orth.mat.tolist()).T
    composition: dict[str, float] = {}
    for site in sites:
        name = site.element.name
        composition[name] = composition.get(name, 0.0) + site.occ
    if any(not math.isfinite(amount) for amount in composition.values()):
        raise UnreadableError("gemmi: an occupancy is no number")
    names = tuple(site.element.name for site in sites)
    positions, kinds = merged(lattice, fractions, [(site.element.name, site.occ) for site in sites])
    dataset = dataset_of(lattice, positions, kinds)
    if dataset is None:
        raise UnreadableError("spglib: no symmetry found")
    return Reading(
        int(dataset.number), "".join(dataset.wyckoffs), composition, lattice, fractions, names,
        small.spacegroup.xhm() if small.spacegroup else "",
    )  # fmt: skip


def dataset_of(
    lattice: FloatArray, fractions: FloatArray, kinds: list[int], symprec: float = SYMPREC
) -> spglib.SpglibDataset | None:
    """What spglib finds, None where it finds nothing."""
    try:
        return spglib.get_symmetry_dataset((lattice, fractions, kinds), symprec=symprec)
    except spglib.error.SpglibError:
        return None


def merged(
    lattice: FloatArray, fractions: FloatArray, contents: list[tuple[str, float]]
) -> tuple[FloatArray, list[int]]:
    """Positions and kinds for spglib, which takes one number a position: sites within 0.01 Å are one."""
    inside = fractions % 1.0 % 1.0
    thinnest = 1.0 / np.linalg.norm(np.linalg.inv(lattice), axis=0).max()
    tree = cKDTree(inside, boxsize=1.0)
    place_of = list(range(len(inside)))
    for i, j in sorted(tree.query_pairs(SYMPREC / thinnest)):
        between = inside[i] - inside[j]
        if np.linalg.norm((between - np.rint(between)) @ lattice) < SYMPREC:
            place_of[j] = place_of[i]
    groups: dict[int, list[int]] = {}
    for i, place in enumerate(place_of):
        groups.setdefault(place, []).append(i)
    at = list(groups.values())
    mixtures = []
    for place in at:
        amounts: dict[str, float] = {}
        for i in place:
            name, occupancy = contents[i]
            amounts[name] = amounts.get(name, 0.0) + round(occupancy, 4)
        mixtures.append(tuple(sorted(amounts.items())))
    numbers = {mixture: number for number, mixture in enumerate(dict.fromkeys(mixtures), start=1)}
    return fractions[[place[0] for place in at]], [numbers[mixture] for mixture in mixtures]
