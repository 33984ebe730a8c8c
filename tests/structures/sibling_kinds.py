"""Kinds of text that a crystal is written as, and what may come of each."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import spglib

from tests.structures.cif_text import Statement, digits, spellings, write
from tests.structures.crystals import Crystal, Setting, Site, settings, stabiliser
from tests.structures.readings import (
    as_written,
    differ_by_origin,
    farthest_move,
    fits,
    readings,
    same_number,
    same_symbol,
)

_P1 = next(setting for setting in settings() if setting.symbol == "P 1")
NEVER, MAY, MUST = "never", "may", "must"


@dataclass(frozen=True)
class Sibling:
    """One text, and what may come of it.

    key: the element-resolved key of the crystal. refused: whether the reader may refuse the text. flag: one
    that the row must have where it is encoded.
    """

    name: str
    text: str
    key: str
    refused: str = NEVER
    flag: str | None = None


Kind = Callable[[Crystal, np.random.Generator], Iterator[Sibling]]


def pick(rng: np.random.Generator, *choices: str) -> str:
    return choices[int(rng.integers(len(choices)))]


def styled(operators: Sequence[str], style: str) -> list[str]:
    """Operators as other programs write them."""
    if style == "spaced":
        return [operator.replace(",", ", ") for operator in operators]
    if style == "shift first":
        return [
            ",".join(
                re.sub(r"^([-+xyz]+)\+(\d/\d)$", r"\2+\1", part).replace("+-", "-") for part in op.split(",")
            )
            for op in operators
        ]
    if style == "signs":
        return [
            ",".join(part if part[0] == "-" else f"+{part}" for part in op.split(",")) for op in operators
        ]
    if style == "capitals":
        return [operator.upper() for operator in operators]
    if style == "decimals":
        return [
            re.sub(r"(\d)/(\d)", lambda found: f"{int(found[1]) / int(found[2]):.6g}", op) for op in operators
        ]
    return list(operators)


def shuffled(crystal: Crystal, rng: np.random.Generator) -> list[str]:
    operators = crystal.setting.operators()
    return [operators[i] for i in rng.permutation(len(operators))]


def operators_alone(crystal: Crystal, rng: np.random.Generator) -> Iterator[Sibling]:
    for style in ("spaced", "shift first", "signs", "capitals", "decimals", "plain"):
        statement = Statement(
            styled(shuffled(crystal, rng), style),
            tags=pick(rng, "old", "new", "dotted"),
            formula=pick(rng, "sum", "cell", "unit"),
        )
        yield Sibling(f"{crystal.setting.symbol} operators {style}", write(crystal, statement), crystal.key)


def hall_alone(crystal: Crystal, rng: np.random.Generator) -> Iterator[Sibling]:
    setting = crystal.setting
    symbols = {setting.table.hall}
    if setting.hall_number is not None:
        symbols.add(spglib.get_spacegroup_type(setting.hall_number).hall_symbol.replace("=", '"'))
    for symbol in sorted(symbols):
        for spelling in (symbol, symbol.replace(" ", "_"), symbol.lower(), f" {symbol} "):
            statement = Statement(hall=spelling, tags=pick(rng, "old", "new", "dotted"))
            name = f"{setting.symbol} Hall {spelling!r}"
            yield Sibling(name, write(crystal, statement), crystal.key)


def symbol_with_setting(crystal: Crystal, rng: np.random.Generator) -> Iterator[Sibling]:
    known = crystal.setting.hall_number is not None
    for kind, symbol in spellings(crystal.setting):
        for number in (None, crystal.setting.number):
            statement = Statement(hm=symbol, number=number, tags=pick(rng, "old", "new", "dotted", "full"))
            doubt = NEVER if known and kind not in _UNUSUAL else MAY
            yield Sibling(f"{kind} {symbol!r} {number}", write(crystal, statement), crystal.key, doubt)


# Spellings that are read where they can be; refusing them is no fault.
_UNUSUAL = ("lower case", "unspaced upper case", "full", "screws as 2(1)")


def symbol_without_setting(crystal: Crystal, rng: np.random.Generator) -> Iterator[Sibling]:
    if crystal.setting.hall_number is None:
        return
    yield from _by_evidence(crystal, rng, same_symbol(crystal.setting), hm=crystal.setting.table.hm)
    short = crystal.setting.table.hm.replace(" ", "")
    yield from _by_evidence(crystal, rng, same_symbol(crystal.setting), hm=short)


def number_alone(crystal: Crystal, rng: np.random.Generator) -> Iterator[Sibling]:
    if crystal.setting.hall_number is None:
        return
    for sibling in _by_evidence(crystal, rng, same_number(crystal.setting), number=crystal.setting.number):
        # Which axes a number means is told by convention too; only a wrong crystal is a fault.
        yield replace(sibling, refused=MAY)


EVIDENCE = ("nothing", "unit", "sum", "cell", "density", "multiplicities")


def _multiplicities(crystal: Crystal) -> list[int]:
    return [site.multiplicity for site in crystal.sites]


def _by_evidence(
    crystal: Crystal,
    rng: np.random.Generator,
    candidates: Sequence[Setting],
    hm: str | None = None,
    number: int | None = None,
) -> Iterator[Sibling]:
    """The symmetry stated as given, with nothing beside it, with formula and Z, with the density."""
    for evidence in EVIDENCE:
        found = readings(crystal, candidates, evidence)
        certain = NEVER if found.keys == {crystal.key} else MUST
        doubt = certain if found.clear else MAY
        statement = Statement(
            hm=hm,
            number=number,
            formula=evidence if evidence in ("unit", "sum", "cell") else None,
            density=crystal.density if evidence == "density" else None,
            multiplicities=_multiplicities(crystal) if evidence == "multiplicities" else None,
            tags=pick(rng, "old", "new", "dotted"),
        )
        name = f"{crystal.setting.symbol} as {hm or number}, evidence {evidence}: {sorted(found.keys)}"
        yield Sibling(name, write(crystal, statement), crystal.key, doubt)


def contradicted(crystal: Crystal, rng: np.random.Generator) -> Iterator[Sibling]:
    """Operators of the crystal's setting with the name of another, and the other way round.

    A symbol without an origin is that of all origins: C m m a and C m m b are both C m m e.
    """
    truth = crystal.setting
    if truth.hall_number is None:
        return
    others = [
        other
        for other in (*same_number(truth), settings()[int(rng.integers(len(settings())))])
        if set(other.operators()) != set(truth.operators())
        and other.hall_number is not None
        and not (other.table.ext not in ("1", "2") and differ_by_origin(other, truth))
    ]
    if not others:
        return
    for formula in (None, "sum"):
        other = others[int(rng.integers(len(others)))]
        operators = shuffled(crystal, rng)
        name = f"{truth.symbol} contradicted by {other.symbol}, formula {formula}"
        right_operators = Statement(operators, formula=formula)
        wrong_operators = Statement(other.operators(), formula=formula)
        for kind, statement in (
            ("Hall", replace(right_operators, hall=other.table.hall)),
            ("symbol", replace(right_operators, hm=f"{other.table.hm} {_colon(other)}".strip())),
            ("number", replace(right_operators, number=other.number)),
            ("operators against Hall", replace(wrong_operators, hall=truth.table.hall)),
            (
                "operators against Hall and number",
                replace(wrong_operators, hall=truth.table.hall, number=truth.number),
            ),
        ):
            agreed = kind == "number" and other.number == truth.number
            found = readings(crystal, [truth, other], formula or "nothing")
            decided = found.clear and len(found.keys) == 1 and fits(other, crystal.lattice)
            if agreed or (decided and formula and kind != "number"):
                doubt = NEVER
            elif found.clear and len(found.keys) > 1 and kind != "number":
                doubt = MUST
            else:
                doubt = MAY
            yield Sibling(
                f"{name}, {kind} {sorted(found.keys)}", write(crystal, statement), crystal.key, doubt
            )


def identity_alone(crystal: Crystal, rng: np.random.Generator) -> Iterator[Sibling]:
    """The operator x,y,z alone beside the symbol: with all atoms of the cell, and with one of each orbit."""
    truth = crystal.setting
    symbol = f"{truth.table.hm}{_colon(truth)}"
    if truth.number < 3 or truth.hall_number is None or len(crystal.cell) * len(truth.rotations) > 2000:
        return
    everything = replace(
        crystal,
        setting=_P1,
        sites=tuple(Site(*at, 1) for at in zip(crystal.cell.species, crystal.cell.fractions, strict=True)),
    )
    for evidence in EVIDENCE[:-1]:
        statement = Statement(
            ["x,y,z"],
            hm=symbol,
            formula=evidence if evidence in ("unit", "sum", "cell") else None,
            density=crystal.density if evidence == "density" else None,
        )
        for name, written in (("all atoms", everything), ("one of each orbit", crystal)):
            found = readings(written, [_P1, truth], evidence)
            certain = NEVER if found.keys == {crystal.key} else MUST
            doubt = certain if found.clear else MAY
            kind = f"{truth.symbol} {name}, evidence {evidence}: {sorted(found.keys)}"
            yield Sibling(kind, write(written, statement), crystal.key, doubt)


def _colon(setting: Setting) -> str:
    """The origin or the axes of a symbol, as it stands behind it."""
    return f":{setting.table.ext}" if setting.table.ext in ("1", "2", "H", "R") else ""


def short_monoclinic(crystal: Crystal, rng: np.random.Generator) -> Iterator[Sibling]:
    """The symbol without its 1s, which the angles of the cell complete."""
    if not 3 <= crystal.setting.number <= 15 or crystal.setting.hall_number is None:
        return
    short = _without_ones(crystal.setting)
    candidates = [other for other in same_number(crystal.setting) if _without_ones(other) == short]
    yield from _by_evidence(crystal, rng, candidates, hm=short)


def _without_ones(setting: Setting) -> str:
    first, *others = setting.table.hm.split()
    return " ".join([first, *(word for word in others if word != "1")])


def damaged_operators(crystal: Crystal, rng: np.random.Generator) -> Iterator[Sibling]:
    """One operator missing, doubled or mistyped, with and without the Hall symbol beside the list."""
    truth = crystal.setting
    operators = truth.operators()
    if len(operators) < 3:
        return
    i = int(rng.integers(1, len(operators)))
    missing = operators[:i] + operators[i + 1 :]
    doubled = [*operators, operators[i]]
    changed = re.sub(r"[xyz]", lambda found: "yzx"["xyz".index(found[0])], operators[i], count=1)
    mistyped = [*operators[:i], changed, *operators[i + 1 :]]
    signed = operators[i].replace("-", "", 1) if "-" in operators[i] else f"-{operators[i]}"
    wrong_sign = [*operators[:i], signed, *operators[i + 1 :]]
    unreadable = [*operators[:i], operators[i].replace("z", "q"), *operators[i + 1 :]]
    for formula in (None, "sum"):
        for hall in (None, truth.table.hall):
            yield Sibling(
                f"{truth.symbol} operator doubled",
                write(crystal, Statement(doubled, hall, formula=formula)),
                crystal.key,
            )
            for kind, damaged in (
                ("missing", missing),
                ("mistyped", mistyped),
                ("sign", wrong_sign),
                ("unreadable", unreadable),
            ):
                name = f"{truth.symbol} operator {kind} ({operators[i]}), formula {formula}, Hall {hall}"
                yield Sibling(
                    name, write(crystal, Statement(damaged, hall, formula=formula)), crystal.key, MAY
                )


def few_digits(crystal: Crystal, rng: np.random.Generator) -> Iterator[Sibling]:
    """Coordinates of two to four decimals, rounded or cut, in a cell as it is and in a larger one."""
    for decimals, cut, scale in product((2, 3, 4), (False, True), (1.0, 1.8)):
        written = as_written(replace(crystal, lattice=crystal.lattice * scale), decimals, cut)
        if written is None:
            continue
        exact = replace(crystal, lattice=written.lattice)
        far = farthest_move(exact, decimals, cut)
        # A site is not moved further than 0.1 Å, and a cut digit may be a whole unit off.
        doubt = MAY if far > 0.09 or cut else NEVER
        multiplicities = _multiplicities(crystal)
        for statement in (
            Statement(shuffled(crystal, rng)),
            Statement(shuffled(crystal, rng), formula="sum"),
            Statement(hall=crystal.setting.table.hall, formula="cell"),
            Statement(shuffled(crystal, rng), multiplicities=multiplicities),
        ):
            text = write(exact, replace(statement, decimals=decimals, cut=cut))
            name = f"{crystal.setting.symbol} {decimals} decimals, cut {cut}, {scale} times, {far:.3f} Å"
            yield Sibling(name, text, written.key, doubt)


def thirds(crystal: Crystal, rng: np.random.Generator) -> Iterator[Sibling]:
    """1/3, 2/3, 1/6 and 5/6 of two to five decimals, rounded or cut, each coordinate in its own way."""
    sixths = [6 * float(value) for site in crystal.sites for value in site.position]
    if not any(abs(value - round(value)) < 1e-6 and round(value) % 3 for value in sixths):
        return
    for formula in (None, "sum", "cell"):
        coordinates = [[_some_digits(value, rng) for value in site.position] for site in crystal.sites]
        statement = Statement(shuffled(crystal, rng), coordinates=coordinates, formula=formula)
        yield Sibling(f"{crystal.setting.symbol} {coordinates}", write(crystal, statement), crystal.key)


def _some_digits(value: float, rng: np.random.Generator) -> str:
    sixths = 6 * value
    if abs(sixths - round(sixths)) < 1e-6 and round(sixths) % 3:
        return digits(value, int(rng.integers(2, 6)), bool(rng.integers(2)))
    return digits(value, 6)


def site_columns(crystal: Crystal, rng: np.random.Generator) -> Iterator[Sibling]:
    """Multiplicities as they are, as orders of the site symmetry, and all 1; Wyckoff letters."""
    right = [site.multiplicity for site in crystal.sites]
    orders = [len(stabiliser(crystal, site)) for site in crystal.sites]
    for kind, column in (("multiplicities", right), ("orders", orders), ("ones", [1] * len(right))):
        for decimals in (3, 6):
            written = as_written(crystal, decimals, False)
            if written is None or farthest_move(crystal, decimals, False) > 0.09:
                continue
            statement = Statement(
                shuffled(crystal, rng),
                multiplicities=column,
                tags=pick(rng, "old", "new", "dotted"),
                decimals=decimals,
            )
            yield Sibling(f"{crystal.setting.symbol} {kind} {column}", write(crystal, statement), written.key)
    letters = own_letters(crystal)
    if letters is not None:
        statement = Statement(shuffled(crystal, rng), letters=letters, multiplicities=right)
        yield Sibling(f"{crystal.setting.symbol} letters {letters}", write(crystal, statement), crystal.key)


def own_letters(crystal: Crystal) -> list[str] | None:
    """The Wyckoff letters of the sites as they stand; None where spglib would move the origin first."""
    setting, cell = crystal.setting, crystal.cell
    if setting.hall_number is None:
        return None
    names = sorted(set(cell.species))
    numbers = [names.index(element) + 1 for element in cell.species]
    dataset = spglib.get_symmetry_dataset(
        (cell.lattice, cell.fractions, numbers), hall_number=setting.hall_number
    )
    if dataset is None or not np.allclose(dataset.transformation_matrix, np.eye(3), atol=1e-6):
        return None
    if np.abs(dataset.origin_shift - np.rint(dataset.origin_shift)).max() > 1e-6:
        return None
    firsts = np.cumsum([0, *(site.multiplicity for site in crystal.sites)])[:-1]
    return [dataset.wyckoffs[first] for first in firsts]


KINDS: dict[str, tuple[Kind, float]] = {
    "operators alone": (operators_alone, 0.0),
    "Hall symbol alone": (hall_alone, 0.0),
    "symbol with its setting": (symbol_with_setting, 0.5),
    "symbol without its setting": (symbol_without_setting, 1.0),
    "number alone": (number_alone, 0.9),
    "statements that contradict each other": (contradicted, 1.0),
    "the identity alone beside a symbol": (identity_alone, 1.0),
    "short monoclinic symbols": (short_monoclinic, 1.0),
    "operators damaged": (damaged_operators, 1.0),
    "few digits": (few_digits, 0.6),
    "thirds": (thirds, 0.0),
    "columns of multiplicities and letters": (site_columns, 0.0),
}
