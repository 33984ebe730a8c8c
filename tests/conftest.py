"""Real servers and real data for the tests."""

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from filelock import FileLock

from tests.servers import S3Server, free_port, stop, wait_until_healthy

# Two test processes share two cores; a thread pool in each would fight for them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")

PROJECT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def project() -> Path:
    """The root of the checkout."""
    return PROJECT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data and oracles beside the checkout; the project does not need them to work."""
    folder = Path(os.environ.get("CLOUD_SHARED", PROJECT.parent / "shared"))
    if not (folder / "reference" / "INDEX.md").is_file():
        pytest.skip("the shared data is not here (set CLOUD_SHARED to its folder)")
    return folder


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty runs folder: embedded defaults (tables, models, MLflow store) go here."""
    folder = tmp_path / "runs"
    monkeypatch.setenv("CLOUD_RUNS", str(folder))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


@pytest.fixture(scope="session")
def empty_databases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder, shared by all test processes, of databases with tables and no rows: migrations take seconds."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    (folder / "empty-databases").mkdir(exist_ok=True)
    return folder / "empty-databases"


@pytest.fixture
def mlflow_uri(runs: Path, empty_databases: Path) -> str:
    """The embedded MLflow store (SQLite) in an empty runs folder."""
    from tasks.tracking import mlflow_client, tracking_uri

    runs.mkdir(parents=True, exist_ok=True)
    empty = empty_databases / "mlflow.db"
    with FileLock(f"{empty}.lock"):
        if empty.exists():
            shutil.copy(empty, runs / "mlflow.db")
        else:
            mlflow_client()
            copy_database(runs / "mlflow.db", empty)
    return tracking_uri()


@pytest.fixture(scope="session")
def prefect_server(empty_databases: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Prefect server on a database of its own; flows called in the test run against it."""
    from prefect.settings import PREFECT_API_URL
    from prefect.testing import utilities

    folder = tmp_path_factory.mktemp("prefect-server")
    empty = empty_databases / "prefect.db"
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setattr(utilities, "mkdtemp", lambda: str(folder))  # where the harness has its database
        with FileLock(f"{empty}.lock"):
            if empty.exists():
                shutil.copy(empty, folder / "prefect-test.db")
            stack.enter_context(utilities.prefect_test_harness(server_startup_timeout=120))
            if not empty.exists():
                copy_database(folder / "prefect-test.db", empty)
        yield str(PREFECT_API_URL.value())


@pytest.fixture(scope="session")
def dask_workers() -> Iterator[dict[str, str]]:
    """Two Dask workers for all tests that do not harm them: the `cluster` of a configuration."""
    from tasks.cluster import ClusterConfig, cluster

    with cluster(ClusterConfig(workers=2)) as client:
        yield {"kind": "address", "address": client.scheduler.address}


def copy_database(source: Path, target: Path) -> None:
    """Copy an SQLite database that may be open elsewhere."""
    partial = target.with_suffix(".partial")
    with closing(sqlite3.connect(source)) as opened, closing(sqlite3.connect(partial)) as copy:
        opened.backup(copy)
    partial.rename(target)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """moto's S3 server with one bucket; credentials are not set in this process's environment."""
    import boto3

    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until_healthy(f"{endpoint}/moto-api/", process)
        environment = {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": endpoint,
        }
        boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        ).create_bucket(Bucket="lake")
        yield S3Server(endpoint, "lake", environment)
    finally:
        stop(process)


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The S3 server, with its credentials in the environment of this test."""
    for key, value in s3_server.environment.items():
        monkeypatch.setenv(key, value)
    return s3_server


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Postgres server: its URL without a database name, e.g. `postgresql://cloud@127.0.0.1:5432`."""
    programs = ("initdb", "postgres", "createdb")
    if any(shutil.which(program) is None for program in programs):
        pytest.skip("Postgres (initdb, postgres, createdb) is not installed on this machine")
    folder = tmp_path_factory.mktemp("postgres")
    port = free_port()
    # Postgres refuses to run as root; there, hand the folder to the postgres user.
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if user:
        for parent in (folder, *folder.parents):
            if str(parent).startswith("/tmp/"):
                parent.chmod(0o755)
        shutil.chown(folder, "postgres", "postgres")
    data = folder / "data"
    subprocess.run(
        [*user, "initdb", "-D", str(data), "-U", "cloud", "-A", "trust", "--no-sync"],
        check=True,
        capture_output=True,
    )
    process = subprocess.Popen(
        [*user, "postgres", "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", str(folder), "-F"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"postgresql://cloud@127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while subprocess.run(
            [
                "createdb",
                "-h",
                "127.0.0.1",
                "-p",
                str(port),
                "-U",
                "cloud",
                f"ready{int(time.monotonic() * 10)}",
            ],
            capture_output=True,
        ).returncode:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("Postgres did not start")
            time.sleep(0.2)
        yield url
    finally:
        stop(process)


@pytest.fixture(params=["local", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a table may lie: a folder of this machine, an object store."""
    if request.param == "local":
        return str(tmp_path / "structures")
    s3: S3Server = request.getfixturevalue("s3")
    return f"s3://{s3.bucket}/{tmp_path.name}/structures"
