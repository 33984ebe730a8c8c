"""The same promises on an object store: conditional puts, pins, clean-up."""

import subprocess
import sys
from pathlib import Path

import pytest

from cloud_core.lake.errors import LakeError
from cloud_core.lake.maintenance import compact, vacuum
from cloud_core.lake.snapshot import Snapshot
from cloud_core.lake.storage import Storage
from cloud_core.lake.table import Table
from tests.servers import S3Server

pytestmark = pytest.mark.integration
WRITERS = Path(__file__).parent / "writers.py"


def test_racing_processes(s3: S3Server):
    table = Table.create(f"s3://{s3.bucket}/race/structures")
    processes = [
        subprocess.Popen(
            [sys.executable, str(WRITERS), table.uri, "chunks", str(size), "200", "0.05"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for size in (20, 20, 30)
    ]
    written = [int(process.communicate(timeout=120)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0] * 3
    table.refresh()
    ids = table.rows(columns=["structure_id"])["structure_id"].to_pylist()
    assert len(ids) == len(set(ids)) == 200
    assert sum(written) == table.version and table.is_purged


def test_pins_compaction_and_clean_up(s3: S3Server, rows):
    table = Table.create(f"s3://{s3.bucket}/pins/structures", configuration={"delta.checkpointInterval": "2"})
    for k in range(6):
        table.append_chunk(rows(10 * k, 10), f"chunk {k}")
    snapshot = Snapshot.of(table, version=3, pin="model")
    content = Table.open(table.uri, version=3).content_hash()
    table.append_chunk(rows(0, 20, content="b"), "update")
    compact(table)
    newest = table.content_hash()
    removed = vacuum(table, retention_hours=0)
    assert removed.files > 0 and removed.kept_versions == (3,)
    assert (snapshot.n_rows, len(snapshot.files)) == (30, 3)
    assert all(file.startswith(f"s3://{s3.bucket}/pins/") for file in snapshot.files)
    assert Table.open(table.uri, version=3).content_hash() == content
    assert Table.open(table.uri).content_hash() == newest


def test_a_missing_bucket_is_named(s3: S3Server):
    with pytest.raises(LakeError, match=r"s3://no-such-bucket/structures: the bucket does not exist"):
        Table.create("s3://no-such-bucket/structures")


def test_options_of_the_two_clients():
    storage = Storage(endpoint_url="http://minio:9000", region="eu-central-1")
    assert storage.for_delta("s3://a/b")["aws_conditional_put"] == "etag"
    assert storage.for_delta("s3://a/b")["AWS_ALLOW_HTTP"] == "true"
    assert storage.for_fsspec("s3://a/b")["endpoint_url"] == "http://minio:9000"
    assert storage.for_delta("/data/lake") == storage.for_fsspec("/data/lake") == {}
    assert not {"aws_access_key_id", "aws_secret_access_key"} & {
        k.lower() for k in storage.for_delta("s3://a/b")
    }
