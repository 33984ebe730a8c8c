"""Formulas, and sites beside them."""

import pytest

from cloud_core.structures.formula import Amount, compare, parse_formula


@pytest.mark.parametrize(
    ("text", "amounts"),
    [
        ("Na Cl", {"Na": 1, "Cl": 1}),
        ("Na4Cl4", {"Na": 4, "Cl": 4}),
        ("C6 H12 O6", {"C": 6, "H": 12, "O": 6}),
        ("Fe0.95 O", {"Fe": 0.95, "O": 1}),
        ("D2 O", {"H": 2, "O": 1}),
        ("H1 D1 O1", {"H": 2, "O": 1}),
        ("FE2 O3", {"Fe": 2, "O": 3}),
        ("CO2", {"C": 1, "O": 2}),
        ("NA1 CL1", {"Na": 1, "Cl": 1}),
        ("Al1.96(2) Si.04 O3", {"Al": 1.96, "Si": 0.04, "O": 3}),
        ("Ti1 Vac1 O2", {"Ti": 1, "O": 2}),
        ("Fe2(O)3", {"Fe": 2, "O": 3}),
        ("(Fe2 O3)", {"Fe": 2, "O": 3}),
        ("(Na Cl)2", {"Na": 2, "Cl": 2}),
        ("Mg(OH)2", {"Mg": 1, "O": 2, "H": 2}),
        ("K4 [Fe (C N)6]", {"K": 4, "Fe": 1, "C": 6, "N": 6}),
        ("((C2 H5)2 N)3 P", {"C": 12, "H": 30, "N": 3, "P": 1}),
        ("(Mg0.9 Fe0.1)2 Si O4", {"Mg": 1.8, "Fe": 0.2, "Si": 1, "O": 4}),
        ("Pb(Zr0.52Ti0.48)O3", {"Pb": 1, "Zr": 0.52, "Ti": 0.48, "O": 3}),
        ("(C H3)2 N H2 1+, Pb I3 1-", {"C": 2, "H": 8, "N": 1, "Pb": 1, "I": 3}),
        ("C6 H5 O7 3-, 3(Na 1+)", {"C": 6, "H": 5, "O": 7, "Na": 3}),
        ("Cu S O4 . 5 H2 O", {"Cu": 1, "S": 1, "O": 9, "H": 10}),
        ("CuSO4·5H2O", {"Cu": 1, "S": 1, "O": 9, "H": 10}),
        ("Si O2 *0.5(H2 O)", {"Si": 1, "O": 2.5, "H": 1}),
        ("C12 H24 N2 1+", {"C": 12, "H": 24, "N": 2}),
    ],
)
def test_a_formula_is_read(text: str, amounts: dict[str, float]) -> None:
    found = parse_formula(text)
    assert found is not None
    assert {element: amount.value for element, amount in found.items()} == pytest.approx(amounts)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Nax Cl",
        "C6 H6 X2",
        "?",
        "Na-Cl",
        "Zz1",
        "Mg(OH",
        "Mg)OH(",
        "(Mg]O",
        "Fe2 O3-0.5",
        "C6 H12 x(H2 O)",
        "CuSO4.5H2O",
        "Fe 2 O 3",
        "Na (x)",
    ],
)
def test_what_is_not_understood_is_none(text: str) -> None:
    assert parse_formula(text) is None


def sites(**amounts: float) -> dict[str, Amount]:
    return {element: Amount(amount) for element, amount in amounts.items()}


def agrees(formula: str, **amounts: float) -> bool:
    found = parse_formula(formula)
    assert found is not None
    return compare(found, sites(**amounts)).agrees


def test_the_ratio_decides() -> None:
    assert agrees("Na Cl", Na=4, Cl=4)
    assert agrees("Na4 Cl4", Na=1, Cl=1)
    assert not agrees("Na Cl", Na=4, Cl=3)
    assert not agrees("Na Cl", Na=4, Cl=4, O=1)
    assert not agrees("Na Cl O", Na=4, Cl=4)
    assert not agrees("C240 N", C=239, N=1)


def test_digits_are_allowed_for() -> None:
    assert agrees("Fe0.33 O", Fe=1, O=3)
    assert not agrees("Fe0.33 O", Fe=1.1, O=3)
    found = parse_formula("Fe O3")
    assert found is not None
    assert compare(found, {"Fe": Amount(0.99, 0.01), "O": Amount(3)}).agrees
    assert not compare(found, {"Fe": Amount(0.95, 0.01), "O": Amount(3)}).agrees


def test_hydrogen_never_refuses() -> None:
    found = parse_formula("C6 H6")
    assert found is not None
    assert (compare(found, sites(C=12)).agrees, compare(found, sites(C=12)).hydrogen) == (True, -1)
    assert compare(found, sites(C=12, H=12)).hydrogen == 0
    assert compare(found, sites(C=12, H=20)).hydrogen == 1
    assert compare(found, sites(C=12)).units == pytest.approx((2, 2), rel=1e-3)


def test_what_is_short_is_named() -> None:
    found = parse_formula("C4 H4 Fe N2")
    assert found is not None
    comparison = compare(found, sites(C=4, H=4, Fe=1, N=1))
    assert (comparison.agrees, comparison.short, comparison.lacking) == (False, ("N",), ())
    assert compare(found, sites(C=4, H=4, Fe=1)).lacking == ("N",)
