"""Killed flows and schedulers, a full disk, a revoked key: a clear error, a table that reads, a new start."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import ZipFile

import boto3
import httpx
import pytest

from cloud_core.lake.errors import LakeError
from cloud_core.lake.status import status
from cloud_core.lake.table import Table
from flows.encode import EncodeConfig, encode
from tests.flows.test_encode import start
from tests.servers import free_port, local_first, stop, wait_until_healthy

pytestmark = [pytest.mark.integration, pytest.mark.timeout(280)]


@pytest.fixture(scope="module")
def folder(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("structures") / "mp"
    folder.mkdir()
    with ZipFile(project / "flows" / "demo_data" / "structures.zip") as archive:
        for name in [name for name in sorted(archive.namelist()) if "mp-" in name][:240]:
            (folder / Path(name).name).write_bytes(archive.read(name))
    return folder


@contextmanager
def dask(n_workers: int) -> Iterator[tuple[str, "subprocess.Popen[bytes]", list["subprocess.Popen[bytes]"]]]:
    """A scheduler and workers in processes of their own: address, scheduler, workers."""
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    program = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    scheduler = subprocess.Popen([*program, "--port", str(port), "--no-dashboard"], **quiet)  # type: ignore[call-overload]
    worker = [
        sys.executable,
        "-m",
        "distributed.cli.dask_worker",
        address,
        "--nthreads",
        "1",
        "--no-dashboard",
    ]
    workers = [subprocess.Popen([*worker, "--host", "127.0.0.1"], **quiet) for _ in range(n_workers)]  # type: ignore[call-overload]
    try:
        yield address, scheduler, workers
    finally:
        for process in [*workers, scheduler]:
            stop(process)


@pytest.fixture(scope="module")
def undisturbed(
    folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    prefect_server: str,
    dask_workers: dict[str, object],
) -> str:
    """Content hash of a run that nothing happened to."""
    uri = str(tmp_path_factory.mktemp("lake") / "structures")
    run(folder, uri, dask_workers)
    return Table.open(uri).content_hash()


def run(folder: Path, uri: str, cluster: dict[str, object]) -> None:
    values = {"source": str(folder), "table": uri, "encoding": {"chunk_rows": 10}, "cluster": cluster}
    encode(EncodeConfig.model_validate(values))


def wait_for_commits(uri: str, n: int, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and process.poll() is None:
        if Table.exists(uri) and Table.open(uri).version >= n:
            return
        time.sleep(0.02)
    raise TimeoutError(f"{uri}: fewer than {n} commits by {process.args}")


@local_first
def test_a_flow_killed_at_random_moments(
    folder: Path,
    tmp_path: Path,
    prefect_server: str,
    dask_workers: dict[str, object],
    undisturbed: str,
    uri: str,
) -> None:
    moments = random.Random(2)
    rows = 0
    for n in (moments.randint(2, 6), moments.randint(10, 18)):
        process = start(tmp_path, folder, uri, prefect_server, cluster=dask_workers)
        wait_for_commits(uri, n, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        told = status(uri)
        assert rows < told["rows"]["encoded"] < 240
        rows = told["rows"]["encoded"]
        unfinished = told["unfinished"]
        assert (unfinished["shards"], unfinished["shards_complete"]) == (1, 0)
        assert unfinished["chunks_committed"] * 10 == rows
        # 240 files lie in one partition, which says how many chunks it has once it is read to its end
        n_counted = 1 - unfinished["partitions_not_counted_yet"]
        assert n_counted in (0, 1) and unfinished["chunks_missing"] == n_counted * (24 - rows // 10)
    process = start(tmp_path, folder, uri, prefect_server, cluster=dask_workers)
    output, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    assert f'"n_skipped": {rows}' in output
    table = Table.open(uri)
    assert table.counts() == {"encoded": 240, "quarantined": 0, "withdrawn": 0}
    assert table.is_purged and table.content_hash() == undisturbed
    assert status(uri)["unfinished"] is None


@local_first
def test_a_scheduler_killed_at_a_random_moment(
    folder: Path,
    tmp_path: Path,
    prefect_server: str,
    dask_workers: dict[str, object],
    undisturbed: str,
    uri: str,
) -> None:
    """The run ends with an error that names the scheduler, and another cluster goes on."""
    with dask(1) as (address, scheduler, _):
        process = start(
            tmp_path, folder, uri, prefect_server, cluster={"kind": "address", "address": address}
        )
        wait_for_commits(uri, random.Random(3).randint(2, 8), process)
        scheduler.send_signal(signal.SIGKILL)
        _, errors = process.communicate(timeout=150)
    assert process.returncode == 1
    assert "scheduler" in errors and "run the same encoding again" in errors
    assert 0 < Table.open(uri).counts()["encoded"] < 240
    run(folder, uri, dask_workers)
    assert Table.open(uri).content_hash() == undisturbed


def test_a_full_disk(
    folder: Path, tmp_path: Path, prefect_server: str, dask_workers: dict[str, object], undisturbed: str
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        uri = str(disk / "structures")
        with pytest.raises(LakeError, match="the disk is full: free some space"):
            run(folder, uri, dask_workers)
        table = Table.open(uri)
        n_rows = table.counts()["encoded"]
        assert 0 < n_rows < 240 and table.scope().num_rows == n_rows
        subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
        run(folder, uri, dask_workers)
        assert Table.open(uri).content_hash() == undisturbed
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_revoked_key(
    folder: Path,
    tmp_path: Path,
    prefect_server: str,
    dask_workers: dict[str, object],
    undisturbed: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A store that checks keys (moto with IAM) stops knowing ours in the midst of a run."""
    endpoint = f"http://127.0.0.1:{free_port()}"
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", endpoint.rpartition(":")[2]],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until_healthy(f"{endpoint}/moto-api/", server)
        root = {"endpoint_url": endpoint, "region_name": "us-east-1"}
        root |= {"aws_access_key_id": "root", "aws_secret_access_key": "root"}
        iam = boto3.client("iam", **root)
        boto3.client("s3", **root).create_bucket(Bucket="lake")
        iam.create_user(UserName="cloud")
        allowed = (
            '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}'
        )
        iam.put_user_policy(UserName="cloud", PolicyName="all", PolicyDocument=allowed)
        keys = [iam.create_access_key(UserName="cloud")["AccessKey"] for _ in range(2)]
        httpx.post(f"{endpoint}/moto-api/reset-auth", content=b"0")  # from now on keys are checked

        def use(key: dict[str, str]) -> None:
            monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])

        uri = "s3://lake/structures"
        use(keys[0])
        process = start(tmp_path, folder, uri, prefect_server, cluster=dask_workers)
        use(keys[1])
        wait_for_commits(uri, 4, process)
        revoked = {
            "aws_access_key_id": keys[1]["AccessKeyId"],
            "aws_secret_access_key": keys[1]["SecretAccessKey"],
        }
        boto3.client("iam", **(root | revoked)).delete_access_key(
            UserName="cloud", AccessKeyId=keys[0]["AccessKeyId"]
        )
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 1
        assert "the store refuses the credentials: check AWS_ACCESS_KEY_ID" in errors
        assert keys[0]["SecretAccessKey"] not in errors
        n_rows = Table.open(uri).counts()["encoded"]
        assert 0 < n_rows < 240 and Table.open(uri).scope().num_rows == n_rows
        run(folder, uri, dask_workers)
        assert Table.open(uri).content_hash() == undisturbed
    finally:
        stop(server)


def test_the_environment_is_clean() -> None:
    """The tests above set keys for themselves only."""
    assert os.environ.get("AWS_SECRET_ACCESS_KEY") in (None, "testing")
