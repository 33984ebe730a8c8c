"""mp-api against a local server that speaks its routes, with the Materials Project's own structures."""

import logging
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloud_core.sources.catalogue import open_source
from cloud_core.sources.record import Feed, Partition, Record, Source, SourceError
from cloud_core.structures.formats import read as read_structure
from tests.demo_cut import demo_structures, pymatgen_dictionary
from tests.servers import S3Server
from tests.sources.materials_project_server import KEY, MaterialsProject, materials_project

pytestmark = pytest.mark.integration


def documents(n: int) -> list[dict[str, Any]]:
    """Summary documents around real structures; the fields are those of emmet's SummaryDoc."""
    found = []
    for i, row in enumerate(demo_structures(n)):
        found.append(
            {
                "material_id": f"mp-{i + 1}",
                "structure": pymatgen_dictionary(row),
                "deprecated": False,
                "nelements": 1 + i % 4,
                "last_updated": f"2024-{1 + i % 9:02d}-10T00:00:00",
                "band_gap": i / 10,
                "bulk_modulus": {"vrh": 100.0 + i},
                "builder_meta": {"license": "BY-C", "batch_id": None, "database_version": "2025.09.25"},
            }
        )
    return found


@pytest.fixture
def server() -> Iterator[MaterialsProject]:
    with materials_project(documents(40)) as state:
        yield state


def source(server: MaterialsProject, key: str | None = KEY, **options: Any) -> Source:
    spec = {
        "kind": "materials_project",
        "endpoint": server.url,
        "politeness": {"requests_per_second": 1000, "backoff_s": 0.01, "attempts": 3},
    }
    return open_source(spec | options, lambda name: key)


def read(source: Source, since: datetime | None = None) -> tuple[Partition, list[Record]]:
    (partition,) = source.partitions(since)
    return partition, list(source.read(partition))


def test_documents_are_of_the_shape_that_emmet_defines() -> None:
    from emmet.core.base import EmmetMeta
    from emmet.core.summary import SummaryDoc
    from pydantic import TypeAdapter

    for document in documents(3):
        assert set(document) <= set(SummaryDoc.model_fields)
        assert set(document["builder_meta"]) <= set(EmmetMeta.model_fields)
        for name in ("material_id", "deprecated", "nelements", "last_updated", "band_gap", "bulk_modulus"):
            TypeAdapter(SummaryDoc.model_fields[name].annotation).validate_python(document[name])
        EmmetMeta.model_validate(document["builder_meta"])


def test_reads_structures_labels_and_licence(server: MaterialsProject) -> None:
    from pymatgen.core import Structure

    server.documents[3]["builder_meta"]["license"] = "BY-NC"
    labels = {"gap": {"column": "band_gap", "unit": "eV"}, "k": {"column": "bulk_modulus.vrh", "unit": "GPa"}}
    opened = source(server, labels=labels, ids_per_request=16)
    partition, found = read(opened)
    by_id = {record.id: record for record in found}
    assert len(by_id) == len(found) == 40
    for i, document in enumerate(server.documents):
        record = by_id[document["material_id"]]
        expected = Structure.from_dict(document["structure"])
        cell = read_structure(record.payload, record.format)
        np.testing.assert_array_equal(cell.lattice, expected.lattice.matrix)
        np.testing.assert_array_equal(cell.fractions, expected.frac_coords)
        assert record.labels == {"gap": i / 10, "k": document["bulk_modulus"]["vrh"]}
        assert record.licence == ("CC-BY-NC-4.0" if i == 3 else "CC-BY-4.0")
        assert record.modified_at == datetime(2024, 1 + i % 9, 10, tzinfo=UTC)
    assert isinstance(opened, Feed) and sorted(opened.ids(partition)) == sorted(by_id)
    asked = [r["material_ids"].split(",") for r in server.requests if "material_ids" in r]
    assert [len(ids) for ids in asked] == [16, 16, 8]


def test_an_unchanged_database_costs_one_small_request(server: MaterialsProject) -> None:
    opened = source(server)
    cursors = [next(iter(opened.partitions())).cursor for _ in range(2)]
    assert [r["path"] for r in server.requests] == ["/heartbeat", "/heartbeat"] and len(set(cursors)) == 1
    server.db_version = "2025.10.01"
    assert next(iter(opened.partitions())).cursor != cursors[0]


def test_only_what_was_updated_since(server: MaterialsProject) -> None:
    _, found = read(source(server), datetime(2024, 9, 1, tzinfo=UTC))
    assert {r.id for r in found} == {d["material_id"] for i, d in enumerate(server.documents) if i % 9 == 8}


def test_queries_deprecation_and_gnome(server: MaterialsProject) -> None:
    server.documents[0]["deprecated"] = True
    server.documents[4]["builder_meta"]["batch_id"] = "gnome_r2scan_statics"
    _, found = read(source(server, query={"num_elements": [1, 1]}))
    expected = [d["material_id"] for i, d in enumerate(server.documents) if i % 4 == 0 and i not in (0, 4)]
    assert sorted(r.id for r in found) == sorted(expected)
    _, with_gnome = read(source(server, include_gnome=True))
    assert len(with_gnome) == 39


def test_addresses_that_are_too_long_are_asked_in_parts(server: MaterialsProject) -> None:
    server.documents = documents(350)
    server.longest = 2200
    _, found = read(source(server, ids_per_request=350))
    assert len({record.id for record in found}) == 350
    assert all(record.refusal is None for record in found)


def test_passing_failures_are_tried_again(server: MaterialsProject) -> None:
    failed = []

    def twice(path: str, number: int) -> tuple[int, str] | None:
        if "material_ids" in path and len(failed) < 2:
            failed.append(path)
            return 500, '{"detail": "internal error"}'
        return None

    server.fault = twice
    _, found = read(source(server))
    assert len(found) == 40 and len(failed) == 2


def test_the_key_is_in_no_error_and_no_log(
    server: MaterialsProject, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = "x" * 20 + "wrongwrong42"
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises(SourceError, match=r"refuses the key; check MP_API_KEY") as no,
    ):
        read(source(server, wrong))
    assert "no such key: ***" in str(no.value)
    text = "".join(traceback.format_exception(no.value)) + caplog.text + repr(no.value.__context__)
    assert wrong not in text

    server.fault = lambda path, number: (503, f'{{"detail": "busy {KEY}"}}') if "summary" in path else None
    with pytest.raises(SourceError, match=r"busy \*\*\*.*try again later") as busy:
        read(source(server))
    assert KEY not in "".join(traceback.format_exception(busy.value)) + repr(busy.value.__context__)


@pytest.mark.parametrize(
    ("key", "message"),
    [(None, r"needs an API key.*MP_API_KEY.*mp-api-key"), ("short", r"those have 32 characters")],
)
def test_no_key_or_a_short_one(server: MaterialsProject, key: str | None, message: str) -> None:
    with pytest.raises(SourceError, match=message) as error:
        read(source(server, key))
    assert "short" not in str(error.value)


def test_html_and_wrong_queries_are_clear_errors(server: MaterialsProject) -> None:
    with pytest.raises(SourceError, match=r"refuses the request|unknown"):
        read(source(server, query={"no_such_argument": 1}))
    server.fault = lambda path, number: (200, "<html>maintenance</html>")
    with pytest.raises(SourceError, match=r"text/html, not JSON"):
        read(source(server))


def test_a_material_without_a_structure_is_refused(server: MaterialsProject) -> None:
    del server.documents[0]["structure"]
    server.documents[1]["band_gap"] = "wide"
    labels = {"gap": {"column": "band_gap", "unit": "eV"}}
    _, found = read(source(server, labels=labels))
    refused = {record.id: record.refusal for record in found if record.refusal}
    ids = [document["material_id"] for document in server.documents]
    assert refused == {ids[0]: "missing_structure", ids[1]: "bad_label"}


def test_in_bulk_from_the_open_data_store(
    server: MaterialsProject, s3: S3Server, monkeypatch: pytest.MonkeyPatch, runs: Path
) -> None:
    """The store's Delta table with emmet's own schema, on a local S3 server; mp-api finds it by itself."""
    import boto3
    import pyarrow as pa
    from deltalake import write_deltalake
    from emmet.core.arrow import arrowize
    from emmet.core.summary import SummaryDoc

    store = boto3.client("s3", endpoint_url=s3.endpoint)
    store.create_bucket(Bucket="materialsproject-build", ACL="public-read")
    for name, value in {"AWS_ALLOW_HTTP": "true", "MPRESTER_MUTE_PROGRESS_BARS": "true"}.items():
        monkeypatch.setenv(name, value)
    server.documents[2]["deprecated"] = True
    server.documents[5]["builder_meta"]["batch_id"] = "gnome_r2scan_statics"
    schema = pa.schema(arrowize(SummaryDoc))
    kinds = {field.name: field.type for field in schema}
    rows = []
    for document in server.documents:
        row = {name: document.get(name) for name in kinds}
        row["last_updated"] = datetime.fromisoformat(document["last_updated"]).replace(tzinfo=UTC)
        row["bulk_modulus"] = list(document["bulk_modulus"].items())
        row["structure"] = {k: v for k, v in document["structure"].items() if k != "properties"}
        for site in row["structure"]["sites"]:
            site.pop("properties", None)
        rows.append(row)
    columns = [pa.array([row[name] for row in rows], kind) for name, kind in kinds.items()]
    table = pa.table(columns, schema=schema).add_column(
        0, "version", pa.array([server.db_version] * len(rows))
    )
    options = {"AWS_ENDPOINT_URL": s3.endpoint, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
    where = "s3://materialsproject-build/collections/summary"
    write_deltalake(
        where, table, partition_by=["version"], storage_options=options | {"aws_conditional_put": "etag"}
    )

    for item in store.list_objects_v2(Bucket="materialsproject-build")["Contents"]:
        store.put_object_acl(Bucket="materialsproject-build", Key=item["Key"], ACL="public-read")

    labels = {"gap": {"column": "band_gap", "unit": "eV"}, "k": {"column": "bulk_modulus.vrh", "unit": "GPa"}}
    opened = source(server, bulk=True, labels=labels)
    partition, found = read(opened)
    by_request = {record.id: record for record in read(source(server, labels=labels))[1]}
    assert len(found) == len(by_request) == 38
    for record in found:
        other = by_request[record.id]
        assert (record.content_hash, record.labels, record.licence, record.modified_at) == (
            (other.content_hash, other.labels, other.licence, other.modified_at)
        )
    assert isinstance(opened, Feed) and sorted(opened.ids(partition)) == sorted(by_request)
    _, newer = read(source(server, bulk=True), datetime(2024, 9, 1, tzinfo=UTC))
    assert {r.id for r in newer} == {
        i for i, r in by_request.items() if r.modified_at and r.modified_at.month == 9
    }
    with pytest.raises(SourceError, match="whole database; leave `query` out"):
        source(server, bulk=True, query={"is_stable": True})
