"""Encoding through Dask: what is written, what is left alone, and what a bad structure costs."""

import copy
import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from deltalake import write_deltalake
from distributed import Future

from cloud_core.encoding.engine import Counts, EncodeError, Encoding, plan
from cloud_core.encoding.options import EncodingOptions
from cloud_core.encoding.replay import Again, Quarantine, like_the_first
from cloud_core.encoding.rows import Item, read_back, written_out
from cloud_core.lake.maintenance import purge
from cloud_core.lake.schemas import LATER_COLUMNS
from cloud_core.lake.status import status
from cloud_core.lake.table import Table
from cloud_core.scope.isolation import Encoded, encode_many
from cloud_core.scope.settings import ENCODER_VERSION, EncoderSettings
from cloud_core.sources.record import Partition, Record, Refusal, SourceError
from cloud_core.structures.cell import Cell, Note
from tasks.cluster import ClusterConfig, LazyCluster
from tasks.encoding import Workers
from tests.servers import local_first
from tests.tasks.conftest import Listed

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
OPTIONS = EncodingOptions(chunk_rows=40, timeout_s=4.0, memory_mb=256)


@pytest.fixture(scope="module")
def client() -> Iterator[LazyCluster]:
    """Two workers in whose children marked structures hang, crash and eat memory (see poison/)."""
    with ExitStack() as stack:
        path = str(Path(__file__).parent / "poison")
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = path
        cluster = stack.enter_context(LazyCluster(ClusterConfig(workers=2, memory_gb=1.5)))
        assert cluster.client
        yield cluster
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def run(source: Listed, table: Table, client: LazyCluster, options: EncodingOptions = OPTIONS) -> Counts:
    """What the flow does, without Prefect."""
    encoding = Encoding(table, Workers(client, options).submit, options)
    for shard in plan(source.partitions(), 150):
        encoding.encode(encoding.chunks(source, shard))
    purge(table)
    encoding.check(table.uri)
    return encoding.counts


def replayed(
    table: Table, client: LazyCluster, options: EncodingOptions = OPTIONS, reasons: list[str] | None = None
) -> tuple[Counts, Quarantine]:
    """What the flow of a replay does, without Prefect."""
    quarantine = Quarantine(table, reasons)
    encoding = Encoding(Again(table), Workers(client, options).submit, options)
    encoding.encode(quarantine.chunks(encoding))
    purge(table)
    encoding.check(table.uri)
    return encoding.counts, quarantine


def marked(records: list[Record], marks: dict[int, str]) -> list[Record]:
    changed = copy.copy(records)
    for place, mark in marks.items():
        changed[place] = replace(records[place], payload=f"{records[place].payload}\n# {mark}\n")
    return changed


@pytest.fixture(scope="module")
def undisturbed(
    records: list[Record], client: LazyCluster, tmp_path_factory: pytest.TempPathFactory
) -> Table:
    table = Table.create(str(tmp_path_factory.mktemp("undisturbed") / "structures"))
    counts = run(Listed(records), table, client)
    assert (counts.n_encoded, counts.n_quarantined, counts.n_skipped) == (300, 0, 0)
    return table


def test_strings_are_those_of_the_encoder(undisturbed: Table, records: list[Record]) -> None:
    expected = {
        f"listed:{outcome.id}": outcome.scope
        for outcome in encode_many(records, EncoderSettings())
        if isinstance(outcome, Encoded)
    }
    rows = undisturbed.scope().to_pylist()
    assert len(rows) == len(expected) == 300
    for row in rows:
        scope = expected[row["structure_id"]]
        assert (row["canonical"], row["element_key"]) == (scope.canonical, scope.element_key)
        assert dict(zip(row["elements"], row["fractions"], strict=True)) == dict(scope.composition)
        assert (row["space_group"], row["n_sites"]) == (scope.space_group, scope.n_sites)
        assert row["licence"] == "unspecified" and row["symprec"] == 0.01


def test_chunks_workers_and_order_do_not_matter(
    undisturbed: Table, records: list[Record], tmp_path: Path
) -> None:
    table = Table.create(str(tmp_path / "structures"))
    with LazyCluster(ClusterConfig(workers=1)) as one:
        run(Listed(records[::-1]), table, one, OPTIONS.model_copy(update={"chunk_rows": 7}))
    assert table.content_hash() == undisturbed.content_hash()


def test_a_second_run_starts_no_cluster_and_writes_nothing(undisturbed: Table, records: list[Record]) -> None:
    version = undisturbed.version
    with LazyCluster(ClusterConfig()) as unused:
        counts = run(Listed(records), Table.open(undisturbed.uri), unused)
        assert unused.seconds_starting == 0
    assert (counts.n_skipped, counts.n_encoded, counts.n_chunks) == (300, 0, 0)
    assert Table.open(undisturbed.uri).version == version


def test_another_encoder_encodes_again(records: list[Record], client: LazyCluster, tmp_path: Path) -> None:
    table = Table.create(str(tmp_path / "structures"))
    few = Listed(records[:50])
    run(few, table, client)
    first = table.content_hash()
    loose = OPTIONS.model_copy(update={"symprec": 0.1})
    counts = run(few, table, client, loose)
    assert counts.n_encoded == 50
    assert set(table.scope(["symprec"])["symprec"].to_pylist()) == {0.1}
    assert table.counts()["encoded"] == 50
    assert run(few, table, client, loose).n_skipped == 50
    run(few, table, client)
    assert table.content_hash() == first


@local_first
def test_hanging_crashing_and_greedy_structures_go_to_quarantine_alone(
    undisturbed: Table, records: list[Record], client: LazyCluster, uri: str
) -> None:
    marks = {13: "hang", 57: "segfault", 121: "eat memory", 122: "segfault"}
    table = Table.create(uri)
    counts = run(Listed(marked(records, marks)), table, client)
    assert (counts.n_encoded, counts.n_quarantined) == (296, 4)
    reasons = {row["structure_id"]: row["reason"] for row in table.quarantine().to_pylist()}
    assert reasons == {
        f"listed:{records[13].id}": "timeout",
        f"listed:{records[57].id}": "crashed",
        f"listed:{records[121].id}": "out_of_memory",
        f"listed:{records[122].id}": "crashed",
    }
    columns = ["structure_id", "canonical"]
    expected = dict(zip(*undisturbed.scope(columns).to_pydict().values(), strict=True))
    for identifier, canonical in zip(*table.scope(columns).to_pydict().values(), strict=True):
        assert expected[identifier] == canonical

    counts = run(Listed(records), table, client)  # the four are corrected at their source
    assert (counts.n_encoded, counts.n_skipped) == (4, 296)
    assert table.content_hash() == undisturbed.content_hash()


def test_a_replay_after_a_transient_failure(
    undisturbed: Table, records: list[Record], client: LazyCluster, tmp_path: Path
) -> None:
    """A structure that was quarantined in error is encoded by a replay, and stays so in later runs."""
    table = Table.create(str(tmp_path / "structures"))
    source = Listed([*records[:60], replace(records[60], payload="no CIF"), refusal("lost")])
    run(source, table, client)
    rows = table.rows(where=None).filter(
        np.isin(table.rows()["structure_id"].to_pylist(), [f"listed:{records[i].id}" for i in (3, 4)])
    )
    failed = rows.set_column(rows.column_names.index("status"), "status", [["quarantined"] * 2])
    failed = failed.set_column(failed.column_names.index("reason"), "reason", [["timeout"] * 2])
    payloads = [r.payload for r in records if f"listed:{r.id}" in failed["structure_id"].to_pylist()]
    failed = failed.set_column(failed.column_names.index("payload"), "payload", [payloads])
    failed = failed.set_column(failed.column_names.index("payload_format"), "payload_format", [["cif"] * 2])
    table.append_chunk(failed, "a machine with too little time")
    assert table.counts() == {"encoded": 58, "quarantined": 4, "withdrawn": 0}

    assert run(source, table, client).n_skipped == 62  # an unchanged quarantine is not tried in every run
    version = table.version
    counts, quarantine = replayed(table, client)
    assert (counts.n_encoded, counts.n_quarantined, quarantine.n_refused_by_source) == (2, 1, 1)
    assert table.counts() == {"encoded": 60, "quarantined": 2, "withdrawn": 0}
    assert table.version > version
    assert run(source, table, client).n_skipped == 62

    version = table.version
    replayed(table, client)
    assert table.version == version  # the same reason again: nothing is written


def test_what_a_replay_with_other_tolerances_found_is_kept(
    records: list[Record], client: LazyCluster, tmp_path: Path
) -> None:
    table = Table.create(str(tmp_path / "structures"))
    source = Listed(records[:5])
    run(source, table, client)
    rows = table.rows()
    failed = rows.set_column(rows.column_names.index("status"), "status", [["quarantined"] * 5])
    failed = failed.set_column(
        failed.column_names.index("payload"), "payload", [[r.payload for r in records[:5]]]
    )
    failed = failed.set_column(failed.column_names.index("payload_format"), "payload_format", [["cif"] * 5])
    table.append_chunk(
        failed.set_column(failed.column_names.index("reason"), "reason", [["symmetry_failed"] * 5]), "failed"
    )
    replayed(table, client, OPTIONS.model_copy(update={"symprec": 0.05}), ["symmetry_failed"])
    assert set(table.scope(["symprec"])["symprec"].to_pylist()) == {0.05}
    assert run(source, table, client).n_skipped == 5


def test_the_quarantine_of_an_earlier_table_is_replayed(
    records: list[Record], client: LazyCluster, tmp_path: Path
) -> None:
    """A table without the columns that came later."""
    table = Table.create(str(tmp_path / "structures"))
    layer = Cell(3.0 * np.eye(3), ("C",), np.zeros((1, 3)), notes=(Note("not_periodic", "a layer"),))
    run(Listed([*records[:5], Record("l", layer, "cell", "listed")]), table, client)
    earlier = table.rows().drop_columns(list(LATER_COLUMNS))
    write_deltalake(table.delta, earlier, mode="overwrite", schema_mode="overwrite")
    table = Table.open(table.uri)
    assert status(table.uri)["encoder_versions"] == {"1": 6}
    replayed(table, client, OPTIONS.model_copy(update={"assume_periodic": True}))
    assert table.counts() == {"encoded": 6, "quarantined": 0, "withdrawn": 0}
    assert status(table.uri)["encoder_versions"] == {"1": 5, str(ENCODER_VERSION): 1}


def test_a_replay_asks_for_what_the_first_run_asked_for(
    records: list[Record], client: LazyCluster, tmp_path: Path
) -> None:
    table = Table.create(str(tmp_path / "structures"))
    asked = OPTIONS.model_copy(update={"forms": ("canonical", "official"), "symprec": 0.02})
    run(Listed([*records[:3], replace(records[3], payload="no CIF")]), table, client, asked)
    silent = EncodingOptions(chunk_rows=7)
    assert like_the_first(table, silent) == EncodingOptions(
        chunk_rows=7, forms=("canonical", "official"), symprec=0.02
    )
    again = OPTIONS.model_copy(update={"symprec": 0.03})
    run(Listed([replace(records[4], payload="no CIF")]), table, client, again)
    with pytest.raises(EncodeError, match=r"refused under symprec 0.02 and 0.03; name the symprec"):
        like_the_first(table, silent)
    assert like_the_first(table, EncodingOptions(symprec=0.04)).symprec == 0.04


def refusal(name: str) -> Record:
    return Record(name, "", "", "listed", refusal=Refusal.UNREADABLE, message="the disk lost it")


def test_refusals_and_repeated_ids_are_accounted_for(
    records: list[Record], client: LazyCluster, tmp_path: Path
) -> None:
    table = Table.create(str(tmp_path / "structures"))
    twice = replace(records[5], payload=records[6].payload)
    counts = run(Listed([*records[:10], refusal("lost"), twice]), table, client)
    assert (counts.n_records, counts.n_encoded, counts.n_quarantined) == (12, 10, 2)
    assert dict(counts.reasons) == {"unreadable": 1, "duplicate_id": 1}
    assert len(set(table.rows(columns=["structure_id"])["structure_id"].to_pylist())) == 12


def test_a_partition_that_breaks_off_fails_the_run_after_the_rest(
    records: list[Record], client: LazyCluster, tmp_path: Path
) -> None:
    class Broken(Listed):
        def read(self, partition: Partition) -> Iterator[Record]:
            for number, record in enumerate(super().read(partition)):
                if partition.key == "from 100" and number == 50:
                    raise SourceError("listed: cut off; fetch it again")
                yield record

    table = Table.create(str(tmp_path / "structures"))
    with pytest.raises(EncodeError, match=r"1 partitions .* cut off"):
        run(Broken(records), table, client)
    assert table.counts()["encoded"] == 250
    ends = {e["partition"] for e in table.delta.history() if e.get("chunks")}
    assert ends == {"from 0", "from 200"}  # of the broken one nobody knows how many chunks it has


def test_rows_that_vanish_fail_the_run(records: list[Record], client: LazyCluster, tmp_path: Path) -> None:
    table = Table.create(str(tmp_path / "structures"))
    source = Listed(records[:20])
    encoding = Encoding(table, Workers(client, OPTIONS).submit, OPTIONS)
    for shard in plan(source.partitions(), 150):
        encoding.encode(encoding.chunks(source, shard))
    encoding.check(table.uri)
    table.delta.delete(f"structure_id = 'listed:{records[7].id}'")
    with pytest.raises(EncodeError, match="20 records were read, 20 accounted for, and 19 are"):
        encoding.check(table.uri)


def test_a_worker_killed_at_random_moments(
    undisturbed: Table, records: list[Record], client: LazyCluster, uri: str
) -> None:
    moments = random.Random(1)
    table = Table.create(uri)
    done = threading.Event()
    killed = []

    def kill() -> None:
        while not done.wait(moments.uniform(0.1, 0.5)) and len(killed) < 3:
            workers = [int(w["pid"]) for w in client.client.run(lambda: {"pid": os.getpid()}).values()]
            for pid in workers[:1]:
                killed.append(pid)
                os.kill(pid, signal.SIGKILL)
            time.sleep(1.5)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        counts = run(Listed(records), table, client, OPTIONS.model_copy(update={"chunk_rows": 10}))
    finally:
        done.set()
        killer.join()
    assert killed
    assert counts.n_encoded == 300
    assert table.content_hash() == undisturbed.content_hash()
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() == "running" for pid in killed)


def test_submissions_are_bounded(records: list[Record], client: LazyCluster, tmp_path: Path) -> None:
    """However long the source: so many chunks are on their way, and no more of it is read than these."""
    on_their_way: list[int] = []
    ahead: list[int] = []
    futures: list[Future] = []

    class Watched:
        def submit(self, *arguments: Any, **options: Any) -> Future:
            on_their_way.append(sum(future.status == "pending" for future in futures) + 1)
            futures.append(client.submit(*arguments, **options))
            return futures[-1]

    class Read(Listed):
        n_read = 0

        def read(self, partition: Partition) -> Iterator[Record]:
            for record in super().read(partition):
                self.n_read += 1
                ahead.append(self.n_read - encoding.counts.n_records)
                yield record

    source = Read(records)
    table = Table.create(str(tmp_path / "structures"))
    options = OPTIONS.model_copy(update={"chunk_rows": 10})
    workers = Workers(Watched(), options)  # type: ignore[arg-type]
    encoding = Encoding(table, workers.submit, options, chunks_in_flight=3)
    for shard in plan(source.partitions(), 1000):
        encoding.encode(encoding.chunks(source, shard))
    assert len(futures) == 30 and 1 < max(on_their_way) <= 3
    assert max(ahead) <= (3 + 2) * 10  # on their way, the one at hand, and the one after it


def test_plan_groups_partitions() -> None:
    partitions = [Partition(str(i), "c", 400) for i in range(10)]
    assert [len(shard.partitions) for shard in plan(partitions, 1000)] == [3, 3, 3, 1]
    assert [shard.number for shard in plan(partitions, 1000)] == [1, 2, 3, 4]
    many = [Partition(str(i), "c", None) for i in range(20_000)]
    shards = plan(many, 1000)
    assert len(shards) <= 500 and sum(len(shard.partitions) for shard in shards) == 20_000
    assert plan([], 10) == []


def test_payloads_come_back_from_quarantine_as_they_were() -> None:
    """With what their reader had to say of them, which is no part of their content."""
    generator = np.random.default_rng(0)
    plain = Cell(
        generator.normal(size=(3, 3)), ("Fe3+", "O"), generator.random((2, 3)), ({"Fe": 0.5}, {"O": 1.0})
    )
    other = replace(plain, fractions=generator.random((2, 3)))
    cell = replace(plain, notes=(Note("not_periodic", "a layer"),), alternatives=(other,))
    record = Record("a", cell, "cell", "s")
    for back in (read_back(*written_out(cell, "cell")), Cell.from_bytes(Item.of(record).payload)):
        assert isinstance(back, Cell)
        assert written_out(back, "cell") == written_out(cell, "cell")
        assert replace(record, payload=back).content_hash == record.content_hash
    assert replace(record, payload=plain).content_hash == record.content_hash
    assert written_out("data_\ud800x", "cif") == ("data_\\ud800x", "cif")
    written = json.loads(written_out(plain, "cell")[0])
    earlier = {key: written[key] for key in ("lattice", "species", "fractions", "occupancies")}
    back = read_back(json.dumps(earlier), "cell")  # as encoder version 1 wrote it
    assert isinstance(back, Cell) and written_out(back, "cell") == written_out(plain, "cell")


def test_what_is_flagged_is_told_in_the_row(
    records: list[Record], client: LazyCluster, tmp_path: Path
) -> None:
    """A layer is refused, or encoded with the flag and its words, as the options say; a replay too."""
    layer = Cell(3.0 * np.eye(3), ("C",), np.zeros((1, 3)), notes=(Note("not_periodic", "pbc is T T F"),))
    close = Cell(np.eye(3) * 5.0, ("Na", "Cl"), np.array([[0, 0, 0], [0.05, 0, 0]]))
    source = Listed([records[0], Record("l", layer, "cell", "listed"), Record("c", close, "cell", "listed")])
    table = Table.create(str(tmp_path / "structures"))
    counts = run(source, table, client)
    assert dict(counts.reasons) == {"unsupported": 1, "overlapping_sites": 1}
    counts, _ = replayed(table, client, OPTIONS.model_copy(update={"assume_periodic": True}))
    assert (counts.n_encoded, counts.n_quarantined) == (1, 1)
    lenient = OPTIONS.model_copy(update={"assume_periodic": True, "overlaps": "flag"})
    assert run(source, table, client, lenient).n_encoded == 3
    rows = {row["structure_id"]: row for row in table.scope(["structure_id", "flags", "message"]).to_pylist()}
    assert rows["listed:l"] == {
        "structure_id": "listed:l",
        "flags": ["not_periodic"],
        "message": "pbc is T T F",
    }
    assert rows["listed:c"]["flags"] == ["overlapping_sites"]
    assert "0.250 Å apart" in rows["listed:c"]["message"]
    assert rows[f"listed:{records[0].id}"]["message"] is None
