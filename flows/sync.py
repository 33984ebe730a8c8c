"""A database into a table, again and again: what is new or changed is encoded, what is gone is marked.

cloud run sync --config deployments/configs/sync.yaml
"""

import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from prefect import flow
from prefect.events import emit_event
from pydantic import BaseModel, Field

from cloud_core.config import DEFAULT_TABLE, ConfigError, FlowConfig, TableUri, load_config
from cloud_core.encoding.changes import (
    Changes,
    Incoming,
    Reading,
    SyncError,
    SyncState,
    SyncStateFile,
    minus,
    missing,
    next_state,
    publish,
    withdrawn_ids,
)
from cloud_core.encoding.engine import Counts, Encoding, plan
from cloud_core.encoding.options import EncodingOptions
from cloud_core.lake.maintenance import purge
from cloud_core.lake.pins import pin
from cloud_core.lake.storage import Storage
from cloud_core.lake.table import Table
from cloud_core.scope.settings import fingerprint
from cloud_core.sources.catalogue import open_source
from cloud_core.sources.record import Feed, Partition, Source, count_rows
from tasks.cluster import ClusterConfig, cluster, default_cluster
from tasks.encoding import Workers, encode_shards
from tasks.reporting import Progress, flow_run_link, publish_table, secret

EVENT = "cloud.table.updated"
EXAMPLES = 5


class SyncConfig(FlowConfig):
    """One database, the table that follows it, and how."""

    name: str = Field(
        pattern=r"^[\w+-][\w.+-]*$", description="name of this sync: its state, pin and event go by it"
    )
    source: str | dict[str, Any] = Field(description="as in docs/sources.md")
    table: TableUri = Field(DEFAULT_TABLE, description="the table: a folder or an s3:// address")
    storage: Storage | None = Field(None, description="object store; default: from the AWS_… environment")
    encoding: EncodingOptions = Field(
        default_factory=EncodingOptions, description="forms, tolerances, limits, portions"
    )
    cluster: ClusterConfig = Field(default_factory=default_cluster, description="where the work runs")
    withdraw: bool = Field(True, description="mark structures that the source no longer has")
    max_withdrawn: float = Field(
        0.1,
        ge=0,
        le=1,
        description="share of what it held that one sync may withdraw; more is taken for a fault",
    )
    overlap_hours: float = Field(
        24.0,
        ge=0,
        description="how far before the last known change a feed is read again: updates may come late",
    )


class SyncResult(BaseModel):
    """What a sync found and did. Where nothing changed, all but the two numbers of partitions is 0."""

    name: str
    table: str
    version_before: int
    version: int
    n_partitions: int
    n_partitions_read: int = 0
    n_records: int = 0
    n_new: int = 0
    n_changed: int = 0
    n_withdrawn: int = 0
    n_quarantined: int = 0
    n_late: int = 0
    reasons: dict[str, int] = {}
    failed: dict[str, str] = {}
    seconds: float = 0.0

    @property
    def is_unchanged(self) -> bool:
        return self.n_new == self.n_changed == self.n_withdrawn == 0


@flow(name="sync", persist_result=False, validate_parameters=True)
def sync(config: SyncConfig) -> SyncResult:
    """Bring a table up to its source. Readers see the last good version until the new one is whole.

    Raises:
        SyncError: a part of the source could not be read (the rest is in the table), or more was to be
            withdrawn than permitted (the table is as it was).
    """
    started = time.monotonic()
    source = open_source(config.source, secret)
    table = Table.create(config.table, config.storage)
    is_feed = isinstance(source, Feed)
    file = SyncStateFile(table, config.name)
    state = _current(file.read(), config)
    since = {key: moment - timedelta(hours=config.overlap_hours) for key, moment in state.newest.items()}
    partitions = list(source.partitions(since))
    to_read = [p for p in partitions if state.cursors.get(p.key) != p.cursor]
    result = SyncResult(
        name=config.name,
        table=config.table,
        version_before=table.version,
        version=table.version,
        n_partitions=len(partitions),
        n_partitions_read=len(to_read),
    )
    if not to_read and (is_feed or state.ids.keys() == {p.key for p in partitions}):
        return _finished(result, started, Changes())

    incoming = Incoming(table, file, is_feed)
    reading = Reading()
    _read(reading, source, incoming, to_read, config)
    lost, unknown = withdrawn_ids(source, partitions, state, reading)
    if unknown:
        keys = {p.key for p in unknown}
        _read(reading, source, incoming, [p for p in source.partitions() if p.key in keys], config)
    if not config.withdraw:
        lost = lost[:0]
    _check_withdrawn(lost, state, config)
    ids = minus(pa.concat_arrays([*reading.ids.values(), lost[:0]]), lost)
    changes = publish(table, incoming, ids, lost, config.name)
    if absent := missing(table, ids):
        raise SyncError(
            f"{config.table}: {absent} of {len(ids)} structures from {config.name} are not in the table; "
            "sync again, and report this if it stays"
        )
    purge(table)
    table.refresh()
    file.write(next_state(state, partitions, reading, lost, is_feed))
    file.discard_incoming()
    pin(config.table, f"sync-{config.name}", table.version, config.storage)
    result = result.model_copy(
        update={
            "version": table.version,
            "n_records": reading.counts.n_records,
            "n_new": len(changes.new),
            "n_changed": len(changes.changed),
            "n_withdrawn": len(changes.withdrawn),
            "n_quarantined": sum(changes.reasons.values()),
            "n_late": incoming.n_late,
            "reasons": changes.reasons,
            "failed": reading.failed,
        }
    )
    result = _finished(result, started, changes)
    if reading.failed:
        raise SyncError(_failures(result))
    return result


def _current(state: SyncState, config: SyncConfig) -> SyncState:
    """Under another encoder everything is read again, and nothing forgotten."""
    encoder = fingerprint(config.encoding.settings)
    return state if state.fingerprint == encoder else SyncState(encoder, ids=state.ids)


def _read(
    reading: Reading, source: Source, incoming: Incoming, partitions: Sequence[Partition], config: SyncConfig
) -> None:
    """Read partitions and encode what is new in them, in shards as `flows.encode` does it."""
    if not partitions:
        return
    with (
        cluster(config.cluster) as client,
        Progress(count_rows(partitions), f"sync {config.name}", unit="structures") as progress,
    ):

        def show(n: int, counts: Counts) -> None:
            progress.advance(n, skipped=counts.n_skipped, **dict(counts.reasons.most_common(5)))

        encoding = Encoding(
            incoming,
            Workers(client, config.encoding).submit,
            config.encoding,
            run=flow_run_link()[0] or "",
            on_progress=show,
            chunks_in_flight=config.cluster.workers + 2,
            keep_ids=True,
        )
        encode_shards(encoding, source, plan(partitions, config.encoding.shard_rows), 2)
        reading.take(encoding)


def _check_withdrawn(lost: pa.Array, state: SyncState, config: SyncConfig) -> None:
    held = sum(len(ids) for ids in state.ids.values())
    if len(lost) > config.max_withdrawn * held:
        raise SyncError(
            f"{config.name}: the source no longer has {len(lost)} of {held} structures ({lost[0]}, …), above "
            f"max_withdrawn = {config.max_withdrawn:g}; the table is as it was. Check the source; if it is "
            "right, raise max_withdrawn"
        )


def _finished(result: SyncResult, started: float, changes: Changes) -> SyncResult:
    """The table artifact that says what changed, and the event that deployments wait for."""
    result = result.model_copy(update={"seconds": round(time.monotonic() - started, 3)})
    rows: list[dict[str, Any]] = [
        {"what": what, "structures": len(ids), "for example": ", ".join(ids[:EXAMPLES])}
        for what, ids in (
            ("new", changes.new),
            ("changed", changes.changed),
            ("withdrawn", changes.withdrawn),
        )
    ]
    rows += [
        {"what": f"quarantined: {reason}", "structures": n, "for example": ""}
        for reason, n in sorted(changes.reasons.items())
    ]
    rows.append({"what": "came late, left out", "structures": result.n_late, "for example": ""})
    rows += [
        {"what": "could not be read", "structures": 0, "for example": f"{key}: {message}"}
        for key, message in result.failed.items()
    ]
    publish_table(
        f"sync-{result.name}",
        rows,
        f"{result.table}: version {result.version_before} → {result.version}; "
        f"{result.n_partitions_read} of {result.n_partitions} partitions read",
    )
    if not result.is_unchanged:
        emit_event(
            event=EVENT,
            resource={"prefect.resource.id": f"cloud.table.{result.name}", "cloud.table.uri": result.table},
            payload=result.model_dump(mode="json"),
        )
    return result


def _failures(result: SyncResult) -> str:
    failures = "; ".join(f"{key}: {message}" for key, message in list(result.failed.items())[:3])
    failed = f"{len(result.failed)} of {result.n_partitions_read} parts could not be read"
    return f"{result.name}: {failed}, the rest is in {result.table} version {result.version}: {failures}"


def named(name: str, folder: str | Path = "deployments/configs") -> SyncConfig:
    """The configuration of a sync by its name: `folder/sync-NAME.yaml`.

    Raises:
        ConfigError: there is none of that name; the message lists those there are.
    """
    path = Path(folder) / f"sync-{name}.yaml"
    if not path.is_file():
        there = sorted(p.stem.removeprefix("sync-") for p in Path(folder).glob("sync-*.yaml"))
        raise ConfigError(f"no sync named {name!r} ({path}); there are: {', '.join(there) or 'none'}")
    return load_config(path, SyncConfig)
