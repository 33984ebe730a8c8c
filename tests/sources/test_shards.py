"""Tables of several files: folders, globs and Delta tables; parts of a source."""

import importlib.util
import shutil
from pathlib import Path

import pandas as pd
import pytest
from deltalake import DeltaTable, write_deltalake

from cloud_core.sources.catalogue import open_source
from cloud_core.sources.files import is_sidecar
from cloud_core.sources.record import Record, SourceError

SALT = (Path(__file__).parents[2] / "flows" / "demo_data" / "held_out.cif").read_text()


def frame(*ids: str) -> pd.DataFrame:
    return pd.DataFrame({"id": ids, "cif": [SALT] * len(ids), "width": ["x" * 1000] * len(ids)})


def records(source: object) -> list[Record]:
    opened = open_source(source)  # type: ignore[arg-type]
    return [record for partition in opened.partitions() for record in opened.read(partition)]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """As `datasets` writes them."""
    folder = tmp_path / "set"
    (folder / "data").mkdir(parents=True)
    frame("0012", "NA").to_parquet(folder / "data" / "train-00000-of-00002.parquet")
    frame("c").to_parquet(folder / "data" / "train-00001-of-00002.parquet")
    (folder / "dataset_info.json").write_text('{"features": {}}')
    (folder / "README.md").write_text("a card")
    return folder


def test_a_folder_of_parquet_is_one_table_with_a_partition_a_file(shards: Path) -> None:
    source = open_source(str(shards))
    keys = [partition.key for partition in source.partitions()]
    assert keys == ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]
    assert [record.id for record in records(str(shards))] == ["0012", "NA", "c"]
    assert [record.id for record in records(str(shards / "data" / "*1-of*.parquet"))] == ["c"]
    assert {record.refusal for record in records(str(shards))} == {None}


def test_a_file_that_is_added_or_changed_moves_its_own_partition(shards: Path) -> None:
    before = {p.key: p.cursor for p in open_source(str(shards)).partitions()}
    frame("d", "e").to_parquet(shards / "data" / "a-new-one.parquet")
    after = {p.key: p.cursor for p in open_source(str(shards)).partitions()}
    assert {key: after[key] for key in before} == before and len(after) == 3


def test_files_of_two_formats_and_columns_that_differ_are_told(shards: Path, tmp_path: Path) -> None:
    frame("x").drop(columns="cif").to_parquet(shards / "data" / "z.parquet")
    with pytest.raises(SourceError, match=r"z\.parquet: no column 'cif'"):
        records(str(shards))
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    frame("x").to_csv(mixed / "a.csv", index=False)
    (mixed / "b.jsonl").write_text('{"id": "y"}\n')
    with pytest.raises(SourceError, match="files of csv and jsonl here"):
        open_source({"kind": "table", "path": str(mixed)})
    with pytest.raises(SourceError, match="a column of ids"):
        records({"kind": "table", "path": str(shards), "id": "{row}"})


def test_a_delta_table_is_read_by_its_newest_version(tmp_path: Path) -> None:
    """A file that stays keeps its cursor, so that it is not read again; one that was replaced is gone."""
    path = str(tmp_path / "delta")
    write_deltalake(path, frame("a", "b"))
    first = {p.key: p.cursor for p in open_source(path).partitions()}
    write_deltalake(path, frame("c"), mode="append")
    second = {p.key: p.cursor for p in open_source(path).partitions()}
    assert len(first) == 1 and first.items() < second.items()
    assert sorted(record.id for record in records(path)) == ["a", "b", "c"]
    DeltaTable(path).delete("id = 'a'")
    assert sorted(record.id for record in records(path)) == ["b", "c"]


def test_what_stands_beside_data_is_no_structure(tmp_path: Path) -> None:
    (tmp_path / "salt.cif").write_text(SALT)
    for name in ("dataset_info.json", "state.json", "_delta_log/0.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"commitInfo": {}}')
    source = open_source({"kind": "files", "path": str(tmp_path)})
    assert [record.id for p in source.partitions() for record in source.read(p)] == ["salt.cif"]
    assert is_sidecar("a/_delta_log/0.json") and not is_sidecar("structures/mp-1.json")


@pytest.mark.parametrize(("address", "extra"), [("gs://bucket/x.cif", "gcs"), ("az://bucket/x.cif", "azure")])
def test_a_client_that_is_not_installed_is_named_by_its_extra(address: str, extra: str) -> None:
    module = {"gcs": "gcsfs", "azure": "adlfs"}[extra]
    if importlib.util.find_spec(module) is not None:
        pytest.skip(f"{module} is installed")
    with pytest.raises(SourceError, match=rf"cloud-pipeline\[{extra}\]"):
        open_source(address)


def test_the_first_or_some_random_records(shards: Path, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(60):
        shutil.copy(shards / "README.md", folder / f"{number:02}.cif")
    every = [record.id for record in records(str(folder))]
    first = [record.id for record in records({"kind": "files", "path": str(folder), "limit": 7})]
    some = [record.id for record in records({"kind": "files", "path": str(folder), "sample": 20})]
    assert first == every[:7]
    assert len(set(some)) == 20 and set(some) < set(every) and sorted(some) != sorted(every[:20])
    assert some == [record.id for record in records({"kind": "files", "path": str(folder), "sample": 20})]
    assert len(records({"kind": "files", "path": str(folder), "sample": 500})) == 60
    with pytest.raises(SourceError, match="not both"):
        open_source({"kind": "files", "path": str(folder), "limit": 1, "sample": 1})
