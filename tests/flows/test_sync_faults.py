"""Syncs that are killed, updates that come late or twice, and what waits for a table to change."""

import copy
import itertools
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zipfile import ZipFile

import pyarrow as pa
import pytest

from cloud_core.encoding.changes import Incoming, SyncError, SyncStateFile, publish
from cloud_core.encoding.rows import encode_chunk, input_rows
from cloud_core.lake.table import Table
from cloud_core.scope.settings import EncoderSettings
from cloud_core.sources.record import Record
from flows.sync import SyncConfig, sync
from tests.servers import S3Server, free_port, stop
from tests.sources.conftest import optimade_entries, serve_optimade
from tests.sources.materials_project_server import KEY, materials_project
from tests.sources.test_materials_project import documents as mp_documents

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


@pytest.fixture
def scheduler(dask_workers: dict[str, str]) -> str:
    return dask_workers["address"]


@pytest.fixture(scope="module")
def cifs(project: Path) -> list[str]:
    with ZipFile(project / "flows" / "demo_data" / "structures.zip") as archive:
        names = sorted(name for name in archive.namelist() if "mp-" in name)[:24]
        return [archive.read(name).decode() for name in names]


def test_a_killed_sync_leaves_the_last_good_version_and_is_resumed(
    tmp_path: Path, scheduler: str, cifs: list[str], prefect_server: str
) -> None:
    folder = tmp_path / "database"
    folder.mkdir()
    options = {"encoding": {"chunk_rows": 1}, "cluster": {"kind": "address", "address": scheduler}}

    def config(name: str) -> SyncConfig:
        values = {
            "name": "mirror",
            "source": {"kind": "files", "path": str(folder)},
            "table": str(tmp_path / name),
        }
        return SyncConfig.model_validate(values | options)

    for i in range(2):
        (folder / f"{i}.cif").write_text(cifs[i])
    first = sync(config("table"))
    good = Table.open(first.table)
    version, content = good.version, good.content_hash()
    for i, text in enumerate(cifs):
        (folder / f"{i}.cif").write_text(text)

    (tmp_path / "config.yaml").write_text(config("table").model_dump_json())
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "flows.cli",
            "run",
            "sync",
            "--config",
            str(tmp_path / "config.yaml"),
            "--json",
        ],
        env=os.environ | {"PREFECT_API_URL": prefect_server},
        stdout=(tmp_path / "log").open("wb"),
        stderr=subprocess.STDOUT,
    )
    log = tmp_path / "table" / "_sync" / "mirror" / "incoming" / "_delta_log"
    deadline = time.monotonic() + 120
    while len(list(log.glob("*.json"))) < 5 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()
    waiting = len(list(log.glob("*.json")))
    assert 5 <= waiting < len(cifs)

    killed = Table.open(first.table)
    assert (killed.version, killed.content_hash()) == (version, content)
    resumed = sync(config("table"))
    assert resumed.n_new == len(cifs) - 2
    assert not log.exists()
    sync(config("undisturbed"))
    undisturbed = Table.open(str(tmp_path / "undisturbed"))
    assert Table.open(first.table).content_hash() == undisturbed.content_hash()


@pytest.mark.slow  # a server for each change; the test of the Materials Project is its fast sibling
def test_a_feed_is_read_from_the_last_change_on(tmp_path: Path, scheduler: str, prefect_server: str) -> None:
    port = free_port()
    config = SyncConfig.model_validate(
        {
            "name": "feed",
            "source": {
                "kind": "optimade",
                "providers": [{"name": "one", "url": f"http://127.0.0.1:{port}", "licence": "CC0-1.0"}],
                "cache": str(tmp_path / "cache"),
                "politeness": {"requests_per_second": 1000, "backoff_s": 0.01, "attempts": 2},
            },
            "table": str(tmp_path / "table"),
            "cluster": {"kind": "address", "address": scheduler},
        }
    )

    def sync_with(entries: list[dict[str, object]]) -> tuple[int, ...]:
        process, _ = serve_optimade(tmp_path, entries, port)  # type: ignore[arg-type]
        try:
            result = sync(config)
        finally:
            stop(process)
        return result.n_records, result.n_new, result.n_changed, result.n_withdrawn

    entries = optimade_entries()
    assert sync_with(entries[:12]) == (12, 12, 0, 0)
    assert sync_with(entries[:12])[0] == 0  # unchanged: nothing read

    later = copy.deepcopy(entries[:13])  # one new, one changed, one withdrawn; the others are not read
    later[0]["attributes"]["cartesian_site_positions"] = [[0.1, 0.0, 0.0]]
    later[0]["attributes"]["lattice_vectors"] = [[3.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 3.0]]
    for entry in (later[0], later[12]):
        entry["attributes"]["last_modified"] = "2024-05-01T00:00:00Z"
    assert sync_with([later[0], *later[2:]]) == (
        13 - 1,
        1,
        1,
        1,
    )  # all of 2019 lie within a day of the last change

    much_later = copy.deepcopy(entries[13:14])
    much_later[0]["attributes"]["last_modified"] = "2024-07-01T00:00:00Z"
    assert sync_with([later[0], *later[2:], *much_later]) == (3, 1, 0, 0)

    late = copy.deepcopy(entries[14:15])  # it appears under a time long past: told by the count
    late[0]["attributes"]["last_modified"] = "2018-01-01T00:00:00Z"
    _, *changes = sync_with([later[0], *later[2:], *much_later, *late])
    assert changes == [1, 0, 0]
    rows = Table.open(str(tmp_path / "table")).rows(columns=["structure_id", "status", "licence"]).to_pylist()
    withdrawn = {row["structure_id"] for row in rows if row["status"] == "withdrawn"}
    assert withdrawn == {f"optimade:one/{entries[1]['id']}"} and len(rows) == 15
    assert {row["licence"] for row in rows} == {"CC0-1.0"}

    with pytest.raises(SyncError, match=r"one: .*no answer"):
        sync(config)  # the server is gone
    assert Table.open(str(tmp_path / "table")).counts()["withdrawn"] == 1


def test_late_duplicate_and_out_of_order_updates_end_in_the_same_table(
    tmp_path: Path, cifs: list[str]
) -> None:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    history = [(0, cifs[0]), (1, cifs[1]), (2, cifs[0])]  # A, B, A again
    updates = [
        Record("x", text, "cif", "db", modified_at=start + timedelta(days=day)) for day, text in history
    ]
    settings = EncoderSettings()
    tables = []
    orders = [*itertools.permutations(range(3)), (0, 0, 1, 2, 2), (2, 1, 0, 1, 2)]
    for number, order in enumerate(orders):
        table = Table.create(str(tmp_path / f"table{number}"))
        for step, i in enumerate(order):
            incoming = Incoming(table, SyncStateFile(table, f"sync{step}"), is_feed=True)
            inputs = input_rows([updates[i]], settings)
            claim = incoming.claim(inputs, f"chunk{step}")
            if claim.todo.any():
                rows = inputs
                outcome = encode_chunk([updates[i]], settings, 30.0, None)
                for name in outcome.column_names:
                    rows = rows.append_column(outcome.schema.field(name), outcome[name])
                incoming.append_chunk(rows, claim.key, claim.revisions, {})
            publish(
                table, incoming, inputs["structure_id"].combine_chunks(), pa.array([], pa.string()), "test"
            )
        held = table.rows(columns=["structure_id", "content_hash", "modified_at"]).to_pylist()
        assert held == [
            {
                "structure_id": "db:x",
                "content_hash": updates[2].content_hash,
                "modified_at": updates[2].modified_at,
            }
        ]
        tables.append(table.content_hash())
    assert len(set(tables)) == 1


WAITING_FLOW = """
from prefect import flow

@flow
def pretrain(table: str, version: int):
    pass
"""

DEPLOYMENT = """
deployments:
  - name: on-new-structures
    entrypoint: pretrain.py:pretrain
    work_pool:
      name: sync-test
    triggers:
      - type: event
        enabled: true
        expect: ["cloud.table.updated"]
        match:
          prefect.resource.id: cloud.table.watched
        parameters:
          table: "{{ event.payload.table }}"
          version: "{{ event.payload.version }}"
"""


def test_a_deployment_is_started_by_a_changed_table_and_not_by_an_unchanged_one(
    tmp_path: Path, scheduler: str, cifs: list[str], prefect_server: str
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
    from prefect.client.schemas.objects import FlowRun

    (tmp_path / "pretrain.py").write_text(WAITING_FLOW)
    (tmp_path / "prefect.yaml").write_text(DEPLOYMENT)
    environment = os.environ | {"PREFECT_API_URL": prefect_server}
    for arguments in (
        ["work-pool", "create", "sync-test", "--type", "process", "--overwrite"],
        ["--no-prompt", "deploy", "--all"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *arguments],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def started() -> list[FlowRun]:
        with get_client(sync_client=True) as client:
            deployment = client.read_deployment_by_name("pretrain/on-new-structures")
            only = DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))
            return client.read_flow_runs(deployment_filter=only)

    folder = tmp_path / "database"
    folder.mkdir()
    (folder / "a.cif").write_text(cifs[0])
    config = SyncConfig.model_validate(
        {
            "name": "watched",
            "source": str(folder),
            "table": str(tmp_path / "table"),
            "cluster": {"kind": "address", "address": scheduler},
        }
    )
    result = sync(config)
    deadline = time.monotonic() + 60
    while not started() and time.monotonic() < deadline:
        time.sleep(0.2)
    runs = started()
    assert [run.parameters for run in runs] == [{"table": result.table, "version": result.version}]
    assert sync(config).is_unchanged
    time.sleep(3)
    assert len(started()) == 1

    with get_client(sync_client=True) as client:
        from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["sync-watched"]))
        )
    assert any('"new", "structures": 1' in str(artifact.data) for artifact in found)


def test_the_materials_project_with_a_key_from_a_secret_block(
    tmp_path: Path, scheduler: str, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is found in the block, and appears in no log, artifact, parameter or state of the server."""
    from prefect.blocks.system import Secret
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
    from prefect.client.schemas.sorting import ArtifactSort, FlowRunSort

    monkeypatch.delenv("MP_API_KEY", raising=False)
    with materials_project(mp_documents(20)) as server:
        values = {
            "name": "mp",
            "source": {
                "kind": "materials_project",
                "endpoint": server.url,
                "labels": {"gap": {"column": "band_gap", "unit": "eV"}},
                "politeness": {"requests_per_second": 1000, "backoff_s": 0.01, "attempts": 2},
            },
            "table": str(tmp_path / "table"),
            "cluster": {"kind": "address", "address": scheduler},
        }
        config = SyncConfig.model_validate(values)
        with pytest.raises(SyncError, match=r"set MP_API_KEY, or make the Prefect Secret block mp-api-key"):
            sync(config)
        Secret(value=KEY).save("mp-api-key", overwrite=True)
        assert sync(config).n_new == 20
        server.documents[0] |= {"last_updated": "2025-01-01T00:00:00", "band_gap": 9.0}
        server.documents[1]["deprecated"] = True
        server.db_version = "2025.12.01"
        result = sync(config)
        assert (result.n_new, result.n_changed, result.n_withdrawn) == (0, 1, 1)
        server.db_version = "2026.01.01"
        server.fault = lambda path, number: (
            (401, f'{{"detail": "bad key {KEY}"}}') if "summary" in path else None
        )
        with pytest.raises(SyncError, match=r"refuses the key.*bad key \*\*\*"):
            sync(config)
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(limit=200, sort=FlowRunSort.START_TIME_DESC)
        artifacts = client.read_artifacts(limit=200, sort=ArtifactSort.UPDATED_DESC)
        asked = [run.id for run in runs if str(tmp_path / "table") in run.model_dump_json()]
        logs = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=asked)), limit=200)
    assert len(asked) == 4 and any(run.flow_run_id in asked for run in artifacts) and logs
    assert not any(KEY in item.model_dump_json() for item in [*logs, *runs, *artifacts])


def test_killed_between_the_commit_and_its_memory(
    tmp_path: Path, scheduler: str, cifs: list[str], prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "database"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.cif").write_text(cifs[i])
    values = {"name": "m", "source": str(folder), "table": str(tmp_path / "table")}
    config = SyncConfig.model_validate(values | {"cluster": {"kind": "address", "address": scheduler}})

    def killed(*arguments: object) -> None:
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(SyncStateFile, "write", killed)
        with pytest.raises(OSError, match="killed"):
            sync(config)
    content = Table.open(config.table).content_hash()
    again = sync(config)
    assert (again.n_new, again.n_changed, again.n_records) == (0, 0, 3)
    assert Table.open(config.table).content_hash() == content
    assert sync(config).n_partitions_read == 0


def test_a_table_on_s3_and_what_vacuum_leaves(
    tmp_path: Path, scheduler: str, cifs: list[str], prefect_server: str, s3: S3Server
) -> None:
    from cloud_core.lake.maintenance import vacuum
    from cloud_core.lake.pins import pins

    folder = tmp_path / "database"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.cif").write_text(cifs[i])
    values = {
        "name": "cloud",
        "source": str(folder),
        "table": f"s3://{s3.bucket}/followed",
        "max_withdrawn": 0.5,
    }
    config = SyncConfig.model_validate(values | {"cluster": {"kind": "address", "address": scheduler}})
    assert sync(config).n_new == 3
    (folder / "0.cif").write_text(cifs[5])
    (folder / "1.cif").unlink()
    second = sync(config)
    assert (second.n_new, second.n_changed, second.n_withdrawn) == (0, 1, 1)
    table = Table.open(config.table)
    assert table.counts() == {"encoded": 2, "quarantined": 0, "withdrawn": 1}
    assert pins(config.table) == {"sync-cloud": second.version}
    content = table.content_hash()
    vacuum(table, retention_hours=0.0)
    assert Table.open(config.table, version=second.version).content_hash() == content
    third = sync(config)  # the memory is there still: nothing is read
    assert third.n_partitions_read == 0 and third.version == Table.open(config.table).version
