"""Stated formulas, and whether the sites of a structure agree with them."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from cloud_core.structures.elements import ATOMIC_NUMBERS, ISOTOPES, is_vacancy

_TERM = re.compile(r"(Vac|[A-Z][a-z]?)(?:(\d+\.?\d*|\.\d+)(?:\(\d+\))?)?")
_SLACK = 5e-4  # relative: amounts that were summed from rounded ones


@dataclass(frozen=True, slots=True)
class Amount:
    """How much of an element there is, and by how much that may be off."""

    value: float
    uncertainty: float = 0.0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.value + other.value, self.uncertainty + other.uncertainty)


@lru_cache(maxsize=1024)
def parse_formula(text: str) -> Mapping[str, Amount] | None:
    """Element → amount of a formula: a sum, "C6 H12 O6" or "Na0.97 Cl", or one with brackets, factors and
    hydrates, "Mg(OH)2", "Cu S O4, 5(H2 O)". Deuterium and tritium count as hydrogen.

    None where the text is not understood (variables, a dot that may be decimal or part a hydrate): then it
    can be compared with nothing.
    """
    if len(text) > 2000 or re.search(r"\d\.\d+H2O", text):  # CuSO4.5H2O: O4.5 H2 O, or O4 and five waters
        return None
    return _parse_sum(text) or _parse_groups(text)


def _parse_sum(text: str) -> Mapping[str, Amount] | None:
    amounts: dict[str, Amount] = {}
    words = text.replace(",", " ").split()
    for word in words:
        at = 0
        # Capitals alone: a word of several is one element; a word by itself may be a whole formula.
        is_element = len(words) > 1 or not set(word[:2]) <= ATOMIC_NUMBERS.keys()
        if re.fullmatch(r"[A-Z]{2}[\d.]*", word) and word[:2].title() in ATOMIC_NUMBERS and is_element:
            word = word[:2].title() + word[2:]
        while at < len(word):
            found = _TERM.match(word, at)
            if found is None:
                return None
            symbol, digits = found[1], found[2] or "1"
            at = found.end()
            if is_vacancy(symbol):
                continue
            element = ISOTOPES.get(symbol, symbol)
            if element not in ATOMIC_NUMBERS:
                return None
            decimals = len(digits.partition(".")[2])
            amount = Amount(float(digits), 0.5 * 10**-decimals if decimals else 0.0)
            amounts[element] = amounts.get(element, Amount(0.0)) + amount
    return {element: amount for element, amount in amounts.items() if amount.value > 0} or None


_TOKEN = re.compile(
    r"(?P<symbol>Vac|[A-Z][a-z]?)|(?P<number>\d+\.?\d*|\.\d+)(?P<uncertainty>\(\d+\))?(?P<sign>[+-](?![\w(]))?"
    r"|(?P<charge>[+-](?![\w(]))|(?P<open>[(\[{])|(?P<close>[)\]}])|(?P<part>[,·•∙*]|\.(?!\d))|(?P<space>\s+)"
)
_CLOSING = {"(": ")", "[": "]", "{": "}"}


def _parse_groups(text: str) -> Mapping[str, Amount] | None:
    """A formula with brackets and parts, each of which a factor may precede."""
    whole: dict[str, Amount] = {}
    stack: list[tuple[str, dict[str, Amount]]] = []  # what closes a group, and what is in it
    part: dict[str, Amount] = {}
    factor, is_first = 1.0, True  # of the part; whether a number may be its factor
    last: dict[str, Amount] | None = None  # what a number that follows multiplies
    at = 0

    def end_of_part() -> None:
        _add(whole, part, Amount(factor))
        part.clear()

    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            return None
        at = token.end()
        inside = stack[-1][1] if stack else part
        if token["space"]:
            if last:
                _add(inside, last, Amount(1.0))
            last = None
            continue
        if token["symbol"]:
            if last:
                _add(inside, last, Amount(1.0))
            element = ISOTOPES.get(token["symbol"], token["symbol"])
            if not is_vacancy(element) and element not in ATOMIC_NUMBERS:
                return None
            last = {} if is_vacancy(element) else {element: Amount(1.0)}
        elif token["number"]:
            if token["sign"]:  # a charge: "1+"
                continue
            decimals = len(token["number"].partition(".")[2])
            amount = Amount(float(token["number"]), 0.5 * 10**-decimals if decimals else 0.0)
            if last is not None:
                _add(inside, last, amount)
                last = None
            elif is_first and not stack:
                factor = amount.value
            else:
                return None
        elif token["open"]:
            if last:
                _add(inside, last, Amount(1.0))
            last = None
            stack.append((_CLOSING[token["open"]], {}))
        elif token["close"]:
            if not stack or stack[-1][0] != token["close"]:
                return None
            if last:
                _add(inside, last, Amount(1.0))
            last = stack.pop()[1]
        elif token["part"]:
            if stack:
                return None
            if last:
                _add(part, last, Amount(1.0))
            last = None
            end_of_part()
            factor, is_first = 1.0, True
            continue
        is_first = False
    if stack:
        return None
    if last:
        _add(part, last, Amount(1.0))
    end_of_part()
    return {element: amount for element, amount in whole.items() if amount.value > 0} or None


def _add(into: dict[str, Amount], what: Mapping[str, Amount], times: Amount) -> None:
    for element, amount in what.items():
        product = Amount(
            amount.value * times.value, amount.uncertainty * times.value + amount.value * times.uncertainty
        )
        into[element] = into.get(element, Amount(0.0)) + product


@dataclass(frozen=True, slots=True)
class Comparison:
    """The sites of a structure beside its stated formula.

    agrees: whether the ratio of all elements but hydrogen is the formula's. units: formula units in the cell,
    as far as that ratio says. hydrogen: -1 where the sites hold less than the formula, 1 where more, else 0.
    lacking: elements of the formula without any site; short: those of which the sites hold less than of
    another, as the formula has it.
    """

    agrees: bool
    units: tuple[float, float] = (0.0, math.inf)
    hydrogen: int = 0
    lacking: tuple[str, ...] = field(default=())
    short: tuple[str, ...] = field(default=())


def compare(formula: Mapping[str, Amount], sites: Mapping[str, Amount]) -> Comparison:
    """Hold sites (element → amount in the cell) against a formula, within what the digits of both allow."""
    lacking = tuple(sorted(formula.keys() - sites.keys() - {"H"}))
    surplus = sites.keys() - formula.keys() - {"H"}
    least, most = 0.0, math.inf
    highest: dict[str, float] = {}
    for element in (formula.keys() & sites.keys()) - {"H"}:
        low, high = _quotient(sites[element], formula[element])
        least, most = max(least, low), min(most, high)
        highest[element] = high
    agrees = not lacking and not surplus and least <= most
    if not agrees:
        short = tuple(sorted(element for element, high in highest.items() if high < least))
        return Comparison(False, lacking=lacking, short=short)
    stated, found = formula.get("H", Amount(0.0)), sites.get("H", Amount(0.0))
    if math.isinf(most):  # nothing but hydrogen
        return Comparison(bool(stated.value) == bool(found.value))
    hydrogen = 0
    if found.value + found.uncertainty < least * (stated.value - stated.uncertainty) * (1 - 0.01) - 1e-6:
        hydrogen = -1
    elif found.value - found.uncertainty > most * (stated.value + stated.uncertainty) * (1 + 0.01) + 1e-6:
        hydrogen = 1
    return Comparison(True, (least, most), hydrogen)


def _quotient(numerator: Amount, denominator: Amount) -> tuple[float, float]:
    low = (numerator.value - numerator.uncertainty) / (denominator.value + denominator.uncertainty)
    rest = denominator.value - denominator.uncertainty
    high = (numerator.value + numerator.uncertainty) / rest if rest > 0 else math.inf
    return low * (1 - _SLACK), high * (1 + _SLACK)


def formula_text(amounts: Mapping[str, Amount | float]) -> str:
    """Amounts as a formula: "Cl4 Na4"."""
    values = {e: amount.value if isinstance(amount, Amount) else amount for e, amount in amounts.items()}
    return " ".join(f"{element}{round(values[element], 3):g}" for element in sorted(values))
