"""A table that follows its source: real files, a real Prefect server, real Dask workers."""

import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from deltalake import write_deltalake

from cloud_core.config import ConfigError
from cloud_core.encoding.changes import SyncError
from cloud_core.lake.pins import pins
from cloud_core.lake.schemas import LATER_COLUMNS
from cloud_core.lake.status import status
from cloud_core.lake.table import Table
from cloud_core.scope import settings
from cloud_core.sources.catalogue import open_source
from flows.sync import SyncConfig, SyncResult, named, sync
from tasks.cluster import ClusterConfig, cluster

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """A Dask cluster for all syncs of this module."""
    with cluster(ClusterConfig(workers=1)) as client:
        yield client.scheduler.address


@pytest.fixture(scope="module")
def cifs(project: Path) -> dict[str, bytes]:
    with ZipFile(project / "flows" / "demo_data" / "structures.zip") as archive:
        names = sorted(name for name in archive.namelist() if "mp-" in name)[:30]
        return {Path(name).name: archive.read(name) for name in names}


class Database:
    """A folder of CIFs, the table that follows it, and the sync between them."""

    def __init__(self, folder: Path, scheduler: str, cifs: dict[str, bytes]) -> None:
        self.folder = folder / "database"
        self.folder.mkdir(parents=True)
        self.table_uri = str(folder / "table")
        self.scheduler = scheduler
        self.cifs = cifs

    def put(self, *names: str, content: str | None = None) -> None:
        for name in names:
            (self.folder / name).write_bytes(self.cifs[content or name])

    def remove(self, *names: str) -> None:
        for name in names:
            (self.folder / name).unlink()

    def config(self, **options: Any) -> SyncConfig:
        values: dict[str, Any] = {
            "name": "mirror",
            "source": {"kind": "files", "path": str(self.folder), "name": "db", "licence": "CC-BY-4.0"},
            "table": self.table_uri,
            "max_withdrawn": 0.5,
            "cluster": {"kind": "address", "address": self.scheduler},
        }
        return SyncConfig.model_validate(values | options)

    def sync(self, **options: Any) -> SyncResult:
        return sync(self.config(**options))

    def table(self) -> Table:
        return Table.open(self.table_uri)

    def held(self, status: str = "encoded") -> dict[str, str]:
        rows = self.table().rows(status, ["structure_id", "canonical"])
        return dict(zip(rows["structure_id"].to_pylist(), rows["canonical"].to_pylist(), strict=True))


@pytest.fixture
def database(tmp_path: Path, scheduler: str, cifs: dict[str, bytes], prefect_server: str) -> Database:
    return Database(tmp_path, scheduler, cifs)


def test_new_changed_and_withdrawn(database: Database) -> None:
    names = sorted(database.cifs)
    database.put(*names[:10])
    first = database.sync()
    assert (first.n_new, first.n_changed, first.n_withdrawn) == (10, 0, 0)
    assert pins(database.table_uri)["sync-mirror"] == first.version
    rows = database.table().rows(columns=["source", "licence"]).to_pylist()
    assert rows == [{"source": "db", "licence": "CC-BY-4.0"}] * 10
    before = database.held()

    database.put(names[10])
    database.put(names[0], content=names[20])
    database.remove(names[1])
    second = database.sync()
    assert (second.n_new, second.n_changed, second.n_withdrawn) == (1, 1, 1)
    held = database.held()
    assert set(held) == {f"db:{name}" for name in names[:11]} - {f"db:{names[1]}"}
    assert {k: v for k, v in held.items() if k in before and k != f"db:{names[0]}"} == {
        k: v for k, v in before.items() if k not in (f"db:{names[0]}", f"db:{names[1]}")
    }
    assert held[f"db:{names[0]}"] != before[f"db:{names[0]}"]
    assert set(database.held("withdrawn")) == {f"db:{names[1]}"}

    database.put(names[0], names[1])  # the change is taken back, and what was withdrawn returns
    third = database.sync()
    assert (third.n_new, third.n_changed, third.n_withdrawn) == (0, 2, 0)
    held = database.held()
    assert {k: held[k] for k in before} == before and not database.held("withdrawn")

    database.remove(names[1])  # and goes again
    assert database.sync().n_withdrawn == 1


def test_an_unchanged_database_costs_one_listing(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    database.put(*sorted(database.cifs)[:5])
    first = database.sync()
    from cloud_core.sources.files import FilesSource

    def no_reading(*arguments: Any) -> None:
        raise AssertionError("an unchanged database was read")

    monkeypatch.setattr(FilesSource, "read", no_reading)
    monkeypatch.setattr("flows.sync.cluster", no_reading)
    second = database.sync()
    assert second.is_unchanged and second.n_partitions_read == 0
    assert second.version == first.version == database.table().version


def test_the_table_is_that_of_one_sync_whatever_the_way(database: Database, tmp_path: Path) -> None:
    names = sorted(database.cifs)
    database.put(*names[:6])
    database.put(names[2], content=names[9])
    database.sync()
    database.put(*names[2:8])
    database.sync()
    database.sync()
    direct = Database(tmp_path / "direct", database.scheduler, database.cifs)
    direct.put(*names[:8])
    direct.sync()
    assert direct.table().content_hash() == database.table().content_hash()


def test_a_truncated_archive_fails_alone(database: Database) -> None:
    names = sorted(database.cifs)
    database.put(*names[:4])
    archive = database.folder / "more.tar.gz"

    def pack(members: list[str]) -> None:
        loose = database.folder.parent / "loose"
        loose.mkdir(exist_ok=True)
        with tarfile.open(archive, "w:gz") as packed:
            for name in members:
                (loose / name).write_bytes(database.cifs[name])
                packed.add(loose / name, arcname=name)

    pack(names[10:14])
    database.sync()
    pack(names[10:16])
    archive.write_bytes(archive.read_bytes()[:-200])
    database.put(names[5])
    database.remove(names[0])
    with pytest.raises(SyncError, match=r"more.tar.gz: truncated.*fetch it again"):
        database.sync()
    held = database.held()
    assert f"db:{names[5]}" in held  # the rest went on
    assert {f"db:more.tar.gz/{name}" for name in names[10:14]} <= set(
        held
    )  # the last good version of the part
    assert f"db:more.tar.gz/{names[14]}" not in held
    assert not database.held("withdrawn")  # what is missing may have moved into what cannot be read

    pack(names[10:16])
    result = database.sync()
    assert (result.n_new, result.n_withdrawn) == (2, 1)


def test_a_vanished_source_is_taken_for_a_fault(database: Database) -> None:
    names = sorted(database.cifs)
    database.put(*names[:6])
    database.sync()
    table = database.table()
    version, content = table.version, table.content_hash()
    database.remove(*names[1:6])
    with pytest.raises(SyncError, match=r"no longer has 5 of 6 structures.*raise max_withdrawn"):
        database.sync()
    assert (database.table().version, database.table().content_hash()) == (version, content)
    assert database.sync(max_withdrawn=1.0).n_withdrawn == 5


def test_quarantine_and_duplicates_are_accounted(database: Database, tmp_path: Path) -> None:
    names = sorted(database.cifs)
    table = tmp_path / "rows.csv"
    texts = ['"' + database.cifs[name].decode().replace('"', '""') + '"' for name in names[:3]]
    lines = ["id,cif,gap", f"a,{texts[0]},1.5", f"b,{texts[1]},wide", f"a,{texts[2]},2", "c,,3"]
    table.write_text("\n".join(lines) + "\n")
    source = {"kind": "table", "path": str(table), "name": "csv", "labels": {"gap": {"unit": "eV"}}}
    result = database.sync(source=source)
    assert result.n_new == 4 and result.n_quarantined == 3
    assert result.reasons == {"bad_label": 1, "duplicate_id": 1, "missing_structure": 1}
    rows = {r["structure_id"]: r for r in database.table().rows().to_pylist()}
    assert rows["csv:a"]["labels"] == [("gap", 1.5)] and rows["csv:a"]["label_units"] == [("gap", "eV")]
    assert "gap is not a number: 'wide'" in rows["csv:b"]["message"]
    table.write_text("\n".join([*lines[:2], f"b,{texts[1]},0.5"]) + "\n")
    again = database.sync(source=source)
    assert (again.n_changed, again.n_withdrawn, again.n_quarantined) == (1, 2, 0)


def test_rows_of_an_earlier_encoder_are_read_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table as version 1 wrote it, and a source that has not moved since."""
    names = sorted(database.cifs)
    database.put(*names[:10])
    (database.folder / "bad.cif").write_text("data_bad")
    with monkeypatch.context() as patch:
        patch.setattr(settings, "ENCODER_VERSION", 1)
        settings.fingerprint.cache_clear()
        database.sync()
    settings.fingerprint.cache_clear()
    table = database.table()
    earlier = table.rows().drop_columns(list(LATER_COLUMNS))
    write_deltalake(table.delta, earlier, mode="overwrite", schema_mode="overwrite")
    assert status(database.table_uri)["encoder_versions"] == {"1": 11}
    before = database.held()

    again = database.sync()
    assert (again.n_records, again.n_new, again.n_changed, again.n_withdrawn) == (11, 0, 11, 0)
    assert status(database.table_uri)["encoder_versions"] == {str(settings.ENCODER_VERSION): 11}
    assert status(database.table_uri)["rows"] == {"encoded": 10, "quarantined": 1, "withdrawn": 0}
    assert database.held() == before
    assert database.sync().n_records == 0


def test_an_unknown_name_lists_those_there_are(tmp_path: Path) -> None:
    shutil.copy(Path(__file__).parents[2] / "deployments" / "configs" / "sync-demo.yaml", tmp_path)
    assert named("demo", tmp_path).name == "demo"
    with pytest.raises(ConfigError, match=r"no sync named 'nothing'.*there are: demo"):
        named("nothing", tmp_path)


def test_the_configurations_that_are_shipped_are_valid(project: Path) -> None:
    names = [p.stem.removeprefix("sync-") for p in (project / "deployments" / "configs").glob("sync-*.yaml")]
    assert {"demo", "materials-project", "optimade", "matbench"} <= set(names)
    for name in names:
        config = named(name, project / "deployments" / "configs")
        assert config.name == name and open_source(config.source).name
