"""Close pairs of atoms against all pairs of all images."""

import itertools

import numpy as np
import pytest

from cloud_core.structures.distances import close_pairs, spacing

CUTOFF = 0.5


def brute_force(lattice: np.ndarray, fractions: np.ndarray, reach: int) -> dict[tuple[int, int], float]:
    """Distance of the nearest images of each pair closer than the cutoff, over (2·reach + 1)³ images."""
    images = np.array(list(itertools.product(range(-reach, reach + 1), repeat=3)))
    found = {}
    for i, j in itertools.combinations_with_replacement(range(len(fractions)), 2):
        between = fractions[i] - fractions[j]
        vectors = (between - np.rint(between) + images) @ lattice
        lengths = np.linalg.norm(vectors, axis=1)
        distance = lengths[lengths > 0].min() if i == j else lengths.min()
        if distance < CUTOFF:
            found[i, j] = distance
    return found


def check(lattice: np.ndarray, fractions: np.ndarray, reach: int) -> int:
    """Compare, and return how many pairs there were."""
    expected = brute_force(lattice, fractions, reach)
    found = {(i, j): distance for i, j, distance in close_pairs(lattice, fractions, CUTOFF)}
    assert found.keys() == expected.keys()
    assert [found[pair] for pair in expected] == pytest.approx(list(expected.values()), abs=1e-9)
    return len(found)


@pytest.mark.parametrize("edge", [1.1, 2.0, 4.0])
@pytest.mark.parametrize("n", [2, 7, 30, 48])
def test_few_atoms(n: int, edge: float) -> None:
    rng = np.random.default_rng(n)
    found = 0
    for _ in range(3):
        lattice = edge * (np.eye(3) + rng.uniform(-0.25, 0.25, (3, 3)))
        found += check(lattice, rng.uniform(-1, 2, (n, 3)), reach=2)
    assert (found == 0) == ((n, edge) in {(2, 2.0), (2, 4.0), (7, 4.0)})  # too few atoms to meet


@pytest.mark.parametrize(("n", "edge"), [(49, 2.0), (90, 2.5), (90, 4.0)])
def test_many_atoms(n: int, edge: float) -> None:
    rng = np.random.default_rng(n)
    for _ in range(3):
        lattice = edge * (np.eye(3) + rng.uniform(-0.25, 0.25, (3, 3)))
        assert check(lattice, rng.uniform(-1, 2, (n, 3)), reach=1)


@pytest.mark.parametrize(("n", "edge"), [(6, 1.3), (60, 2.4)])
def test_flat_and_skewed_cells(n: int, edge: float) -> None:
    """Faces closer than the lattice vectors are long."""
    rng = np.random.default_rng(n)
    found = 0
    for shear in ([[1, 0, 0], [2, 1, 0], [1, -2, 1]], [[1, 3, 0], [0, 1, 0], [0, -2, 1]]):
        lattice = np.array(shear) @ (edge * np.eye(3) + rng.uniform(-0.1, 0.1, (3, 3)))
        assert spacing(lattice) < 2 * CUTOFF
        found += check(lattice, rng.random((n, 3)), reach=5)
    assert found


def test_a_cell_so_skewed_that_no_sum_over_images_ends() -> None:
    lattice = np.array([[1, 0, 0], [0, 1, 0], [100_000, 2_000_000, 1]]) @ np.diag([3.0, 4.0, 5.0])
    plain = np.array([[0.5, 0.5, 0.01], [0.5, 0.5, 0.99], [0.1, 0.5, 0.5]])
    fractions = plain * [3, 4, 5] @ np.linalg.inv(lattice)
    assert close_pairs(lattice, fractions, CUTOFF) == [(0, 1, pytest.approx(0.1, abs=1e-6))]


@pytest.mark.parametrize("n", [1, 3, 60])
def test_a_short_lattice_vector_brings_each_atom_close_to_itself(n: int) -> None:
    lattice = np.array([[0.3, 0, 0], [0, 4.0, 0], [0.1, 0, 9.0]])
    pairs = close_pairs(lattice, np.random.default_rng(0).random((n, 3)), CUTOFF)
    assert pairs == [(i, i, pytest.approx(0.3)) for i in range(n)]


def test_many_atoms_on_one_point_take_little_memory() -> None:
    pairs = close_pairs(9 * np.eye(3), np.zeros((5000, 3)), CUTOFF)
    assert 5000 <= len(pairs) <= 5000 * 16 * 8  # a corner has eight images
    assert {distance for _, _, distance in pairs} == {0.0}


def test_a_cell_of_one_atom_has_no_pair() -> None:
    assert close_pairs(np.eye(3), np.zeros((1, 3)), CUTOFF) == []
