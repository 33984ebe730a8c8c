"""Orbits: images in the cell, and rounded sites on special positions."""

import numpy as np
import pytest

from cloud_core.structures.cif_sites import _position
from cloud_core.structures.lattice import lattice_from_parameters
from cloud_core.structures.orbits import orbit
from cloud_core.structures.space_group import hall_operators

HEXAGONAL = lattice_from_parameters(5.2, 5.2, 8.5, 90, 90, 120)
LARGE = lattice_from_parameters(12.4, 12.4, 10.1, 90, 90, 120)
CUBIC = lattice_from_parameters(8.1, 8.1, 8.1, 90, 90, 90)


@pytest.mark.parametrize(
    ("words", "multiplicity", "exact"),
    [
        (("0.3333", "0.6667", "0.062"), 4, (1 / 3, 2 / 3, 0.062)),
        (("0.333", "0.667", "0.062"), 4, (1 / 3, 2 / 3, 0.062)),
        (("0.33", "0.67", "0.25"), 2, (1 / 3, 2 / 3, 0.25)),
        (("0.33", "0.66", "0.25"), 2, (1 / 3, 2 / 3, 0.25)),  # cut off
        (("0.831", "0.661", "0.25"), 6, None),  # x, 2x - 1, 1/4: 0.8305, 0.661
        (("0.8305", "0.6610", "0.25"), 6, (0.8305, 0.661, 0.25)),
        (("0.1666", "0.3333", "0.25"), 6, None),
        (("0.83", "0.66", "0.25"), 6, None),
        (("0.001", "0.000", "0.25"), 12, None),  # off the axis by more than half a unit: stays split
        (("0.82", "0.66", "0.25"), 12, None),  # 0.1 Å off the mirror
    ],
)
def test_multiplicities_in_194(
    words: tuple[str, str, str], multiplicity: int, exact: tuple[float, float, float] | None
) -> None:
    assert HEXAGONAL is not None
    position, reach = _position(words, "X")
    found = orbit(position, reach, hall_operators("-P 6c 2c"), HEXAGONAL)
    assert len(found.images) == multiplicity
    if exact is not None:
        assert found.position == pytest.approx(exact, abs=1e-6)
    if found.merged > 1:
        assert np.all(np.abs(np.array(found.position) - position) <= np.array(reach))


def test_few_digits_in_a_large_cell() -> None:
    assert LARGE is not None
    for words, multiplicity in ((("0.333", "0.667", "0.0"), 4), (("0.174", "0.348", "0.25"), 6)):
        position, reach = _position(words, "Si")
        assert len(orbit(position, reach, hall_operators("-P 6c 2c"), LARGE).images) == multiplicity


def test_no_site_is_moved_by_more_than_a_tenth_of_an_angstrom() -> None:
    """0.26 is 1/4 by no rounding, and 0.3 could be: 0.4 Å away it stays."""
    assert CUBIC is not None
    for words in (("0.26", "0.25", "0.25"), ("0.3", "0.25", "0.25")):
        position, reach = _position(words, "X")
        found = orbit(position, reach, hall_operators("-F 4 2 3"), CUBIC)
        assert found.merged == 1
        assert found.position == position


def test_without_merging_a_site_stays_as_it_is_written() -> None:
    assert HEXAGONAL is not None
    position, reach = _position(("0.333", "0.667", "0.062"), "X")
    found = orbit(position, reach, hall_operators("-P 6c 2c"), HEXAGONAL, merge=False)
    assert len(found.images) == 12 and found.merged == 1
