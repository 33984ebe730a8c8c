"""Strings to parts and back; what is refused, and where."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_core.scope import ScopeError, Tokenizer, decode
from cloud_core.scope.grammar import Parts
from cloud_core.scope.tables import space_groups
from cloud_core.scope.tokenizer import in_vocabulary
from cloud_core.structures.elements import SYMBOLS

TEXT = "1 4 a D D D b O O O g O O O c O O O 0 | 2b 4d 2a | Bi 0.25 B 0.5 Ru 0.25"


def test_parts() -> None:
    parts = decode(TEXT)
    assert parts.space_group == 139
    assert parts.wyckoff == ("2b", "4d", "2a")
    assert parts.composition == {"Bi": 0.25, "B": 0.5, "Ru": 0.25}
    full = decode("1 0 0 | 2i 2i 1a | C C O")
    assert full.is_full
    assert full.space_group == 2
    assert full.composition == {"C": 2 / 3, "O": 1 / 3}


def test_all_space_groups_and_letters_round_trip_in_vocabulary() -> None:
    tokenizer = Tokenizer()
    letters = 0
    for number, group in space_groups().items():
        for symbol in group.symbols.values():
            parts = Parts(number, (symbol,), ("C",), (1.0,))
            assert decode(parts.text) == parts
            assert all(in_vocabulary(word) for word in parts.text.split())
            assert tokenizer.decode(tokenizer.encode(parts.text)) == parts.text
            letters += 1
    assert len(space_groups()) == 230
    assert letters == 1731


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_made_up_parts_round_trip(data: st.DataObject) -> None:
    group = space_groups()[data.draw(st.integers(1, 230))]
    symbols = data.draw(st.lists(st.sampled_from(list(group.symbols.values())), min_size=1, unique=True))
    elements = data.draw(st.lists(st.sampled_from(SYMBOLS), min_size=1, max_size=6, unique=True))
    cuts = sorted(
        data.draw(st.lists(st.integers(0, 100), min_size=len(elements) - 1, max_size=len(elements) - 1))
    )
    ends = [0, *cuts, 100]
    fractions = tuple((b - a) / 100 for a, b in pairwise(ends))
    parts = Parts(group.number, tuple(symbols), tuple(elements), fractions)
    assert decode(parts.text) == parts
    full = Parts(group.number, tuple(symbols), tuple(elements * len(symbols))[: len(symbols)], ())
    assert decode(full.text) == full


@pytest.mark.parametrize(
    ("old", "new", "at", "reason"),
    [
        ("1 4 a D", "1 4 a X", "X", "generators of no space group"),
        ("2b 4d", "3b 4d", "3b", "no Wyckoff symbol of space group 139"),
        ("2b 4d", "2b  4d", " 4d", "blank"),
        ("2b 4d 2a", "2b 4d 2b", "2b |", "2b appears twice"),
        ("Bi 0.25 B", "Bi 0.250 B", "0.250", "no fraction"),
        ("Bi 0.25", "Xx 0.25", "Xx", "no element"),
        (" Ru 0.25", " Ru", "", "the fraction of Ru is missing"),
        ("Ru 0.25", "Bi 0.25", "Bi 0.25", "an element appears twice"),
        ("B 0.5", "B 0.9", "Bi", "sum to 1.40"),
        ("| Bi", "Bi", "1 4", "three fields"),
        ("2b 4d 2a", "", " | Bi", "expected a word"),
    ],
)
def test_invalid_strings_are_refused_with_position_and_reason(
    old: str, new: str, at: str, reason: str
) -> None:
    text = TEXT.replace(old, new)
    with pytest.raises(ScopeError, match=reason) as caught:
        decode(text)
    assert caught.value.position == (text.rindex(at) if at else len(text))


@given(st.text(max_size=80))
@settings(max_examples=200, deadline=None)
def test_no_text_breaks_the_decoder(text: str) -> None:
    try:
        assert decode(text).text == text
    except ScopeError as error:
        assert 0 <= error.position <= len(text)
