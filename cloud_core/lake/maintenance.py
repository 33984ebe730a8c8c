"""Keeping a table small: superseded rows, small files, old files, old log entries."""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import numpy as np
import pyarrow as pa
from deltalake import CommitProperties, PostCommitHookProperties, Schema, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError

from cloud_core.files import modified_at
from cloud_core.lake.errors import LakeError, explained, naming
from cloud_core.lake.pins import pins
from cloud_core.lake.schemas import DESCRIPTION, SCHEMA_VERSION, STRUCTURES
from cloud_core.lake.streams import in_a_thread
from cloud_core.lake.table import WRITER, Table, schema_version

FILE_SIZE = 128 * 2**20  # bytes
_ATTEMPTS = 5  # each may write the whole table anew
T = TypeVar("T")
_NO_HOOKS = PostCommitHookProperties(cleanup_expired_logs=False)


class TableBusyError(LakeError):
    """Other writers commit faster than a rewrite of the table ends."""


@dataclass(frozen=True)
class Compacted:
    """What `compact` did."""

    version: int
    superseded_rows_removed: int
    files_before: int
    files_after: int


@dataclass(frozen=True)
class Vacuumed:
    """What `vacuum` removed, or would."""

    files: int
    log_entries: int
    kept_versions: tuple[int, ...]
    dry_run: bool


def migrate(table: Table) -> tuple[int, int]:
    """Bring a table to the schema of today: missing columns are added, null in the rows there are.

    Returns the schema versions before and after. Past versions of the table stay as they are.
    """
    before = schema_version(table.delta)
    schema = Schema.from_arrow(STRUCTURES)
    there = {field.name for field in table.delta.schema().fields}
    with naming(table.uri):
        if missing := [field for field in schema.fields if field.name not in there]:
            table.delta.alter.add_columns(missing)
        if before < SCHEMA_VERSION:
            table.delta.alter.set_table_description(DESCRIPTION)
    table.refresh()
    return before, schema_version(table.delta)


def purge(table: Table, target_size: int = FILE_SIZE) -> int:
    """Remove superseded rows from the files, in one commit; returns how many.

    The current rows are streamed into new files. (Delta's MERGE, which would rewrite only the files that
    hold such a row, took ten times as long and three times the memory.)

    Raises:
        TableBusyError: other writers kept committing.
    """

    def rewrite() -> int:
        if table.is_purged:
            return 0
        before = table.n_rows_in_files
        held = Table.open(table.uri, table.storage, table.version)
        place = STRUCTURES.get_field_index("revision")

        def first_revisions() -> Iterator[pa.RecordBatch]:
            for batch in held.batches():
                zeros = pa.array(np.zeros(batch.num_rows, np.int32))
                yield batch.set_column(place, STRUCTURES.field(place), zeros)

        write_deltalake(
            table.delta,
            pa.RecordBatchReader.from_batches(STRUCTURES, in_a_thread(first_revisions())),
            mode="overwrite",
            schema_mode="overwrite",
            target_file_size=target_size,
            writer_properties=WRITER,
            commit_properties=CommitProperties(custom_metadata={"cloud": "purge"}, max_commit_retries=0),
            post_commithook_properties=_NO_HOOKS,
        )
        return before - table.n_rows_in_files

    return _retried(table, rewrite)


def purge_unless_busy(table: Table) -> int | None:
    """`purge` at the end of a run; None where another run is writing, at whose end it will be done."""
    try:
        return purge(table)
    except TableBusyError:
        return None


def compact(table: Table, target_size: int = FILE_SIZE) -> Compacted:
    """Purge, then join small files into ones of about `target_size` bytes. The rows do not change."""
    before = len(table.files())
    removed = purge(table, target_size)
    _retried(
        table,
        lambda: table.delta.optimize.compact(
            target_size=target_size,
            max_concurrent_tasks=1,  # memory: one output file at a time
            writer_properties=WRITER,
            commit_properties=CommitProperties(custom_metadata={"cloud": "compact"}),
            post_commithook_properties=_NO_HOOKS,
        ),
    )
    table.refresh()
    return Compacted(table.version, removed, before, len(table.files()))


def vacuum(table: Table, retention_hours: float = 168.0, dry_run: bool = False) -> Vacuumed:
    """Remove data files that no version younger than the retention uses, and log entries before those.

    Versions that are pinned (see `pins.py`) keep their files and their log.
    """
    kept = sorted(set(pins(table.uri, table.storage).values()))
    table.refresh()
    with naming(table.uri):
        # delta-rs counts in whole hours: rather one more than asked
        files = table.delta.vacuum(
            retention_hours=math.ceil(retention_hours),
            dry_run=dry_run,
            enforce_retention_duration=False,
            keep_versions=kept or None,
            full=True,
            post_commithook_properties=_NO_HOOKS,
        )
    entries = _clean_log(table, kept, retention_hours, dry_run)
    table.refresh()
    return Vacuumed(len(files), entries, tuple(kept), dry_run)


def _clean_log(table: Table, kept: list[int], retention_hours: float, dry_run: bool) -> int:
    """Remove log entries older than the retention, but none that a kept version needs to be read.

    A version is read from the newest checkpoint at or before it and the entries after that one; so everything
    before the newest checkpoint that precedes all kept (and all young) versions can go.
    """
    fs, path = table.storage.file_system(table.uri)
    cutoff = datetime.now(UTC) - timedelta(hours=retention_hours)
    with naming(table.uri):
        fs.invalidate_cache()
        entries: list[tuple[int, str, bool]] = []
        oldest_needed = min([table.version, *kept])
        for info in fs.ls(f"{path}/_delta_log", detail=True):
            match = re.fullmatch(
                r"(\d{20})\.(checkpoint\.)?.*(json|parquet|crc)", info["name"].rsplit("/", 1)[-1]
            )
            if not match:
                continue
            version, is_checkpoint = int(match[1]), match[2] is not None
            entries.append((version, info["name"], is_checkpoint))
            changed = modified_at(info)
            if changed is None:
                raise LakeError(
                    f"{info['name']}: the store does not say when this was written; clean the log by hand"
                )
            if changed >= cutoff:
                oldest_needed = min(oldest_needed, version)
        base = max((v for v, _, is_checkpoint in entries if is_checkpoint and v <= oldest_needed), default=0)
        removed = [name for version, name, _ in entries if version < base]
        if not dry_run:
            for name in sorted(removed):  # oldest first: an interrupted clean-up leaves no hole
                fs.rm_file(name)
    return len(removed)


def _retried(table: Table, work: Callable[[], T]) -> T:
    """Do `work` on the newest version; again if another writer committed meanwhile."""
    for _ in range(_ATTEMPTS):
        table.refresh()
        try:
            return work()
        except CommitFailedError:
            continue
        except (DeltaError, OSError) as error:
            raise explained(table.uri, error) from error
    raise TableBusyError(f"{table.uri}: other writers kept committing; let them finish, then run again")
