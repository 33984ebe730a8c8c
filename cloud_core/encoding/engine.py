"""Encoding of a source into a table, in chunks: read, compare with the table, encode elsewhere, commit.

The process that runs this reads the source, tells what is new, and commits; workers do nothing but encode, so
that one of them may end or be restarted at any moment without a trace in the table.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from itertools import compress, islice
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cloud_core.encoding.options import EncodingOptions
from cloud_core.encoding.rows import Item, input_rows
from cloud_core.errors import CloudError
from cloud_core.lake.index import IdSet, hash_strings
from cloud_core.lake.runs import grid
from cloud_core.lake.schemas import ENCODED, QUARANTINED
from cloud_core.lake.storage import Storage
from cloud_core.lake.table import Claim, Table
from cloud_core.scope.settings import fingerprint
from cloud_core.sources.record import Partition, Record, Refusal, Source, SourceError

UNCOUNTED_ROWS = 1000  # taken for a partition that does not know its number of rows
MAX_SHARDS = 500  # a Prefect task costs 0.1 to 0.2 s


class EncodeError(CloudError):
    """A run that did not account for every record. The message says what is missing and what to do."""


@dataclass(frozen=True)
class Shard:
    """Partitions that one Prefect task encodes."""

    number: int
    partitions: tuple[Partition, ...]


@dataclass
class Counts:
    """What became of the records that were read."""

    n_records: int = 0
    n_encoded: int = 0
    n_quarantined: int = 0
    n_skipped: int = 0
    n_chunks: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))


def plan(partitions: Iterable[Partition], shard_rows: int) -> list[Shard]:
    """Neighbouring partitions together, about `shard_rows` in each, at most MAX_SHARDS; none is cut."""
    listed = list(partitions)
    sizes = [UNCOUNTED_ROWS if p.n_rows is None else p.n_rows for p in listed]
    target = max(shard_rows, sum(sizes) // MAX_SHARDS)
    shards: list[Shard] = []
    group: list[Partition] = []
    rows = 0
    for partition, size in zip(listed, sizes, strict=True):
        group.append(partition)
        rows += size
        if rows >= target:
            shards.append(Shard(len(shards) + 1, tuple(group)))
            group, rows = [], 0
    if group:
        shards.append(Shard(len(shards) + 1, tuple(group)))
    return shards


class Pending(Protocol):
    """Items that are being encoded elsewhere."""

    def result(self) -> pa.Table:
        """The outcome of each item, in order (`rows.OUTCOME`). Raises EncodeError where it is lost."""
        ...

    def cancel(self) -> object: ...


Submit = Callable[[Sequence[Item]], Pending]


class Sink(Protocol):
    """Where rows go: a table, or what stands before it."""

    def claim(self, inputs: pa.Table, place: str) -> Claim:
        """Which of these inputs are due, and the key of their commit; see `Table.claim`."""
        ...

    def append_chunk(
        self, rows: pa.Table, key: str, seen: np.ndarray | None, metadata: dict[str, str] | None
    ) -> bool:
        """Commit rows once; see `Table.append_chunk`."""
        ...


@dataclass
class Chunk:
    """Inputs that are due, encoded by one worker and written in one commit."""

    key: str
    items: list[Item]
    inputs: pa.Table
    revisions: np.ndarray
    n_skipped: int
    metadata: dict[str, str]
    pending: Pending | None = None
    before: pa.ChunkedArray | None = None  # of a replay: the reasons that the rows had


@dataclass
class PartitionRead:
    """What reading a partition showed."""

    ids: list[pa.ChunkedArray] = field(default_factory=list)
    """of its structures, where the encoding keeps them"""
    newest: datetime | None = None
    """the latest change of a structure in it"""
    error: str | None = None
    """why it could not be read to its end"""


class Encoding:
    """One run: what it has seen, counted and could not read. Used by several threads."""

    def __init__(
        self,
        sink: Sink,
        submit: Submit,
        options: EncodingOptions,
        run: str = "",
        on_progress: Callable[[int, Counts], None] | None = None,
        chunks_in_flight: int = 4,
        before_first_commit: Callable[[], None] = lambda: None,
        keep_ids: bool = False,
    ) -> None:
        """run: id of the flow run, for the commits' metadata. keep_ids: keep the ids of each partition."""
        self.options = options
        self.run = run
        self.counts = Counts()
        self.partitions: dict[str, PartitionRead] = {}
        self.started_at: float | None = None  # first chunk submitted
        self.ended_at: float | None = None  # last commit
        self._sink = sink
        self._submit = submit
        self._settings = options.settings
        self.fingerprint = fingerprint(self._settings)
        self._grid = grid(self.fingerprint, options.chunk_rows)
        self._on_progress = on_progress
        self._chunks_in_flight = chunks_in_flight
        self._before_first_commit = before_first_commit
        self._keep_ids = keep_ids
        self._lock = threading.Lock()
        self.seen = IdSet()  # structure ids of this run

    @property
    def failed(self) -> dict[str, str]:
        """Partition -> why it could not be read to its end."""
        return {key: part.error for key, part in self.partitions.items() if part.error is not None}

    def encode(self, chunks: Iterable[Chunk]) -> Counts:
        """Have each chunk encoded and commit it, some of them at a time."""
        total = Counts()
        pending: deque[Chunk] = deque()
        try:
            for chunk in chunks:
                if chunk.items:
                    chunk.pending = self._submit(chunk.items)
                    if self.started_at is None:  # after the call: the first one may have started a cluster
                        self.started_at = time.monotonic()
                    pending.append(chunk)
                else:
                    total += self._finish(chunk)
                while len(pending) >= self._chunks_in_flight:
                    total += self._finish(pending.popleft())
            while pending:
                total += self._finish(pending.popleft())
        finally:
            for chunk in pending:
                if chunk.pending is not None:
                    chunk.pending.cancel()
        return total

    # -- reading

    def chunks(self, source: Source, shard: Shard) -> Iterator[Chunk]:
        """Equal positions of a partition make equal chunks, whatever of them is already encoded."""
        for partition in shard.partitions:
            part = self.partitions[partition.key] = PartitionRead()
            records = source.read(partition)
            number, batch = 0, self._read(records, part)
            while batch:
                following = self._read(records, part)
                is_last = not following and part.error is None
                yield self._claim(batch, shard, partition, number, is_last)
                number, batch = number + 1, following

    def _read(self, records: Iterator[Record], part: PartitionRead) -> list[Record]:
        """The records of the next chunk; none at the end, nor where the source breaks off."""
        batch: list[Record] = []
        try:
            for record in islice(records, self.options.chunk_rows):
                batch.append(record)
        except SourceError as error:
            part.error = str(error)
        times = [record.modified_at for record in batch if record.modified_at is not None]
        part.newest = max([*times, *([part.newest] if part.newest else [])], default=None)
        return batch

    def _claim(
        self, records: list[Record], shard: Shard, partition: Partition, number: int, is_last: bool
    ) -> Chunk:
        inputs = input_rows(records, self._settings)
        if (repeated := self.seen.see(inputs["structure_id"])).any():
            first = number * self.options.chunk_rows
            for i in map(int, np.flatnonzero(repeated)):
                records[i] = _renamed(records[i], f"{partition.key}, record {first + i}")
            inputs = input_rows(records, self._settings)
            self.seen.see(inputs["structure_id"])
        if self._keep_ids:
            self.partitions[partition.key].ids.append(inputs["structure_id"])
        claim = self._sink.claim(inputs, f"{partition.key}\n{partition.cursor}\n{self.fingerprint}")
        return Chunk(
            key=claim.key,
            items=list(map(Item.of, compress(records, claim.todo))),
            inputs=inputs.filter(pa.array(claim.todo)),
            revisions=claim.revisions,
            n_skipped=int((~claim.todo).sum()),
            metadata={
                "run": self.run,
                "shard": str(shard.number),
                "partition": partition.key,
                "cursor": partition.cursor,
                "chunk": str(number),
                "chunks": str(number + 1) if is_last else "",
                "grid": self._grid,
            },
        )

    # -- encoding

    def _finish(self, chunk: Chunk) -> Counts:
        """Wait for a chunk, commit it, count it."""
        counts = Counts(n_skipped=chunk.n_skipped)
        if chunk.pending is not None:
            outcome = chunk.pending.result()
            chunk.pending = None
            rows = chunk.inputs
            for name in outcome.column_names:
                rows = rows.append_column(outcome.schema.field(name), outcome[name])
            with self._lock:
                if self.ended_at is None:
                    self._before_first_commit()
                    self.ended_at = time.monotonic()
            due, revisions = rows, chunk.revisions
            if chunk.before is not None:  # of a replay, what was refused for the same reason keeps its row
                changed = pc.not_equal(pc.fill_null(rows["reason"], ""), pc.fill_null(chunk.before, ""))
                due, revisions = rows.filter(changed), revisions[np.asarray(changed)]
            self._sink.append_chunk(due, chunk.key, revisions, chunk.metadata)
            self.ended_at = time.monotonic()
            statuses = Counter(rows["status"].to_pylist())
            counts.n_encoded, counts.n_quarantined = statuses[ENCODED], statuses[QUARANTINED]
            counts.reasons.update(reason for reason in rows["reason"].to_pylist() if reason is not None)
            counts.flags.update(rows["flags"].combine_chunks().flatten().to_pylist())
            counts.n_chunks = 1
        counts.n_records = chunk.n_skipped + counts.n_encoded + counts.n_quarantined
        with self._lock:
            self.counts += counts
            if self._on_progress is not None:
                self._on_progress(counts.n_records, self.counts)
        return counts

    # -- the account

    def check(self, uri: str, storage: Storage | None = None) -> None:
        """Read the table anew: every record that was read is in it, encoded or quarantined, once.

        Raises:
            EncodeError: some are missing, or a partition could not be read to its end.
        """
        found = 0
        table = Table.open(uri, storage)
        for batch in table.batches(columns=["structure_id", "status"]):
            held = batch.filter(pc.is_in(batch["status"], pa.array([ENCODED, QUARANTINED])))
            found += int(self.seen.has(hash_strings(held["structure_id"])).sum())
        if found != len(self.seen) or self.counts.n_records != len(self.seen):
            raise EncodeError(
                f"{uri}: {len(self.seen)} records were read, {self.counts.n_records} accounted "
                f"for, and {found} are in the table at version {table.version}; run the same encoding "
                "again, and report this if it stays"
            )
        if failed := self.failed:
            raise EncodeError(
                f"{len(failed)} partitions could not be read to the end, the rest is in the table: "
                + "; ".join(f"{key}: {why}" for key, why in list(failed.items())[:3])
            )


def _renamed(record: Record, place: str) -> Record:
    """A record whose id this run has met before: it goes to quarantine under an id of its own."""
    message = f"an earlier record of this source has the id {record.id} already"
    return replace(record, id=f"{record.id}~{place}", refusal=Refusal.DUPLICATE_ID, message=message)
