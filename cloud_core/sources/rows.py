"""Rows of CSV, JSON lines, JSON and Parquet files: streamed, only the wanted columns of them."""

import csv
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cloud_core.sources.json_rows import Row, json_columns, json_rows, jsonl_columns, jsonl_rows
from cloud_core.sources.opening import open_raw, open_text
from cloud_core.sources.record import BadRow, Refusal, SourceError
from cloud_core.structures.text import MAX_BYTES


def columns_of(path: str, format: str, items: str) -> list[str] | None:
    """Column names, from the head of the file; None where only reading it whole would tell.

    Raises:
        SourceError: the file is missing, damaged, empty or not of that format.
    """
    if format == "parquet":
        with _parquet_file(path) as file:
            return list(file.schema_arrow.names)
    if format == "csv":
        with _csv(path) as (header, _, _):
            return header
    return jsonl_columns(path) if format == "jsonl" else json_columns(path, items)


# -- CSV


def csv_rows(path: str, columns: list[str], items: str = "") -> Iterator[Row | BadRow]:
    """The wanted columns of each row of a CSV file; a row of the wrong width comes as a BadRow."""
    with _csv(path) as (header, reader, lines):
        wanted = [header.index(column) for column in columns]
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                message = f"{path}, line {reader.line_num}: {error}; a truncated file or a stray quote"
                raise SourceError(message) from error
            if lines.is_cut:
                lines.is_cut = False
                message = f"row that ends on line {lines.number}: more than {MAX_BYTES} characters"
                yield BadRow(message, Refusal.TOO_LARGE)
            elif len(row) == len(header):
                yield tuple([row[i] for i in wanted])
            elif row:
                yield BadRow(f"line {lines.number}: {len(row)} fields, the header has {len(header)}")


@contextmanager
def _csv(path: str) -> Iterator[tuple[list[str], Any, "_Lines"]]:
    """Header and reader of a CSV file, and the lines that it reads."""
    csv.field_size_limit((1 << 31) - 1)  # `_Lines` keeps the limit, a row at a time
    with open_text(path) as text:
        lines = _Lines(text)
        reader = csv.reader(lines, strict=True)
        try:
            header = next(reader)
        except (StopIteration, csv.Error) as error:
            raise SourceError(f"{path}: no header line of column names ({error or 'empty file'})") from error
        if len(set(header)) < len(header):
            raise SourceError(f"{path}: two columns have one name: {', '.join(header)}")
        yield header, reader, lines


class _Lines:
    """Lines of a CSV file. Of a row above the limit the rest is passed unread: `is_cut` is set, and the field
    that stood open is closed."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self._in_quotes = False
        self._size = 0  # of the row so far
        self.number = 0
        self.is_cut = False

    def __iter__(self) -> Iterator[str]:
        while line := self._text.readline(MAX_BYTES + 1):
            self.number += 1
            self._size += len(line)
            was_open = self._in_quotes
            self._in_quotes ^= line.count('"') % 2 == 1
            if self._size > MAX_BYTES:
                while (self._in_quotes or not line.endswith("\n")) and (line := self._text.readline(1 << 20)):
                    self._in_quotes ^= line.count('"') % 2 == 1
                self.is_cut = True
                line = '"\n' if was_open else "\n"
            if not self._in_quotes:
                self._size = 0
            yield line


# -- Parquet


def parquet_ranges(path: str, n_rows: int) -> Iterator[tuple[int, int, int, int]]:
    """(row group, start and stop in it, first row in the file) of ranges of at most `n_rows` rows."""
    with _parquet_file(path) as file:
        sizes = [file.metadata.row_group(g).num_rows for g in range(file.metadata.num_row_groups)]
    first = 0
    for group, size in enumerate(sizes):
        for start in range(0, size, n_rows):
            stop = min(start + n_rows, size)
            yield group, start, stop, first + start
        first += size


def parquet(path: str, columns: list[str], group: int, start: int, stop: int) -> Iterator[Row]:
    """The wanted columns of rows `start` to `stop` of a row group; lists of numbers come as arrays."""
    with _parquet_file(path) as file:
        at = 0
        for batch in file.iter_batches(4096, row_groups=[group], columns=columns):
            end = at + batch.num_rows
            if end > start and at < stop:
                part = batch.slice(max(start - at, 0), min(stop, end) - max(start, at))
                yield from zip(*[_values(part.column(column)) for column in columns], strict=True)
            at = end
            if at >= stop:
                return


def parquet_whole(path: str, columns: list[str]) -> Iterator[Row]:
    """The wanted columns of all rows; lists of numbers come as arrays."""
    with _parquet_file(path) as file:
        missing = [column for column in columns if column.split(".")[0] not in file.schema_arrow.names]
        if missing:
            raise SourceError(f"{path}: no column {missing[0]!r}, which the other files of the table have")
        for batch in file.iter_batches(4096, columns=columns):
            yield from zip(*[_values(batch.column(column)) for column in columns], strict=True)


def parquet_repeated(path: str, column: str) -> list[int]:
    """Numbers of the rows whose value in `column` an earlier row has."""
    with _parquet_file(path) as file:
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
    values = column.to_pylist()
    return [_without_nulls(value) for value in values] if _has_struct(column.type) else values


def _has_struct(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) or (pa.types.is_list(kind) and _has_struct(kind.value_type))


def _without_nulls(value: Any) -> Any:
    """Arrow gives every object the keys of all, and null for those that it lacks."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


@contextmanager
def _parquet_file(path: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file. What reading it raises becomes a SourceError that names it."""
    try:
        with open_raw(path) as stream, pq.ParquetFile(stream) as file:
            yield file
    except pa.ArrowException as error:
        raise SourceError(f"{path}: not a whole Parquet file ({error}); fetch it again") from error


READERS: dict[str, Callable[[str, list[str], str], Iterator[Row | BadRow]]] = {
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
        if isinstance(row, BadRow):
            raise SourceError(f"{path}, {row.message}")
        yield row
