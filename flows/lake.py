"""Keeping a table: the quarantine again, fewer files, old versions away, duplicates out."""

import time
from typing import Any

from prefect import flow
from pydantic import BaseModel, Field

from cloud_core.config import DEFAULT_TABLE, FlowConfig, TableUri
from cloud_core.encoding.engine import Encoding
from cloud_core.encoding.options import EncodingOptions
from cloud_core.encoding.replay import Again, Quarantine, like_the_first
from cloud_core.lake import maintenance
from cloud_core.lake.duplicates import BY, count_duplicates, write_distinct
from cloud_core.lake.status import quarantine_report
from cloud_core.lake.storage import Storage
from cloud_core.lake.table import Table
from tasks.cluster import ClusterConfig, LazyCluster, default_cluster
from tasks.encoding import Workers, encode_quarantine
from tasks.reporting import Progress, flow_run_link, publish_table


class TableConfig(FlowConfig):
    """A table and how to get there."""

    table: TableUri = Field(default=DEFAULT_TABLE, description="the table: a folder or an s3:// address")
    storage: Storage | None = Field(
        default=None, description="object store; default: from the AWS_… environment"
    )


class ReplayConfig(TableConfig):
    """Which structures of the quarantine are tried again, and how."""

    reasons: list[str] | None = Field(default=None, description="reason codes; default: all of them")
    encoding: EncodingOptions = Field(
        default=EncodingOptions(),
        description="forms, tolerances, limits: may differ from the first run's; forms and tolerances that "
        "are not named are the first run's",
    )
    cluster: ClusterConfig = Field(default_factory=default_cluster, description="where the work runs")


class ReplayResult(BaseModel):
    """The outcome of a replay. Structures that the source refused are corrected at the source, not here."""

    table: str
    version: int
    n_replayed: int
    n_encoded: int
    n_still_quarantined: int
    n_refused_by_source: int
    reasons: dict[str, int]
    seconds: float


@flow(name="replay", persist_result=False)
def replay(config: ReplayConfig) -> ReplayResult:
    """Try the quarantined structures again; those that succeed move to the encoded ones."""
    started = time.monotonic()
    table = Table.open(config.table, config.storage)
    total = table.counts()["quarantined"]
    options = like_the_first(table, config.encoding)
    quarantine = Quarantine(table, config.reasons)
    with (
        LazyCluster(config.cluster) as client,
        Progress(total, "replay quarantine", unit="structures") as progress,
    ):
        again = Encoding(
            Again(table),
            Workers(client, options).submit,
            options,
            run=flow_run_link()[0] or "",
            on_progress=lambda n, counts: progress.advance(n, encoded=counts.n_encoded),
            chunks_in_flight=2 * config.cluster.workers + 2,
        )
        encode_quarantine(again, quarantine)
    maintenance.purge_unless_busy(table)
    again.check(config.table, config.storage)
    publish_table("quarantine", quarantine_report(table), "Quarantine by reason, after the replay")
    return ReplayResult(
        table=config.table,
        version=table.version,
        n_replayed=again.counts.n_records,
        n_encoded=again.counts.n_encoded,
        n_still_quarantined=again.counts.n_quarantined,
        n_refused_by_source=quarantine.n_refused_by_source,
        reasons=dict(again.counts.reasons),
        seconds=round(time.monotonic() - started, 3),
    )


class CompactConfig(TableConfig):
    """Into how large files a table is compacted."""

    target_mb: int = Field(default=128, ge=1, description="size of a file, MB")


@flow(name="compact", persist_result=False)
def compact(config: CompactConfig) -> maintenance.Compacted:
    """Join small files, without superseded rows; the content stays, and its hash."""
    return maintenance.compact(Table.open(config.table, config.storage), config.target_mb * 2**20)


class VacuumConfig(TableConfig):
    """What is removed from a table."""

    retention_hours: float = Field(
        default=168.0, ge=0, description="files that a younger version uses stay, h"
    )
    dry_run: bool = Field(default=False, description="only tell what would be removed")


@flow(name="vacuum", persist_result=False)
def vacuum(config: VacuumConfig) -> maintenance.Vacuumed:
    """Remove files and log entries of old versions, but of none that a run or a model has pinned."""
    return maintenance.vacuum(
        Table.open(config.table, config.storage), config.retention_hours, config.dry_run
    )


class DeduplicateConfig(TableConfig):
    """Which rows count as equal, and where the distinct ones are written."""

    by: str = Field(default="string", description=f"sense of being equal: {', '.join(BY)}")
    to: str | None = Field(default=None, description="table of the distinct rows; default: only count")
    shares: dict[str, float] = Field(
        default={"train": 0.9, "validation": 0.05, "test": 0.05}, description="splits and their shares"
    )
    seed: int = Field(default=0, description="seed of the splits")


class DeduplicateResult(BaseModel):
    """Rows, and how many are distinct in each sense; what was written."""

    table: str
    version: int
    counts: list[dict[str, Any]]
    to: str | None
    n_written: int
    splits: dict[str, int]


@flow(name="deduplicate", persist_result=False)
def deduplicate(config: DeduplicateConfig) -> DeduplicateResult:
    """Count duplicates in three senses; write the rows distinct in one of them, with a split by string."""
    table = Table.open(config.table, config.storage)
    counts = [
        {"by": c.by, "rows": c.rows, "distinct": c.distinct, "duplicates": c.duplicates}
        for c in count_duplicates(table)
    ]
    publish_table("duplicates", counts, f"Duplicates in {config.table}, version {table.version}")
    splits: dict[str, int] = {}
    if config.to is not None:
        splits = write_distinct(table, config.by, config.to, config.shares, config.seed, config.storage)
    return DeduplicateResult(
        table=config.table,
        version=table.version,
        counts=counts,
        to=config.to,
        n_written=sum(splits.values()),
        splits=splits,
    )
