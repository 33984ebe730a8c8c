"""Encoding of a source into a table: shards as Prefect tasks, chunks as Dask tasks and Delta commits.

The flow's process reads the source, tells what is new, and commits; Dask's workers do nothing but encode, so
that one of them may die or come back from the dead at any moment without a trace in the table.
"""

import hashlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from pydantic import BaseModel, ConfigDict, Field

from cloud_core.lake.index import IdSet, hash_strings
from cloud_core.lake.runs import grid
from cloud_core.lake.schemas import ENCODED, QUARANTINED
from cloud_core.lake.table import Table
from cloud_core.scope.settings import EncoderSettings, Judgement, fingerprint
from cloud_core.sources.record import Partition, Record, Refusal, Source, SourceError
from tasks.chunks import Item, input_rows
from tasks.cluster import LazyCluster
from tasks.process import many_records
from tasks.workers import Workers

if TYPE_CHECKING:
    from distributed import Client, Future

UNCOUNTED_ROWS = 1000  # taken for a partition that does not know its number of rows
MAX_SHARDS = 500  # a Prefect task costs 0.1 to 0.2 s


class EncodeError(ValueError):
    """A run that did not account for every record. The message says what is missing and what to do."""


class EncodingOptions(BaseModel):
    """What is computed of each structure, and in what portions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    forms: tuple[str, ...] = Field(
        default=("canonical",), description="strings to compute: canonical, official, full"
    )
    symprec: float = Field(default=0.01, gt=0, description="symmetry tolerance, Å")
    angle_tolerance: float = Field(
        default=5.0, description="symmetry tolerance of angles, degrees; -1: the engine's own"
    )
    check_tolerance: bool = Field(
        default=False, description="flag structures whose space group moves at symprec / 2 or · 2"
    )
    formula: Judgement = Field(
        default="refuse",
        description="sites that give another composition than the stated formula: refuse or flag",
    )
    overlaps: Judgement = Field(
        default="refuse",
        description="atoms closer than 0.5 Å (hydrogen: 0.3 Å) with occupancies that sum to more than 1: "
        "refuse or flag",
    )
    assume_periodic: bool = Field(
        default=False, description="encode molecules, chains and layers as the crystals of their cells"
    )
    max_sites: int = Field(default=5000, ge=1, description="structures with more sites are refused")
    timeout_s: float = Field(
        default=30.0,
        gt=0,
        description="CPU time that reading one structure may take, and that encoding it may take, s",
    )
    memory_mb: int | None = Field(
        default=1024, ge=256, description="memory that an encoding process may take for its work, MiB"
    )
    chunk_rows: int = Field(default=2000, ge=1, description="structures in one Dask task and one commit")
    shard_rows: int = Field(default=50_000, ge=1, description="structures in one Prefect task, about")

    @property
    def settings(self) -> EncoderSettings:
        return EncoderSettings(
            symprec=self.symprec,
            angle_tolerance=self.angle_tolerance,
            forms=self.forms,
            check_tolerance=self.check_tolerance,
            max_sites=self.max_sites,
            formula=self.formula,
            overlaps=self.overlaps,
            assume_periodic=self.assume_periodic,
        )


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
        return Counts(
            self.n_records + other.n_records,
            self.n_encoded + other.n_encoded,
            self.n_quarantined + other.n_quarantined,
            self.n_skipped + other.n_skipped,
            self.n_chunks + other.n_chunks,
            self.reasons + other.reasons,
            self.flags + other.flags,
        )


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


@dataclass
class Chunk:
    """A chunk on its way through a worker."""

    key: str
    items: list[Item]
    inputs: pa.Table
    revisions: np.ndarray
    n_skipped: int
    metadata: dict[str, str]
    future: "Future | None" = None
    before: pa.ChunkedArray | None = None  # of a replay: the reasons that the rows had


class Encoding:
    """One run: a source, a table, a cluster, and what has been seen. Used by several threads."""

    def __init__(
        self,
        source: Source | None,
        table: Table,
        client: "Client | LazyCluster",
        options: EncodingOptions,
        run: str = "",
        on_progress: Callable[[int, Counts], None] | None = None,
        chunks_in_flight: int = 4,
        before_first_commit: Callable[[], None] = lambda: None,
    ) -> None:
        self.source = source
        self.table = table
        self._workers = Workers(client, options)
        self.options = options
        self.run = run
        self.chunks_in_flight = chunks_in_flight
        self._settings = options.settings
        self._on_progress = on_progress
        self._before_first_commit = before_first_commit
        self._lock = threading.Lock()
        self._seen = IdSet()
        self.counts = Counts()
        self.unreadable: dict[str, str] = {}  # partition -> why it broke off
        self.ended_at: float | None = None  # last commit

    def encode_shard(self, shard: Shard) -> Counts:
        """Read the shard's partitions, encode what is new or changed, commit it chunk by chunk."""
        from distributed.client import ClosedClientError
        from distributed.comm.core import CommClosedError

        total = Counts()
        pending: deque[Chunk] = deque()
        try:
            for chunk in self._chunks(shard):
                if chunk.items:
                    chunk.future = self._workers.submit(chunk.items)
                    pending.append(chunk)
                else:
                    total += self._finish(chunk)
                while len(pending) >= self.chunks_in_flight:
                    total += self._finish(pending.popleft())
            while pending:
                total += self._finish(pending.popleft())
        except (CancelledError, ClosedClientError, CommClosedError) as error:
            raise EncodeError(
                f"{self.table.uri}: the Dask scheduler was lost in the midst of the run; what was committed "
                "is kept: start a scheduler and run the same encoding again"
            ) from error
        finally:
            # Where the client is gone its chunks are as well, and the error on its way says why.
            with suppress(ClosedClientError, CommClosedError):
                for chunk in pending:
                    if chunk.future is not None:
                        chunk.future.cancel()
        return total

    # -- reading

    def _chunks(self, shard: Shard) -> Iterator[Chunk]:
        """Equal positions of a partition make equal chunks, whatever of them is already encoded."""
        assert self.source is not None
        for partition in shard.partitions:
            records = self.source.read(partition)
            number, batch = 0, self._read(records, partition)
            while batch:
                following = self._read(records, partition)
                is_last = not following and partition.key not in self.unreadable
                yield self._claim(batch, shard, partition, number, is_last)
                number, batch = number + 1, following

    def _read(self, records: Iterator[Record], partition: Partition) -> list[Record]:
        """The records of the next chunk; none at the end, nor where the source breaks off."""
        batch: list[Record] = []
        try:
            for record in islice(records, self.options.chunk_rows):
                batch.append(record)
        except SourceError as error:
            self.unreadable[partition.key] = str(error)
        return batch

    def _claim(
        self, records: list[Record], shard: Shard, partition: Partition, number: int, is_last: bool
    ) -> Chunk:
        inputs = input_rows(records, self._settings)
        records, inputs = self._without_repeats(records, inputs, partition, number)
        claim = self.table.claim(inputs, self._key(inputs, partition))
        return Chunk(
            key=claim.key,
            items=[Item.of(record) for record, is_todo in zip(records, claim.todo, strict=True) if is_todo],
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
                "grid": grid(fingerprint(self._settings), self.options.chunk_rows),
            },
        )

    def _key(self, inputs: pa.Table, partition: Partition) -> str:
        digest = hashlib.sha256(
            f"{partition.key}\n{partition.cursor}\n{fingerprint(self._settings)}\n".encode()
        )
        for name in ("structure_id", "content_hash"):
            digest.update("\n".join(inputs[name].to_pylist()).encode())
        return f"chunk-{digest.hexdigest()[:32]}"

    def _without_repeats(
        self, records: list[Record], inputs: pa.Table, partition: Partition, number: int
    ) -> tuple[list[Record], pa.Table]:
        """An id that this run has met before goes to quarantine under an id of its own."""
        ids = hash_strings(inputs["structure_id"])
        with self._lock:
            repeated = self._seen.has(ids)
            _, first = np.unique(ids, return_index=True)
            again = np.ones(len(ids), bool)
            again[first] = False
            repeated |= again
            if repeated.any():
                for i in np.flatnonzero(repeated):
                    place = f"{partition.key}, record {number * self.options.chunk_rows + int(i)}"
                    records[i] = replace(
                        records[i],
                        id=f"{records[i].id}~{place}",
                        refusal=Refusal.DUPLICATE_ID,
                        message=f"an earlier record of this source has the id {records[i].id} already",
                    )
                inputs = input_rows(records, self._settings)
                ids = hash_strings(inputs["structure_id"])
            self._seen.add(ids)
        return records, inputs

    # -- encoding

    def _finish(self, chunk: Chunk) -> Counts:
        """Wait for a chunk, commit it, count it."""
        counts = Counts(n_skipped=chunk.n_skipped)
        if chunk.items:
            assert chunk.future is not None
            outcome = self._workers.outcome(chunk.future, chunk.items)
            chunk.future = None
            rows = chunk.inputs
            for name in outcome.column_names:
                rows = rows.append_column(outcome.schema.field(name), outcome[name])
            with self._lock:
                if self.ended_at is None:
                    self._before_first_commit()
                    self.ended_at = time.monotonic()
            self._commit(chunk, rows)
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

    def _commit(self, chunk: Chunk, rows: pa.Table) -> None:
        self.table.append_chunk(rows, chunk.key, chunk.revisions, chunk.metadata)

    @property
    def started_at(self) -> float | None:
        """When the first chunk was submitted."""
        return self._workers.started_at

    # -- the account

    def check(self) -> None:
        """Read the table anew: every record that was read stands in it, encoded or quarantined, once.

        Raises:
            EncodeError: some are missing, or a partition could not be read to its end.
        """
        found = 0
        table = Table.open(self.table.uri, self.table.storage)
        for batch in table.batches(columns=["structure_id", "status"]):
            held = batch.filter(pc.is_in(batch["status"], pa.array([ENCODED, QUARANTINED])))
            found += int(self._seen.has(hash_strings(held["structure_id"])).sum())
        if found != len(self._seen) or self.counts.n_records != len(self._seen):
            raise EncodeError(
                f"{self.table.uri}: {len(self._seen)} records were read, {self.counts.n_records} accounted "
                f"for, and {found} stand in the table at version {table.version}; run the same encoding "
                "again, and report this if it stays"
            )
        if self.unreadable:
            raise EncodeError(
                f"{len(self.unreadable)} partitions could not be read to the end, the rest is in the table: "
                + "; ".join(f"{key}: {why}" for key, why in list(self.unreadable.items())[:3])
            )


@task(name="encode shard", task_run_name="shard {shard.number}", cache_policy=NO_CACHE, persist_result=False)
def encode_shard(encoding: Encoding, shard: Shard) -> Counts:
    return encoding.encode_shard(shard)


def encode_shards(encoding: Encoding, shards: Sequence[Shard], at_once: int = 2) -> Counts:
    """Each shard as a Prefect task, `at_once` of them submitted at a time. Call it inside a flow."""
    total = Counts()
    running: deque[PrefectFuture[Counts]] = deque()
    waiting = deque(shards)
    failure: Any = None
    with many_records():
        while waiting or running:
            while waiting and len(running) < at_once and failure is None:
                running.append(encode_shard.submit(encoding, waiting.popleft()))
            if not running:
                break
            result = running.popleft().result(raise_on_failure=False)
            if isinstance(result, BaseException):
                failure = failure or result
            else:
                total += result
    if failure is not None:
        raise failure
    return total
