"""One crystal, one string: whatever origin, order, rotation and cell it is given in."""

from collections.abc import Callable
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_core.scope import EncoderSettings, ScopeError, canonicalise, decode, encode, equivalent
from cloud_core.scope.tables import ENANTIOMORPHS, space_groups
from cloud_core.structures import Cell
from cloud_core.structures.cif import read_cif
from tests.demo_cut import demo_cifs, demo_strings, demo_structures
from tests.scope import disturbance
from tests.scope.disturbance import (
    disturbed,
    enlarged_along,
    mirrored,
    permuted,
    rotated,
    sheared,
    shifted,
    standardised,
)
from tests.scope.test_golden import ROWS, golden_cell

CHECKED = EncoderSettings(check_tolerance=True)
Kind = Callable[[Cell, np.random.Generator], Cell]
KINDS: tuple[Kind, ...] = (
    shifted, permuted, rotated, sheared, *enlarged_along, standardised, mirrored, disturbed,
)  # fmt: skip


@pytest.fixture(scope="module")
def crystals() -> list[tuple[str, Cell]]:
    """1,400 real ones: Materials Project, WBM, perovskites, carbon at the tolerance."""
    found = [(name, read_cif(text)) for name, text in demo_cifs(1000).items()]
    for row in demo_structures(400):
        lattice, fractions = np.array(row["lattice"]).reshape(3, 3), np.array(row["abc"]).reshape(-1, 3)
        found.append((row["material_id"], Cell(lattice, tuple(row["species"].split()), fractions)))
    found += [(row["name"], golden_cell(row)) for row in ROWS if row["name"].startswith(("carbon", "perov"))]
    return [(name, cell) for name, cell in found if len(cell) <= 40]


def compare(name: str, cell: Cell, other: Cell) -> bool:
    """Whether string, key and sizes are the same; a flagged structure may move."""
    scope, moved = encode(cell), encode(other)
    if (scope.canonical, scope.element_key) == (moved.canonical, moved.element_key):
        assert scope.n_atoms_primitive == moved.n_atoms_primitive
        assert scope.n_atoms_conventional == moved.n_atoms_conventional
        assert scope.wyckoff == moved.wyckoff
        return True
    assert "tolerance_sensitive" in encode(cell, settings=CHECKED).flags, (name, scope, moved)
    return False


def test_no_description_moves_the_string(crystals: list[tuple[str, Cell]]) -> None:
    assert len(crystals) > 1200
    rng = np.random.default_rng(3)
    same = sum(
        compare(name, cell, KINDS[i % len(KINDS)](cell, rng)) for i, (name, cell) in enumerate(crystals)
    )
    # A few sit at the tolerance, and say so.
    assert len(crystals) - same <= 3


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_hypothesis_finds_no_description_of_a_kind_that_moves_it(
    crystals: list[tuple[str, Cell]], kind: Kind, data: st.DataObject
) -> None:
    name, cell = crystals[data.draw(st.integers(0, len(crystals) - 1))]
    compare(name, cell, kind(cell, np.random.default_rng(data.draw(st.integers(0, 2**32)))))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_hypothesis_finds_no_description_that_moves_it(
    crystals: list[tuple[str, Cell]], data: st.DataObject
) -> None:
    name, cell = crystals[data.draw(st.integers(0, len(crystals) - 1))]
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    other = cell
    for step in data.draw(st.lists(st.sampled_from(KINDS[:-1]), min_size=1, max_size=4)):
        if step not in enlarged_along or len(other) <= 40:
            other = step(other, rng)
    compare(name, cell, other)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_description_of_every_crystal(crystals: list[tuple[str, Cell]]) -> None:
    rng = np.random.default_rng(4)
    moved = 0
    for name, cell in crystals:
        moved += not all([compare(name, cell, kind(cell, rng)) for kind in KINDS])
    assert moved <= 5


def quartz(hand: int) -> Cell:
    """α-quartz (space group 152 or 154; Levien, Prewitt, Weidner 1980): a 4.916 Å, c 5.4054 Å."""
    lattice = np.array([[4.916, 0, 0], [-2.458, 2.458 * np.sqrt(3), 0], [0, 0, 5.4054]])
    u, (x, y, z) = 0.4697, (0.4135, 0.2669, 0.7858)
    silicon = [[u, 0, 1 / 3], [0, u, 2 / 3], [-u, -u, 0]]
    oxygen = [
        [x, y, z], [-y, x - y, z + 1 / 3], [y - x, -x, z + 2 / 3],
        [y, x, -z], [x - y, -y, 2 / 3 - z], [-x, y - x, 1 / 3 - z],
    ]  # fmt: skip
    fractions = np.array(silicon + oxygen)
    if hand < 0:
        fractions = fractions * [1, 1, -1]
    return Cell(lattice, ("Si",) * 3 + ("O",) * 6, fractions)


def test_left_and_right_quartz_share_a_string() -> None:
    right, left = (encode(quartz(hand), ("canonical", "official")) for hand in (1, -1))
    assert {right.space_group, left.space_group} == {152, 154}
    assert right.space_group == right.space_group_official
    assert right.canonical == left.canonical
    assert right.element_key == left.element_key
    assert decode(right.canonical or "").space_group == 152
    assert right.official != left.official
    assert canonicalise(right.official or "") == canonicalise(left.official or "") == right.canonical


def test_mirror_images_share_a_string(crystals: list[tuple[str, Cell]]) -> None:
    rng = np.random.default_rng(0)
    chiral = 0
    for name, cell in crystals:
        number = encode(cell).space_group
        if number in ENANTIOMORPHS or number in ENANTIOMORPHS.values() or number in (1, 4, 5, 18, 19, 198):
            chiral += 1
            compare(name, cell, mirrored(cell, rng))
    assert chiral > 30


def half_heusler(order: tuple[str, str, str]) -> Cell:
    lattice = 5.94 / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0.0]])
    return Cell(lattice, order, np.array([[0, 0, 0], [0.25] * 3, [0.5] * 3]))


def test_the_key_tells_orderings_of_a_half_heusler_apart() -> None:
    """The six orderings are three crystals, by the element in the middle, and have three keys.

    A quarter turn about the atom in the middle carries the outer two sites onto each other.
    """
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Structure

    orders = list(permutations(("Ti", "Ni", "Sn")))
    scopes = {order: encode(half_heusler(order)) for order in orders}  # type: ignore[arg-type]
    assert len({scope.canonical for scope in scopes.values()}) == 1
    matcher = StructureMatcher(ltol=0.01, stol=0.01, angle_tol=1)
    structures = {}
    for order in orders:
        cell = half_heusler(order)  # type: ignore[arg-type]
        structures[order] = Structure(cell.lattice, cell.species, cell.fractions)
    for first, second in product(orders, orders):
        is_one_crystal = second in (first, first[::-1])
        assert matcher.fit(structures[first], structures[second]) == is_one_crystal
        assert (scopes[first].element_key == scopes[second].element_key) == is_one_crystal

    quarter_turn = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    assert np.linalg.det(quarter_turn) == pytest.approx(1)
    for order in orders:
        cell, other = half_heusler(order), half_heusler(order[::-1])  # type: ignore[arg-type]
        positions = cell.fractions @ cell.lattice
        turned = (positions - positions[1]) @ quarter_turn.T + positions[1]
        lattice = cell.lattice @ quarter_turn.T @ np.linalg.inv(other.lattice)
        assert np.allclose(lattice, np.round(lattice))
        apart = (turned - (other.fractions @ other.lattice)[::-1]) @ np.linalg.inv(other.lattice)
        assert np.allclose(apart, np.round(apart))
        assert cell.species == other.species[::-1]


def test_augmentation_draws_equivalents() -> None:
    texts = demo_strings(400)
    rng = np.random.default_rng(1)
    drawn = set()
    for text in texts:
        for _ in range(3):
            other = equivalent(text, rng)
            drawn.add(other)
            assert canonicalise(other) == canonicalise(text)
            assert sorted(decode(other).composition.items()) == sorted(decode(text).composition.items())
    assert len(drawn) > 2 * len(set(texts))
    with pytest.raises(ScopeError, match="reduced"):
        equivalent("1 0 0 | 2i 2i | C C", rng)
    # Every relabeling can be drawn: both letter sets of the zincblende prototype.
    zincblende = "0 6 a O D D a D O D b O O O c O O O d O O O l O O O 0 | 4d 4a | B 0.5 As 0.5"
    sets = {frozenset(decode(equivalent(zincblende, rng)).letters) for _ in range(200)}
    assert sets == {frozenset(pair) for pair in ("ac", "ad", "bc", "bd")}


def test_canonicalise_is_idempotent_and_least() -> None:
    for number, group in space_groups().items():
        letters = list(group.symbols)[:3]
        text = f"{group.generators} | {' '.join(group.symbols[x] for x in reversed(letters))} | Zn 0.5 S 0.5"
        once = canonicalise(text)
        assert canonicalise(once) == once
        assert decode(once).space_group == ENANTIOMORPHS.get(number, number)
        assert once.endswith("| S 0.5 Zn 0.5")


def test_disturbances_change_the_description() -> None:
    """The helper does what it says: same volume per atom, same distances."""
    rng = np.random.default_rng(0)
    cell = quartz(1)
    for kind in KINDS:
        other = kind(cell, rng)
        ratio = abs(np.linalg.det(other.lattice)) / len(other) / (abs(np.linalg.det(cell.lattice)) / 9)
        assert ratio == pytest.approx(1)
    assert disturbance.recelled(cell, np.diag([1, 2, 1])).species.count("Si") == 6
