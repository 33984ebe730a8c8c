"""300 cells whose strings and keys stand still as long as ENCODER_VERSION does."""

from bisect import bisect_left
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from cloud_core.scope.encoder import encode_cell
from cloud_core.scope.settings import EncoderSettings
from cloud_core.scope.tables import ENANTIOMORPHS
from cloud_core.structures import Cell

LAST_OF_SYSTEM = (2, 15, 74, 142, 167, 194, 230)  # triclinic … cubic
ROWS = pq.read_table(Path(__file__).with_name("golden.parquet")).to_pylist()


def golden_cell(row: dict[str, Any]) -> Cell:
    occupancies = row["occupancies"]
    return Cell(
        np.array(row["lattice"]).reshape(3, 3),
        tuple(row["species"].split()),
        np.array(row["fractions"]).reshape(-1, 3),
        None if occupancies is None else tuple(dict(site) for site in occupancies),
    )


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_nothing_has_moved(row: dict[str, Any]) -> None:
    scope = encode_cell(golden_cell(row), EncoderSettings(forms=("resolved",)))
    names = ("canonical", "resolved", "element_key", "space_group")
    found = {name: getattr(scope, name) for name in names}
    found["flags"] = list(scope.flags)
    assert found == {name: row[name] for name in found}, (
        "the encoder gives another string, key or flag: raise ENCODER_VERSION, say in the changelog what "
        "moved and why, and make golden.parquet anew (tests/scope/make_golden.py)"
    )


def test_the_cells_are_of_every_kind() -> None:
    groups = Counter(row["space_group"] for row in ROWS)
    systems = {bisect_left(LAST_OF_SYSTEM, number) for number in groups}
    assert len(ROWS) == 300 and len(groups) >= 120 and len(systems) == 7
    assert ENANTIOMORPHS.keys() & groups.keys() and set(ENANTIOMORPHS.values()) & groups.keys()
    flags = {flag for row in ROWS for flag in row["flags"]}
    assert flags >= {"disordered", "isotope", "not_in_vocabulary"}
    sizes = [len(row["species"].split()) for row in ROWS]
    assert min(sizes) == 1 and max(sizes) >= 150
    shared = Counter(row["canonical"] for row in ROWS)
    assert any(
        len({row["element_key"] for row in ROWS if row["canonical"] == text}) > 1
        for text, n in shared.items() if n > 1
    )  # fmt: skip
