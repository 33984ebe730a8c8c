"""Operators, their groups, and the symbols that stand for them."""

import gemmi
import numpy as np
import pytest

from cloud_core.structures.space_group import (
    Operators,
    SymmetryError,
    closure,
    hall_operators,
    parse_operator,
    parse_operators,
    parse_symbol,
    settings,
    wyckoff_multiplicities,
)


def test_every_setting_is_a_group_of_its_number() -> None:
    for setting in settings():
        operators = setting.operators
        assert operators.is_group
        assert operators.number == setting.number
        known = gemmi.SpaceGroup(setting.symbol)
        assert len(operators) == len(list(known.operations()))
        assert (
            max(wyckoff_multiplicities()[setting.number].values()) % len(operators) == 0
            or len(operators) % max(wyckoff_multiplicities()[setting.number].values()) == 0
        )


@pytest.mark.parametrize(
    ("text", "triplet"),
    [
        ("x,y,z", "x,y,z"),
        (" X , Y+1/2 , -Z ", "x,y+1/2,-z"),
        ("1/2-x,.5+y,z", "-x+1/2,y+1/2,z"),
        ("-y+0.3333, x-y+.667, z", "-y+1/3,x-y+2/3,z"),
        ("x-y,+x,z+5/6", "x-y,x,z+5/6"),
        ("'-x, -y, z+0.25'", "-x,-y,z+1/4"),
    ],
)
def test_an_operator_is_read(text: str, triplet: str) -> None:
    rotation, translation = parse_operator(text)
    known = gemmi.Op(triplet)
    assert rotation == (np.array(known.rot) // gemmi.Op.DEN).tolist()
    assert translation == pytest.approx((np.array(known.tran) / gemmi.Op.DEN).tolist())


@pytest.mark.parametrize(
    "text", ["", "x,y", "x,y,z,w", "x,y,q", "x,y,0", "x,x,z", "x/2,y,z", "x,y,z+1/0", "3x,y,z", "x y,z,1"]
)
def test_what_is_no_operator_is_refused(text: str) -> None:
    with pytest.raises(SymmetryError):
        parse_operators([text])


def test_repeated_operators_count_once() -> None:
    assert len(parse_operators(["x,y,z", "-x,-y,-z", "x,y,z", "-x+1,-y,-z-2"])) == 2


def test_a_list_without_one_operator_is_no_group_and_generates_it() -> None:
    whole = hall_operators("-P 2ac 2n")
    for left_out in range(1, len(whole)):
        kept = [index for index in range(len(whole)) if index != left_out]
        part = Operators(whole.rotations[kept], whole.translations[kept])
        assert not part.is_group
        assert closure(part).codes == whole.codes


@pytest.mark.parametrize("texts", [["x,y,z", "x-2y,y,z"], ["x,y,z", "y,x-2y,z"]])
def test_operators_of_infinite_order_generate_nothing(texts: list[str]) -> None:
    with pytest.raises(SymmetryError):
        closure(parse_operators(texts))


def test_many_operators_are_refused() -> None:
    with pytest.raises(SymmetryError, match="more than any"):
        parse_operators(["x,y,z"] * 1_000_000)


def test_a_change_of_origin_keeps_the_shape() -> None:
    first, second = hall_operators("F 4d 2 3 -1d"), hall_operators("-F 4vw 2vw 3")
    assert first.codes != second.codes
    assert first.shape == second.shape
    assert hall_operators("-P 2ac 2n").shape != hall_operators("-P 2c 2ab").shape  # Pnma, Pbnm


SYMBOLS = {
    # old and unspaced spellings
    "F m 3 m": ["F m -3 m"],
    "FM3M": ["F m -3 m"],
    "Fm-3m": ["F m -3 m"],
    "P a 3": ["P a -3"],
    "P2_1/c": ["P 1 21/c 1"],
    "P2(1)/c": ["P 1 21/c 1"],
    "P_63/m_m_c": ["P 63/m m c"],
    "P_-6_2_m": ["P -6 2 m"],
    "P 63 / m m c": ["P 63/m m c"],
    "F 4/m -3 2/m": ["F m -3 m"],
    "P 21/n 21/m 21/a": ["P n m a"],
    # origins and axes
    "F d -3 m": ["F d -3 m:1", "F d -3 m:2"],
    "F d -3 m :2": ["F d -3 m:2"],
    "F d -3 m Z": ["F d -3 m:2"],
    "FD-3MS": ["F d -3 m:1"],
    "F d -3 m (origin 2)": ["F d -3 m:2"],
    "R -3 c": ["R -3 c:H", "R -3 c:R"],
    "R -3 cR": ["R -3 c:R"],
    "R -3 c H": ["R -3 c:H"],
    "H -3 m": ["R -3 m:H"],
    "P n m a:cab": ["P b n m"],
    "P 1 21/c 1:b1": ["P 1 21/c 1"],
    # a choice that the group does not have
    "P n m a :1": ["P n m a"],
}


@pytest.mark.parametrize("text", SYMBOLS)
def test_a_symbol_is_read(text: str) -> None:
    found = parse_symbol(text)
    assert found is not None
    assert [setting.symbol for setting in found.settings] == SYMBOLS[text]


@pytest.mark.parametrize(
    "text", ["", "garbage", "P 21/c 1 1 1", "P 31 2", "X -1", "F 4/d -3 2/m", "P n m a :2", "'" * 500]
)
def test_an_unknown_symbol_is_none(text: str) -> None:
    assert parse_symbol(text) is None


def test_a_short_monoclinic_symbol_is_the_standard_cell_choice() -> None:
    found = parse_symbol("P 21/m")
    assert found is not None and found.is_open
    assert [setting.symbol for setting in found.settings] == ["P 1 21/m 1"]
    assert {setting.symbol for setting in found.others} == {"P 1 1 21/m", "P 21/m 1 1"}
    long = parse_symbol("P 1 21/m 1")
    assert long is not None and not long.is_open and long.others == ()
