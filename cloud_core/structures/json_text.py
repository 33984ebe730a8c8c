"""JSON taken apart as text: members and elements one by one, whatever their depth, with no objects built."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

from cloud_core.structures.errors import Reason, StructureError, shown
from cloud_core.structures.text import MAX_BYTES

_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{}]', re.DOTALL)
_IN_STRING = re.compile(r'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_SPACE = re.compile(r"[\s\ufeff]*+")
_MAX_MEMBERS = 100_000  # of one object that are looked at
_OTHER_ENTRY = re.compile(r'"type"\s*:\s*"(?!structures")\w+"')
_SCALAR = re.compile(r'[^\s,:"\[\]{}]*+')


def loads(text: str) -> Any:
    """The value of a JSON text.

    Raises StructureError for what is none, for a key that appears twice in an object, and for what is nested
    too deeply to be built.
    """
    try:
        return json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_object)
    except RecursionError as error:
        raise StructureError(Reason.PARSE_ERROR, "JSON: nested too deeply") from error
    except ValueError as error:  # also integers of too many digits
        raise StructureError(Reason.PARSE_ERROR, f"JSON: {str(error)[:200]}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {shown(twice)} appears twice in one object")
    return found


class JsonError(ValueError):
    """The text is no JSON at this place, or ends before its end."""


class Scanner:
    """Walks through a JSON text that comes piece by piece; memory holds one value of it.

    `elements` and `members` stand before a value at each step, which the caller takes by `value`, passes by
    `skip`, or enters by another `elements` or `members`. Raises JsonError.
    """

    def __init__(self, read: Callable[[int], str], limit: int = MAX_BYTES) -> None:
        """read: the next characters, about as many as asked for, "" at the end."""
        self._read = read
        self._limit = limit
        self._buffer = ""
        self._at = 0

    @property
    def place(self) -> int:
        """Where it stands in the characters that it holds: of a text at hand, in that text."""
        return self._at

    @classmethod
    def of(cls, text: str) -> "Scanner":
        """A scanner of a text that is at hand."""
        scanner = cls(lambda _: "", len(text) + 1)
        scanner._buffer = text
        return scanner

    def peek(self) -> str:
        """The next character that is no white space; "" at the end."""
        while True:
            found = _SPACE.match(self._buffer, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._more():
                return ""

    def elements(self) -> Iterator[None]:
        """Stands before each element of the list that comes next."""
        self._take("[")
        while (char := self.peek()) != "]":
            if not char:
                raise JsonError("the JSON ends in a list")
            yield
            self._separator("]")
        self._at += 1

    def members(self) -> Iterator[str]:
        """The key of each member of the object that comes next, standing before its value."""
        self._take("{")
        while (char := self.peek()) != "}":
            if char != '"':
                raise JsonError(f"a key expected, not {char!r}" if char else "the JSON ends in an object")
            key = self.value()
            self._take(":")
            try:
                yield str(json.loads(key or '""'))
            except ValueError as error:
                raise JsonError(f"no key of an object: {(key or '')[:40]}") from error
            self._separator("}")
        self._at += 1

    def value(self) -> str | None:
        """The text of the next value; None for one that is longer than the limit (it is passed)."""
        return self._pass(keep=True)

    def skip(self) -> None:
        """Pass the next value."""
        self._pass(keep=False)

    # -- inside

    def _take(self, char: str) -> None:
        found = self.peek()
        if found != char:
            raise JsonError(f"{char!r} expected, not {found!r}" if found else "the JSON ends too early")
        self._at += 1

    def _separator(self, closing: str) -> None:
        char = self.peek()
        if char == ",":
            self._at += 1
        elif char != closing:
            raise JsonError(
                f"',' or {closing!r} expected, not {char!r}" if char else "the JSON ends too early"
            )

    def _pass(self, keep: bool) -> str | None:
        if self.peek() not in ("[", "{", '"'):
            return self._scalar()
        depth = 0
        in_string = False
        at = self._at
        while True:
            if in_string:
                found = _IN_STRING.match(self._buffer, at)
                at = found.end() if found else at
                if at < len(self._buffer) and self._buffer[at] == '"':
                    in_string = False
                    at += 1
                    if depth == 0:
                        break
            else:
                at, depth, in_string = self._next(at, depth)
                if depth == 0 and not in_string:
                    break
            if at >= len(self._buffer) or in_string:
                if keep and len(self._buffer) - self._at > self._limit:
                    keep = False
                if not keep:  # what was passed need not be held
                    self._at = at
                before = self._at
                if not self._more():
                    raise JsonError("the JSON ends in a value")
                at -= before - self._at
        text = self._buffer[self._at : at] if keep else None
        self._at = at
        return None if text is not None and len(text) > self._limit else text

    def _next(self, at: int, depth: int) -> tuple[int, int, bool]:
        """(place, depth, whether it is in a string) after the tokens that close the value, or all."""
        for token in _TOKEN.finditer(self._buffer, at):
            word = token[0]
            if word in ("[", "{"):
                depth += 1
            elif word in ("]", "}"):
                depth -= 1
            elif word == '"':
                return token.end(), depth, True
            if depth <= 0:
                return token.end(), 0, False
        return len(self._buffer), depth, False

    def _scalar(self) -> str:
        at = self._at
        while True:
            found = _SCALAR.match(self._buffer, at)
            at = found.end() if found else at
            before = self._at
            if at < len(self._buffer) or at - before > 10_000 or not self._more():
                break
            at -= before - self._at
        if at == self._at:
            raise JsonError(f"a value expected, not {self.peek()!r}")
        text, self._at = self._buffer[self._at : at], at
        return text

    def _more(self) -> bool:
        """Read on; what stands before the place is let go. The more is held, the more is read at once."""
        piece = self._read(max(1 << 16, len(self._buffer) - self._at))
        if not piece:
            return False
        self._buffer = self._buffer[self._at :] + piece
        self._at = 0
        return True


_KEYS_OF_STRUCTURES = (
    *("lattice_vectors", "cartesian_site_positions", "species_at_sites"),
    *("sites", "lattice_mat"),
)


def members_of(text: str) -> dict[str, str]:
    """Key → text of its value, of a JSON object; of a text that breaks off, what there is."""
    scanner = Scanner.of(text)
    found: dict[str, str] = {}
    try:
        for key in islice(scanner.members(), _MAX_MEMBERS):
            scanner.peek()
            start = scanner.place
            try:
                found[key] = scanner.value() or ""
            except JsonError:
                found[key] = text[start:]
                break
    except JsonError:
        pass
    return found


def is_structure(members: Mapping[str, str], depth: int = 3) -> bool:
    """Whether the members of an object are those of a structure, or of an object that holds one; as
    `documents` tells of the objects themselves."""
    if any(key in members for key in _KEYS_OF_STRUCTURES):
        return True
    if "positions" in members and ("numbers" in members or "symbols" in members):
        return True
    if members.get("attributes", "")[:1] == "{":
        return True
    for key in ("structure", "atoms", "data"):
        if members.get(key, "")[:1] == "{":
            return depth > 1 and is_structure(members_of(members[key]), depth - 1)
    rows = _ase_rows(members)
    return bool(rows) and depth > 1 and is_structure(members_of(rows[0]), depth - 1)


def split_json(text: str) -> Iterator[tuple[str, str]]:
    """(suffix, text) of each structure in a JSON text: as `documents.split_document` of the objects, and of
    lines that are JSON each. Where the JSON breaks off, the rest of the text is the last part."""
    scanner = Scanner.of(text)
    opening = scanner.peek()
    if opening == "[" and not re.match(r"[\s\ufeff]*(\[\s*){100}", text):  # brackets alone are no list
        yield from _numbered(_elements(text))
        return
    lines = _lines(text)
    if lines is not None:
        yield from _numbered(iter(lines))
        return
    items = _items(members_of(text)) if opening == "{" else None
    if items is None:
        yield "", text
    else:
        yield from _numbered(items)


def _numbered(parts: Iterator[str]) -> Iterator[tuple[str, str]]:
    for index, part in enumerate(parts):
        yield f"#{index}", part


def _elements(text: str) -> Iterator[str]:
    scanner = Scanner.of(text)
    at = 0
    try:
        for _ in scanner.elements():
            at = scanner.place
            part = scanner.value()
            at = scanner.place
            yield part or ""
    except JsonError:
        yield text[at:]


def _lines(text: str) -> list[str] | None:
    """The lines of a text that is one JSON object a line; None for any other text."""
    scanner = Scanner.of(text)
    try:
        scanner.skip()
        if not scanner.peek():
            return None
    except JsonError:
        pass
    lines = [line for line in text.lstrip("\ufeff").split("\n") if line.strip()]
    if len(lines) < 2 or not all(line.lstrip()[:1] == "{" for line in lines):
        return None
    if '"x-optimade"' in lines[0]:  # a header; entries that are no structures may stand between
        return [line for line in lines[1:] if not _OTHER_ENTRY.search(line)]
    return lines


def _items(members: Mapping[str, str]) -> Iterator[str] | None:
    """The structures inside an object that is none itself."""
    if len(rows := _ase_rows(members)) > 1:
        return iter(rows)
    if is_structure(members):
        return None
    for key in ("entries", "data", "structures"):
        if members.get(key, "")[:1] == "[":
            return _elements(members[key])
    return None


def _ase_rows(members: Mapping[str, str]) -> list[str]:
    rows = [value for key, value in members.items() if key.isdigit()]
    return rows if all("positions" in members_of(value) for value in rows) else []
