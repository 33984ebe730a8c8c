"""What a path is: files of structures, or a table."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from cloud_core.sources.catalogue import open_source, parse_spec
from cloud_core.sources.record import Record
from cloud_core.structures.formats import read

STRUCTURE: dict[str, Any] = {
    "@module": "pymatgen.core.structure",
    "@class": "Structure",
    "lattice": {"matrix": [[3, 0, 0], [0, 3, 0], [0, 0, 3]]},
    "sites": [{"species": [{"element": "Po", "occu": 1}], "abc": [0, 0, 0], "label": "Po"}],
}
PLAIN = {key: value for key, value in STRUCTURE.items() if key[0] != "@"}
ENTRY = {"@module": "pymatgen.entries.computed_entries", "@class": "ComputedStructureEntry", "energy": -1}
ENTRY |= {"structure": STRUCTURE, "entry_id": "mp-1"}
ATTRIBUTES = {
    "lattice_vectors": STRUCTURE["lattice"]["matrix"],
    "cartesian_site_positions": [[0, 0, 0]],
    "species_at_sites": ["Po"],
}
OPTIMADE = {"id": "a", "type": "structures", "attributes": ATTRIBUTES}
ASE = {"numbers": [84], "positions": [[0, 0, 0]], "cell": [3, 3, 3], "pbc": [True] * 3}
JARVIS = {"lattice_mat": STRUCTURE["lattice"]["matrix"], "coords": [[0, 0, 0]], "elements": ["Po"]}
ROW = {"material_id": "m-1", "structure": STRUCTURE, "gap": 1.0}
COLUMNS = {"material_id": {"0": "m-1"}, "structure": {"0": STRUCTURE}}


def records(path: Path) -> list[Record]:
    source = open_source(str(path))
    return [record for partition in source.partitions() for record in source.read(partition)]


@pytest.mark.parametrize("structure", [STRUCTURE, PLAIN, ENTRY, OPTIMADE, ATTRIBUTES, ASE, JARVIS])
def test_structures_in_json_are_files(tmp_path: Path, structure: dict[str, Any]) -> None:
    forms = {
        "one.json": json.dumps(structure),
        "pretty.json": json.dumps(structure, indent=2),
        "list.json": json.dumps([structure, structure]),
        "answer.json": json.dumps({"meta": {"query": {"sites": [1]}}, "data": [structure, structure]}),
        "lines.jsonl": json.dumps(structure) + "\n" + json.dumps(structure) + "\n",
    }
    for name, text in forms.items():
        (tmp_path / name).write_text(text)
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
        for path in (tmp_path / name, tmp_path / f"{name}.gz"):
            assert parse_spec(str(path)).kind == "files", name
            found = records(path)
            many = name not in ("one.json", "pretty.json")
            assert [r.id for r in found] == ([f"{path.name}#{i}" for i in (0, 1)] if many else [path.name])
            assert {read(r.payload, r.format).species for r in found} == {("Po",)}


@pytest.mark.parametrize(
    "value",
    [
        [ROW],
        {"entries": [ROW]},
        {"data": [ROW]},
        {"columns": list(ROW), "data": [list(ROW.values())]},
        {"data": [list(ROW.values())], "columns": list(ROW)},
        COLUMNS,
        [{"jid": "J-1", "atoms": JARVIS}],
        [{"immutable_id": "a", **ATTRIBUTES}],
        [{"id": "a", "cif": "data_x"}],
    ],
)
def test_rows_with_columns_are_tables(tmp_path: Path, value: Any) -> None:
    (tmp_path / "t.json").write_text(json.dumps(value))
    assert parse_spec(str(tmp_path / "t.json")).kind == "table"
    if isinstance(value, list):
        (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, value)))
        assert parse_spec(str(tmp_path / "t.jsonl")).kind == "table"
    if value is not COLUMNS and "columns" not in value:
        (record,) = records(tmp_path / "t.json")
        assert record.refusal is None and record.id in ("m-1", "J-1", "a")


def test_the_cases(shared: Path) -> None:
    folder = shared / "cases" / "structures"
    assert [r.id for r in records(folder / "j_list.json")] == ["j_list.json#0", "j_list.json#1"]
    assert [r.id for r in records(folder / "j_cse.json")] == ["j_cse.json"]
    assert len(records(folder / "x_twoblocks.cif")) == 2


def test_the_head_tells_and_the_rest_is_not_read(tmp_path: Path) -> None:
    """A file that is damaged behind its head still has a kind."""
    text = json.dumps([STRUCTURE] * 20_000).encode()
    (tmp_path / "big.json.gz").write_bytes(gzip.compress(text, 1)[:-2000])
    assert parse_spec(str(tmp_path / "big.json.gz")).kind == "files"
    deep = "[" + '{"a":' * 200_000
    (tmp_path / "deep.json").write_text(deep)
    assert parse_spec(str(tmp_path / "deep.json")).kind == "table"
