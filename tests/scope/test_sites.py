"""Resolved strings as arrays, and the tables of site symmetries and elements."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import spglib

from cloud_core.scope import EncoderSettings, ScopeError, encode, equivalent, resolve
from cloud_core.scope.sites import (
    CRYSTAL_CLASSES,
    LETTERS,
    Sites,
    element_properties,
    site_symmetries,
    sites_of,
)
from cloud_core.scope.tables import ATOMIC_NUMBERS, space_groups
from cloud_core.structures import Cell, read
from tests.scope.normaliser import site_symmetries as derived

# Operations of each class, in the order of CRYSTAL_CLASSES (International Tables A, section 3.2.1).
ORDERS = (
    1,
    2,
    2,
    2,
    4,
    4,
    4,
    8,
    4,
    4,
    8,
    8,
    8,
    8,
    16,
    3,
    6,
    6,
    6,
    12,
    6,
    6,
    12,
    12,
    12,
    12,
    24,
    12,
    24,
    24,
    24,
    48,
)
# What spglib writes in other orders than the class.
OTHER_NAMES = {"m2m": "mm2", "2mm": "mm2", "-4m2": "-42m", "-62m": "-6m2"}
ARRAYS = ("elements", "occupancies", "letters", "multiplicities", "counts", "site_symmetries")
WITH_SITES = EncoderSettings(forms=("resolved",))


def text_of(number: int, orbits: str, composition: str) -> str:
    return f"{space_groups()[number].generators} | {orbits} | {composition}"


def test_rock_salt() -> None:
    found = sites_of([text_of(225, "4a Cl 4b Na", "Cl 0.5 Na 0.5")])
    assert found.space_groups.tolist() == [225]
    assert found.offsets.tolist() == [0, 2]
    assert found.shares.tolist() == [0.5, 0.5]
    assert {int(z): found.composition[0, z] for z in np.flatnonzero(found.composition)} == {11: 0.5, 17: 0.5}
    assert found.elements.tolist() == [17, 11]
    assert found.occupancies.tolist() == [1, 1]
    assert found.letters.tolist() == [0, 1]
    assert found.multiplicities.tolist() == [4, 4]
    assert found.counts.tolist() == [1, 1]
    assert [CRYSTAL_CLASSES[i] for i in found.site_symmetries] == ["m-3m", "m-3m"]
    assert len(found) == 1


def test_many_strings_lie_end_to_end() -> None:
    texts = [
        text_of(225, "4a Cl 4b Na", "Cl 0.5 Na 0.5"),
        text_of(229, "2a Fe", "Fe 1.0"),
        text_of(62, "4a Fe 0.0 8d O", "Fe 0.0 O 1.0"),
    ]
    found, one_by_one = sites_of(texts), [sites_of([text]) for text in texts]
    assert len(found) == 3
    assert found.offsets.tolist() == [0, 2, 3, 5]
    assert found.crystals.tolist() == [0, 0, 1, 2, 2]
    for name in ("space_groups", *ARRAYS, "shares", "composition"):
        joined = np.concatenate([getattr(alone, name) for alone in one_by_one])
        assert np.array_equal(getattr(found, name), joined), name
        assert getattr(found, name).dtype == joined.dtype
    # A trace that was rounded to 0.0 is still there.
    assert 0 < found.shares[3] < 0.001
    assert len(sites_of([])) == 0 and sites_of([]).composition.shape == (0, 119)


def test_equal_orbits_are_counted_and_mixed_sites_come_apart() -> None:
    orbits = "4a Fe 0.7 Mg 0.3 8d O 8d O 4c Si 4a Fe 0.7 Mg 0.3"
    found = sites_of([text_of(62, orbits, "Fe 0.2 Mg 0.09 O 0.57 Si 0.14")])
    assert found.elements.tolist() == [26, 12, 8, 14]
    assert found.occupancies == pytest.approx([0.7, 0.3, 1, 1])
    assert found.counts.tolist() == [2, 2, 2, 1]
    assert found.letters.tolist() == [0, 0, 3, 2]
    assert found.multiplicities.tolist() == [4, 4, 8, 4]
    assert [CRYSTAL_CLASSES[i] for i in found.site_symmetries] == ["-1", "-1", "1", "m"]


def test_all_letters_have_a_place_and_isotopes_are_elements() -> None:
    letters = list(space_groups()[47].multiplicities)
    orbits = " ".join(f"{space_groups()[47].symbols[letter]} D" for letter in letters)
    found = sites_of([text_of(47, orbits, "D 1.0")])
    assert found.letters.tolist() == list(range(27)) == [LETTERS.index(letter) for letter in letters]
    assert set(found.elements.tolist()) == {1}
    assert found.composition[0, 1] == pytest.approx(1)


@pytest.mark.parametrize("composition", ["Cl 0.5 Na 0.5", "Cl Na"])
def test_other_forms_are_refused(composition: str) -> None:
    with pytest.raises(ScopeError) as caught:
        sites_of([text_of(225, "4a 4b", composition)])
    assert caught.value.position == 0


def test_real_crystals_keep_their_atoms(shared: Path) -> None:
    """Atoms of the conventional cell are those of the arrays; a relabeled string has the same tokens."""
    rng = np.random.default_rng(5)
    table = pd.read_parquet(shared / "data/crysxpp/mp_cifs_36737.parquet")
    for i in rng.choice(len(table), 150, replace=False):
        scope = encode(bytes(table["cif"][i]).decode(), settings=WITH_SITES)
        assert scope.resolved is not None
        found = sites_of([scope.resolved])
        assert (found.multiplicities * found.counts.astype(int)).sum() == scope.n_atoms_conventional
        for element, share in scope.composition.items():
            assert found.composition[0, ATOMIC_NUMBERS[element]] == pytest.approx(share)
        drawn = equivalent(scope.resolved, rng)
        assert rows(sites_of([drawn]), without="letters") == rows(found, without="letters")
        assert rows(sites_of([resolve(drawn)])) == rows(found)


def rows(found: Sites, without: str = "") -> list[tuple[float, ...]]:
    """The tokens, sorted."""
    return sorted(zip(*[getattr(found, name).tolist() for name in ARRAYS if name != without], strict=True))


def test_mixed_sites_of_a_real_cell_keep_their_atoms() -> None:
    cell = Cell(
        4.2 * np.eye(3),
        ("Fe", "O"),
        np.array([[0, 0, 0], [0.5, 0.5, 0.5]]),
        ({"Fe": 0.66, "Mg": 0.33}, {"O": 0.9}),
    )
    found = sites_of([encode(cell, settings=WITH_SITES).resolved or ""])
    by_element = dict(zip(found.elements.tolist(), found.occupancies.tolist(), strict=True))
    assert by_element == pytest.approx({26: 0.66, 12: 0.33, 8: 0.9})


def test_site_symmetries_have_the_order_that_multiplicities_ask_for() -> None:
    order = dict(zip(CRYSTAL_CLASSES, ORDERS, strict=True))
    positions = 0
    for number, group in space_groups().items():
        general = max(group.multiplicities.values())
        for letter, multiplicity in group.multiplicities.items():
            assert order[site_symmetries()[number][letter]] * multiplicity == general, (number, letter)
            positions += 1
    assert positions == 1731


def test_relabelings_keep_the_site_symmetry() -> None:
    for number, group in space_groups().items():
        classes = site_symmetries()[number]
        letters = "".join(group.multiplicities)
        for images in group.relabelings:
            assert [classes[x] for x in letters] == [classes[x] for x in images], (number, images)


def test_site_symmetries_that_tables_give() -> None:
    """International Tables A."""
    expected = {
        62: "-1 -1 m 1", 136: "mmm mmm 2/m -4 mm2 mm2 mm2 2 m m 1", 187: "-6m2 -6m2 -6m2 -6m2 -6m2 -6m2",
        194: "-3m -6m2 -6m2 -6m2 3m 3m", 221: "m-3m m-3m 4/mmm 4/mmm", 225: "m-3m m-3m -43m mmm 4mm 3m",
        227: "-43m -43m -3m -3m 3m", 230: "-3 32 222 -4 3",
    }  # fmt: skip
    for number, symbols in expected.items():
        found = list(site_symmetries()[number].values())
        assert found[: len(symbols.split())] == symbols.split(), number


@pytest.mark.parametrize("number", (1, 2, 12, 62, 152, 166, 216))
def test_site_symmetries_are_the_stabilisers(number: int) -> None:
    assert list(site_symmetries()[number].values()) == derived(number)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_site_symmetries_are_the_stabilisers() -> None:
    for number in space_groups():
        assert list(site_symmetries()[number].values()) == derived(number), number


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_site_symmetries_of_real_crystals_are_those_of_spglib(shared: Path) -> None:
    table = pd.read_parquet(shared / "data/crysxpp/mp_cifs_36737.parquet")
    rng = np.random.default_rng(6)
    seen = set()
    for i in rng.choice(len(table), 400, replace=False):
        cell = read(bytes(table["cif"][i]).decode())
        if len(cell) > 40:
            continue
        numbers = [ATOMIC_NUMBERS[symbol] for symbol in cell.species]
        found = spglib.get_symmetry_dataset((cell.lattice, cell.fractions, numbers), symprec=0.01)
        for letter, symbol in zip(found.wyckoffs, found.site_symmetry_symbols, strict=True):
            name = symbol.replace(".", "")
            expected = OTHER_NAMES.get(name, name)
            assert site_symmetries()[found.number][letter] == expected, (found.number, letter, symbol)
            seen.add((found.number, letter))
    assert len(seen) > 300


def test_properties_of_the_elements() -> None:
    names, values = element_properties()
    assert values.shape == (119, 23) and len(names) == 23
    column = {name: values[:, i] for i, name in enumerate(names)}
    assert np.isnan(values[0]).all()
    assert column["atomic_number"][1:].tolist() == list(range(1, 119))
    for name in ("row", "group", "block", "atomic_mass", "is_metal", "is_metalloid", "is_rare_earth"):
        assert not np.isnan(column[name][1:]).any(), name
    for name in ("mendeleev_number", "van_der_waals_radius", "melting_point", "ionization_energy"):
        assert not np.isnan(column[name][1:100]).any(), name
    iron, oxygen, helium, gadolinium = 26, 8, 2, 64
    assert column["electronegativity"][[iron, oxygen]] == pytest.approx([1.83, 3.44])
    assert np.isnan(column["electronegativity"][helium])
    assert column["ionization_energy"][iron] == pytest.approx(7.9025, abs=1e-3)
    assert column["group"][[iron, oxygen, helium]].tolist() == [8, 16, 18]
    assert column["block"][[iron, oxygen, helium, gadolinium]].tolist() == [2, 1, 0, 3]
    assert column["is_rare_earth"][[iron, gadolinium]].tolist() == [0, 1]
    assert column["ionic_radius"][iron] == pytest.approx(0.8525)
    assert np.isnan(column["ionization_energy"][[109, 110]]).all()
    assert column["lowest_oxidation_state"][oxygen] == -2
    # Valence electrons are those outside the noble gas before; of 4f, 5d and 6s for gadolinium 7, 1 and 2.
    valence = [column[f"valence_{kind}"] for kind in "spdf"]
    assert [int(v[gadolinium]) for v in valence] == [2, 0, 1, 7]
    cores = [0, 2, 10, 18, 36, 54, 86]
    for number in range(1, 105):
        core = max(core for core in cores if core < number)
        assert sum(v[number] for v in valence) == number - core, number


def test_the_properties_cannot_be_changed_for_others() -> None:
    with pytest.raises(ValueError, match="read-only"):
        element_properties()[1][0, 0] = 1.0
