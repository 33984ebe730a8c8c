"""Images of a site under symmetry operators, and the special position that a rounded site stands for."""

from dataclasses import dataclass

import numpy as np

from cloud_core.structures.cell import FloatArray
from cloud_core.structures.space_group import IntArray, Operators

SAME = 1e-4  # fractional: images closer than this in each coordinate are one, as pymatgen has it
MAX_SHIFT = 0.1  # Å that a site may be moved onto a special position


@dataclass(frozen=True, slots=True)
class Orbit:
    """The images `[n, 3]` of a site within the cell, in the order of the operators.

    merged: images of the site as it was written that became one when it was moved onto a special position
    (1 where it was not moved).
    """

    position: tuple[float, float, float]
    images: FloatArray
    merged: int = 1


def orbit(
    position: tuple[float, float, float],
    reach: tuple[float, float, float],
    operators: Operators,
    lattice: FloatArray,
    merge: bool = True,
) -> Orbit:
    """The orbit of a site. Where images of it come close, it is moved onto the special position that all
    coordinates reach (fractional), by at most `MAX_SHIFT`, and they are one; where there is none it stays,
    and so do its images.

    lattice `[3, 3]` rows in Å; merge: False leaves it where it is written.
    """
    if len(operators) == 1:
        return Orbit(position, _in_cell(operators.images(position)))
    images = _distinct(_in_cell(operators.images(position)))
    if not merge or len(images) == 1:
        return Orbit(position, images)
    near, steps = _near(position, operators, lattice)
    if len(near) * len(images) <= len(operators):  # the images that are close are one already
        return Orbit(position, images)
    moved = _special_position(position, reach, operators, near, steps, lattice)
    if moved is None:
        return Orbit(position, images)
    merged = _distinct(_in_cell(operators.images(moved)))
    if len(_near(moved, operators, lattice)[0]) * len(merged) > len(operators):
        return Orbit(position, images)  # others remain close: a split site
    return Orbit(moved, merged, round(len(images) / len(merged)))


def _near(
    position: tuple[float, float, float], operators: Operators, lattice: FloatArray
) -> tuple[IntArray, FloatArray]:
    """The operators that leave a position where it is or close to it, the closest first; and for every
    operator the lattice translation `[n, 3]` from the position to its image."""
    offsets = operators.images(position) - position
    steps = np.rint(offsets)
    distances = np.linalg.norm((offsets - steps) @ lattice, axis=1)
    near = np.flatnonzero(distances < 2 * MAX_SHIFT)
    return near[np.argsort(distances[near], kind="stable")], steps


def _in_cell(images: FloatArray) -> FloatArray:
    return images - np.floor(images)


def _distinct(images: FloatArray) -> FloatArray:
    """The images without those that an earlier one equals."""
    between = images[:, None] - images
    between -= np.rint(between)
    same = np.asarray((np.abs(between) < SAME).all(axis=-1))
    kept: list[int] = []
    for place in range(len(images)):
        if not kept or not same[place, kept].any():
            kept.append(place)
    return images[kept]


def is_same(image: FloatArray, others: FloatArray) -> np.ndarray:
    """Which of the positions `[n, 3]` equal this one, up to lattice translations."""
    between = others - image
    between -= np.rint(between)
    return np.asarray((np.abs(between) < SAME).all(axis=-1))


def _special_position(
    position: tuple[float, float, float],
    reach: tuple[float, float, float],
    operators: Operators,
    near: IntArray,
    steps: FloatArray,
    lattice: FloatArray,
) -> tuple[float, float, float] | None:
    """The position within reach that the operators `near`, as many of them as can, carry onto itself."""
    matrix, right = np.zeros((0, 3)), np.zeros(0)
    found: FloatArray | None = None
    for index in near:
        trial = np.concatenate([matrix, operators.rotations[index] - np.eye(3)])
        trial_right = np.concatenate([right, steps[index] - operators.translations[index]])
        fixed = _within_reach(np.array(position), np.array(reach), trial, trial_right)
        if fixed is None or np.linalg.norm((fixed - position) @ lattice) > MAX_SHIFT:
            continue
        matrix, right, found = trial, trial_right, fixed
    if found is None or not np.abs(found - position).max() > 0:
        return None
    return (float(found[0]), float(found[1]), float(found[2]))


def _within_reach(
    position: FloatArray, reach: FloatArray, matrix: FloatArray, right: FloatArray
) -> FloatArray | None:
    """A solution of `matrix x = right` no coordinate of which is further than `reach`, near the position."""
    scaled = matrix * reach
    step = np.linalg.lstsq(scaled, right - matrix @ position, rcond=1e-9)[0]
    if np.abs(scaled @ step - (right - matrix @ position)).max() > 1e-9:
        return None
    if np.abs(step).max() <= 1:
        return position + step * reach
    from scipy.optimize import linprog

    # The least largest step: variables are three steps and their bound.
    bounds = np.concatenate([np.eye(3), -np.eye(3)])
    result = linprog(
        [0, 0, 0, 1],
        A_ub=np.concatenate([bounds, -np.ones((6, 1))], axis=1),
        b_ub=np.zeros(6),
        A_eq=np.concatenate([scaled, np.zeros((len(scaled), 1))], axis=1),
        b_eq=right - matrix @ position,
        bounds=[(-1, 1)] * 3 + [(0, 1)],
    )
    return position + result.x[:3] * reach if result.status == 0 else None
