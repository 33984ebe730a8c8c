"""All space groups and all Wyckoff letters, on crystals built from the groups' operations."""

from collections import Counter

import numpy as np
import pytest

from cloud_core.scope import canonicalise, decode, encode
from cloud_core.scope.canonical import canonical_letters
from cloud_core.scope.tables import ENANTIOMORPHS, space_groups
from cloud_core.structures import Cell
from tests.scope.disturbance import mirrored
from tests.scope.normaliser import Group, a_lattice, a_point_on_each_position

# Each crystal system, centring, an enantiomorphic pair, the group with the letter A.
SOME = (1, 2, 5, 14, 47, 62, 70, 92, 96, 122, 139, 148, 152, 154, 167, 194, 198, 216, 221)


def crystal(group: Group, point: np.ndarray, rng: np.random.Generator) -> Cell:
    """The primitive cell of general orbits of H, He and Li, and the orbit of a point, of Be; so large that
    sites that are clear of each other are more than 0.5 Å apart."""
    for _ in range(200):
        orbits = [orbit_of(group, site) for site in (*rng.random((3, 3)), point)]
        if is_clear(orbits):
            species = np.repeat(("H", "He", "Li", "Be"), [len(orbit) for orbit in orbits]).tolist()
            return Cell(50 * group.basis.T @ a_lattice(group.number), tuple(species), np.concatenate(orbits))
    raise AssertionError(group.number)


def clear_points(group: Group, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """A point on each Wyckoff position, away from other positions."""
    for _ in range(100):
        points = a_point_on_each_position(group, count, rng)
        if all(is_clear([orbit_of(group, point)]) for point in points):
            return points
    raise AssertionError(group.number)


def is_clear(orbits: list[np.ndarray]) -> bool:
    """Whether no two sites of the orbits are close. Looking around one site of each orbit is enough."""
    apart = np.concatenate(orbits)[:, None] - np.array([orbit[0] for orbit in orbits])
    nearest = np.sort(np.abs(apart - np.round(apart)).max(axis=2), axis=0)[1:]
    return bool(nearest.min(initial=1) > 0.004)


def orbit_of(group: Group, site: np.ndarray) -> np.ndarray:
    """The images of a site, each once, in the primitive cell."""
    images = (group.rotations @ site + group.translations) @ np.linalg.inv(group.basis).T
    _, first = np.unique(np.round(images * 1e6).astype(int) % 10**6, axis=0, return_index=True)
    return images[first]


def check(number: int) -> None:
    """Every letter's crystal is encoded in its group, on its letter; a mirror image is the same crystal."""
    rng = np.random.default_rng(number)
    group = Group(number)
    table = space_groups()[ENANTIOMORPHS.get(number, number)]
    letters = list(table.multiplicities)
    general = letters[-1]
    found = []
    for point in clear_points(group, len(letters), rng):
        cell = crystal(group, point, rng)
        scope = encode(cell, ("canonical", "official"))
        assert scope.space_group == scope.space_group_official == number
        assert scope.canonical is not None
        assert scope.official is not None
        assert decode(scope.canonical).text == scope.canonical
        assert decode(scope.official).text == scope.official
        assert decode(scope.canonical).space_group == table.number
        assert canonicalise(scope.official) == scope.canonical
        image = encode(mirrored(cell, rng))
        assert (image.canonical, image.element_key) == (scope.canonical, scope.element_key)
        assert scope.n_atoms_primitive == len(cell)
        found.append("".join(decode(scope.canonical).letters))
    expected = [canonical_letters(table.number, frozenset({letter, general})) for letter in letters]
    assert Counter(found) == Counter(expected)


@pytest.mark.parametrize("number", SOME)
def test_every_letter_of_a_group_is_encoded(number: int) -> None:
    check(number)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_letter_of_every_group_is_encoded() -> None:
    for number in space_groups():
        if number not in SOME:
            check(number)
