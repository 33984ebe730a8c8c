"""What sits on the sites of a cell, as the symmetry engines and the strings see it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

from cloud_core.scope.tables import ATOMIC_NUMBERS, ISOTOPES
from cloud_core.scope.tokenizer import in_vocabulary
from cloud_core.structures.cell import Cell
from cloud_core.structures.errors import Reason, StructureError


@dataclass(frozen=True, slots=True)
class Kinds:
    """What sits on the sites, charges and isotopes left aside.

    numbers: equal for sites of one kind; names: the element, or the mixture, of each site.
    """

    fractions: dict[str, float]
    numbers: list[int]
    names: Sequence[str]
    flags: tuple[str, ...]


def kinds_of(cell: Cell) -> Kinds:
    if cell.occupancies is not None:
        return _mixed_kinds(cell)
    names = cell.species
    symbols = dict.fromkeys(names)
    flags: tuple[str, ...] = ()
    if not ISOTOPES.keys().isdisjoint(symbols):
        flags = ("isotope",)
        names = tuple([ISOTOPES.get(symbol, symbol) for symbol in names])
        symbols = dict.fromkeys(names)
    fractions = {symbol: names.count(symbol) / len(names) for symbol in symbols}
    flags += _composition_flags(fractions)
    return Kinds(fractions, [ATOMIC_NUMBERS[symbol] for symbol in names], names, flags)


def _mixed_kinds(cell: Cell) -> Kinds:
    """Kinds of a cell with occupancies: mixtures are told apart to four digits."""
    totals: dict[str, float] = {}
    names: list[str] = []
    flags: set[str] = set()
    for occupancy in cell.occupancies or ():
        amounts: dict[str, float] = {}
        for species, amount in occupancy.items():
            element = element_of(species)
            if element in ISOTOPES:
                element = ISOTOPES[element]
                flags.add("isotope")
            if not 0 < amount <= 1 + 1e-6:
                raise StructureError(Reason.INVALID_OCCUPANCY, f"an occupancy of {amount} of {element}")
            amounts[element] = amounts.get(element, 0.0) + amount
        for element, amount in amounts.items():
            totals[element] = totals.get(element, 0.0) + amount
        if not 0 < sum(amounts.values()) <= 1 + 1e-6:
            raise StructureError(Reason.INVALID_OCCUPANCY, f"occupancies of {amounts} on one site")
        mixture = sorted(amounts.items())
        if len(mixture) > 1 or abs(mixture[0][1] - 1) > 1e-4:
            flags.add("disordered")
            names.append(",".join(f"{element}{amount:.4f}" for element, amount in mixture))
        else:
            names.append(mixture[0][0])
    numbers = {name: i for i, name in enumerate(dict.fromkeys(names), start=1)}
    total = sum(totals.values())
    # Sums in another order differ in the last bits; a tie must not hang on them.
    fractions = {element: round(amount / total, 9) for element, amount in totals.items()}
    return Kinds(
        fractions, [numbers[name] for name in names], names, (*sorted(flags), *_composition_flags(fractions))
    )


def _composition_flags(fractions: Mapping[str, float]) -> tuple[str, ...]:
    flags: tuple[str, ...] = ()
    if _in_vocabulary().issuperset(fractions) and min(fractions.values()) > 0.0051:
        return flags
    for element, fraction in fractions.items():
        if element not in ATOMIC_NUMBERS:
            raise StructureError(Reason.UNKNOWN_ELEMENT, f"{element!r} is no element")
        if fraction_text(fraction) == "0.0" and "zero_fraction" not in flags:
            flags += ("zero_fraction",)
        if element not in _in_vocabulary() and "not_in_vocabulary" not in flags:
            flags += ("not_in_vocabulary",)
    return flags


@lru_cache(maxsize=65536)
def fraction_text(fraction: float) -> str:
    """A fraction to hundredths as the published encoder rounds: numpy's rule, so 9/40 is "0.22"."""
    return str(float(np.round(fraction, 2)))


def canonical_composition(fractions: Mapping[str, float]) -> str:
    """Elements sorted by symbol, each with its fraction."""
    return " ".join([f"{element} {fraction_text(fractions[element])}" for element in sorted(fractions)])


def without_isotopes(amounts: Mapping[str, float]) -> dict[str, float]:
    """Amounts by element, deuterium and tritium counted as hydrogen."""
    elements: dict[str, float] = {}
    for symbol, amount in amounts.items():
        element = ISOTOPES.get(symbol, symbol)
        # Sums in another order differ in the last bits; a tie must not hang on them.
        elements[element] = round(elements.get(element, 0.0) + amount, 9)
    return elements


@cache
def _in_vocabulary() -> frozenset[str]:
    """The elements that are words of the published vocabulary."""
    return frozenset(filter(in_vocabulary, ATOMIC_NUMBERS))


@lru_cache(maxsize=4096)
def element_of(species: str) -> str:
    """The element of a species: "Fe" of "Fe3+"."""
    return species[:2] if species[1:2].islower() else species[:1]
