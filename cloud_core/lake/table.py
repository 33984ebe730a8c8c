"""The table of structures: exactly-once append, the current row for each structure, past versions.

Chunks are only ever appended. A row that replaces another has the same `structure_id` and a higher
`revision`; of each structure the row with the highest revision is current, and every view shows only those.
`purge` removes the superseded rows from the files, so that a pinned version is a plain list of files (see
`snapshot.py`).
"""

import hashlib
import itertools
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import CommitProperties, DeltaTable, Transaction, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError

from cloud_core.lake.errors import LakeError, explained, naming
from cloud_core.lake.index import STATE_COLUMNS, Index, hash_strings, states_of
from cloud_core.lake.rows import add_counts, content_hash, stamped, with_column
from cloud_core.lake.schemas import (
    DESCRIPTION,
    ENCODED,
    LATER_COLUMNS,
    PROVENANCE,
    QUARANTINED,
    SCHEMA_VERSION,
    STATUSES,
    STRUCTURES,
    WITHDRAWN,
)
from cloud_core.lake.storage import Storage

WRITER = WriterProperties(
    compression="ZSTD",
    compression_level=3,
    max_row_group_size=131_072,  # rows: what a writer holds in memory
)
_CONFIGURATION = {
    # The log is cleaned by `vacuum` only, which knows the pinned versions.
    "delta.enableExpiredLogCleanup": "false",
    "delta.logRetentionDuration": "interval 36500 days",
    "delta.checkpointInterval": "50",
    "delta.dataSkippingStatsColumns": "structure_id,revision",
}
# A scan's memory does not grow with the table: a file ahead, and no file's metadata kept once it is read.
_STREAMED: dict[str, Any] = {"batch_readahead": 2, "fragment_readahead": 1, "cache_metadata": False}
_REVISION = STRUCTURES.get_field_index("revision")
_ATTEMPTS = 200  # commits lost to other writers before giving up

Columns = Sequence[str] | None


def schema_version(delta: DeltaTable) -> int:
    """Of a table; 1 where it says nothing."""
    found = re.search(r"schema version (\d+)", delta.metadata().description or "")
    return int(found[1]) if found else 1


@dataclass(frozen=True)
class Claim:
    """A chunk's work: the key of its commit, which rows to encode `[n]`, and the revisions they have now."""

    key: str
    todo: np.ndarray
    revisions: np.ndarray


class Table:
    """A Delta table of structures. One object may be used by several threads."""

    def __init__(self, delta: DeltaTable, uri: str, storage: Storage) -> None:
        self.delta = delta  # for `maintenance`; others take the methods here
        self.uri = uri
        self.storage = storage
        self._is_past = False
        self._lock = threading.RLock()
        self._index: Index | None = None
        self._indexed: set[str] = set()  # data files that the index has seen

    @classmethod
    def open(cls, uri: str, storage: Storage | None = None, version: int | None = None) -> Self:
        """Open a table, at its newest version or a past one (which is then read-only).

        Raises:
            LakeError: there is no table, no such version, or the store does not let us in.
        """
        storage = storage or Storage.from_environment()
        try:
            with naming(uri):
                delta = DeltaTable(uri, version=version, storage_options=storage.for_delta(uri))
        except LakeError as error:
            if version is None:
                raise
            cls.open(uri, storage)  # a table that is not there, or a refused key, has an error of its own
            raise LakeError(
                f"{uri}: no version {version} here; `cloud status` lists them ({error})"
            ) from error
        if (found := schema_version(delta)) > SCHEMA_VERSION:
            raise LakeError(
                f"{uri}: schema version {found}, and this program knows {SCHEMA_VERSION}: upgrade the program"
            )
        needed = [name for name in STRUCTURES.names if name not in LATER_COLUMNS]
        missing = [name for name in needed if name not in {f.name for f in delta.schema().fields}]
        if missing:
            raise LakeError(f"{uri}: a Delta table, but not of structures (no column {', '.join(missing)})")
        table = cls(delta, uri, storage)
        table._is_past = version is not None
        return table

    @classmethod
    def create(
        cls, uri: str, storage: Storage | None = None, configuration: dict[str, str] | None = None
    ) -> Self:
        """Open the table, making an empty one where there is none.

        `configuration` overrides Delta properties of a new table, e.g. `delta.deletedFileRetentionDuration`.
        """
        storage = storage or Storage.from_environment()
        with naming(uri):
            if not DeltaTable.is_deltatable(uri, storage.for_delta(uri)):
                # two writers may both find nothing: the one that comes second opens the first one's table
                with suppress(CommitFailedError):
                    DeltaTable.create(
                        uri,
                        STRUCTURES,
                        mode="ignore",
                        partition_by=["status"],
                        description=DESCRIPTION,
                        configuration=_CONFIGURATION | (configuration or {}),
                        storage_options=storage.for_delta(uri),
                    )
        return cls.open(uri, storage)

    @classmethod
    def exists(cls, uri: str, storage: Storage | None = None) -> bool:
        """Whether there is a Delta table at `uri`."""
        with naming(uri):
            return DeltaTable.is_deltatable(uri, (storage or Storage.from_environment()).for_delta(uri))

    @property
    def version(self) -> int:
        return self.delta.version()

    def refresh(self) -> None:
        """See what other writers have committed."""
        with self._lock, naming(self.uri):
            self.delta.update_incremental()
            self._catch_up()

    # -- reading

    def batches(
        self, status: str | None = None, columns: Columns = None, where: ds.Expression | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The current rows, of one status or all, as a stream; memory does not grow with the table."""
        if status is not None and status not in STATUSES:
            raise LakeError(f"{self.uri}: no status {status!r}; there are {', '.join(STATUSES)}")
        names = list(columns) if columns is not None else list(STRUCTURES.names)
        unknown = [name for name in names if name not in STRUCTURES.names]
        if unknown:
            raise LakeError(
                f"{self.uri}: no column {', '.join(unknown)}; columns: {', '.join(STRUCTURES.names)}"
            )
        superseded = self._superseding()
        read = names if superseded is None else list(dict.fromkeys([*names, "structure_id", "revision"]))
        condition = ds.field("status") == status if status is not None else None
        if where is not None:
            condition = where if condition is None else condition & where
        with naming(self.uri):
            dataset = self._dataset()
            for batch in dataset.to_batches(columns=read, filter=condition, batch_size=16_384, **_STREAMED):
                if superseded is not None:
                    batch = batch.filter(superseded(batch))
                if batch.num_rows:
                    yield batch.select(names)

    def rows(
        self, status: str | None = None, columns: Columns = None, where: ds.Expression | None = None
    ) -> pa.Table:
        """`batches` as one table."""
        names = list(columns) if columns is not None else list(STRUCTURES.names)
        schema = pa.schema([STRUCTURES.field(name) for name in names if name in STRUCTURES.names])
        return pa.Table.from_batches((b.cast(schema) for b in self.batches(status, columns, where)), schema)

    def scope(self, columns: Columns = None) -> pa.Table:
        """The encoded structures."""
        return self.rows(ENCODED, columns)

    def quarantine(self, columns: Columns = None) -> pa.Table:
        """The structures that could not be encoded, with reason, message and payload."""
        return self.rows(QUARANTINED, columns)

    def files(self, status: str | None = None) -> list[str]:
        """URIs of the data files of this version, of one status or all."""
        return sorted(self.delta.file_uris([("status", "=", status)] if status is not None else None))

    def counts(self) -> dict[str, int]:
        """Current rows, by status."""
        counts: Counter[str] = Counter(dict.fromkeys(STATUSES, 0))
        if self.is_purged:
            for action in self._actions().to_pylist():
                counts[action["partition.status"]] += action["num_records"]
        else:
            for batch in self.batches(columns=["status"]):
                add_counts(counts, batch["status"])
        return dict(counts)

    def look_up(self, ids: Sequence[str]) -> pa.Table:
        """The current rows for these structure ids, without the strings: what a merge has to know."""
        names = ["structure_id", "status", "content_hash", "fingerprint", "modified_at", "revision"]
        return self.rows(columns=names, where=ds.field("structure_id").isin(list(ids)))

    def not_withdrawn(self, ids: Sequence[str] | pa.Array) -> pa.Table:
        """The current rows of those of these structure ids that were not withdrawn."""
        return self.rows(where=ds.field("structure_id").isin(ids) & (ds.field("status") != WITHDRAWN))

    def content_hash(self) -> str:
        """Hash of the current rows, sorted by id, without PROVENANCE: equal for equal content.

        Neither the number of workers, the size of chunks, the order of commits nor compaction moves it.
        """
        names = [name for name in STRUCTURES.names if name not in PROVENANCE]
        return content_hash(self.batches(columns=names))

    # -- writing

    @property
    def index(self) -> Index:
        """What the table holds, by id. Read from the files at first use, kept up to date by own commits."""
        with self._lock:
            if self._index is None:
                self._index, self._indexed = Index(), set()
                self._catch_up()
            return self._index

    def unchanged(self, rows: pa.Table) -> np.ndarray:
        """Whether `[n]` each row's structure is in the table with the same content, labels and fingerprint.

        `rows` has `structure_id` and the columns of `index.STATE_COLUMNS` but for `status`.
        """
        with self._lock:
            return self.index.compare(rows).is_known

    def claim(self, inputs: pa.Table, place: str, again: bool = False) -> Claim:
        """What of `inputs` is to be done (all, if `again`), and a key for it: the begin of a chunk's work.

        The key names the inputs and the place in a source where they are: two writers that claim the same
        ones of the same state of the table get the same key, so that only one of them commits. `inputs` is as
        in `unchanged`.
        """
        digest = hashlib.sha256(f"{place}\n".encode())
        for name in ("structure_id", "content_hash"):
            digest.update("\n".join(inputs[name].to_pylist()).encode())
        key = first = f"chunk-{digest.hexdigest()[:32]}"
        with self._lock:
            held = self.index.compare(inputs)
            todo = np.ones(inputs.num_rows, bool) if again else ~held.is_known
            # The key of a commit outlives its rows (a `restore` takes the rows back): what is to be done is
            # told by the current rows, and the key only keeps two writers of it apart.
            attempts = itertools.count(2)
            while todo.any() and self._is_committed(key):
                key = f"{first}~{next(attempts)}"
            return Claim(key, todo, held.revisions[todo])

    def append_chunk(
        self,
        rows: pa.Table,
        key: str,
        seen: np.ndarray | None = None,
        metadata: dict[str, str] | None = None,
        again: bool = False,
    ) -> bool:
        """Commit rows under a key, once; each replaces the row that its structure has, if any.

        `rows` has columns of STRUCTURES (missing ones become null; `revision`, `chunk_key` and `encoded_at`
        are filled in here) and each structure id once. Safe against other processes: the commit is made only
        if nobody else committed since this one last looked; otherwise it looks again, and leaves out what
        another writer has written meanwhile. `seen` are the revisions `[n]` that the rows' structures had
        when work on them began (`Claim.revisions`); `metadata` goes into the commit's entry in the log.
        `again`: the rows were read from this table and encoded anew, so that one that another writer has
        changed or withdrawn meanwhile is left out, too.

        Returns:
            Whether something was written; False if the key, or every one of the rows, was there already.

        Raises:
            LakeError: the store refused, or the rows are not of this table.
        """
        if self._is_past:
            raise LakeError(f"{self.uri}: opened at the past version {self.version}, which cannot be written")
        with self._lock:
            index = self.index
            rows = stamped(rows, key)
            for attempt in range(_ATTEMPTS):
                held = index.compare(rows)
                if len(np.unique(held.ids)) != len(held.ids):
                    raise LakeError(f"{self.uri}: chunk {key} has a structure id twice")
                seen = held.revisions if seen is None else seen
                theirs = ~held.is_known if again else held.is_known & (held.revisions != seen)
                if theirs.any():
                    rows, seen = rows.filter(pa.array(~theirs)), seen[~theirs]
                    continue
                if rows.num_rows == 0 or self._is_committed(key):
                    return False
                revisions = held.revisions + 1
                rows = rows.set_column(_REVISION, STRUCTURES.field(_REVISION), pa.array(revisions))
                if self._commit(rows, key, metadata or {}):
                    self._indexed = set(self.delta.file_uris())
                    index.put(held.ids, held.states, revisions)
                    return True
                time.sleep(random.uniform(0, 0.01 * min(attempt + 1, 20)))
                self.refresh()
                index = self.index  # another one, where a writer has purged the table
        raise LakeError(
            f"{self.uri}: {_ATTEMPTS} commits lost to other writers; let them finish, then run again"
        )

    def note(self, metadata: dict[str, str]) -> None:
        """A commit without rows, whose entry in the log holds `metadata`."""
        with self._lock:
            for _ in range(_ATTEMPTS):
                if self._commit(STRUCTURES.empty_table(), None, metadata):
                    return
                self.refresh()
        raise LakeError(f"{self.uri}: {_ATTEMPTS} commits lost to other writers; try again")

    def withdraw(self, ids: Sequence[str], key: str) -> int:
        """Mark structures as withdrawn, in one commit; returns how many were not yet."""
        with self._lock:
            held = self.not_withdrawn(ids)
            marked = with_column(held, "status", [WITHDRAWN] * held.num_rows)
            return held.num_rows if self.append_chunk(marked, key) else 0

    # -- inside

    def _is_committed(self, key: str) -> bool:
        try:
            return self.delta.transaction_version(key) is not None
        except (DeltaError, OSError) as error:
            raise explained(self.uri, error) from error

    def _commit(self, rows: pa.Table, key: str | None, metadata: dict[str, str]) -> bool:
        """One attempt on top of the version in memory; False if another writer was first."""
        properties = CommitProperties(
            app_transactions=[Transaction(key, 1)] if key is not None else None,
            custom_metadata=metadata,
            max_commit_retries=0,
        )
        try:
            write_deltalake(
                self.delta,
                rows,
                mode="append",
                schema_mode="merge",  # of LATER_COLUMNS
                commit_properties=properties,
                writer_properties=WRITER,
            )
        except CommitFailedError:
            return False
        except (DeltaError, OSError) as error:
            raise explained(self.uri, error) from error
        return True

    def _actions(self) -> pa.Table:
        """One row a data file of this version: path, num_records, partition and statistics."""
        return pa.table(self.delta.get_add_actions(flatten=True))

    def _dataset(self) -> ds.Dataset:
        return self.delta.to_pyarrow_dataset(schema=STRUCTURES)

    @property
    def is_purged(self) -> bool:
        """Whether every row in the files is current, so that the files alone are the table."""
        return not self._replacing_files()

    @property
    def n_rows_in_files(self) -> int:
        """Rows in the files, superseded ones included."""
        return sum(self._actions()["num_records"].to_pylist())

    def _replacing_files(self) -> list[str]:
        """Files with rows that may replace others: those that hold a revision above 0."""
        actions = self._actions()
        if "max.revision" not in actions.column_names:
            return []
        return [row["path"] for row in actions.to_pylist() if row["num_records"] and row["max.revision"] != 0]

    def _superseding(self) -> Callable[[pa.RecordBatch], pa.Array] | None:
        """A filter that keeps the current rows, or None if all are current."""
        if self.is_purged:
            return None
        highest = Index()
        with naming(self.uri):
            scanner = self._dataset().to_batches(
                columns=["structure_id", "revision"], filter=ds.field("revision") > 0, **_STREAMED
            )
            for batch in scanner:
                ids = hash_strings(batch["structure_id"])
                highest.put(ids, np.zeros(len(ids), np.uint64), batch["revision"].to_numpy())

        def holds(batch: pa.RecordBatch) -> pa.Array:
            _, revisions = highest.look_up(hash_strings(batch["structure_id"]))
            return pa.array(batch["revision"].to_numpy() >= revisions)

        return holds

    def _catch_up(self) -> None:
        """Take the rows of files that the index has not seen."""
        if self._index is None:
            return
        files = set(self.delta.file_uris())
        if self._indexed - files:  # compacted, or restored to the past: what is gone must not be remembered
            self._index, self._indexed = Index(), set()
        new = files - self._indexed
        names = ["structure_id", "revision", *STATE_COLUMNS]
        with naming(self.uri):
            dataset = self._dataset()
            if self._indexed:
                paths = {uri.rsplit("/", 1)[-1] for uri in new}
                fragments = [f for f in dataset.get_fragments() if f.path.rsplit("/", 1)[-1] in paths]
                dataset = ds.FileSystemDataset(fragments, STRUCTURES, dataset.format, dataset.filesystem)
            for batch in dataset.to_batches(columns=names, **_STREAMED):
                rows = pa.Table.from_batches([batch])
                self._index.put(
                    hash_strings(rows["structure_id"]), states_of(rows), rows["revision"].to_numpy()
                )
        self._indexed = files
