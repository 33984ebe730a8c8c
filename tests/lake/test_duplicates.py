"""Duplicates against pandas, and splits that keep equal strings together."""

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from cloud_core.lake.duplicates import BY, count_duplicates, distinct, split_by_string, write_distinct
from cloud_core.lake.errors import LakeError

SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


@pytest.fixture
def filled(table, rows):
    table.append_chunk(rows(0, 100), "one")
    table.append_chunk(rows(50, 30, content="b"), "two")
    table.append_chunk(rows(100, 20, status="quarantined"), "three")
    return table


@pytest.mark.parametrize("by", BY)
def test_distinct_rows_agree_with_pandas(filled, by):
    frame = filled.scope().to_pandas().sort_values("structure_id")
    expected = frame.drop_duplicates(BY[by])["structure_id"].tolist()
    view = pa.Table.from_batches(list(distinct(filled, by, ["structure_id", BY[by]])))
    assert sorted(view["structure_id"].to_pylist()) == expected
    (count,) = [count for count in count_duplicates(filled) if count.by == by]
    assert (count.rows, count.distinct, count.duplicates) == (100, len(expected), 100 - len(expected))


def test_an_unknown_sense_is_named(filled):
    with pytest.raises(LakeError, match="content, crystal, string"):
        list(distinct(filled, "formula"))


def test_no_string_stands_in_two_splits():
    strings = [f"string {i}" for i in range(5000)] * 2
    splits = split_by_string(strings, SHARES, seed=3)
    assert np.array_equal(splits[:5000], splits[5000:])
    shares = [float(np.mean(splits == name)) for name in SHARES]
    assert np.allclose(shares, list(SHARES.values()), atol=0.02)
    alone = split_by_string(strings[:10], SHARES, seed=3)
    assert np.array_equal(alone, splits[:10])  # new rows move no old one
    assert not np.array_equal(splits, split_by_string(strings, SHARES, seed=4))
    with pytest.raises(LakeError, match="sum to 1"):
        split_by_string(strings, {"train": 0.5})


def test_distinct_rows_are_written_with_their_split(filled, tmp_path):
    to = str(tmp_path / "distinct")
    splits = write_distinct(filled, "crystal", to, SHARES)
    written = DeltaTable(to).to_pyarrow_table(columns=["canonical", "element_key", "split"]).to_pandas()
    assert len(written) == sum(splits.values()) == 22
    assert written["element_key"].is_unique
    assert (written.groupby("canonical")["split"].nunique() == 1).all()
    with pytest.raises(LakeError, match="table already"):
        write_distinct(filled, "crystal", to, SHARES)


def test_splits_need_canonical_strings_and_whole_shares(table, rows, tmp_path):
    column = rows(0, 5).schema.get_field_index("canonical")
    table.append_chunk(rows(0, 5).set_column(column, "canonical", pa.nulls(5, pa.string())), "official only")
    with pytest.raises(LakeError, match=r"which 5 encoded rows lack; encode it with forms"):
        write_distinct(table, "content", str(tmp_path / "distinct"), SHARES)
    with pytest.raises(LakeError, match="sum to 1"):
        write_distinct(table, "content", str(tmp_path / "distinct"), {"train": 0.5})
    assert not (tmp_path / "distinct").exists()
