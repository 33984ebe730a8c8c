"""Rows of JSON lines and JSON files: streamed, only the wanted columns, objects left as text."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cloud_core.sources.opening import open_text
from cloud_core.sources.record import BadRow, Refusal, SourceError
from cloud_core.structures.json_text import JsonError, Scanner
from cloud_core.structures.text import MAX_BYTES

Row = tuple[Any, ...]
_LINES_FOR_COLUMNS = 100  # of JSON lines: so many may be broken before the first that tells the columns


class JsonText(str):
    """A list or an object in a column, as its JSON; a plain `str` is the content of a JSON string."""

    __slots__ = ()


# -- JSON lines


def jsonl_columns(path: str) -> list[str]:
    """The keys of the first line that is a JSON object.

    Raises:
        SourceError: there is none.
    """
    problem: Exception | None = None
    for line, _ in zip(_lines(path), range(_LINES_FOR_COLUMNS), strict=False):
        if line is None:
            continue
        try:
            return list(_members(line, None))
        except ValueError as error:
            problem = problem or error
    raise SourceError(f"{path}: the first line is not JSON: each is to be an object ({problem or 'no line'})")


def jsonl_rows(path: str, columns: list[str], items: str = "") -> Iterator[Row | BadRow]:
    """The wanted columns of each line (`a.b` looks into nested objects)."""
    for number, line in enumerate(_lines(path), 1):
        if line is None or line.strip():
            yield _row(line, columns, f"line {number}")


def _lines(path: str) -> Iterator[str | None]:
    """The lines of a text; None for one above the limit, which is passed unread."""
    with open_text(path) as text:
        while line := text.readline(MAX_BYTES + 1):
            if len(line) <= MAX_BYTES or line.endswith("\n"):
                yield line
                continue
            while (rest := text.readline(1 << 20)) and not rest.endswith("\n"):
                pass
            yield None


def _row(text: str | None, columns: list[str], where: str) -> Row | BadRow:
    if text is None:
        return BadRow(f"{where}: more than {MAX_BYTES} characters", Refusal.TOO_LARGE)
    try:
        return _picked(text, columns)
    except ValueError as error:
        return BadRow(f"{where}: not a row in JSON ({error})")


def _picked(text: str, columns: list[str]) -> Row:
    """Values of an object by their names, None for one that it lacks. Raises ValueError."""
    found = _members(text, {*columns, *(column.partition(".")[0] for column in columns)})
    values = []
    for column in columns:
        head, _, rest = column.partition(".")
        if column in found:
            values.append(_value(found[column]))
        elif rest and found.get(head, "")[:1] == "{":
            values.append(_picked(found[head], [rest])[0])
        else:
            values.append(None)
    return tuple(values)


def _members(text: str, wanted: set[str] | None) -> dict[str, str]:
    """Key → text of its value, of the wanted members of an object; without `wanted` the keys alone."""
    scanner = Scanner.of(text)
    found: dict[str, str] = {}
    for key in scanner.members():
        if wanted is not None and key in wanted:
            found[key] = scanner.value() or ""
        else:
            scanner.skip()
            if wanted is None:
                found[key] = ""
    if rest := scanner.peek():
        raise JsonError(f"{rest!r} after the object")
    return found


def _value(text: str) -> Any:
    return JsonText(text) if text[:1] in ("[", "{") else json.loads(text)


# -- JSON files


def json_columns(path: str, items: str) -> list[str] | None:
    """The columns of a JSON file, from its head; None where only reading it whole would tell.

    Raises:
        SourceError: the file is no table.
    """
    layout, names, _ = _layout(path, items)
    return None if layout == "columns" else names


def json_rows(path: str, columns: list[str], items: str = "") -> Iterator[Row | BadRow]:
    """The wanted columns of a JSON file, streamed: memory holds one row (and, of a file that is
    written column by column, its plain columns).

    Three layouts: a list of objects, `{"columns": […], "data": [[…], …]}` (MatBench), and
    `{"column": {"0": …}, …}` (pandas' default, Matbench Discovery).
    """
    layout, names, place = _layout(path, items)
    if layout == "columns":
        yield from _column_by_column(path, columns)
        return
    wanted = [names.index(column) for column in columns] if layout == "split" else []
    with _scanner(path) as scanner:
        for number, _ in enumerate(_descend(scanner, place)):
            text = scanner.value()
            if layout == "records" or text is None:
                yield _row(text, columns, f"item {number}")
                continue
            try:
                values = _list(text)
                if len(values) != len(names):
                    raise JsonError(f"{len(values)} values for {len(names)} columns")
                yield tuple([_value(values[i]) for i in wanted])
            except ValueError as error:
                yield BadRow(f"item {number}: not a row in JSON ({error})")


def _list(text: str) -> list[str]:
    scanner = Scanner.of(text)
    return [scanner.value() or "" for _ in scanner.elements()]


@contextmanager
def _scanner(path: str) -> Iterator[Scanner]:
    with open_text(path) as text:
        try:
            yield Scanner(text.read)
        except JsonError as error:
            raise SourceError(f"{path}: the JSON ends too early or is damaged ({error})") from error


def _descend(scanner: Scanner, place: list[str]) -> Iterator[None]:
    """Stands before each element of the list that lies at `place`, keys from the outside in."""
    if not place:
        yield from scanner.elements()
        return
    for key in scanner.members():
        if key == place[0] and scanner.peek() == ("{" if place[1:] else "["):
            yield from _descend(scanner, place[1:])
            return
        scanner.skip()


def _layout(path: str, items: str) -> tuple[str, list[str], list[str]]:
    """(`records`, `split` or `columns`; names of the columns; keys that lead to the rows)."""
    if items:
        return "records", _first_keys(path, items.split(".")), items.split(".")
    with _scanner(path) as scanner:
        opening = scanner.peek()
        if opening == "[":
            return "records", _first_keys(path, []), []
        if opening != "{":
            raise SourceError(
                f"{path}: a table in JSON is a list or an object, and this begins with {opening!r}"
            )
        first = next(scanner.members(), "")
        inner = scanner.peek()
    if first in ("index", "columns", "data") and inner == "[" and (names := _split_names(path)) is not None:
        return "split", names, ["data"]
    if inner == "[":
        return "records", _first_keys(path, [first]), [first]
    if inner == "{":
        return "columns", [], []
    raise SourceError(f"{path}: no rows found; say where they are with `items`")


def _split_names(path: str) -> list[str] | None:
    """The names under `columns`, or None where the rows are objects; read no further than is needed."""
    with _scanner(path) as scanner:
        for key in scanner.members():
            if key == "columns" and scanner.peek() == "[":
                try:
                    return [str(json.loads(name)) for name in _list(scanner.value() or "")]
                except ValueError as error:
                    raise SourceError(f"{path}: `columns` is no list of names ({error})") from error
            if key != "data" or scanner.peek() != "[":
                scanner.skip()
                continue
            for _ in scanner.elements():
                if scanner.peek() == "{":
                    return None
                scanner.skip()
    return None


def _first_keys(path: str, place: list[str]) -> list[str]:
    where = f" at {'.'.join(place)!r}" if place else ""
    with _scanner(path) as scanner:
        for _ in _descend(scanner, place):
            if scanner.peek() != "{":
                break
            keys = []
            for key in scanner.members():
                keys.append(key)
                scanner.skip()
            return keys
    raise SourceError(f"{path}: no list of JSON objects{where}")


def _column_by_column(path: str, columns: list[str]) -> Iterator[Row | BadRow]:
    """Rows of a file written column by column: the plain columns first, then the structures streamed."""
    plain: dict[str, dict[str, Any]] = {}
    heavy: str | None = None
    with _scanner(path) as scanner:
        for column in scanner.members():
            if column not in columns or scanner.peek() != "{":
                scanner.skip()
                continue
            for key in scanner.members():
                if scanner.peek() not in ("[", "{"):
                    plain.setdefault(column, {})[key] = _plain(scanner.value())
                    continue
                scanner.skip()
                if heavy not in (None, column):
                    raise SourceError(
                        f"{path}: {heavy!r} and {column!r} both hold objects; only one can be read"
                    )
                heavy = column
    missing = [c for c in columns if c not in plain and c != heavy]
    if missing:
        raise SourceError(f"{path}: no column {', '.join(missing)}; name the right one in the configuration")
    if heavy is None:
        for key in plain[columns[0]]:
            yield tuple([plain[c].get(key) for c in columns])
        return
    others = plain.pop(heavy, {})
    with _scanner(path) as scanner:
        for column in scanner.members():
            if column != heavy:
                scanner.skip()
                continue
            for key in scanner.members():
                value = scanner.value()
                if value is None:
                    yield BadRow(f"row {key}: more than {MAX_BYTES} characters", Refusal.TOO_LARGE)
                elif value[:1] in ("[", "{"):
                    yield tuple([JsonText(value) if c == heavy else plain[c].get(key) for c in columns])
                elif others.get(key) is not None:
                    yield BadRow(f"row {key}: {heavy} is not an object")
                else:
                    yield tuple([None if c == heavy else plain[c].get(key) for c in columns])


def _plain(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return text  # a word that is no JSON is no label either
