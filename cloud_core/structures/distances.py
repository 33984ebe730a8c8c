"""Distances between the atoms of a periodic cell."""

import math

import numpy as np

from cloud_core.structures.cell import FloatArray

_FEW = 48  # sites up to which all pairs are looked at; a tree takes longer to build
_IMAGES = np.array([(i, j, k) for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)], dtype=float)


def spacings(lattice: FloatArray) -> FloatArray:
    """Distances `[3]` in Å between opposite faces of the cell."""
    return 1.0 / np.linalg.norm(np.linalg.inv(lattice), axis=0)


def close_pairs(lattice: FloatArray, fractions: FloatArray, cutoff: float) -> list[tuple[int, int, float]]:
    """Pairs of sites (i < j) closer than `cutoff`, with their distance in Å. A site and its own images are
    no pair.

    lattice `[3, 3]` rows in Å; fractions `[n, 3]`.
    """
    if len(fractions) < 2:
        return []
    if len(fractions) > _FEW:
        return _close_pairs_of_many(lattice, fractions, cutoff)
    between = fractions[:, None, :] - fractions
    between -= np.rint(between)
    vectors = between @ lattice
    squares = (vectors * vectors).sum(axis=-1)
    # The nearest image by rounding is the nearest one where the faces are further apart than 2 cutoffs.
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = lattice.tolist()
    ux, uy, uz = by * cz - bz * cy, bz * cx - bx * cz, bx * cy - by * cx
    vx, vy, vz = cy * az - cz * ay, cz * ax - cx * az, cx * ay - cy * ax
    wx, wy, wz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
    volume = abs(ax * ux + ay * uy + az * uz)
    widest = math.sqrt(
        max(ux * ux + uy * uy + uz * uz, vx * vx + vy * vy + vz * vz, wx * wx + wy * wy + wz * wz)
    )
    if volume <= 2 * cutoff * widest:
        vectors = (between[:, :, None, :] + _IMAGES) @ lattice
        squares = (vectors * vectors).sum(axis=-1).min(axis=-1)
    n = len(fractions)
    if np.count_nonzero(squares < cutoff * cutoff) == n:
        return []
    first, second = np.nonzero(np.triu(squares < cutoff * cutoff, 1))
    return [(i, j, math.sqrt(squares[i, j])) for i, j in zip(first.tolist(), second.tolist(), strict=True)]


def _close_pairs_of_many(
    lattice: FloatArray, fractions: FloatArray, cutoff: float
) -> list[tuple[int, int, float]]:
    from scipy.spatial import cKDTree

    margin = cutoff / spacings(lattice)
    inside = fractions - np.floor(fractions)
    sites = np.arange(len(fractions))
    for axis in range(3):
        for shift in range(1, math.ceil(margin[axis]) + 1):
            beyond = inside[:, axis] < margin[axis] - (shift - 1)
            ghosts = inside[beyond] + shift * np.eye(3)[axis]
            inside, sites = np.concatenate([inside, ghosts]), np.concatenate([sites, sites[beyond]])
    positions = inside @ lattice
    pairs = cKDTree(positions).query_pairs(cutoff * (1 - 1e-12), output_type="ndarray")
    found: dict[tuple[int, int], float] = {}
    for p, q in pairs.tolist():
        i, j = sorted((int(sites[p]), int(sites[q])))
        if i != j:
            distance = float(np.linalg.norm(positions[p] - positions[q]))
            found[i, j] = min(distance, found.get((i, j), math.inf))
    return [(i, j, distance) for (i, j), distance in sorted(found.items())]
