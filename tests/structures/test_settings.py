"""Crystals whose answer is known, written in every setting and in many ways: read right, or refused; never
wrong.

The crystals are made up in the settings of gemmi's table or taken from the Materials Project and put into
them (`crystals`). A kind of text (`sibling_kinds`) either leaves no doubt, or may be refused, or must be.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import gemmi
import numpy as np
import pandas as pd
import pytest

from cloud_core.scope import encode
from cloud_core.structures import StructureError
from tests.structures.crystals import Crystal, in_setting, is_of, made_up, same_distances, settings
from tests.structures.sibling_kinds import KINDS, MAY, MUST, NEVER, Sibling


def outcome(text: str) -> tuple[str, tuple[str, ...]]:
    """The key and the flags of a text, or the reason of its refusal."""
    try:
        scope = encode(text)
    except StructureError as error:
        return f"refused {error.reason.value}", ()
    return str(scope.element_key), scope.flags


def check(siblings: Iterator[Sibling], may_be_refused: float = 0.0) -> Counter[str]:
    """Read each text; fail with those that are wrong. Returns how many came out in which way."""
    wrong: list[str] = []
    tally: Counter[str] = Counter()
    doubtful = refused = 0
    for sibling in siblings:
        said, flags = outcome(sibling.text)
        is_refusal = said.startswith("refused ")
        tally["refused" if is_refusal else "read"] += 1
        if is_refusal:
            fine = sibling.refused != NEVER
        else:
            fine = said == sibling.key and sibling.refused != MUST
            fine = fine and (sibling.flag is None or sibling.flag in flags)
        if sibling.refused == MAY:
            doubtful += 1
            refused += is_refusal
        if not fine:
            tally["wrong"] += 1
            expected = f"not {sibling.key} (refused: {sibling.refused})"
            wrong.append(f"{sibling.name}: {said} {flags}, {expected}\n{sibling.text}")
    heads = "\n".join(text.partition("\n")[0] for text in wrong[:60])
    assert not wrong, f"{len(wrong)} of {tally.total()} wrong:\n{heads}\n\nthe first:\n{wrong[0]}"
    assert refused <= may_be_refused * doubtful, f"{refused} of {doubtful} refused"
    return tally


# Crystals.


@pytest.fixture(scope="module")
def crystals(shared: Path) -> list[Crystal]:
    """Some made up, some real, in settings drawn with a fixed seed."""
    rng = np.random.default_rng(2718)
    drawn = [settings()[i] for i in rng.choice(len(settings()), 12, replace=False)]
    origins = [setting for setting in settings() if setting.table.ext in ("1", "2", "H", "R")]
    drawn += [origins[i] for i in rng.choice(len(origins), 8, replace=False)]
    return [made_up(setting, rng) for setting in drawn] + real_crystals(shared, rng, 8, 1)


@pytest.fixture(scope="module")
def all_crystals(shared: Path) -> list[Crystal]:
    """One made up in each setting; of each group in the sample of the Materials Project one in four
    settings."""
    rng = np.random.default_rng(577)
    return [made_up(setting, rng) for setting in settings()] + real_crystals(shared, rng, 230, 4)


def real_crystals(shared: Path, rng: np.random.Generator, groups: int, each: int) -> list[Crystal]:
    """Small crystals of the Materials Project in `each` settings of so many space groups."""
    table = pd.read_csv(
        shared / "data" / "mp_cif_csv" / "mp_20_biternary_val.csv.gz", usecols=["cif", "spacegroup.number"]
    )
    table = table[table["spacegroup.number"] > 2]
    sizes = table["cif"].str.len()
    smallest = table.loc[sizes.groupby(table["spacegroup.number"]).idxmin()]
    crystals: list[Crystal] = []
    for row in rng.permutation(len(smallest))[:groups]:
        text, number = smallest.iloc[row]
        block = gemmi.cif.read_string(text).sole_block()
        small = gemmi.make_small_structure_from_block(block)
        lattice = np.array(small.cell.orth.mat.tolist()).T
        fractions = np.array([site.fract.tolist() for site in small.sites])
        elements = [site.element.name for site in small.sites]
        if "H" in elements:  # of which a formula may hold more than the sites
            continue
        choices = [setting for setting in settings() if setting.number == number and setting.hall_number]
        for i in rng.permutation(len(choices))[:each]:
            crystal = in_setting(lattice, fractions, elements, choices[i])
            if crystal is not None and len(crystal.cell) <= 120 and is_of(crystal, int(number)):
                crystals.append(crystal)
    return crystals


@pytest.fixture(scope="module")
def hexagonal_crystals() -> list[Crystal]:
    rng = np.random.default_rng(36)
    hexagonal = [
        setting for setting in settings() if 143 <= setting.number <= 194 and setting.table.ext != "R"
    ]
    drawn = rng.choice(len(hexagonal), 16, replace=False)
    return [made_up(hexagonal[i], rng) for i in drawn]


def siblings_of(kind: str, crystals: Sequence[Crystal]) -> Iterator[Sibling]:
    make, _ = KINDS[kind]
    for i, crystal in enumerate(crystals):
        yield from make(crystal, np.random.default_rng([i, len(crystals)]))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "thirds"])
def test_a_crystal_is_read_right_or_refused(kind: str, crystals: list[Crystal]) -> None:
    tally = check(siblings_of(kind, crystals), KINDS[kind][1])
    assert tally["read"] > 5


def test_thirds_are_read_in_any_rounding(hexagonal_crystals: list[Crystal]) -> None:
    tally = check(siblings_of("thirds", hexagonal_crystals))
    assert tally["read"] > 20


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", KINDS)
def test_crystals_in_all_settings_are_read_right_or_refused(kind: str, all_crystals: list[Crystal]) -> None:
    check(siblings_of(kind, all_crystals), KINDS[kind][1])


def test_the_truth_is_the_same_crystal_in_each_setting(shared: Path) -> None:
    """The answers above are worth something: spglib sees one group and one set of distances in all
    settings."""
    crystals = real_crystals(shared, np.random.default_rng(4), 6, 4)
    by_number: dict[int, list[Crystal]] = {}
    for crystal in crystals:
        by_number.setdefault(crystal.setting.number, []).append(crystal)
    assert sum(len(group) for group in by_number.values()) > 8
    for number, group in by_number.items():
        assert len({crystal.key for crystal in group}) == 1
        for crystal in group:
            assert is_of(crystal, number)
            assert same_distances(crystal.cell, group[0].cell)
