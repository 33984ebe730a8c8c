"""A source of real CIFs, and real Dask workers."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from zipfile import ZipFile

import pytest

from cloud_core.sources.record import Partition, Record


class Listed:
    """A source of records that are at hand, a partition for every hundred."""

    name = "listed"
    licence = "CC-BY-4.0"

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = list(records)

    def partitions(self, since: object = None) -> Iterator[Partition]:
        for start in range(0, len(self.records), 100):
            n = min(100, len(self.records) - start)
            yield Partition(f"from {start}", "1", n, {"start": start})

    def read(self, partition: Partition) -> Iterator[Record]:
        start = partition.at["start"]
        assert partition.n_rows is not None
        yield from self.records[start : start + partition.n_rows]


@pytest.fixture(scope="session")
def records(project: Path) -> list[Record]:
    """300 Materials Project structures."""
    with ZipFile(project / "flows" / "demo_data" / "structures.zip") as archive:
        names = sorted(name for name in archive.namelist() if "mp-" in name)[:300]
        return [Record(name, archive.read(name).decode(), "cif", "listed") for name in names]
