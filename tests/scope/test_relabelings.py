"""The committed relabelings against the normalisers, derived from the group operations."""

import gzip
from pathlib import Path

import pytest
import yaml

from cloud_core.scope.tables import ENANTIOMORPHS, space_groups
from tests.scope.normaliser import permutations

# Triclinic and monoclinic groups with more relabelings than the shared table, and some of each system.
SOME = (1, 2, 3, 10, 11, 12, 13, 14, 15, 16, 62, 92, 152, 166, 194, 216)


@pytest.mark.parametrize("number", SOME)
def test_relabelings_are_those_of_the_normaliser(number: int) -> None:
    group = space_groups()[number]
    assert permutations(number, len(group.multiplicities)) == set(group.relabelings)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_relabelings_are_those_of_the_normalisers() -> None:
    for number, group in space_groups().items():
        if number not in SOME:
            assert permutations(number, len(group.multiplicities)) == set(group.relabelings), number


def test_relabelings_are_groups_that_keep_multiplicities() -> None:
    for group in space_groups().values():
        letters = "".join(group.multiplicities)
        assert group.relabelings[0] == letters
        assert len(set(group.relabelings)) == len(group.relabelings)
        for images in group.relabelings:
            assert sorted(images) == sorted(letters)
            for letter, image in zip(letters, images, strict=True):
                assert group.multiplicities[letter] == group.multiplicities[image]
        known = set(group.relabelings)
        some = group.translations[:: max(1, len(known) // 12)]
        assert all(images.translate(table) in known for images in group.relabelings for table in some)


def test_the_shared_table_is_contained(shared: Path) -> None:
    with gzip.open(shared / "reference" / "wyckoff-position-relabelings.yaml.gz") as file:
        table = yaml.safe_load(file)
    larger = set()
    for number, maps in table.items():
        group = space_groups()[int(number)]
        known = {
            "".join(chr(m[ord(x)]) if isinstance(m[ord(x)], int) else m[ord(x)] for x in group.multiplicities)
            for m in maps
        }
        assert known <= set(group.relabelings)
        if len(known) < len(group.relabelings):
            larger.add(int(number))
    assert larger == {2, 3, 10, 11, 12, 13, 14}


def test_sizes_that_theory_gives() -> None:
    """The inversion centres of P-1 are an affine space over GF(2): |AGL(3, 2)| = 1344, |AGL(2, 2)| = 24."""
    sizes = {number: len(group.relabelings) for number, group in space_groups().items()}
    assert (sizes[2], sizes[3], sizes[10], sizes[11]) == (1344, 24, 48, 24)
    assert all(sizes[high] == sizes[low] for high, low in ENANTIOMORPHS.items())
