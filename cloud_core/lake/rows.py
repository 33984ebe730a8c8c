"""Rows on their way into the table: its columns and types, the marks of a commit, a hash of each."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cloud_core.lake.errors import LakeError
from cloud_core.lake.schemas import STRUCTURES


def conform(rows: pa.Table) -> pa.Table:
    """`rows` in the columns and types of STRUCTURES.

    Raises:
        LakeError: a column that the table does not have, or an id or status that is missing.
    """
    unknown = [name for name in rows.column_names if name not in STRUCTURES.names]
    if unknown:
        raise LakeError(f"rows have columns that the table lacks: {', '.join(unknown)}")
    columns = []
    for field in STRUCTURES:
        if field.name in rows.column_names:
            columns.append(rows[field.name].cast(field.type))
        elif field.nullable:
            columns.append(pa.nulls(rows.num_rows, field.type))
        else:
            raise LakeError(f"rows lack the column {field.name}")
    return pa.Table.from_arrays(columns, schema=STRUCTURES)


def stamped(rows: pa.Table, key: str) -> pa.Table:
    """`conform`, with the key of the commit that is to write the rows, and the time."""
    rows = conform(rows)
    rows = with_column(rows, "chunk_key", [key] * rows.num_rows)
    return with_column(rows, "encoded_at", [datetime.now(UTC)] * rows.num_rows)


def with_column(rows: pa.Table, name: str, values: Sequence[Any] | np.ndarray) -> pa.Table:
    """`rows` with other values `[n]` in one of their columns."""
    field = STRUCTURES.field(name)
    return rows.set_column(rows.schema.get_field_index(name), field, pa.array(values, field.type))


def add_counts(counts: Counter[Any], column: pa.Array) -> None:
    """Count the values of a column in."""
    for item in column.value_counts().to_pylist():
        counts[item["values"]] += item["counts"]


def content_hash(batches: Iterable[pa.RecordBatch]) -> str:
    """Hash of rows by id, whatever their order; memory grows by an id and 16 bytes a row."""
    ids: list[pa.Array] = []
    digests: list[bytes] = []
    for batch in batches:
        ids.append(batch["structure_id"])
        digests += row_digests(batch)
    order = pc.sort_indices(pa.chunked_array(ids, pa.string())).to_numpy() if ids else np.empty(0, np.int64)
    total = hashlib.sha256()
    for i in order:
        total.update(digests[i])
    return total.hexdigest()


def row_digests(batch: pa.RecordBatch) -> list[bytes]:
    """A 16-byte hash of each row; maps count without their order, numbers by their exact value."""
    columns: list[list[Any]] = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        values = column.to_pylist()
        if pa.types.is_map(STRUCTURES.field(name).type):
            values = [value and sorted(value) for value in values]
        columns.append(values)
    return [
        hashlib.blake2b(repr(row).encode("utf-8", "surrogatepass"), digest_size=16).digest()
        for row in zip(*columns, strict=True)
    ]
