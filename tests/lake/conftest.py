"""Tables of made-up rows: what the lake does depends on ids, hashes and statuses alone."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from cloud_core.lake.schemas import STRUCTURES
from cloud_core.lake.table import Table

MakeRows = Callable[..., pa.Table]


def make_rows(
    first: int, n: int, content: str = "a", status: str = "encoded", request: str = "f1", label: float = 1.0
) -> pa.Table:
    """Structures `test:<number>` from `first`; `content` is what would be encoded."""
    numbers = range(first, first + n)
    columns = {
        "structure_id": [f"test:{i:05d}" for i in numbers],
        "source": ["test"] * n,
        "licence": ["CC-BY-4.0"] * n,
        "status": [status] * n,
        "canonical": [f"string {content} {i % 7}" for i in numbers],
        "element_key": [f"key {content} {i % 11}" for i in numbers],
        "wyckoff": [["4a", "8c"]] * n,
        "content_hash": [f"{content}{i}" for i in numbers],
        "fingerprint": [request] * n,
        "request": [request] * n,
        "labels": [[("energy", label * i)] for i in numbers],
        "label_units": [[("energy", "eV/atom")]] * n,
        "reason": ["timeout" if status == "quarantined" else None] * n,
    }
    return pa.table(columns, schema=pa.schema([STRUCTURES.field(name) for name in columns]))


@pytest.fixture
def rows() -> MakeRows:
    return make_rows


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table.create(str(tmp_path / "structures"))
