"""Other descriptions of one crystal: origin, order, rotation, cell."""

import numpy as np

from cloud_core.structures import Cell


def shifted(cell: Cell, rng: np.random.Generator) -> Cell:
    fractions = cell.fractions + rng.random(3)
    return Cell(cell.lattice, cell.species, fractions - np.floor(fractions), cell.occupancies)


def permuted(cell: Cell, rng: np.random.Generator) -> Cell:
    order = rng.permutation(len(cell))
    species = tuple(cell.species[i] for i in order)
    occupancies = None if cell.occupancies is None else tuple(cell.occupancies[i] for i in order)
    return Cell(cell.lattice, species, cell.fractions[order], occupancies)


def rotated(cell: Cell, rng: np.random.Generator) -> Cell:
    """Turned by a random proper rotation."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q *= np.sign(np.diag(r))
    if np.linalg.det(q) < 0:
        q[:, 0] *= -1
    return Cell(cell.lattice @ q, cell.species, cell.fractions, cell.occupancies)


def mirrored(cell: Cell, rng: np.random.Generator) -> Cell:
    """The mirror image, in a right-handed cell."""
    return Cell(-cell.lattice[[1, 0, 2]], cell.species, cell.fractions[:, [1, 0, 2]], cell.occupancies)


def recelled(cell: Cell, matrix: np.ndarray) -> Cell:
    """The crystal in the cell `matrix @ lattice`, `matrix` of integers with a positive determinant."""
    size = round(float(np.linalg.det(matrix)))
    span = range(-int(np.abs(matrix).sum()), int(np.abs(matrix).sum()) + 1)
    if size == 1:
        offsets = np.zeros((1, 3))
    else:
        grid = np.stack(np.meshgrid(span, span, span, indexing="ij"), axis=-1).reshape(-1, 3)
        inside = grid @ np.linalg.inv(matrix)
        offsets = grid[((inside > -1e-9) & (inside < 1 - 1e-9)).all(axis=1)]
        assert len(offsets) == size
    fractions = ((cell.fractions[:, None, :] + offsets[None]) @ np.linalg.inv(matrix)).reshape(-1, 3)
    species = tuple(symbol for symbol in cell.species for _ in offsets)
    occupancies = None
    if cell.occupancies is not None:
        occupancies = tuple(o for o in cell.occupancies for _ in offsets)
    return Cell(matrix @ cell.lattice, species, fractions - np.floor(fractions), occupancies)


def sheared(cell: Cell, rng: np.random.Generator) -> Cell:
    """The same lattice in another basis: a random unimodular matrix."""
    matrix = np.eye(3, dtype=int)
    for _ in range(3):
        i, j = rng.permutation(3)[:2]
        matrix[i] += int(rng.choice((-1, 1))) * matrix[j]
    matrix = matrix[rng.permutation(3)]
    return recelled(cell, matrix if np.linalg.det(matrix) > 0 else -matrix)


def _enlarged(cell: Cell, rng: np.random.Generator, axes: list[int]) -> Cell:
    factors = np.ones(3, dtype=int)
    factors[axes] = 2 if len(axes) > 1 else rng.integers(2, 4)
    return recelled(cell, np.diag(factors))


def enlarged_a(cell: Cell, rng: np.random.Generator) -> Cell:
    """Two or three cells along a."""
    return _enlarged(cell, rng, [0])


def enlarged_b(cell: Cell, rng: np.random.Generator) -> Cell:
    """Two or three cells along b."""
    return _enlarged(cell, rng, [1])


def enlarged_c(cell: Cell, rng: np.random.Generator) -> Cell:
    """Two or three cells along c."""
    return _enlarged(cell, rng, [2])


def enlarged(cell: Cell, rng: np.random.Generator) -> Cell:
    """A supercell along one axis, or for small cells all."""
    everywhere = len(cell) <= 8 and rng.random() < 0.3
    return _enlarged(cell, rng, [0, 1, 2] if everywhere else [int(rng.integers(3))])


enlarged_along = (enlarged_a, enlarged_b, enlarged_c)


def standardised(cell: Cell, rng: np.random.Generator) -> Cell:
    """spglib's primitive or conventional cell, positions not idealised."""
    import spglib

    kinds = list(dict.fromkeys(cell.species))
    numbers = [kinds.index(symbol) + 1 for symbol in cell.species]
    found = spglib.standardize_cell(
        (cell.lattice, cell.fractions, numbers),
        to_primitive=bool(rng.integers(2)),
        no_idealize=True,
        symprec=1e-4,
    )
    if found is None or cell.occupancies is not None:
        return cell
    lattice, fractions, numbers = found
    return Cell(np.array(lattice), tuple(kinds[n - 1] for n in numbers), np.array(fractions))


def disturbed(cell: Cell, rng: np.random.Generator) -> Cell:
    """All of these at once, mirror image left out."""
    for step in (standardised, sheared, enlarged, shifted, rotated, permuted):
        if step is not enlarged or len(cell) <= 60:
            cell = step(cell, rng)
    return cell
