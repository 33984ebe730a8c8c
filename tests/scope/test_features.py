"""Features of strings, against values worked out by hand and against pymatgen's elements."""

import numpy as np
import pytest
from pymatgen.core import Element

from cloud_core.scope import resolve
from cloud_core.scope.features import STATISTICS, composition_of, features, statistics
from cloud_core.scope.grammar import join
from cloud_core.scope.sites import element_properties

SALT = join(225, "4a Cl 4b Na", "Cl 0.5 Na 0.5")
CANONICAL = join(225, "4a 4b", "Cl 0.5 Na 0.5")


def test_statistics_are_those_of_the_elements() -> None:
    fractions = np.zeros((2, 119))
    fractions[0, [11, 17]] = 0.25, 0.75
    fractions[1, 26] = 1.0
    names, _ = element_properties()
    found = statistics(fractions).reshape(2, len(names), len(STATISTICS))
    sodium, chlorine = Element("Na").X, Element("Cl").X
    mean = 0.25 * sodium + 0.75 * chlorine
    deviation = 0.25 * abs(sodium - mean) + 0.75 * abs(chlorine - mean)
    expected = [mean, deviation, sodium, chlorine, chlorine - sodium]
    assert found[0, names.index("electronegativity")] == pytest.approx(expected, abs=1e-6)
    iron = float(Element("Fe").atomic_mass)
    assert found[1, names.index("atomic_mass")] == pytest.approx([iron, 0, iron, iron, 0], abs=1e-4)


def test_an_element_without_a_value_is_left_out() -> None:
    names, values = element_properties()
    place = names.index("electronegativity")
    assert np.isnan(values[18, place])  # argon
    fractions = np.zeros((2, 119))
    fractions[0, [11, 18]] = 0.5
    fractions[1, 18] = 1.0
    found = statistics(fractions).reshape(2, len(names), len(STATISTICS))[:, place]
    assert found[0] == pytest.approx([Element("Na").X, 0, Element("Na").X, Element("Na").X, 0], abs=1e-6)
    assert np.isnan(found[1]).all()


def test_compositions_count_isotopes_with_their_element() -> None:
    water = join(1, "1a", "D 0.33 H 0.34 O 0.33")
    assert composition_of([water])[0, [1, 8]] == pytest.approx([0.67, 0.33])


def test_sites_tell_crystals_apart_that_compositions_do_not() -> None:
    one, other = (
        resolve(join(221, f"1a {a} 1b {b} 3d O", "O 0.6 Sr 0.2 Ti 0.2"))
        for a, b in (("Ti", "Sr"), ("Sr", "Ti"))
    )
    first, second = features([one, other])
    places = np.flatnonzero(first != second)
    assert len(places) == 4 and set(first[places]) == {
        0.0,
        1.0,
    }  # two elements, each on one letter or the other


def test_the_columns_depend_on_the_form_alone() -> None:
    widths = {len(features([text])[0]) for text in (SALT, join(1, "1a H", "H 1.0"))}
    assert len(widths) == 1
    shorter = features([CANONICAL])
    assert np.array_equal(shorter[0], features([SALT])[0, : shorter.shape[1]], equal_nan=True)
    assert features([SALT, CANONICAL]).shape[1] == shorter.shape[1]
