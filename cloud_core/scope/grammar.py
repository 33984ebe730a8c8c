"""The grammar of SCOPE: strings to parts and back.

    1 5 a D D D b O O O c O O O d O O O e O O O 0 | 2a | Cs 1.0
    └ generators of the space group ────────────┘   └ Wyckoff symbols   └ elements with fractions

The reduced string lists each Wyckoff symbol once and gives fractions; the full one lists the symbol and
the element of every site.
"""

from dataclasses import dataclass

from cloud_core.errors import CloudError
from cloud_core.scope.tables import ATOMIC_NUMBERS, ISOTOPES, numbers_by_generators, space_groups

SEPARATOR = " | "
FRACTIONS = frozenset(str(hundredth / 100) for hundredth in range(101))


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
    wyckoff: Wyckoff symbols ("4a"); of each site in the full form.
    elements: element symbols; of each site in the full form.
    fractions: the fraction of each element, rounded to hundredths; empty in the full form.
    """

    space_group: int
    wyckoff: tuple[str, ...]
    elements: tuple[str, ...]
    fractions: tuple[float, ...]

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
        return join(self.space_group, " ".join(self.wyckoff), composition)


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
    symbols = _wyckoff(text, start, wyckoff, number)
    position = start + len(wyckoff) + len(SEPARATOR)
    elements, fractions = _composition(text, position, composition)
    if fractions:
        _check_reduced(text, symbols, fractions, start, position)
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


def _wyckoff(text: str, start: int, field: str, number: int) -> tuple[str, ...]:
    known = space_groups()[number].symbols
    symbols = []
    for position, word in _words(text, start, field):
        if known.get(word[-1]) != word:
            raise ScopeError(
                text,
                position,
                f"{word!r} is no Wyckoff symbol of space group {number} ({', '.join(known.values())})",
            )
        symbols.append(word)
    return tuple(symbols)


def _composition(text: str, start: int, field: str) -> tuple[tuple[str, ...], tuple[float, ...]]:
    words = _words(text, start, field)
    reduced = len(words) > 1 and words[1][1][0].isdigit()
    elements, fractions = [], []
    for index, (position, word) in enumerate(words):
        if reduced and index % 2:
            if word not in FRACTIONS:
                raise ScopeError(text, position, f"{word!r} is no fraction from 0.0 to 1.0 in hundredths")
            fractions.append(float(word))
        elif word in ATOMIC_NUMBERS or word in ISOTOPES:
            elements.append(word)
        else:
            raise ScopeError(text, position, f"{word!r} is no element")
    if reduced and len(elements) != len(fractions):
        raise ScopeError(text, len(text), f"the fraction of {elements[-1]} is missing")
    if reduced and len(set(elements)) != len(elements):
        repeated = next(p for i, (p, w) in enumerate(words) if w in elements[: i // 2] and not i % 2)
        raise ScopeError(text, repeated, "an element stands twice")
    return tuple(elements), tuple(fractions)


def _check_reduced(
    text: str, symbols: tuple[str, ...], fractions: tuple[float, ...], wyckoff: int, composition: int
) -> None:
    """Symbols stand once and fractions sum to one; wyckoff and composition are where the fields begin."""
    for position, symbol in _words(text, wyckoff, text[wyckoff : composition - len(SEPARATOR)]):
        if text.index(symbol, wyckoff) < position and symbols.count(symbol) > 1:
            raise ScopeError(text, position, f"{symbol} stands twice in the reduced form")
    # Each fraction is within half a hundredth of a part of the whole.
    if abs(sum(fractions) - 1.0) > 0.005 * len(fractions) + 1e-9:
        raise ScopeError(text, composition, f"the fractions sum to {sum(fractions):.2f}, not 1")
