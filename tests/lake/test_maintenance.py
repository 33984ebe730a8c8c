"""Versions that somebody named survive compaction, vacuum and log clean-up."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cloud_core.lake import runs
from cloud_core.lake.errors import LakeError
from cloud_core.lake.maintenance import compact, purge, purge_unless_busy, vacuum
from cloud_core.lake.pins import pin, pins, unpin
from cloud_core.lake.snapshot import Snapshot
from cloud_core.lake.status import quarantine_report, status
from cloud_core.lake.table import Table


@pytest.fixture
def busy(tmp_path, rows) -> Table:
    """Twelve chunks, a checkpoint every second commit, and Delta properties that forget at once."""
    table = Table.create(
        str(tmp_path / "busy"),
        configuration={
            "delta.checkpointInterval": "2",
            "delta.logRetentionDuration": "interval 0 days",
            "delta.deletedFileRetentionDuration": "interval 0 days",
        },
    )
    for k in range(12):
        table.append_chunk(rows(10 * k, 10), f"chunk {k}")
    return table


def test_a_pinned_version_survives_everything(busy, rows):
    snapshot = Snapshot.of(Table.open(busy.uri, version=5), version=5, pin="run-1")
    content = Table.open(busy.uri, version=5).content_hash()
    busy.append_chunk(rows(0, 40, content="b"), "update")
    compact(busy)
    newest = busy.content_hash()
    removed = vacuum(busy, retention_hours=0)
    assert removed.files > 0 and removed.log_entries > 0 and removed.kept_versions == (5,)
    assert not vacuum(busy, retention_hours=0).files

    assert (snapshot.version, snapshot.n_rows) == (5, 50)
    assert sum(pq.read_metadata(file).num_rows for file in snapshot.files) == 50
    assert Table.open(busy.uri, version=5).content_hash() == content
    assert Table.open(busy.uri).content_hash() == newest
    with pytest.raises(LakeError):  # nobody named version 3, and its log is gone
        Table.open(busy.uri, version=3).content_hash()
    with pytest.raises(LakeError, match="vacuum"):  # version 11 has its log, but not its files
        Table.open(busy.uri, version=11).content_hash()

    unpin(busy.uri, "run-1")
    assert vacuum(busy, retention_hours=0).files > 0
    with pytest.raises(LakeError):
        Table.open(busy.uri, version=5).content_hash()
    assert Table.open(busy.uri).content_hash() == newest


def test_ordinary_commits_do_not_clean_the_log(busy, rows):
    """Delta's own clean-up, which knows no pins, stays off even where the retention is over."""
    for k in range(6):
        busy.append_chunk(rows(10 * k, 10, content="c"), f"more {k}")
    assert Table.open(busy.uri, version=1).counts()["encoded"] == 10


def test_vacuum_keeps_what_is_young_and_what_is_being_written(busy, rows):
    busy.append_chunk(rows(0, 40, content="b"), "update")
    compact(busy)
    assert vacuum(busy, retention_hours=24).files == 0
    assert Table.open(busy.uri, version=7).counts()["encoded"] == 70
    assert vacuum(busy, retention_hours=0, dry_run=True).files > 0
    assert Table.open(busy.uri, version=7).content_hash()


def test_pins(busy):
    pin(busy.uri, "model-a", 3)
    pin(busy.uri, "model-b", 3)
    pin(busy.uri, "model-b", 4)
    assert pins(busy.uri) == {"model-a": 3, "model-b": 4}
    unpin(busy.uri, "model-a")
    unpin(busy.uri, "model-a")
    assert pins(busy.uri) == {"model-b": 4}
    with pytest.raises(LakeError, match="no name"):
        pin(busy.uri, "../outside", 1)
    with pytest.raises(LakeError, match="no version 99"):
        Snapshot.of(busy, version=99, pin="nothing")
    assert "nothing" not in pins(busy.uri)


def test_a_snapshot_never_holds_superseded_rows(busy, rows):
    assert Snapshot.of(busy).version == 12
    busy.append_chunk(rows(0, 5, content="b"), "update 1")
    busy.append_chunk(rows(5, 5, content="b"), "update 2")
    during = Snapshot.of(busy.uri)
    assert (during.version, during.n_rows) == (12, 120)
    with pytest.raises(LakeError, match=r"inside an update.*take 12"):
        Snapshot.of(busy, version=13)
    purge(busy)
    after = Snapshot.of(busy)
    assert (after.version, after.n_rows) == (busy.version, 120)
    texts = [t for file in after.files for t in pq.read_table(file)["canonical"].to_pylist()]
    assert len(texts) == 120 and sum(t.startswith("string b") for t in texts) == 10


def test_status_and_quarantine_report(busy, rows):
    busy.append_chunk(rows(0, 15, status="quarantined", content="b"), "bad")
    pin(busy.uri, "model", 3)
    told = status(busy.uri)
    assert told["rows"] == {"encoded": 105, "quarantined": 15, "withdrawn": 0}
    assert told["quarantine"] == {"timeout": 15}
    assert told["pins"] == {"model": 3}
    assert status(busy.uri, version=2)["rows"]["encoded"] == 20
    assert told["versions"]["oldest_in_log"] == 0
    assert [row["version"] for row in told["versions"]["latest"]] == list(range(13, 3, -1))
    compact(busy)
    vacuum(busy, retention_hours=0)
    after = status(busy.uri)["versions"]
    assert after["latest"][-1]["version"] >= after["oldest_in_log"] > 0  # as far as the pinned one needs
    assert {"purge", "write"} <= {row["what"] for row in after["latest"]}
    assert Table.open(busy.uri, version=3).counts()["encoded"] == 30
    (reason,) = quarantine_report(busy)
    assert reason["reason"] == "timeout" and reason["structures"] == 15
    assert len(reason["examples"].splitlines()) == 10
    assert Path(busy.uri).is_dir()


def test_a_retention_is_never_cut_short(busy):
    compact(busy)
    assert vacuum(busy, retention_hours=0.5, dry_run=True).files == 0
    assert vacuum(busy, retention_hours=0, dry_run=True).files > 0


def test_settling_gives_up_beside_a_writer_that_is_faster(table, rows, monkeypatch):
    table.append_chunk(rows(0, 3), "one")
    table.append_chunk(rows(0, 3, content="b"), "two")
    other = Table.open(table.uri)
    taken = Table.batches

    def another_commit_meanwhile(self, *arguments, **options):
        other.note({"run": "another"})
        return taken(self, *arguments, **options)

    monkeypatch.setattr(Table, "batches", another_commit_meanwhile)
    with pytest.raises(LakeError, match="let them finish"):
        purge(table)
    assert purge_unless_busy(table) is None
    monkeypatch.undo()
    assert not table.is_purged and table.counts()["encoded"] == 3
    assert purge_unless_busy(table) == 3


def chunk(run: str, number: int, last: bool) -> dict[str, str]:
    of = {"run": run, "partition": "p", "cursor": "1", "grid": runs.grid("f", 10)}
    return of | {"shard": "1", "chunk": str(number), "chunks": str(number + 1) if last else ""}


def test_what_an_unfinished_run_lacks(table, rows):
    """Whatever other sources do beside it, until a later run of its own source has ended."""

    def plan(run: str, source: str) -> runs.Plan:
        return runs.Plan(run, source, "f", 10, [("p", "1", 35, 1), ("q", "1", None, 2)])

    def unfinished() -> dict:
        return status(table.uri)["unfinished"] or {}

    runs.begin(table, plan("r1", "one"))
    table.append_chunk(rows(0, 10), "c1", metadata=chunk("r1", 1, last=False))
    runs.begin(table, plan("r2", "two"))
    runs.finish(table, "r2")
    told = unfinished()
    assert (told["run"], told["chunks_committed"], told["chunks_missing"]) == ("r1", 1, 3)
    assert told["missing"] == ["p: chunks 0, 2, 3 of 4"]
    assert (told["shards"], told["shards_complete"], told["partitions_not_counted_yet"]) == (2, 0, 1)
    assert (runs.pending(table, "one"), runs.pending(table, "two")) == ("r1", None)
    runs.begin(table, plan("r3", "one"))
    runs.finish(table, "r3")
    assert not unfinished() and runs.pending(table, "one") is None


def test_a_plan_of_many_partitions_says_how_many_it_does_not_list(table):
    n = runs.MAX_LISTED + 5
    runs.begin(table, runs.Plan("r", "one", "f", 10, [(f"p{i}", "1", 10, i) for i in range(n)]))
    told = status(table.uri)["unfinished"]
    assert (told["partitions"], told["partitions_not_looked_at"]) == (n, 5)
