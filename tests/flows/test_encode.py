"""The encode flow: what it does on a folder, on bad input, and beside another one."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from cloud_core.config import ConfigError
from cloud_core.lake import runs
from cloud_core.lake.errors import LakeError
from cloud_core.lake.status import status
from cloud_core.lake.table import Table
from cloud_core.sources.record import SourceError
from flows.encode import EncodeConfig, encode
from flows.lake import (
    CompactConfig,
    DeduplicateConfig,
    ReplayConfig,
    VacuumConfig,
    compact,
    deduplicate,
    replay,
    vacuum,
)
from tasks.cluster import ClusterError
from tests.servers import S3Server

NO_CLUSTER = {"kind": "address", "address": "tcp://127.0.0.1:1", "start_timeout_s": 1}
NO_STORE = {"endpoint_url": "http://127.0.0.1:1"}

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def folder(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 Materials Project structures, and the broken ones of the demo."""
    folder = tmp_path_factory.mktemp("structures") / "mp"
    folder.mkdir()
    with ZipFile(project / "flows" / "demo_data" / "structures.zip") as archive:
        names = sorted(archive.namelist())
        for name in [*[n for n in names if "mp-" in n][:200], *[n for n in names if "broken" in n]]:
            (folder / Path(name).name).write_bytes(archive.read(name))
    return folder


@pytest.fixture(autouse=True)
def shared_workers(dask_workers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What names no cluster runs on the workers of all tests."""
    monkeypatch.setenv("CLOUD_DASK_ADDRESS", dask_workers["address"])


def config(source: Path, table: str, **values: object) -> EncodeConfig:
    return EncodeConfig.model_validate(
        {"source": str(source), "table": table, "encoding": {"chunk_rows": 30}, **values}
    )


@pytest.fixture(scope="module")
def table(folder: Path, tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> Table:
    uri = str(tmp_path_factory.mktemp("lake") / "structures")
    result = encode(config(folder, uri, cluster={"workers": 2}))  # processes of its own
    assert result.n_records == len(list(folder.iterdir())) == result.n_encoded + result.n_quarantined
    assert result.n_encoded == 200
    assert result.version == Table.open(uri).version
    assert sum(result.reasons.values()) == result.n_quarantined
    return Table.open(uri)


def artifacts(key: str) -> list[str]:
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))
        return [str(artifact.data) for artifact in found]


def test_again_it_writes_nothing_and_says_so(table: Table, folder: Path, prefect_server: str) -> None:
    result = encode(config(folder, table.uri))
    assert result.wrote_nothing and result.n_skipped == result.n_records > 200
    assert (result.version, result.seconds_starting) == (table.version, 0.0)
    assert any("Nothing to do" in text for text in artifacts("encode-mp"))


def test_artifacts_show_the_quarantine_and_the_progress(table: Table, prefect_server: str) -> None:
    (text, *_) = artifacts("quarantine-mp")
    rows = {row["reason"]: row for row in json.loads(text)}
    quarantined = status(table.uri)["quarantine"]
    assert {reason: row["structures"] for reason, row in rows.items()} == quarantined
    assert "broken-zero-volume.cif" in rows["invalid_lattice"]["examples"]
    with get_client(sync_client=True) as client:
        progress = [
            artifact
            for artifact in client.read_artifacts(
                artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["encode-mp"]))
            )
            if artifact.type == "progress"
        ]
    assert progress and all(float(str(artifact.data)) == 100.0 for artifact in progress)
    first = [str(a.description) for a in progress if "206 of 206" in str(a.description)]
    first = [told for told in first if "skipped 0" in told]  # the others found it all there
    assert first
    for told in first:
        assert re.match(r"encode mp: 206 of 206, [\d,]+/s, 0 s left, skipped 0", told)
        failures = {reason: int(n) for reason, n in re.findall(r", (\w+) (\d+)", told)}
        assert failures == quarantined | {"skipped": 0}


def test_a_run_killed_after_its_last_chunk_is_ended_by_the_next(table: Table, folder: Path) -> None:
    assert status(table.uri)["rows"] == {"encoded": 200, "quarantined": 6, "withdrawn": 0}
    assert status(table.uri)["unfinished"] is None
    runs.begin(table, runs.Plan("killed", "mp", "f", 30, [("files 0/1", "1", 206, 1)]))
    assert status(table.uri)["unfinished"]["run"] == "killed"
    assert encode(config(folder, table.uri)).wrote_nothing
    assert status(table.uri)["unfinished"] is None


def test_new_changed_and_unchanged_files(table: Table, folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "mp"
    copy.mkdir()
    files = sorted(path for path in folder.iterdir() if "mp-" in path.name)
    for path in files[:40]:
        (copy / path.name).write_bytes(path.read_bytes())
    uri = str(tmp_path / "structures")
    encode(config(copy, uri))
    (copy / files[0].name).write_bytes(files[50].read_bytes())
    (copy / "new.cif").write_bytes(files[51].read_bytes())
    result = encode(config(copy, uri))
    assert (result.n_encoded, result.n_skipped, result.n_superseded) == (2, 39, 1)
    assert Table.open(uri).counts()["encoded"] == 41
    assert Table.open(uri).is_purged


def test_maintenance_keeps_the_content(table: Table, folder: Path, tmp_path: Path) -> None:
    uri = str(tmp_path / "structures")
    encode(config(folder, uri))
    assert Table.open(uri).content_hash() == table.content_hash()
    again = replay(ReplayConfig(table=uri))
    assert (again.n_encoded, again.n_still_quarantined + again.n_refused_by_source) == (0, 6)
    assert compact(CompactConfig(table=uri)).files_after == 2
    assert vacuum(VacuumConfig(table=uri, retention_hours=0)).files > 2
    assert Table.open(uri).content_hash() == table.content_hash()
    distinct = deduplicate(DeduplicateConfig(table=uri, by="crystal", to=str(tmp_path / "distinct")))
    counts = {row["by"]: row["distinct"] for row in distinct.counts}
    assert counts["content"] >= counts["crystal"] >= counts["string"]
    assert distinct.n_written == counts["crystal"] == sum(distinct.splits.values())


def test_two_flows_on_one_table_at_once(
    table: Table, folder: Path, tmp_path: Path, prefect_server: str
) -> None:
    """Of different chunk sizes even: every structure stands there once, as if one had run alone."""
    uri = str(tmp_path / "structures")
    processes = [start(tmp_path, folder, uri, prefect_server, chunk_rows=n) for n in (10, 17)]
    for process in processes:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
    both = Table.open(uri)
    assert both.counts() == {"encoded": 200, "quarantined": 6, "withdrawn": 0}
    assert both.content_hash() == table.content_hash()


def start(
    tmp_path: Path, folder: Path, uri: str, server: str, chunk_rows: int = 10, **values: object
) -> "subprocess.Popen[str]":
    """`cloud run encode` in a process of its own."""
    path = tmp_path / f"encode-{chunk_rows}.yaml"
    config = {"source": str(folder), "table": uri, "encoding": {"chunk_rows": chunk_rows}, **values}
    path.write_text(json.dumps(config))
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "run", "encode", "--config", str(path), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PREFECT_API_URL": server},
    )


def test_two_flows_on_one_table_on_s3(
    table: Table, folder: Path, tmp_path: Path, s3: S3Server, prefect_server: str
) -> None:
    """The same rows, and nothing twice, through conditional puts alone."""
    uri = f"s3://{s3.bucket}/encode/structures"
    processes = [start(tmp_path, folder, uri, prefect_server, chunk_rows=n) for n in (40, 50)]
    for process in processes:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
    stored = Table.open(uri)
    assert stored.counts() == {"encoded": 200, "quarantined": 6, "withdrawn": 0}
    assert stored.content_hash() == table.content_hash()
    assert encode(config(folder, uri)).wrote_nothing


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"source": "nowhere/"}, SourceError, "nowhere"),
        ({"cluster": NO_CLUSTER}, ClusterError, "127.0.0.1:1: no Dask scheduler answers"),
        ({"table": "s3://lake/t", "storage": NO_STORE}, LakeError, "s3://lake/t: the store does not answer"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(
    folder: Path,
    tmp_path: Path,
    prefect_server: str,
    values: dict[str, object],
    error: type[Exception],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    uri = str(tmp_path / "structures")
    with pytest.raises(error, match=message):
        encode(EncodeConfig.model_validate({"source": str(folder), "table": uri} | values))
    if Path(uri).exists():
        assert Table.open(uri).counts() == {"encoded": 0, "quarantined": 0, "withdrawn": 0}


def test_configuration_errors_name_the_key(tmp_path: Path) -> None:
    path = tmp_path / "encode.yaml"
    path.write_text("source: x\nencoding: {symprecc: 0.1}\n")
    with pytest.raises(ConfigError, match="symprecc"):
        EncodeConfig.from_yaml(path)
    path.write_text("source: x\ncluster: {kind: local, address: 'tcp://here:1'}\n")
    with pytest.raises(ConfigError, match="goes with kind: address"):
        EncodeConfig.from_yaml(path)


def test_the_examples_are_valid(project: Path) -> None:
    files = sorted((project / "deployments" / "configs").glob("encode*.yaml"))
    assert len(files) >= 3
    for file in files:
        assert EncodeConfig.from_yaml(file).source


def test_rows_of_an_earlier_encoder_are_read_again(
    folder: Path, tmp_path: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new version of the encoder reads every row again, once; status counts those that are left."""
    from cloud_core.scope import settings

    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(folder.iterdir())[:20]:
        (few / path.name).write_bytes(path.read_bytes())
    uri = str(tmp_path / "lake")
    with monkeypatch.context() as patch:
        patch.setattr(settings, "ENCODER_VERSION", 1)
        patch.setattr("cloud_core.encoding.rows.ENCODER_VERSION", 1)
        settings.fingerprint.cache_clear()
        first = encode(config(few, uri))
    settings.fingerprint.cache_clear()
    assert first.n_records == 20
    assert set(status(uri)["encoder_versions"].values()) == {20}
    second = encode(config(few, uri))
    assert (second.n_records, second.n_skipped) == (20, 0)
    assert status(uri)["encoder_versions"] == {str(settings.ENCODER_VERSION): 20}
    assert encode(config(few, uri)).n_skipped == 20
