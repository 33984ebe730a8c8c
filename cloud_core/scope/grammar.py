"""The grammar of SCOPE: strings to parts and back.

    1 5 a D D D b O O O c O O O d O O O e O O O 0 | 2a | Cs 1.0
    └ generators of the space group ────────────┘   └ Wyckoff symbols   └ elements with fractions

The reduced string lists each Wyckoff symbol once and gives fractions; the full one lists the symbol and
the element of every site; the resolved one lists every orbit and what sits on it:

    … | 2a Cs 2b Cl | Cl 0.5 Cs 0.5          … | 4a Mg 0.3 Fe 0.7 8d O | Fe 0.23 Mg 0.1 O 0.67
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cloud_core.errors import CloudError
from cloud_core.scope.tables import ATOMIC_NUMBERS, ISOTOPES, numbers_by_generators, space_groups

SEPARATOR = " | "
FRACTIONS = frozenset(str(hundredth / 100) for hundredth in range(101))

# What sits on an orbit: elements, each with its occupancy in hundredths; one element with 1.0 on most.
Occupant = tuple[tuple[str, float], ...]
# Half a hundredth, and what an occupancy of four digits adds when it is rounded again.
_HALF = 0.0051


class ScopeError(CloudError):
    """An invalid SCOPE string: `position` is the offset of the offending character, `text` the string."""

    def __init__(self, text: str, position: int, message: str) -> None:
        shown = text if len(text) <= 200 else f"{text[:200]}…"
        super().__init__(f"invalid SCOPE string at position {position}: {message}; string: {shown!r}")
        self.text = text
        self.position = position
        self.message = message


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a SCOPE string.

    space_group: number, 1 to 230.
    wyckoff: Wyckoff symbols ("4a"); of each site in the full form, of each orbit in the resolved one.
    elements: element symbols; of each site in the full form.
    fractions: the fraction of each element, rounded to hundredths; empty in the full form.
    occupants: what sits on each orbit of `wyckoff`; empty but in the resolved form.
    """

    space_group: int
    wyckoff: tuple[str, ...]
    elements: tuple[str, ...]
    fractions: tuple[float, ...]
    occupants: tuple[Occupant, ...] = ()

    @property
    def is_full(self) -> bool:
        """Whether the string lists every site."""
        return not self.fractions

    @property
    def composition(self) -> dict[str, float]:
        """Element → fraction; in the full form counted over the listed sites."""
        if self.fractions:
            return dict(zip(self.elements, self.fractions, strict=True))
        return {e: self.elements.count(e) / len(self.elements) for e in dict.fromkeys(self.elements)}

    @property
    def letters(self) -> tuple[str, ...]:
        """The Wyckoff letters without multiplicities."""
        return tuple(symbol[-1] for symbol in self.wyckoff)

    @property
    def text(self) -> str:
        """The SCOPE string of these parts."""
        if self.fractions:
            composition = " ".join(f"{e} {f}" for e, f in zip(self.elements, self.fractions, strict=True))
        else:
            composition = " ".join(self.elements)
        orbits = self.wyckoff
        if self.occupants:
            orbits = tuple(
                f"{symbol} {occupant_text(occupant)}"
                for symbol, occupant in zip(self.wyckoff, self.occupants, strict=True)
            )
        return join(self.space_group, " ".join(orbits), composition)


def occupant_text(occupant: Occupant) -> str:
    """What sits on an orbit, in words: "Cl", "Mg 0.3 Fe 0.7", "Fe 0.9"."""
    if len(occupant) == 1 and occupant[0][1] == 1.0:
        return occupant[0][0]
    return " ".join([f"{element} {occupancy}" for element, occupancy in occupant])


def join(space_group: int, wyckoff: str, composition: str) -> str:
    """The SCOPE string of a space group, joined Wyckoff symbols and joined composition."""
    return f"{space_groups()[space_group].generators} | {wyckoff} | {composition}"


def decode(text: str) -> Parts:
    """The parts of a SCOPE string, so that `decode(text).text == text`.

    Raises ScopeError, with position and reason, for everything that is no SCOPE string.
    """
    fields = text.split(SEPARATOR)
    if len(fields) != 3:
        raise ScopeError(text, 0, f"expected three fields between ' | ', found {len(fields)}")
    generators, wyckoff, composition = fields
    number = numbers_by_generators().get(generators)
    if number is None:
        raise ScopeError(text, _first_difference(generators), "these are the generators of no space group")
    start = len(generators) + len(SEPARATOR)
    words = _words(text, start, wyckoff)
    position = start + len(wyckoff) + len(SEPARATOR)
    if any(word[0].isalpha() for _, word in words[1:]):
        symbols, occupants = _orbits(text, words, number)
        elements, fractions = _pairs(text, _words(text, position, composition))
        _check_sum(text, position, fractions)
        parts = Parts(number, symbols, elements, fractions, occupants)
        _check_resolved(text, position, parts)
        return parts
    symbols = _wyckoff(text, words, number)
    elements, fractions = _composition(text, position, composition)
    if fractions:
        _check_once(text, words)
        _check_sum(text, position, fractions)
    elif len(elements) != len(symbols):
        raise ScopeError(
            text,
            position,
            f"the full form needs an element for each of {len(symbols)} sites, not {len(elements)}",
        )
    return Parts(number, symbols, elements, fractions)


def _first_difference(generators: str) -> int:
    """Where `generators` leaves the longest prefix that it shares with a real generator string."""
    best = 0
    for known in numbers_by_generators():
        shared = 0
        for a, b in zip(generators, known, strict=False):
            if a != b:
                break
            shared += 1
        best = max(best, shared)
    return best


def _words(text: str, start: int, field: str) -> list[tuple[int, str]]:
    """Words of a field with their positions in the text; single blanks between them."""
    words = []
    for word in field.split(" "):
        if not word:
            raise ScopeError(text, start, "expected a word, found a blank or the end of the field")
        words.append((start, word))
        start += len(word) + 1
    return words


def _wyckoff(text: str, words: Sequence[tuple[int, str]], number: int) -> tuple[str, ...]:
    known = space_groups()[number].symbols
    for position, word in words:
        if known.get(word[-1]) != word:
            raise ScopeError(
                text,
                position,
                f"{word!r} is no Wyckoff symbol of space group {number} ({', '.join(known.values())})",
            )
    return tuple([word for _, word in words])


def _composition(text: str, start: int, field: str) -> tuple[tuple[str, ...], tuple[float, ...]]:
    words = _words(text, start, field)
    if len(words) > 1 and words[1][1][0].isdigit():
        return _pairs(text, words)
    return tuple([_element(text, position, word) for position, word in words]), ()


def _element(text: str, position: int, word: str) -> str:
    if word not in ATOMIC_NUMBERS and word not in ISOTOPES:
        raise ScopeError(text, position, f"{word!r} is no element")
    return word


def _pairs(text: str, words: Sequence[tuple[int, str]]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Elements, no one twice, each followed by its fraction."""
    elements: list[str] = []
    fractions: list[float] = []
    repeated = None
    for index, (position, word) in enumerate(words):
        if index % 2:
            if word not in FRACTIONS:
                raise ScopeError(text, position, f"{word!r} is no fraction from 0.0 to 1.0 in hundredths")
            fractions.append(float(word))
        else:
            if repeated is None and word in elements:
                repeated = position
            elements.append(_element(text, position, word))
    if len(elements) != len(fractions):
        position, word = words[-1]
        raise ScopeError(text, position + len(word), f"the fraction of {word} is missing")
    if repeated is not None:
        raise ScopeError(text, repeated, "an element appears twice")
    return tuple(elements), tuple(fractions)


def _orbits(
    text: str, words: Sequence[tuple[int, str]], number: int
) -> tuple[tuple[str, ...], tuple[Occupant, ...]]:
    """The symbol of each orbit and what sits on it."""
    # An occupancy begins with a digit too; it alone has a point.
    starts = [i for i, (_, word) in enumerate(words) if word[0].isdigit() and "." not in word]
    starts = starts if starts[:1] == [0] else [0, *starts]
    symbols = _wyckoff(text, [words[i] for i in starts], number)
    occupants: list[Occupant] = []
    for start, end in zip(starts, [*starts[1:], len(words)], strict=True):
        position, symbol = words[start]
        inside = words[start + 1 : end]
        if not inside:
            raise ScopeError(text, position + len(symbol), f"nothing sits on {symbol}")
        if len(inside) == 1:
            occupants.append(((_element(text, *inside[0]), 1.0),))
            continue
        elements, occupancies = _pairs(text, inside)
        if occupancies == (1.0,):
            raise ScopeError(text, inside[1][0], "an occupancy of one element is left out where it is 1.0")
        if sum(occupancies) > 1 + _HALF * len(occupancies):
            raise ScopeError(text, inside[0][0], f"the occupancies sum to {sum(occupancies):.2f}")
        occupants.append(tuple(zip(elements, occupancies, strict=True)))
    return symbols, tuple(occupants)


def _check_once(text: str, words: Sequence[tuple[int, str]]) -> None:
    """The reduced form lists each symbol once."""
    seen = set()
    for position, symbol in words:
        if symbol in seen:
            raise ScopeError(text, position, f"{symbol} appears twice in the reduced form")
        seen.add(symbol)


def _check_sum(text: str, position: int, fractions: Sequence[float]) -> None:
    # Each fraction is within half a hundredth of a part of the whole.
    if abs(sum(fractions) - 1.0) > 0.005 * len(fractions) + 1e-9:
        raise ScopeError(text, position, f"the fractions sum to {sum(fractions):.2f}, not 1")


def _check_resolved(text: str, position: int, parts: Parts) -> None:
    """The composition, which begins at `position`, is that of the orbits, as far as both are rounded."""
    multiplicities = space_groups()[parts.space_group].multiplicities
    low: dict[str, float] = {}
    high: dict[str, float] = {}
    for letter, occupant in zip(parts.letters, parts.occupants, strict=True):
        for element, occupancy in occupant:
            slack = _HALF if len(occupant) > 1 or occupancy < 1 else 0.0
            count = multiplicities[letter]
            low[element] = low.get(element, 0.0) + count * max(occupancy - slack, 0.0)
            high[element] = high.get(element, 0.0) + count * (occupancy + slack)
    least, most = sum(low.values()), sum(high.values())
    given = dict(zip(parts.elements, parts.fractions, strict=True))
    if missing := [element for element in low if element not in given]:
        raise ScopeError(text, len(text), f"{missing[0]} sits on an orbit and is not in the composition")
    for index, (element, fraction) in enumerate(given.items()):
        if element not in low:
            why = f"{element} sits on no orbit"
        elif not (
            low[element] / (low[element] + most - high[element]) - _HALF
            <= fraction
            <= high[element] / (high[element] + least - low[element]) + _HALF
        ):
            why = f"{fraction} of {element} is not what the orbits hold"
        else:
            continue
        raise ScopeError(text, _words(text, position, text[position:])[2 * index][0], why)
