"""What keeps a table equal to a source: the state of the last sync, and rows that wait until one is whole."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from cloud_core.encoding.engine import Counts, Encoding
from cloud_core.errors import CloudError
from cloud_core.files import put
from cloud_core.lake.errors import naming
from cloud_core.lake.index import ABSENT, hash_strings, states_of
from cloud_core.lake.rows import with_column
from cloud_core.lake.schemas import STRUCTURES, WITHDRAWN
from cloud_core.lake.table import Claim, Table
from cloud_core.sources.record import Feed, Partition, Source, SourceError

_NONE = pa.array([], pa.string())
ROWS_PER_COMMIT = 500_000  # a sync of more changes is several commits


class SyncError(CloudError):
    """A sync that did not bring everything over. The table is at its last good version, or better."""


# -- what the last sync knew


@dataclass(frozen=True)
class SyncState:
    """What the last good sync of a source left: where each partition stood, and which ids it held."""

    fingerprint: str = ""
    cursors: Mapping[str, str] = field(default_factory=dict)
    newest: Mapping[str, datetime] = field(default_factory=dict)
    ids: Mapping[str, pa.Array] = field(default_factory=dict)  # structure ids by partition key


class SyncStateFile:
    """A Parquet file `_sync/<name>/memory.parquet` beside the Delta log; replaced as a whole."""

    def __init__(self, table: Table, name: str) -> None:
        self._fs, path = table.storage.file_system(table.uri)
        self._folder = f"{path}/_sync/{name}"
        self.incoming = f"{table.uri.rstrip('/')}/_sync/{name}/incoming"
        self._path = f"{self._folder}/memory.parquet"

    def read(self) -> SyncState:
        self._fs.invalidate_cache()
        if not self._fs.exists(self._path):
            return SyncState()
        with naming(self._path), self._fs.open(self._path, "rb") as stream:
            rows = pq.read_table(stream)
        texts = {key.decode(): value.decode() for key, value in (rows.schema.metadata or {}).items()}
        cursors, newest, ids = {}, {}, {}
        for key in [key[7:] for key in texts if key.startswith("cursor ")]:
            cursors[key] = texts[f"cursor {key}"]
            if f"newest {key}" in texts:
                newest[key] = datetime.fromisoformat(texts[f"newest {key}"])
            ids[key] = _flat(rows.filter(pc.equal(rows["partition"], key))["structure_id"])
        return SyncState(texts["fingerprint"], cursors, newest, ids)

    def write(self, state: SyncState) -> None:
        texts = {"fingerprint": state.fingerprint}
        texts |= {f"cursor {key}": cursor for key, cursor in state.cursors.items()}
        texts |= {f"newest {key}": moment.isoformat() for key, moment in state.newest.items()}
        schema = pa.schema([("partition", pa.string()), ("structure_id", pa.string())], metadata=texts)
        parts = [
            pa.table([pa.array([key] * len(ids), pa.string()), ids], schema=schema)
            for key, ids in state.ids.items()
        ]
        rows = pa.concat_tables(parts) if parts else schema.empty_table()
        sink = pa.BufferOutputStream()
        pq.write_table(rows, sink, compression="zstd")
        with naming(self._path):
            put(self._fs, self._path, sink.getvalue().to_pybytes())

    def discard_incoming(self) -> None:
        """Remove the rows that waited; they are in the table now."""
        folder = f"{self._folder}/incoming"
        with naming(folder):
            if self._fs.exists(folder):
                self._fs.rm(folder, recursive=True)


# -- rows that wait


class Incoming:
    """The sink of a sync: what is new goes to a table of its own, and all of it is published in one commit at
    the end. A sync that was killed finds there what it had encoded.

    Of a feed, an update that is older than what the table holds came late, and is left out.
    """

    def __init__(self, table: Table, state: SyncStateFile, is_feed: bool) -> None:
        self.table = table
        self.waiting = Table.create(state.incoming, table.storage)
        self._is_feed = is_feed
        self._lock = threading.Lock()
        self.n_late = 0
        self._touched: dict[str, datetime] = {}  # unchanged, but the source says a later time

    def claim(self, inputs: pa.Table, place: str) -> Claim:
        done = self.table.unchanged(inputs)
        if self._is_feed:
            done |= self._late(inputs, done)
        inner = self.waiting.claim(inputs, place)
        return Claim(inner.key, inner.todo & ~done, inner.revisions[~done[inner.todo]])

    def append_chunk(
        self, rows: pa.Table, key: str, seen: np.ndarray | None, metadata: dict[str, str] | None
    ) -> bool:
        return self.waiting.append_chunk(rows, key, seen, metadata)

    def _late(self, inputs: pa.Table, unchanged: np.ndarray) -> np.ndarray:
        """Whether `[n]` the table holds something newer; of two updates of one time the greater content
        hash holds, so that the order of their coming does not matter."""
        ids = inputs["structure_id"].to_pylist()
        held = {
            row["structure_id"]: row
            for row in self.table.look_up(ids).to_pylist()
            if row["status"] != WITHDRAWN and row["modified_at"] is not None
        }
        late = np.zeros(len(ids), bool)
        for i, (identifier, moment, digest) in enumerate(
            zip(ids, inputs["modified_at"].to_pylist(), inputs["content_hash"].to_pylist(), strict=True)
        ):
            row = held.get(identifier)
            if row is None or moment is None:
                continue
            if unchanged[i]:
                if moment > row["modified_at"]:
                    self._touched[identifier] = moment
            elif row["fingerprint"] == inputs["fingerprint"][i].as_py():
                late[i] = (row["modified_at"], row["content_hash"]) > (moment, digest)
        with self._lock:
            self.n_late += int(late.sum())
        return late

    def rows(self, ids: pa.Array) -> Iterator[pa.Table]:
        """What waits of these structures and differs from the table, in portions of a commit."""
        portion: list[pa.Table] = []
        size = 0
        for batch in self.waiting.batches():
            part = pa.Table.from_batches([batch]).filter(pc.is_in(batch["structure_id"], ids))
            part = part.filter(pa.array(~self.table.unchanged(part)))
            if part.num_rows:
                portion.append(part)
                size += part.num_rows
            if size >= ROWS_PER_COMMIT:
                yield pa.concat_tables(portion)
                portion, size = [], 0
        if portion:
            yield pa.concat_tables(portion)

    def touched(self, withdrawn: pa.Array) -> pa.Table:
        """The rows of structures whose time moved and nothing else, with the new time."""
        ids = minus(pa.array(list(self._touched), pa.string()), withdrawn)
        rows = self.table.rows(where=ds.field("structure_id").isin(ids))
        return with_column(
            rows, "modified_at", [self._touched[name] for name in rows["structure_id"].to_pylist()]
        )


# -- reading


@dataclass
class Reading:
    """What was read of a source: of its partitions, those that are named here."""

    counts: Counts = field(default_factory=Counts)
    ids: dict[str, pa.Array] = field(default_factory=dict)
    """structure ids of each partition that was read to its end"""
    newest: dict[str, datetime] = field(default_factory=dict)
    """the latest change of a structure in a partition"""
    failed: dict[str, str] = field(default_factory=dict)
    """partition -> why it could not be read to its end"""

    def take(self, encoding: Encoding) -> None:
        """Add what an encoding, which kept its ids, has read."""
        self.counts += encoding.counts
        for key, part in encoding.partitions.items():
            if part.error is not None:
                self.failed[key] = part.error
                continue
            self.ids[key] = pa.concat_arrays([*map(_flat, part.ids), _NONE])
            if part.newest is not None:
                self.newest[key] = part.newest


# -- the difference


@dataclass
class Changes:
    """What a sync did to the table."""

    new: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)
    reasons: dict[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.new or self.changed or self.withdrawn)


def withdrawn_ids(
    source: Source, partitions: Sequence[Partition], state: SyncState, reading: Reading
) -> tuple[pa.Array, list[Partition]]:
    """Structure ids that the source no longer has, and partitions of a feed that must be read whole.

    Of files and tables, what a partition held at the last sync and none has now is gone (while one of
    them cannot be read, nothing is: it may have moved there). A feed gives only what changed: where its
    total differs from what is known (or it tells none), its ids are listed; an id that was never given
    (it came late, under an old time) means that the partition must be read whole.
    """
    gone: list[pa.Array] = [_NONE]
    unknown: list[Partition] = []
    if not isinstance(source, Feed):
        if reading.failed:
            return _NONE, []
        now = [reading.ids.get(p.key, state.ids.get(p.key, _NONE)) for p in partitions]
        before = pa.concat_arrays([*state.ids.values(), _NONE])
        return minus(before, pa.concat_arrays([*now, _NONE])), []
    for partition in partitions:
        if partition.key not in reading.ids:  # unchanged, or not read to its end
            continue
        known = known_ids(partition.key, state, reading)
        if partition.at.get("total") == len(known):
            continue
        try:
            now_there = [f"{source.name}:{identifier}" for identifier in source.ids(partition)]
        except SourceError as error:
            reading.failed[partition.key] = str(error)
            continue
        listed = pa.array(now_there, pa.string())
        gone.append(minus(known, listed))
        if len(minus(listed, known)):
            unknown.append(partition)
    return pa.concat_arrays(gone), unknown


def known_ids(key: str, state: SyncState, reading: Reading) -> pa.Array:
    """Everything that a partition of a feed is known to hold."""
    return pc.unique(pa.concat_arrays([state.ids.get(key, _NONE), reading.ids.get(key, _NONE)]))


def next_state(
    state: SyncState, partitions: Sequence[Partition], reading: Reading, withdrawn: pa.Array, is_feed: bool
) -> SyncState:
    """What the next sync has to know.

    A partition that could not be read keeps its ids and has no cursor. So does, while there is such a
    one, each partition of files that lost an id: whether it was withdrawn is for the next sync to say.
    """
    cursors: dict[str, str] = {}
    ids: dict[str, pa.Array] = {}
    for partition in partitions:
        key = partition.key
        held = state.ids.get(key, _NONE)
        read = reading.ids.get(key, held)
        cursors[key] = "" if key in reading.failed else partition.cursor
        if is_feed:
            ids[key] = minus(known_ids(key, state, reading), withdrawn)
        elif reading.failed and len(lost := minus(held, read)):
            cursors[key], ids[key] = "", pa.concat_arrays([read, lost])
        else:
            ids[key] = read
    if reading.failed and not is_feed:
        for key in state.ids.keys() - cursors.keys():  # a part that is gone, and not yet accounted for
            cursors[key], ids[key] = "", state.ids[key]
    newest: dict[str, datetime] = {}
    for key in cursors if is_feed else ():
        known = [state.newest.get(key), None if key in reading.failed else reading.newest.get(key)]
        if times := [moment for moment in known if moment is not None]:
            newest[key] = max(times)
    return SyncState(state.fingerprint, cursors, newest, ids)


def publish(table: Table, incoming: Incoming, ids: pa.Array, withdrawn: pa.Array, name: str) -> Changes:
    """Bring what waits into the table and mark what was withdrawn: one commit, if it is not too large."""
    changes = Changes()
    portions = list(incoming.rows(ids)) or [STRUCTURES.empty_table()]
    for portion in portions:
        _, revisions = table.index.look_up(hash_strings(portion["structure_id"]))
        names = np.array(portion["structure_id"].to_pylist(), dtype=object)
        changes.new += names[revisions == ABSENT].tolist()
        changes.changed += names[revisions != ABSENT].tolist()
        for reason in portion["reason"].drop_null().to_pylist():
            changes.reasons[reason] = changes.reasons.get(reason, 0) + 1
    held = table.not_withdrawn(withdrawn)
    changes.withdrawn = held["structure_id"].to_pylist()
    marked = with_column(held, "status", [WITHDRAWN] * held.num_rows)
    portions[-1] = pa.concat_tables([portions[-1], marked, incoming.touched(withdrawn)])
    for portion in portions:
        if portion.num_rows:
            # the version: what was withdrawn, returned and is withdrawn again needs a key of its own
            key = f"sync-{name}-{table.version}-{_digest(portion)}"
            table.append_chunk(portion, key, metadata={"sync": name})
    return changes


def missing(table: Table, ids: pa.Array) -> int:
    """How many of these structures the table does not hold."""
    return int((table.index.look_up(hash_strings(ids))[0] == 0).sum()) if len(ids) else 0


def minus(ids: pa.Array, others: pa.Array) -> pa.Array:
    """The ids that are not among the others."""
    return ids.filter(pc.invert(pc.is_in(ids, others)))


def _flat(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays([*column.chunks, _NONE])


def _digest(rows: pa.Table) -> str:
    total = np.bitwise_xor.reduce(hash_strings(rows["structure_id"]) ^ states_of(rows), initial=np.uint64(0))
    return f"{int(total):016x}"
