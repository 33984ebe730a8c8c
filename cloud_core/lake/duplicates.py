"""Equal structures, in three senses of the word, and splits that keep equal strings together.

| name | column | two rows are equal when |
|---|---|---|
| content | content_hash | their input was the same, byte for byte |
| crystal | element_key | space group, and the elements on each Wyckoff letter, are the same |
| string | canonical | their canonical strings are the same: what a model sees |

`content` is the narrowest, `string` the widest: TiNiSn and its five other orderings share a string, but are
six crystals.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import write_deltalake

from cloud_core.lake.errors import LakeError, naming
from cloud_core.lake.schemas import ENCODED, STRUCTURES
from cloud_core.lake.storage import Storage
from cloud_core.lake.streams import in_a_thread
from cloud_core.lake.table import WRITER, Columns, Table

BY = {"content": "content_hash", "crystal": "element_key", "string": "canonical"}


@dataclass(frozen=True)
class DuplicateCount:
    """How many encoded rows there are, and how many differ in the sense of `by`."""

    by: str
    rows: int
    distinct: int

    @property
    def duplicates(self) -> int:
        return self.rows - self.distinct


def _groups(table: Table, by: str) -> pa.Table:
    """A row a group: `key` (128-bit hash), `structure_id` (the least of the group), `n` (rows in it)."""
    if by not in BY:
        raise LakeError(f"no sense {by!r} of being equal; there are {', '.join(BY)}")
    schema = pa.schema({"key": pa.binary(16), "structure_id": pa.string()})
    parts = [schema.empty_table()]
    for batch in table.batches(ENCODED, ["structure_id", BY[by]]):
        # without a value (the element key, where only official forms were asked for) a row equals no other
        values = [
            value if value is not None else f"\0{structure_id}"
            for value, structure_id in zip(
                batch[BY[by]].to_pylist(), batch["structure_id"].to_pylist(), strict=True
            )
        ]
        keys = [hashlib.blake2b(value.encode(), digest_size=16).digest() for value in values]
        parts.append(pa.table([pa.array(keys, pa.binary(16)), batch["structure_id"]], schema=schema))
    grouped = (
        pa.concat_tables(parts)
        .group_by("key")
        .aggregate([("structure_id", "min"), ("structure_id", "count")])
    )
    return grouped.rename_columns(["key", "structure_id", "n"])


def count_duplicates(table: Table) -> list[DuplicateCount]:
    """The three counts, each under its name."""
    rows = table.counts()[ENCODED]
    return [DuplicateCount(by, rows, _groups(table, by).num_rows) for by in BY]


def distinct(table: Table, by: str, columns: Columns = None) -> Iterator[pa.RecordBatch]:
    """The encoded rows without duplicates, of each group the one with the least id: a view, never stored."""
    first = pd.Index(_groups(table, by)["structure_id"].to_pandas())
    wanted = list(columns) if columns is not None else None
    read = None if wanted is None else list(dict.fromkeys([*wanted, "structure_id"]))
    for batch in table.batches(ENCODED, read):
        kept = batch.filter(pa.array(first.get_indexer(batch["structure_id"].to_pandas()) >= 0))
        if kept.num_rows:
            yield kept if wanted is None else kept.select(wanted)


def write_distinct(
    table: Table, by: str, to: str, shares: Mapping[str, float], seed: int = 0, storage: Storage | None = None
) -> dict[str, int]:
    """Write the distinct rows, with a column `split`, as a new Delta table in one commit; rows by split.

    Raises:
        LakeError: there is a table at `to` already, or it cannot be written.
    """
    if Table.exists(to, storage):
        raise LakeError(f"{to}: there is a table already; name another place")
    split_by_string([], shares)  # wrong shares are told before anything is written
    if n_without := table.rows(ENCODED, ["structure_id"], ds.field("canonical").is_null()).num_rows:
        raise LakeError(
            f"{table.uri}: splits go by canonical string, which {n_without} encoded rows lack; "
            "encode it with forms: [canonical, …]"
        )
    schema = STRUCTURES.append(pa.field("split", pa.string()))
    splits = dict.fromkeys(shares, 0)

    def rows() -> Iterator[pa.RecordBatch]:
        for batch in distinct(table, by):
            names = split_by_string(batch["canonical"].to_pylist(), shares, seed)
            for name in names:
                splits[str(name)] += 1
            yield pa.RecordBatch.from_arrays([*batch.columns, pa.array(names)], schema=schema)

    options = (storage or Storage.from_environment()).for_delta(to)
    with naming(to):
        reader = pa.RecordBatchReader.from_batches(schema, in_a_thread(rows()))
        write_deltalake(to, reader, partition_by=["split"], storage_options=options, writer_properties=WRITER)
    return splits


def split_by_string(strings: Sequence[str], shares: Mapping[str, float], seed: int = 0) -> np.ndarray:
    """A split's name for each canonical string `[n]`; equal strings go to the same split.

    A string's split depends on the string, the seed and the shares alone: new rows move no old one.

    Raises:
        LakeError: the shares do not sum to 1.
    """
    if any(share < 0 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-9:
        raise LakeError(f"shares of splits sum to 1, these to {sum(shares.values()):g}: {dict(shares)}")
    salt = f"{seed}\n".encode()
    draws = np.array(
        [int.from_bytes(hashlib.blake2b(salt + s.encode(), digest_size=8).digest()) / 2**64 for s in strings]
    )
    names = np.array(list(shares))
    indices = np.searchsorted(np.cumsum(list(shares.values())), draws, side="right")
    return names[np.minimum(indices, len(names) - 1)]
