"""The resolved form: which element sits on which position, one string for one crystal."""

from collections.abc import Iterator
from itertools import combinations_with_replacement, permutations, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_core.scope import (
    EncoderSettings,
    Scope,
    ScopeError,
    Tokenizer,
    canonicalise,
    decode,
    encode,
    equivalent,
    fingerprint,
    resolve,
)
from cloud_core.scope.encoder import encode_cell
from cloud_core.scope.grammar import FRACTIONS, Parts
from cloud_core.scope.kinds import fraction_text
from cloud_core.scope.resolved import key_and_head
from cloud_core.scope.tables import ENANTIOMORPHS, space_groups
from cloud_core.scope.tokenizer import ELEMENT, FRACTION, GENERATOR, SPECIAL, WYCKOFF, in_vocabulary
from cloud_core.structures import Cell
from cloud_core.structures.cif import read_cif
from tests.scope.disturbance import disturbed, mirrored
from tests.scope.test_golden import ROWS, golden_cell

RESOLVED = EncoderSettings(forms=("resolved",))
CHECKED = EncoderSettings(check_tolerance=True)
CUBE = 4.2 * np.eye(3)
CENTRE = np.array([[0, 0, 0], [0.5, 0.5, 0.5]])
SPINEL = space_groups()[227].generators


def caesium_chloride(*sites: dict[str, float]) -> Cell:
    return Cell(CUBE, tuple(",".join(site) for site in sites), CENTRE, sites)


def resolved(cell: Cell) -> str:
    text = encode_cell(cell, RESOLVED).resolved
    assert text is not None
    return text


def test_forms_that_are_asked_for() -> None:
    cell = Cell(CUBE, ("Cs", "Cl"), CENTRE)
    scope = encode(cell, ("resolved",))
    head = "1 4 b O O O c O O O d O O O e O O O 0"
    assert scope.resolved == f"{head} | 1a Cl 1b Cs | Cl 0.5 Cs 0.5"
    # One search gives all that the table keeps of a crystal.
    assert scope.canonical == f"{head} | 1a 1b | Cl 0.5 Cs 0.5"
    assert (scope.element_key, scope.n_atoms_primitive) == ("221 Cl:a Cs:b", 2)
    assert encode(cell).resolved is None
    assert encode(cell, ("official",)).resolved is None
    both = encode(cell, ("resolved", "official"))
    assert (both.resolved, both.canonical) == (scope.resolved, scope.canonical)
    assert both.official is not None
    assert both.space_group_official == 221


def test_the_fingerprint_is_that_of_the_strings_that_are_made() -> None:
    both = EncoderSettings(forms=("canonical", "resolved"))
    assert fingerprint(RESOLVED) == fingerprint(both) != fingerprint(EncoderSettings())


def test_where_spglib_fails_the_resolved_form_is_kept() -> None:
    fractions = np.array([[0, 0, 0], [0, 0, 0.125], [0.4, 0.5, 0.45]])
    molecule = Cell(np.diag([4.0, 5.0, 6.0]), ("H", "H", "H"), fractions)
    scope = encode(molecule, settings=EncoderSettings(symprec=1.0, forms=("resolved", "official")))
    assert scope.official is None
    assert "official_missing" in scope.flags
    assert scope.resolved == encode(molecule, settings=EncoderSettings(1.0, forms=("resolved",))).resolved


def test_mixed_and_partly_occupied_sites() -> None:
    text = resolved(caesium_chloride({"Na": 0.75, "K": 0.25}, {"Cl": 0.9}))
    assert text.endswith("| 1a Cl 0.9 1b K 0.25 Na 0.75 | Cl 0.47 K 0.13 Na 0.39")
    assert decode(text).occupants == ((("Cl", 0.9),), (("K", 0.25), ("Na", 0.75)))
    # Charges and isotopes are no part of it.
    text = resolved(caesium_chloride({"D": 0.5, "H": 0.5}, {"Fe2+": 0.5, "Fe3+": 0.25, "Mg2+": 0.25}))
    assert text.endswith("| 1a Fe 0.75 Mg 0.25 1b H | Fe 0.38 H 0.5 Mg 0.12")


def test_occupancies_are_those_of_the_key_in_hundredths() -> None:
    assert {fraction_text(i / 10000) for i in range(10001)} == FRACTIONS
    close = [
        encode_cell(caesium_chloride({"Na": x, "K": 1 - x}, {"Cl": 1.0}), RESOLVED) for x in (0.751, 0.7512)
    ]
    assert close[0].element_key != close[1].element_key
    assert close[0].resolved == close[1].resolved
    assert resolved(caesium_chloride({"Cs": 0.997}, {"Cl": 1.0})).split(" | ")[1] == "1a Cl 1b Cs"
    assert (
        resolved(caesium_chloride({"Cs": 0.997, "K": 0.003}, {"Cl": 1})).split(" | ")[1]
        == "1a Cl 1b Cs 1.0 K 0.0"
    )
    # Two mixtures that are one in hundredths are sorted and counted as one: "b" and "a" change places.
    key, head = key_and_head(225, {"K0.2488,Na0.7512": "b", "K0.2512,Na0.7488": "b", "Cl": "a"})
    assert key == "225 Cl:a K0.2488,Na0.7512:b K0.2512,Na0.7488:b"
    assert head.split(" | ")[1] == "4a Cl 4b K 0.25 Na 0.75 4b K 0.25 Na 0.75"


def spinel(on_8a: dict[str, float], on_16d: dict[str, float]) -> Cell:
    """In 227, origin at the inversion centre: 8a, 16d, 32e (u = 0.2624); a 8.08 Å."""
    tetrahedral, octahedral = [[1 / 8] * 3, [7 / 8] * 3], [[1 / 2] * 3]
    octahedral += [[1 / 2, 1 / 4, 1 / 4], [1 / 4, 1 / 2, 1 / 4], [1 / 4, 1 / 4, 1 / 2]]
    u = 0.2624
    oxygen = [[u, u, u], [u, 1 / 4 - u, 1 / 4 - u], [1 / 4 - u, u, 1 / 4 - u], [1 / 4 - u, 1 / 4 - u, u]]
    oxygen += [[-x for x in point] for point in oxygen]
    centring = [[0, 0, 0], [0, 1 / 2, 1 / 2], [1 / 2, 0, 1 / 2], [1 / 2, 1 / 2, 0]]
    points = np.array([np.add(p, c) for p in tetrahedral + octahedral + oxygen for c in centring]) % 1
    sites = (on_8a,) * 8 + (on_16d,) * 16 + ({"O": 1.0},) * 32
    return Cell(8.08 * np.eye(3), tuple(",".join(site) for site in sites), points, sites)


def test_normal_and_inverse_spinels_are_told_apart() -> None:
    mixed = {"Al": 0.5, "Mg": 0.5}
    normal = encode_cell(spinel({"Mg": 1.0}, {"Al": 1.0}), RESOLVED)
    inverse = encode_cell(spinel({"Al": 1.0}, mixed), RESOLVED)
    assert normal.canonical == inverse.canonical
    assert str(normal.resolved).split(" | ")[1] == "16c Al 8b Mg 32e O"
    assert str(inverse.resolved).split(" | ")[1] == "8a Al 16d Al 0.5 Mg 0.5 32e O"
    half_way = resolved(spinel({"Al": 0.5, "Mg": 0.5}, {"Al": 0.75, "Mg": 0.25}))
    assert len({normal.resolved, inverse.resolved, half_way}) == 3


def test_orderings_of_a_half_heusler_are_three_strings() -> None:
    lattice = 5.94 / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0.0]])
    points = np.array([[0, 0, 0], [0.25] * 3, [0.5] * 3])
    texts: dict[str, set[str]] = {}
    for order in permutations(("Ti", "Ni", "Sn")):
        texts.setdefault(order[1], set()).add(resolved(Cell(lattice, order, points)))
    # By the element in the middle; the outer two are equivalent.
    assert all(len(found) == 1 for found in texts.values())
    assert len(set.union(*texts.values())) == 3


def test_a_and_b_of_perovskites_do_not_change_places(shared: Path) -> None:
    table = pd.read_csv(shared / "data/cdvae/perov_5_val.csv.gz", usecols=["cif"], dtype=str)
    swaps = 0
    for cell in map(read_cif, table["cif"][:400]):
        names = list(dict.fromkeys(cell.species))
        scope = encode_cell(cell, RESOLVED)
        if scope.space_group not in (99, 221) or sorted(map(cell.species.count, names)) != [1, 1, 3]:
            continue
        a, b = [name for name in names if cell.species.count(name) == 1]
        swapped = tuple([{a: b, b: a}.get(name, name) for name in cell.species])
        other = encode_cell(Cell(cell.lattice, swapped, cell.fractions), RESOLVED)
        assert other.canonical == scope.canonical
        assert other.resolved != scope.resolved
        swaps += 1
    assert swaps > 90


SOME_LETTERS = st.sampled_from(
    [2, 12, 47, 62, 76, 78, 92, 96, 139, 141, 152, 154, 166, 194, 212, 213, 216, 225, 227]
)
OCCUPANTS = st.one_of(
    st.sampled_from(["Cl", "Na", "At"]).map(lambda element: ((element, 1.0),)),
    st.sampled_from([(("Fe", 0.9),), (("Fe", 0.7), ("Mg", 0.3)), (("Mg", 0.29), ("Na", 0.57), ("O", 0.14))]),
)


@st.composite
def made_up(draw: st.DrawFn) -> Parts:
    """Parts of a resolved string, in any order."""
    group = space_groups()[draw(SOME_LETTERS)]
    orbits = draw(
        st.lists(st.tuples(st.sampled_from(sorted(group.symbols)), OCCUPANTS), min_size=1, max_size=6)
    )
    totals: dict[str, float] = {}
    for letter, occupant in orbits:
        for element, occupancy in occupant:
            totals[element] = totals.get(element, 0.0) + group.multiplicities[letter] * occupancy
    whole = sum(totals.values())
    return Parts(
        group.number,
        tuple(group.symbols[letter] for letter, _ in orbits),
        tuple(totals),
        tuple(float(fraction_text(total / whole)) for total in totals.values()),
        tuple(occupant for _, occupant in orbits),
    )


@given(made_up(), st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_made_up_strings_round_trip(parts: Parts, seed: int) -> None:
    assert decode(parts.text) == parts
    least = resolve(parts.text)
    assert resolve(least) == least
    assert canonicalise(least) == canonicalise(parts.text)
    assert canonicalise(least).split(" | ")[2] == least.split(" | ")[2]
    other = equivalent(parts.text, np.random.default_rng(seed))
    assert resolve(other) == least
    assert sorted(decode(other).composition) == sorted(parts.composition)
    assert Tokenizer().decode(Tokenizer().encode(least)) == least


def test_strings_are_equal_exactly_where_a_relabeling_relates_them() -> None:
    """Against a search over the relabelings: all ways to put Cl, Cl and Na on four letters."""
    for number in (2, 47, 139, 216, 221, 225):
        group = space_groups()[number]
        letters = list(group.symbols)[:5]
        placed = [
            tuple(sorted((("Cl", a), ("Cl", b), ("Na", c))))
            for (a, b), c in product(combinations_with_replacement(letters, 2), letters)
        ]
        texts = {}
        for orbits in placed:
            occupation = {"Cl": orbits[0][1] + orbits[1][1], "Na": orbits[2][1]}
            texts[orbits] = key_and_head(number, occupation)
        for one, other in product(placed[:15], placed):
            related = any(
                tuple(sorted((element, letter.translate(table)) for element, letter in one)) == other
                for table in group.translations
            )
            assert (texts[one][1] == texts[other][1]) == related, (number, one, other)
            assert (texts[one][0] == texts[other][0]) == related


def test_the_hands_of_a_pair_share_a_string() -> None:
    rng = np.random.default_rng(0)
    for high, low in ENANTIOMORPHS.items():
        texts = [
            f"{space_groups()[n].generators} | {space_groups()[n].symbols['a']} Si | Si 1.0"
            for n in (high, low)
        ]
        assert resolve(texts[0]) == resolve(texts[1])
        assert decode(resolve(texts[0])).space_group == low
        assert {decode(equivalent(texts[0], rng)).space_group for _ in range(20)} == {high, low}


TEXT = f"{SPINEL} | 8a Al 16d Al 0.5 Mg 0.5 32e O | Al 0.29 Mg 0.14 O 0.57"


@pytest.mark.parametrize(
    ("old", "new", "at", "reason"),
    [
        ("8a Al", "8a", " 16d", "nothing sits on 8a"),
        ("32e O |", "32e |", " | Al", "nothing sits on 32e"),
        ("8a Al", "Al", "Al 16d", "'Al' is no Wyckoff symbol"),
        ("8a Al", "8b Xx", "Xx", "'Xx' is no element"),
        ("16d Al", "16e Al", "16e", "no Wyckoff symbol of space group 227"),
        ("Al 0.5 Mg 0.5", "Al Mg", "Mg 32e", "'Mg' is no fraction"),
        ("Al 0.5 Mg 0.5", "Al 0.5 Mg", " 32e", "the fraction of Mg is missing"),
        ("Al 0.5 Mg 0.5", "Al 0.5 Al 0.5", "Al 0.5 32e", "an element appears twice"),
        ("Al 0.5 Mg 0.5", "Al 0.5 Mg 0.6", "Al 0.5 Mg", "the occupancies sum to 1.10"),
        ("Al 0.5 Mg 0.5", "Al 0.5 Mg 0.500", "0.500", "'0.500' is no fraction"),
        ("8a Al", "8a Al 1.0", "1.0", "left out"),
        ("8a Al", "8a 0.5", "0.5 16d", "'0.5' is no element"),
        ("8a Al", "8a  Al", " Al 16d", "blank"),
        ("Mg 0.14 O 0.57", "Mg 0.71", "", "O sits on an orbit and is not in the composition"),
        (" O 0.57", " Na 0.0 O 0.57", "Na", "Na sits on no orbit"),
        ("Al 0.29 Mg 0.14", "Al 0.14 Mg 0.29", "Al 0.14", "0.14 of Al is not what the orbits hold"),
        (" O 0.57", " O 0.67", "Al 0.29", "sum to 1.10"),
        (" O 0.57", " O", "", "the fraction of O is missing"),
        ("| Al 0.29 Mg 0.14 O 0.57", "| Al Mg O", "Mg O", "'Mg' is no fraction"),
        ("0 7 a", "0 9 a", "9 a", "generators of no space group"),
    ],
)
def test_invalid_strings_are_refused_with_position_and_reason(
    old: str, new: str, at: str, reason: str
) -> None:
    assert decode(TEXT).text == TEXT
    text = TEXT.replace(old, new, 1)
    assert text != TEXT
    with pytest.raises(ScopeError, match=reason) as caught:
        decode(text)
    assert text[caught.value.position :].startswith(at)
    assert at or caught.value.position == len(text)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_no_cut_or_swap_of_words_breaks_the_decoder(data: st.DataObject) -> None:
    words = TEXT.split(" ")
    for _ in range(data.draw(st.integers(1, 3))):
        i, j = data.draw(st.integers(20, len(words) - 1)), data.draw(st.integers(20, len(words) - 1))
        words[i] = words[j]
    text = " ".join(words)
    try:
        assert decode(text).text == text
    except ScopeError as error:
        assert 0 <= error.position <= len(text)


def test_other_forms_are_not_resolved() -> None:
    for text in ("1 0 0 | 2i | C 1.0", "1 0 0 | 2i 2i | C C"):
        with pytest.raises(ScopeError, match="only the resolved form"):
            resolve(text)


def test_isotopes_are_folded_in_strings() -> None:
    assert resolve("1 0 0 | 2i D 2i H 2i D 0.5 H 0.5 | D 0.5 H 0.5") == "1 0 0 | 2i H 2i H 2i H | H 1.0"


def test_fields_of_its_tokens() -> None:
    tokenizer = Tokenizer()
    fields = tokenizer.field_of(tokenizer.encode("1 0 0 | 1a B 0.9 2i At | B 0.18 At 0.82"))
    at = [ELEMENT, ELEMENT]  # two word pieces
    middle = [WYCKOFF, ELEMENT, FRACTION, WYCKOFF, *at]
    last = [ELEMENT, FRACTION, *at, FRACTION]
    assert list(fields) == [SPECIAL, *[GENERATOR] * 3, SPECIAL, *middle, SPECIAL, *last, SPECIAL]


def real_cells(shared: Path, counts: dict[str, int]) -> Iterator[tuple[str, Cell]]:
    """Set and cell, drawn from the Materials Project, WBM, perovskites and metal-organic frameworks."""
    data = shared / "data"
    rng = np.random.default_rng(11)
    for name, path, column in (
        ("mp", "crysxpp/mp_cifs_36737.parquet", "cif"),
        ("qmof", "qmof/qmof_cifs_sample.parquet", "cif"),
        ("perovskites", "cdvae/perov_5_val.csv.gz", "cif"),
    ):
        read = pd.read_csv if path.endswith("gz") else pd.read_parquet
        texts = read(data / path)[column]
        for i in rng.choice(len(texts), counts[name], replace=False):
            text = texts[i]
            yield name, read_cif(text.decode() if isinstance(text, bytes) else text)
    wbm = pd.read_parquet(data / "wbm/wbm_initial_structures.parquet")
    for row in wbm.iloc[rng.choice(len(wbm), counts["wbm"], replace=False)].itertuples():
        lattice, fractions = np.array(row.lattice).reshape(3, 3), np.array(row.abc).reshape(-1, 3)
        yield "wbm", Cell(lattice, tuple(row.species.split()), fractions)


def check(cell: Cell, rng: np.random.Generator) -> tuple[Scope, bool]:
    """Its SCOPE, and whether another description of the crystal has the same; strings fit together."""
    scope = encode_cell(cell, RESOLVED)
    text = str(scope.resolved)
    assert decode(text).text == text == resolve(text)
    assert canonicalise(text) == scope.canonical == encode_cell(cell, EncoderSettings()).canonical
    assert resolve(equivalent(text, rng)) == text
    assert all(map(in_vocabulary, text.split())) == ("not_in_vocabulary" not in scope.flags)
    moved = [disturbed(cell, rng)]
    moved += (
        [mirrored(cell, rng)] if scope.space_group in (76, 78, 92, 96, 144, 145, 152, 154, 169, 170) else []
    )
    if all(encode_cell(other, RESOLVED).resolved == text for other in moved):
        return scope, True
    assert "tolerance_sensitive" in encode_cell(cell, CHECKED).flags, (text, moved)
    return scope, False


def check_all(shared: Path, counts: dict[str, int]) -> int:
    """How many moved; prints lengths. Equal strings are those of an equal key and composition."""
    rng = np.random.default_rng(5)
    tokenizer = Tokenizer()
    facts: dict[str, set[tuple[str, str]]] = {}
    strings: dict[tuple[str, str], set[str]] = {}
    lengths: dict[str, list[int]] = {}
    moved: list[str] = []
    for name, cell in real_cells(shared, counts):
        scope, same = check(cell, rng)
        moved += [] if same else [f"{name}: {scope.resolved}"]
        text = str(scope.resolved)
        fact = str(scope.element_key), text.split(" | ")[2]
        facts.setdefault(text, set()).add(fact)
        strings.setdefault(fact, set()).add(text)
        lengths.setdefault(name, []).append(len(tokenizer.encode(text)))
    assert all(len(found) == 1 for found in (*facts.values(), *strings.values()))
    for name, found in lengths.items():
        longer = [f"{np.mean(np.array(found) > size):.2%} above {size}" for size in (64, 128)]
        print(f"{name}: {len(found)} strings, {', '.join(longer)} tokens, at most {max(found)}")
    print(
        f"{len(moved)} moved, all sensitive to the tolerance; {len(facts)} different strings",
        *moved,
        sep="\n",
    )
    return len(moved)


def test_golden_cells() -> None:
    """Among them mixtures, vacancies, isotopes, supercells, enantiomorphs."""
    rng = np.random.default_rng(2)
    assert sum(not check(golden_cell(row), rng)[1] for row in ROWS) <= 1


def test_real_crystals(shared: Path) -> None:
    assert check_all(shared, {"mp": 50, "qmof": 10, "perovskites": 40, "wbm": 50}) <= 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twelve_thousand_real_crystals(shared: Path) -> None:
    """All 1,426 frameworks that are here."""
    assert check_all(shared, {"mp": 3574, "qmof": 1426, "perovskites": 3500, "wbm": 3500}) <= 3
