"""A table of labels beside a folder or archive of structures."""

from pathlib import Path

import pytest

from cloud_core.sources.catalogue import open_source
from cloud_core.sources.record import Record, Refusal, SourceError


@pytest.fixture
def folder(tmp_path: Path, project: Path) -> Path:
    cif = (project / "flows" / "demo_data" / "held_out.cif").read_text()
    (tmp_path / "cifs").mkdir()
    for name in ("a.cif", "b.cif", "c.cif"):
        (tmp_path / "cifs" / name).write_text(cif)
    (tmp_path / "labels.csv").write_text("name,energy\na,-2.1\nb.cif,\nc,low\n")
    return tmp_path


def read(folder: Path, unit: str = "eV/atom") -> dict[str, Record]:
    labels = {
        "path": str(folder / "labels.csv"),
        "key": "name",
        "columns": {"formation_energy_per_atom": {"column": "energy", "unit": unit}},
    }
    source = open_source({"kind": "files", "path": str(folder / "cifs"), "labels": labels})
    return {record.id: record for part in source.partitions() for record in source.read(part)}


def test_labels_are_found_by_the_name_of_the_file(folder: Path) -> None:
    records = read(folder)
    assert records["a.cif"].labels == {"formation_energy_per_atom": -2.1}
    assert records["a.cif"].label_units == {"formation_energy_per_atom": "eV/atom"}
    assert records["b.cif"].labels == {}
    assert records["c.cif"].refusal is Refusal.BAD_LABEL and "low" in records["c.cif"].message


def test_a_changed_table_of_labels_moves_the_cursor(folder: Path) -> None:
    def cursors() -> list[str]:
        labels = {
            "path": str(folder / "labels.csv"),
            "key": "name",
            "columns": {"energy": {"unit": "eV/atom"}},
        }
        source = open_source({"kind": "files", "path": str(folder / "cifs"), "labels": labels})
        return [part.cursor for part in source.partitions()]

    before = cursors()
    assert cursors() == before
    (folder / "labels.csv").write_text("name,energy\na,-2.2\nb,1\nc,2\n")
    assert cursors() != before


def test_two_rows_of_one_file_are_an_error(folder: Path) -> None:
    (folder / "labels.csv").write_text("name,energy\na,1\na,2\n")
    with pytest.raises(SourceError, match="two rows with name = a"):
        read(folder)
