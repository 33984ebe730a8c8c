"""Distances between the atoms of a periodic cell."""

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from cloud_core.structures.cell import FloatArray
from cloud_core.structures.errors import Reason, StructureError

# Å. Of two atoms closer than this only one can be there; the second where one of them is hydrogen.
OVERLAP, OVERLAP_OF_HYDROGEN = 0.5, 0.3
_FEW = 128  # sites up to which all pairs are looked at; a tree takes longer to build
_NEIGHBOURS = 16  # that are looked for around an atom among many
_IMAGES = np.array([(i, j, k) for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)], dtype=float)


def spacing(lattice: FloatArray) -> float:
    """The least distance in Å between opposite faces of the cell, whose volume is not 0."""
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = lattice.tolist()
    ux, uy, uz = by * cz - bz * cy, bz * cx - bx * cz, bx * cy - by * cx
    vx, vy, vz = cy * az - cz * ay, cz * ax - cx * az, cx * ay - cy * ax
    wx, wy, wz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
    volume = abs(ax * ux + ay * uy + az * uz)
    areas = ux * ux + uy * uy + uz * uz, vx * vx + vy * vy + vz * vz, wx * wx + wy * wy + wz * wz
    return volume / math.sqrt(max(areas))


def close_pairs(lattice: FloatArray, fractions: FloatArray, cutoff: float) -> list[tuple[int, int, float]]:
    """Pairs of sites (i < j) closer than `cutoff`, with the distance of their nearest images in Å; (i, i) for
    each site where a lattice vector is that short.

    lattice `[3, 3]` rows in Å; fractions `[n, 3]`. Of more than 128 sites each is paired with its nearest
    15 at most. Raises StructureError for a lattice that cannot be reduced.
    """
    images = None
    if spacing(lattice) <= 2 * cutoff:
        reduced = _reduced(lattice)
        shortest = float(np.linalg.norm(reduced, axis=1).min())
        if shortest < cutoff:
            return [(i, i, shortest) for i in range(len(fractions))]
        # Faces of this cell are at least 0.7 of its shortest vector apart: one image each way is enough.
        lattice, fractions, images = reduced, fractions @ lattice @ np.linalg.inv(reduced), _IMAGES
    if len(fractions) < 2:
        return []
    if len(fractions) > _FEW:
        return _close_pairs_of_many(lattice, fractions, cutoff)
    count = len(fractions) * (len(fractions) - 1) // 2
    first, second = [places[:count] for places in _all_pairs()]
    columns = np.ascontiguousarray(fractions.T)  # numpy is faster along long axes
    between = columns.take(first, axis=1)
    between -= columns.take(second, axis=1)
    between -= np.rint(between)
    if images is None:
        vectors = lattice.T @ between
        vectors *= vectors
        squares = vectors.sum(axis=0)
    else:
        vectors = (between.T[:, None] + images) @ lattice
        squares = np.vecdot(vectors, vectors).min(axis=1)
    if squares[squares.argmin()] >= cutoff * cutoff:  # three times as fast as min() of a short array
        return []
    close = np.flatnonzero(squares < cutoff * cutoff).tolist()
    return [(int(first[k]), int(second[k]), math.sqrt(squares[k])) for k in close]


@cache
def _all_pairs() -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The pairs i < j of up to 128 sites, by j: those of n sites are the first n (n - 1) / 2."""
    second, first = np.tril_indices(_FEW, -1)
    return first, second


def _close_pairs_of_many(
    lattice: FloatArray, fractions: FloatArray, cutoff: float
) -> list[tuple[int, int, float]]:
    from scipy.spatial import cKDTree

    margins = cutoff * np.linalg.norm(np.linalg.inv(lattice), axis=0)
    inside = fractions - np.floor(fractions)
    sites = np.arange(len(fractions))
    for axis, margin in enumerate(margins):
        for shift in range(1, math.ceil(margin) + 1):
            beyond = inside[:, axis] < margin - (shift - 1)
            ghosts = inside[beyond] + shift * np.eye(3)[axis]
            inside, sites = np.concatenate([inside, ghosts]), np.concatenate([sites, sites[beyond]])
    positions = inside @ lattice
    tree, bound = cKDTree(positions), cutoff * (1 - 1e-12)
    nearest, _ = tree.query(positions, k=[2], distance_upper_bound=bound)
    if not np.isfinite(nearest).any():
        return []
    distances, neighbours = tree.query(positions, k=_NEIGHBOURS, distance_upper_bound=bound)
    found: dict[tuple[int, int], float] = {}
    for p, place in np.argwhere(np.isfinite(distances)).tolist():
        i, j = sorted((int(sites[p]), int(sites[neighbours[p, place]])))
        if i != j:
            found[i, j] = min(float(distances[p, place]), found.get((i, j), math.inf))
    return [(i, j, distance) for (i, j), distance in sorted(found.items())]


def _reduced(lattice: FloatArray) -> FloatArray:
    """The basis of the same lattice whose vectors are as short as they can be."""
    from moyopy import minkowski_reduce

    try:
        return np.array(minkowski_reduce(lattice.tolist())[0])
    except ValueError as error:
        raise StructureError(Reason.INVALID_LATTICE, f"the lattice cannot be reduced: {error}") from error
