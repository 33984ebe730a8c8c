"""Tables that earlier versions of this package wrote: opened, read, added to, kept."""

from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from cloud_core.lake.errors import LakeError
from cloud_core.lake.maintenance import compact, purge
from cloud_core.lake.rows import conform
from cloud_core.lake.schemas import LATER_COLUMNS, STRUCTURES
from cloud_core.lake.status import status
from cloud_core.lake.table import Table


@pytest.fixture
def earlier(tmp_path: Path, rows) -> str:
    """A table without the columns that came later, with forty rows."""
    uri = str(tmp_path / "earlier")
    schema = pa.schema([field for field in STRUCTURES if field.name not in LATER_COLUMNS])
    held = conform(rows(0, 40))
    held = held.set_column(
        held.schema.get_field_index("revision"), "revision", pa.array([0] * 40, pa.int32())
    ).select(schema.names)
    write_deltalake(uri, held.cast(schema), partition_by=["status"])
    return uri


def with_version(rows: pa.Table, version: int) -> pa.Table:
    return rows.append_column("encoder_version", pa.array([version] * rows.num_rows, pa.int32()))


def test_an_earlier_table_is_read_and_its_rows_are_of_version_1(earlier: str) -> None:
    table = Table.open(earlier)
    assert table.rows().num_rows == 40
    assert table.rows(columns=["encoder_version"])["encoder_version"].null_count == 40
    assert status(earlier)["encoder_versions"] == {"1": 40}


def test_an_earlier_table_is_added_to_compacted_and_purged(earlier: str, rows) -> None:
    table = Table.create(earlier)
    before = table.content_hash()
    assert table.append_chunk(with_version(rows(40, 5), 2), "new")
    assert table.append_chunk(with_version(rows(0, 10, request="f2"), 2), "again")
    assert status(earlier)["encoder_versions"] == {"1": 30, "2": 15}
    for change in (compact, purge):
        change(Table.open(earlier))
        opened = Table.open(earlier)
        assert opened.counts()["encoded"] == 45
        assert status(earlier)["encoder_versions"] == {"1": 30, "2": 15}
        found = opened.rows(columns=["structure_id", "encoder_version"]).to_pylist()
        assert {row["encoder_version"] for row in found if row["structure_id"] < "test:00010"} == {2}
    assert "encoder_version" in {field.name for field in DeltaTable(earlier).schema().fields}
    assert Table.open(earlier, version=0).content_hash() == before


def test_a_table_without_other_columns_is_none_of_structures(tmp_path: Path) -> None:
    write_deltalake(str(tmp_path / "other"), pa.table({"a": [1]}))
    with pytest.raises(LakeError, match="not of structures"):
        Table.open(str(tmp_path / "other"))
