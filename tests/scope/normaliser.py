"""The letter permutations of a space group's affine normaliser, derived from its operations alone.

An affine map (M, s) normalises a space group when it carries every operation into one of the group. It then
carries Wyckoff positions into Wyckoff positions. Linear parts are searched among integer matrices in a
primitive basis (entries up to 1; up to 3 in the plane normal to the unique axis of monoclinic groups, whose
normalisers are infinite; up to 5 gave no other), shifts on a grid of 1/24; the permutations found are closed
under composition.
Which letter a point has is asked of moyo, on crystals built for it.
"""

import itertools
import logging
import warnings

import moyopy
import numpy as np
import spglib

from cloud_core.scope.tables import letter_order, space_groups

logging.getLogger("moyo").setLevel(logging.ERROR)
SETTING = moyopy.Setting.spglib()
_UNIT = np.array(list(itertools.product((-1, 0, 1), repeat=9))).reshape(-1, 3, 3)
UNIMODULAR = _UNIT[np.abs(np.round(np.linalg.det(_UNIT))) == 1]
_TWENTY_FOURTHS = np.array(list(itertools.product(range(24), repeat=3)))
# Small denominators first: where a shift is free, simple ones are enough.
GRID = _TWENTY_FOURTHS[np.argsort((24 // np.gcd(_TWENTY_FOURTHS, 24)).max(axis=1), kind="stable")] / 24
NEIGHBOURS = np.array(list(itertools.product(range(-2, 3), repeat=3)))


class Group:
    """Operations of a space group, in its conventional cell, with the lattice's centring."""

    def __init__(self, number: int) -> None:
        operations = moyopy.operations_from_number(number, setting=SETTING)
        self.number = number
        self.rotations = np.array(operations.rotations)
        self.translations = np.array(operations.translations)
        pure = (self.rotations == np.eye(3, dtype=int)).all(axis=(1, 2))
        self.centring = self.translations[pure] - np.floor(self.translations[pure])
        self.basis = self._primitive_basis()
        self.index = {_key(rotation): i for i, rotation in enumerate(self.rotations)}

    def _primitive_basis(self) -> np.ndarray:
        shifts = np.array(list(itertools.product((-1, 0, 1), repeat=3)))
        vectors = (self.centring[:, None] + shifts).reshape(-1, 3)
        vectors = vectors[(np.abs(vectors).sum(axis=1) > 1e-6)]
        vectors = vectors[np.lexsort((*-vectors.T, np.round((vectors**2).sum(axis=1), 6)))][:40]
        for chosen in itertools.combinations(vectors, 3):
            basis = np.array(chosen).T
            if abs(abs(np.linalg.det(basis)) - 1 / len(self.centring)) < 1e-6:
                return basis
        raise AssertionError(self.number)

    def site(self, point: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        """Projection on the Wyckoff position through a point, and the order of its site symmetry."""
        moved = self.rotations @ point + self.translations - point
        lattice = np.round(moved)
        fixes = (np.abs(moved - lattice) < 1e-6).all(axis=1)
        shifts = self.translations[fixes] - lattice[fixes]
        return self.rotations[fixes].mean(axis=0), shifts.mean(axis=0), int(fixes.sum())

    def is_on(self, point: np.ndarray, position: tuple[np.ndarray, np.ndarray, int]) -> bool:
        """Whether an image of the point lies on a Wyckoff position."""
        images = (self.rotations @ point + self.translations)[:, None] + NEIGHBOURS
        images = images.reshape(-1, 3)
        linear, shift, _ = position
        return bool((np.abs(images @ linear.T + shift - images) < 1e-5).all(axis=1).any())

    def orbit(self, point: np.ndarray) -> np.ndarray:
        kept: list[np.ndarray] = []
        for image in self.rotations @ point + self.translations:
            if not any((np.abs(image - k - np.round(image - k)) < 1e-5).all() for k in kept):
                kept.append(image)
        return np.array(kept)


def _key(matrix: np.ndarray) -> tuple[float, ...]:
    return tuple((np.round(matrix, 5) + 0.0).ravel())


def _linear_parts(group: Group) -> list[np.ndarray]:
    """Linear parts of the normaliser, in the conventional basis; modulo 2 for triclinic groups."""
    inverse = np.linalg.inv(group.basis)
    if 3 <= group.number <= 15:
        plane = range(-3, 4)
        found = [
            np.array([[p, 0, q], [0, b, 0], [r, 0, s]], dtype=float)
            for p, q, r, s in itertools.product(plane, repeat=4)
            if abs(p * s - q * r) == 1
            for b in (1, -1)
        ]
        found = [m for m in found if np.abs((c := inverse @ m @ group.basis) - np.round(c)).max() < 1e-6]
    elif group.number < 3:
        _, first = np.unique(UNIMODULAR.reshape(-1, 9) % 2, axis=0, return_index=True)
        found = [np.eye(3), *UNIMODULAR[first].astype(float)]
    else:
        integers = [np.round(inverse @ r @ group.basis).astype(int) for r in group.rotations]
        codes = {_code(r) for r in integers}
        kept = UNIMODULAR
        inverses = np.round(np.linalg.inv(kept)).astype(int)
        for rotation in integers:
            good = np.isin(_code(kept @ rotation @ inverses), list(codes))
            kept, inverses = kept[good], inverses[good]
        found = [group.basis @ m @ inverse for m in kept]
    return [m for m in found if all(_key(m @ r @ np.linalg.inv(m)) in group.index for r in group.rotations)]


def _code(matrices: np.ndarray) -> np.ndarray:
    return ((matrices.reshape(*matrices.shape[:-2], 9) + 8) * 17 ** np.arange(9)).sum(axis=-1)


def _shifts(group: Group, linear: np.ndarray) -> np.ndarray:
    """Shifts that complete a linear part."""
    inverse = np.linalg.inv(linear)
    shifts = GRID
    for rotation, translation in zip(group.rotations, group.translations, strict=True):
        turned = linear @ rotation @ inverse
        image = group.translations[group.index[_key(turned)]]
        off = linear @ translation + shifts - shifts @ turned.T - image
        off = off[:, None] - group.centring
        shifts = shifts[(np.abs(off - np.round(off)) < 1e-4).all(axis=2).any(axis=1)]
    return shifts


def a_lattice(number: int) -> np.ndarray:
    """A lattice of the group's system with no more symmetry than that."""
    a, b, c = 5.1, 6.7, 8.3
    alpha, beta, gamma = 83.0, 97.0, 104.0
    if number >= 3:
        alpha = gamma = 90.0
    if number >= 16:
        beta = 90.0
    if number >= 75:
        b = a
    if 143 <= number <= 194:
        gamma = 120.0
    if number >= 195:
        c = a
    from pymatgen.core import Lattice

    return np.array(Lattice.from_parameters(a, b, c, alpha, beta, gamma).matrix)


def a_point_on_each_position(group: Group, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """A point on each Wyckoff position: random points, projected on fixed points of random operations."""
    points: list[np.ndarray] = []
    sites: list[tuple[np.ndarray, np.ndarray, int]] = []
    while len(points) < count:
        point = rng.random(3)
        for _ in range(rng.integers(0, 4)):
            i = rng.integers(len(group.rotations))
            fixed = np.eye(3) - group.rotations[i]
            shift = group.translations[i] + rng.integers(-1, 2, 3)
            solution = np.linalg.lstsq(fixed, shift, rcond=None)[0]
            if np.abs(fixed @ solution - shift).max() < 1e-6:
                _, sizes, axes = np.linalg.svd(fixed)
                free = axes[sizes < 1e-8]
                point = solution + (point - solution) @ free.T @ free
        for _ in range(3):
            linear, shift, _ = group.site(point)
            point = linear @ point + shift
        site = group.site(point)
        if not any(known[2] == site[2] and group.is_on(point, known) for known in sites):
            points.append(point)
            sites.append(site)
    return points


def _letters(group: Group, count: int) -> dict[str, tuple[np.ndarray, np.ndarray, int]]:
    """The Wyckoff positions by the letters that moyo gives them in the standard setting."""
    lattice = a_lattice(group.number)
    named: dict[str, tuple[np.ndarray, np.ndarray, int]] = {}
    for seed in range(20):
        rng = np.random.default_rng(seed)
        for point in a_point_on_each_position(group, count, rng):
            orbits = [group.orbit(rng.random(3)) for _ in range(3)] + [group.orbit(point)]
            numbers = [z for z, orbit in enumerate(orbits, start=1) for _ in orbit]
            cell = moyopy.Cell(lattice.tolist(), np.concatenate(orbits).tolist(), numbers)
            dataset = moyopy.MoyoDataset(cell, symprec=1e-4, setting=SETTING)
            if dataset.number != group.number:
                continue
            first = numbers.index(4)
            standard = np.linalg.solve(dataset.std_linear, orbits[3][0] - dataset.std_origin_shift)
            site = group.site(standard)
            if len(orbits[3]) * site[2] == len(group.rotations):
                named.setdefault(dataset.wyckoffs[first], (standard, *site)[1:])
                _POINTS[group.number, dataset.wyckoffs[first]] = standard
        if len(named) == count:
            return named
    raise AssertionError((group.number, sorted(named), count))


_POINTS: dict[tuple[int, str], np.ndarray] = {}


def permutations(number: int, count: int) -> set[str]:
    """All permutations of the `count` Wyckoff letters, each as the images of the letters in order."""
    group = Group(number)
    positions = _letters(group, count)
    names = sorted(positions, key=letter_order)

    def letter_of(point: np.ndarray) -> str:
        order = group.site(point)[2]
        (letter,) = [x for x, site in positions.items() if site[2] == order and group.is_on(point, site)]
        return letter

    found = set()
    for linear in _linear_parts(group):
        shifts = _shifts(group, linear)
        # One shift completes a linear part; those of the identity are the shifts that remain.
        for shift in shifts[: 400 if np.allclose(linear, np.eye(3)) else 1]:
            images = (linear @ _POINTS[number, name] + shift for name in names)
            found.add("".join(letter_of(image - np.floor(image + 1e-9)) for image in images))
    index = {name: i for i, name in enumerate(names)}
    closed = {"".join(names)}
    frontier = list(closed)
    while frontier:
        new = {"".join(g[index[x]] for x in h) for h in frontier for g in found} - closed
        closed |= new
        frontier = list(new)
    return closed


def site_symmetries(number: int) -> list[str]:
    """The crystal class of the site symmetry of each Wyckoff position, letters a … z, A: "m-3m".

    The stabiliser of a point on the position; which of the 32 classes its rotations form is asked of spglib.
    """
    group = Group(number)
    multiplicities = space_groups()[number].multiplicities
    letters = _letters(group, len(multiplicities))
    assert letters.keys() == multiplicities.keys()
    classes = []
    for letter, multiplicity in multiplicities.items():
        point = _POINTS[number, letter]
        moved = group.rotations @ point + group.translations - point
        rotations = group.rotations[(np.abs(moved - np.round(moved)) < 1e-6).all(axis=1)]
        assert len(rotations) * multiplicity == len(group.rotations), (number, letter)
        with warnings.catch_warnings():
            # spglib announces that it will raise one day; without a class this fails either way.
            warnings.simplefilter("ignore", DeprecationWarning)
            found = spglib.get_pointgroup(rotations)
        assert found is not None, (number, letter)
        classes.append(found[0].strip())
    return classes
