"""Rows of CSV, JSON lines, JSON and Parquet files: streamed, only the wanted columns of them."""

import ast
import csv
import io
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from typing import Any

import ijson
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cloud_core.sources.opening import locate, naming, open_bytes
from cloud_core.sources.record import SourceError

Row = tuple[Any, ...]


class BadRow(str):
    """Stands in a row of its own for one that could not be read; says where and why."""

    __slots__ = ()


def columns_of(path: str, format: str, items: str) -> list[str] | None:
    """Column names, from the head of the file; None where only reading it whole would tell.

    Raises:
        SourceError: the file is missing, damaged, empty or not of that format.
    """
    if format == "parquet":
        with closing(_parquet_file(path)) as file:
            return list(file.schema_arrow.names)
    if format == "csv":
        with _csv(path) as (header, _):
            return header
    if format == "jsonl":
        with open_bytes(path) as stream:
            first = io.BufferedReader(stream).readline()
        try:
            row = json.loads(first)
        except ValueError as error:
            raise SourceError(f"{path}: the first line is not JSON ({error})") from error
        if not isinstance(row, dict):
            raise SourceError(f"{path}: each line must be a JSON object, the first is not")
        return list(row)
    layout, found = _json_layout(path, items)
    return None if layout == "columns" else found


# -- text


def csv_rows(path: str, columns: list[str], items: str = "") -> Iterator[Row]:
    """The wanted columns of each row of a CSV file; a row of the wrong width comes as a BadRow."""
    with _csv(path) as (header, reader):
        wanted = [header.index(column) for column in columns]
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                message = f"{path}, line {reader.line_num}: {error}; a truncated file or a stray quote"
                raise SourceError(message) from error
            except UnicodeDecodeError as error:
                raise SourceError(f"{path}, after line {reader.line_num}: not UTF-8 ({error})") from error
            if len(row) == len(header):
                yield tuple([row[i] for i in wanted])
            elif row:
                yield (BadRow(f"line {reader.line_num}: {len(row)} fields, the header has {len(header)}"),)


class _csv(AbstractContextManager[tuple[list[str], Any]]):  # noqa: N801
    """Header and reader of a CSV file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> tuple[list[str], Any]:
        csv.field_size_limit(1 << 27)  # a CIF text is one field
        self._opened = open_bytes(self.path)
        stream = self._opened.__enter__()
        text = io.TextIOWrapper(io.BufferedReader(stream), encoding="utf-8-sig", newline="")
        reader = csv.reader(text, strict=True)
        try:
            with naming(self.path):
                header = next(reader)
        except (StopIteration, csv.Error, UnicodeDecodeError) as error:
            self._opened.__exit__(None, None, None)
            raise SourceError(
                f"{self.path}: no header line of column names ({error or 'empty file'})"
            ) from error
        except SourceError:
            self._opened.__exit__(None, None, None)
            raise
        if len(set(header)) < len(header):
            self._opened.__exit__(None, None, None)
            raise SourceError(f"{self.path}: two columns have one name: {', '.join(header)}")
        return header, reader

    def __exit__(self, *error: Any) -> None:
        self._opened.__exit__(*error)


def jsonl_rows(path: str, columns: list[str], items: str = "") -> Iterator[Row]:
    """The wanted columns of each line (`a.b` looks into nested objects)."""
    with open_bytes(path) as stream:
        for number, line in enumerate(io.BufferedReader(stream, 1 << 16), 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except ValueError as error:
                yield (BadRow(f"line {number}: not JSON ({error})"),)
                continue
            if isinstance(value, dict):
                yield tuple([_get(value, column) for column in columns])
            else:
                yield (BadRow(f"line {number}: not a JSON object"),)


def json_rows(path: str, columns: list[str], items: str = "") -> Iterator[Row]:
    """The wanted columns of a JSON file, streamed: memory holds one row (and, of a file that is
    written column by column, its plain columns).

    Three layouts: a list of objects, `{"columns": […], "data": [[…], …]}` (MatBench), and
    `{"column": {"0": …}, …}` (pandas' default, Matbench Discovery).
    """
    layout, names = _json_layout(path, items)
    try:
        if layout == "columns":
            yield from _json_columns(path, columns)
            return
        prefix = "data.item" if layout == "split" else (f"{items or names.prefix}.item").lstrip(".")
        with open_bytes(path) as stream:
            if layout == "split":
                wanted = [names.index(column) for column in columns]
                for row in ijson.items(stream, prefix, use_float=True):
                    if isinstance(row, list) and len(row) == len(names):
                        yield tuple([row[i] for i in wanted])
                    else:
                        yield (BadRow(f"not a row of {len(names)} values"),)
                return
            for row in ijson.items(stream, prefix, use_float=True):
                if isinstance(row, dict):
                    yield tuple([_get(row, column) for column in columns])
                else:
                    yield (BadRow("not a JSON object"),)
    except ijson.JSONError as error:
        raise _json_error(path, error) from error


class _Names(list[str]):
    """Column names of a JSON file, and the path of its rows."""

    prefix = ""


def _json_layout(path: str, items: str) -> tuple[str, _Names]:
    """`records`, `split` or `columns`, told by the head of the file, and the names of the columns."""
    names = _Names()
    try:
        if items:
            names.prefix = items
            return "records", _first_keys(path, names)
        with open_bytes(path) as stream:
            events = ijson.basic_parse(stream, use_float=True)
            event, _ = next(events, ("nothing", None))
            if event == "start_array":
                return "records", _first_keys(path, names)
            if event != "start_map":
                raise SourceError(f"{path}: a table in JSON is a list or an object, not a {event}")
            _, first = next(events)
            opened, _ = next(events)
        if first in ("index", "columns", "data") and opened == "start_array":
            with open_bytes(path) as stream:
                names.extend(next(ijson.items(stream, "columns"), ()))  # and no further: the rows come after
            return "split", names
        if opened == "start_array":
            names.prefix = str(first)
            return "records", _first_keys(path, names)
        if opened == "start_map":
            return "columns", names
    except ijson.JSONError as error:
        raise _json_error(path, error) from error
    raise SourceError(f"{path}: no rows found; say where they are with `items`")


def _first_keys(path: str, names: _Names) -> _Names:
    with open_bytes(path) as stream:
        first = next(ijson.items(stream, f"{names.prefix}.item".lstrip("."), use_float=True), None)
    if not isinstance(first, dict):
        where = f" at {names.prefix!r}" if names.prefix else ""
        raise SourceError(f"{path}: no list of JSON objects{where}")
    names.extend(first)
    return names


def _json_columns(path: str, columns: list[str]) -> Iterator[Row]:
    """Rows of a file written column by column: the plain columns first, then the structures streamed."""
    plain: dict[str, dict[str, Any]] = {}
    heavy: str | None = None
    with open_bytes(path) as stream:
        column, key, depth = "", "", 0
        for event, value in ijson.basic_parse(stream, use_float=True):
            if event == "map_key" and depth == 1:
                column = value
            elif event == "map_key" and depth == 2:
                key = value
            elif event in ("start_map", "start_array"):
                if depth == 2 and column in columns:
                    if heavy not in (None, column):
                        raise SourceError(
                            f"{path}: {heavy!r} and {column!r} both hold objects; only one can be read"
                        )
                    heavy = column
                depth += 1
            elif event in ("end_map", "end_array"):
                depth -= 1
            elif depth == 2 and column in columns:
                plain.setdefault(column, {})[key] = value
    missing = [c for c in columns if c not in plain and c != heavy]
    if missing:
        raise SourceError(f"{path}: no column {', '.join(missing)}; name the right one in the configuration")
    if heavy is None:
        for key in plain[columns[0]]:
            yield tuple([plain[c].get(key) for c in columns])
        return
    others = plain.pop(heavy, {})
    with open_bytes(path) as stream:
        for key, value in ijson.kvitems(stream, heavy, use_float=True):
            yield tuple([value if c == heavy else plain[c].get(key) for c in columns])
    for key in others:
        if others[key] is not None:
            yield (BadRow(f"row {key}: {heavy} is not an object"),)


def _json_error(path: str, error: Exception) -> SourceError:
    if isinstance(error, ijson.IncompleteJSONError):
        return SourceError(f"{path}: the JSON ends too early or is damaged ({error}); fetch it again")
    return SourceError(f"{path}: not valid JSON ({error})")


def _get(row: dict[str, Any], column: str) -> Any:
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value


def loads(text: str) -> Any:
    """A JSON object, or a Python literal as `str(dict)` writes it (matminer's CSV files).

    Raises:
        ValueError: it is neither.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        try:
            return ast.literal_eval(text)
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            raise ValueError(f"not a JSON object ({error})") from error


# -- Parquet


def parquet_ranges(path: str, n_rows: int) -> Iterator[tuple[int, int, int, int]]:
    """(row group, start and stop in it, first row in the file) of ranges of at most `n_rows` rows."""
    with closing(_parquet_file(path)) as file:
        sizes = [file.metadata.row_group(g).num_rows for g in range(file.metadata.num_row_groups)]
    first = 0
    for group, size in enumerate(sizes):
        for start in range(0, size, n_rows):
            stop = min(start + n_rows, size)
            yield group, start, stop, first + start
        first += size


def parquet(path: str, columns: list[str], group: int, start: int, stop: int) -> Iterator[Row]:
    """The wanted columns of rows `start` to `stop` of a row group; lists of numbers come as arrays."""
    with closing(_parquet_file(path)) as file:
        at = 0
        with naming(path):
            for batch in file.iter_batches(4096, row_groups=[group], columns=columns):
                end = at + batch.num_rows
                if end > start and at < stop:
                    part = batch.slice(max(start - at, 0), min(stop, end) - max(start, at))
                    yield from zip(*[_values(part.column(column)) for column in columns], strict=True)
                at = end
                if at >= stop:
                    return


def parquet_repeated(path: str, column: str) -> list[int]:
    """Numbers of the rows whose value in `column` an earlier row has."""
    with closing(_parquet_file(path)) as file, naming(path):
        values = file.read(columns=[column]).column(0).combine_chunks()
    codes = values.dictionary_encode().indices
    if values.null_count == 0 and len(pc.unique(codes)) == len(codes):
        return []
    numbers = codes.fill_null(-1).to_numpy()
    _, first = np.unique(numbers, return_index=True)
    repeated = np.ones(len(numbers), dtype=bool)
    repeated[first] = False
    return [int(row) for row in np.flatnonzero(repeated & (numbers >= 0))]


def _values(column: pa.Array) -> list[Any]:
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        kind = column.type.value_type
        if (pa.types.is_floating(kind) or pa.types.is_integer(kind)) and column.null_count == 0:
            numbers = column.flatten()
            if numbers.null_count == 0:
                ends = np.concatenate([[0], np.cumsum(pc.list_value_length(column).to_numpy())])
                flat = numbers.to_numpy()
                return [flat[a:b] for a, b in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)]
    return column.to_pylist()


def _parquet_file(path: str) -> pq.ParquetFile:
    fs, inner = locate(path)
    try:
        with naming(path):
            return pq.ParquetFile(fs.open(inner, "rb"))
    except pa.ArrowException as error:
        raise SourceError(f"{path}: not a whole Parquet file ({error}); fetch it again") from error


READERS: dict[str, Callable[[str, list[str], str], Iterator[Row]]] = {
    "csv": csv_rows,
    "jsonl": jsonl_rows,
    "json": json_rows,
}


def read_all(path: str, format: str, columns: list[str]) -> Iterator[Row]:
    """The wanted columns of every row of a table.

    Raises:
        SourceError: a row cannot be read.
    """
    if format == "parquet":
        for group, start, stop, _ in parquet_ranges(path, 1 << 30):
            yield from parquet(path, columns, group, start, stop)
        return
    for row in READERS[format](path, columns, ""):
        if len(row) == 1 and isinstance(row[0], BadRow):
            raise SourceError(f"{path}, {row[0]}")
        yield row
