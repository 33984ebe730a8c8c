"""Chemical formulas, of amounts and of SCOPE strings."""

import math
from collections.abc import Mapping
from functools import cache

from cloud_core.scope.grammar import Parts
from cloud_core.scope.sites import element_properties
from cloud_core.scope.tables import ATOMIC_NUMBERS

_MOST_ATOMS = 200  # of a reduced formula


def reduced_formula(amounts: Mapping[str, float], rounded: bool = False) -> str:
    """The formula with the smallest whole numbers, as "LiFePO4": elements in order of electronegativity.

    Where no 200 atoms or fewer have the composition (a disordered crystal), its numbers are atomic fractions.

    Args:
        amounts: element -> amount, at any scale.
        rounded: they are atomic fractions, rounded to hundredths, as SCOPE strings have them.
    """
    total, tolerance = (1.0, 0.0051) if rounded else (sum(amounts.values()), 1e-6)
    shares = {element: amounts[element] / total for element in sorted(amounts, key=_electronegativity)}
    counts = {element: round(amounts[element]) for element in shares}
    if any(abs(amounts[element] - count) > 1e-3 for element, count in counts.items()):
        for n in range(1, _MOST_ATOMS + 1):
            counts = {element: round(share * n) for element, share in shares.items()}
            if all(c and abs(c / n - shares[element]) <= tolerance for element, c in counts.items()):
                break
        else:
            return "".join(f"{element}{share:.3g}" for element, share in shares.items())
    divisor = math.gcd(*counts.values())
    return "".join(e + (f"{count // divisor}" if count > divisor else "") for e, count in counts.items())


@cache
def _electronegativity(element: str) -> tuple[float, str]:
    names, values = element_properties()
    value = float(values[ATOMIC_NUMBERS.get(element, 0), names.index("electronegativity")])
    return (math.inf if math.isnan(value) else value, element)


def formula_of(parts: Parts) -> str:
    """The reduced formula of a string: by the sites of a resolved one, the rounded fractions of others."""
    amounts = amounts_of(parts)
    return reduced_formula(amounts or parts.composition, rounded=amounts is None)


def amounts_of(parts: Parts) -> dict[str, float] | None:
    """Atoms in the conventional cell by element, of a resolved or full string; None of others, whose
    fractions are rounded to hundredths."""
    if not parts.occupants:
        return parts.composition if parts.is_full else None
    amounts: dict[str, float] = {}
    for symbol, occupants in zip(parts.wyckoff, parts.occupants, strict=True):
        for element, occupancy in occupants:
            amounts[element] = amounts.get(element, 0.0) + int(symbol[:-1]) * occupancy
    return amounts
