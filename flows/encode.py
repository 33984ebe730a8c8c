"""Structures of a source into a table: encoded, or in quarantine with a reason.

cloud encode --config deployments/configs/encode.yaml
"""

import time
from typing import Any
from uuid import uuid4

from prefect import flow
from pydantic import BaseModel, Field

from cloud_core.config import DEFAULT_TABLE, FlowConfig, TableUri
from cloud_core.encoding.engine import Counts, Encoding, plan
from cloud_core.encoding.options import EncodingOptions
from cloud_core.lake import runs
from cloud_core.lake.maintenance import purge_unless_busy
from cloud_core.lake.status import quarantine_report
from cloud_core.lake.storage import Storage
from cloud_core.lake.table import Table
from cloud_core.scope.settings import fingerprint
from cloud_core.sources.catalogue import open_source
from cloud_core.sources.record import Listing, count_rows
from tasks.cluster import ClusterConfig, LazyCluster, default_cluster
from tasks.encoding import encode_shards, submit_to
from tasks.reporting import Progress, flow_run_link, publish_markdown, publish_table

SHOWN = 3  # names of files passed over


class EncodeConfig(FlowConfig):
    """What is encoded, to where, and with what."""

    source: str | dict[str, Any] = Field(
        description="a folder, archive, table or named set, or a mapping as in docs/sources.md"
    )
    table: TableUri = Field(default=DEFAULT_TABLE, description="the table: a folder or an s3:// address")
    storage: Storage | None = Field(
        default=None, description="object store; default: from the AWS_… environment"
    )
    encoding: EncodingOptions = Field(
        default=EncodingOptions(), description="forms, tolerances, limits, portions"
    )
    cluster: ClusterConfig = Field(default_factory=default_cluster, description="where the work runs")


class EncodeResult(BaseModel):
    """What a run did: `n_records` = `n_encoded` + `n_quarantined` + `n_skipped` (there already)."""

    table: str
    version: int
    n_records: int
    n_encoded: int
    n_quarantined: int
    n_skipped: int
    n_superseded: int | None
    """rows that were replaced and are gone from the files; None: another run was writing, and will purge"""
    reasons: dict[str, int]
    flags: dict[str, int]
    """of the rows that were encoded"""
    passed_over: list[str]
    """files whose names name no format of structures"""
    fingerprint: str
    seconds: float
    seconds_starting: float
    seconds_encoding: float

    @property
    def wrote_nothing(self) -> bool:
        return self.n_encoded == self.n_quarantined == 0

    def summary(self) -> str:
        """As Markdown."""
        if self.wrote_nothing:
            head = f"Nothing to do: all {self.n_records:,} structures are in the table already."
        else:
            head = (
                f"{self.n_encoded:,} encoded, {self.n_quarantined:,} quarantined, "
                f"{self.n_skipped:,} there already, in {self.seconds:.1f} s."
            )
        if self.n_superseded is None:
            head += " Another run is writing this table; replaced rows leave its files when that one ends."
        if self.passed_over:
            names = ", ".join(self.passed_over[:SHOWN]) + (", …" if len(self.passed_over) > SHOWN else "")
            head += f" {len(self.passed_over):,} files passed over, no format by their names: {names}."
        counts = "".join(
            f"\n- {what} {name}: {n:,}"
            for what, found in (("quarantined,", self.reasons), ("flag", self.flags))
            for name, n in sorted(found.items())
        )
        return f"{head}\n\nTable `{self.table}`, version {self.version}.{counts}"


@flow(name="encode", persist_result=False, validate_parameters=True)
def encode(config: EncodeConfig) -> EncodeResult:
    """Encode what is new or changed in a source; running it again writes nothing."""
    started = time.monotonic()
    source = open_source(config.source)
    shards = plan(source.partitions(), config.encoding.shard_rows)
    table = Table.create(config.table, config.storage)
    intent = runs.Plan(
        run=flow_run_link()[0] or str(uuid4()),  # none outside a flow
        source=source.name,
        fingerprint=fingerprint(config.encoding.settings),
        chunk_rows=config.encoding.chunk_rows,
        partitions=[(p.key, p.cursor, p.n_rows, shard.number) for shard in shards for p in shard.partitions],
    )
    total = count_rows(partition for shard in shards for partition in shard.partitions)
    with (
        LazyCluster(config.cluster) as client,
        Progress(total, f"encode {source.name}", unit="structures") as progress,
    ):

        def show(n: int, counts: Counts) -> None:
            progress.advance(n, skipped=counts.n_skipped, **dict(counts.reasons.most_common()))

        workers = config.cluster.workers
        at_once = max(2, workers // 8)
        encoding = Encoding(
            table,
            submit_to(client, config.encoding),
            config.encoding,
            run=intent.run,
            on_progress=show,
            chunks_in_flight=-(-(2 * workers + 2) // at_once),
            before_first_commit=lambda: runs.begin(table, intent),
        )
        encode_shards(encoding, source, shards, at_once)
    superseded = purge_unless_busy(table)
    publish_table(f"quarantine-{source.name}", quarantine_report(table), "Quarantine by reason")
    encoding.check(config.table, config.storage)
    counts = encoding.counts
    if counts.n_chunks:
        runs.finish(table, intent.run)
    elif earlier := runs.pending(table, source.name):  # killed after its last chunk: this run saw it whole
        runs.finish(table, earlier)
    table.refresh()
    result = EncodeResult(
        table=config.table,
        version=table.version,
        n_records=counts.n_records,
        n_encoded=counts.n_encoded,
        n_quarantined=counts.n_quarantined,
        n_skipped=counts.n_skipped,
        n_superseded=superseded,
        reasons=dict(counts.reasons),
        flags=dict(counts.flags),
        passed_over=source.passed_over() if isinstance(source, Listing) else [],
        fingerprint=intent.fingerprint,
        seconds=round(time.monotonic() - started, 3),
        seconds_starting=round(client.seconds_starting, 3),
        seconds_encoding=round((encoding.ended_at or 0.0) - (encoding.started_at or 0.0), 3),
    )
    publish_markdown(f"encode-{source.name}", result.summary(), "What was encoded")
    return result
