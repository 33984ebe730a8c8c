"""CSV, JSON lines, JSON in its three layouts, and Parquet, held against pandas and pymatgen."""

import bz2
import gzip
import json
import lzma
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from cloud_core.scope.encoder import encode_cell
from cloud_core.scope.settings import EncoderSettings
from cloud_core.sources.catalogue import open_source
from cloud_core.sources.cells import structures_in
from cloud_core.sources.record import Record, SourceError
from cloud_core.structures.cell import Cell
from cloud_core.structures.errors import Reason, StructureError
from cloud_core.structures.formats import read


def records(spec: str | dict[str, Any]) -> list[Record]:
    source = open_source(spec)
    return [record for partition in source.partitions() for record in source.read(partition)]


def cells(rng: np.random.Generator, n: int) -> list[dict[str, Any]]:
    rows = []
    for i in range(n):
        n_sites = int(rng.integers(1, 6))
        rows.append(
            {
                "material_id": f"m-{i}",
                "species": " ".join(rng.choice(["Na", "Cl", "O"], n_sites)),
                "lattice": (np.eye(3) * rng.uniform(3, 9)).ravel().tolist(),
                "abc": rng.random(3 * n_sites).tolist(),
                "gap": float(rng.random()),
            }
        )
    return rows


# -- Parquet


def test_parquet_of_arrays_in_row_groups(tmp_path: Path) -> None:
    rows = cells(np.random.default_rng(0), 1000)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet", row_group_size=300)
    spec = {
        "kind": "table",
        "path": str(tmp_path / "t.parquet"),
        "rows_per_partition": 128,
        "labels": {"gap": {"unit": "eV"}},
    }
    source = open_source(spec)
    partitions = list(source.partitions())
    assert [p.n_rows for p in partitions] == [128, 128, 44] * 3 + [100]
    shuffled = {r.id: r for p in reversed(partitions) for r in source.read(p)}
    assert len(shuffled) == 1000
    for row in rows:
        record = shuffled[row["material_id"]]
        assert isinstance(record.payload, Cell) and record.format == "cell"
        np.testing.assert_array_equal(record.payload.lattice.ravel(), row["lattice"])
        np.testing.assert_array_equal(record.payload.fractions.ravel(), row["abc"])
        assert record.payload.species == tuple(row["species"].split())
        assert record.labels == {"gap": row["gap"]} and record.label_units == {"gap": "eV"}


def test_repeated_ids_across_partitions_of_a_parquet_file(tmp_path: Path) -> None:
    rows = cells(np.random.default_rng(0), 20)
    rows[15]["material_id"] = rows[7]["material_id"] = rows[2]["material_id"]
    rows[9]["material_id"] = None
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet", row_group_size=6)
    found = records(str(tmp_path / "t.parquet"))
    refused = {r.id: str(r.refusal) for r in found if r.refusal}
    assert refused == {"m-2~row 7": "duplicate_id", "m-2~row 15": "duplicate_id", "row 9": "missing_id"}
    assert len({r.id for r in found}) == 20


def test_the_whole_wbm_set(shared: Path) -> None:
    path = shared / "data" / "wbm" / "wbm_initial_structures.parquet"
    source = open_source(str(path))
    partitions = list(source.partitions())
    assert sum(p.n_rows or 0 for p in partitions) == 256_963
    head = pq.read_table(path).slice(131_072, 20).to_pylist()
    for row, record in zip(head, source.read(partitions[8]), strict=False):
        assert record.structure_id == f"wbm_initial_structures:{row['material_id']}"
        assert isinstance(record.payload, Cell) and len(record.payload) == row["n_sites"]
        np.testing.assert_array_equal(record.payload.fractions.ravel(), row["abc"])


def test_cif_bytes_joined_with_a_table_of_labels(shared: Path) -> None:
    data = shared / "data" / "crysxpp"
    spec = {
        "kind": "table",
        "path": str(data / "mp_cifs_36737.parquet"),
        "name": "mp",
        "licence": "CC-BY-4.0",
        "id": "material_id",
        "structure": "cif",
        "join": {"path": str(data / "mp_labels_joined.csv.gz"), "on": "path", "key": "cif_path"},
        "labels": {
            "e_form": {"column": "formation_energy_per_atom", "unit": "eV/atom"},
            "k_vrh": {"column": "elasticity.K_VRH", "unit": "GPa"},
        },
    }
    found = {record.id: record for record in records(spec)}
    labels = pd.read_csv(data / "mp_labels_joined.csv.gz", float_precision="round_trip")
    assert len(found) == len(labels) == 25_711
    sample = labels.sample(200, random_state=0)
    for row in sample.itertuples():
        record = found[row.material_id]
        expected = {"e_form": row.formation_energy_per_atom, "k_vrh": row._8}
        assert record.labels == {k: v for k, v in expected.items() if not np.isnan(v)}
        assert isinstance(record.payload, str) and record.payload.startswith("# generated using pymatgen")
        assert record.format == "cif"


# -- text


@pytest.mark.parametrize(
    ("name", "n", "labels"),
    [
        ("mp_cif_csv/mp_20_biternary_val.csv.gz", 7140, ["band_gap"]),
        ("cdvae/carbon_24_val.csv.gz", 2032, ["energy_per_atom"]),
    ],
)
def test_csv_as_pandas_reads_it(shared: Path, name: str, n: int, labels: list[str]) -> None:
    path = shared / "data" / name
    found = records(
        {"kind": "table", "path": str(path), "labels": {label: {"unit": "eV"} for label in labels}}
    )
    frame = pd.read_csv(path, float_precision="round_trip")
    assert len(found) == len(frame) == n
    for record, (_, row) in zip(found, frame.iterrows(), strict=True):
        assert record.id == str(row["material_id"]) and record.payload == row["cif"]
        assert record.labels == {label: float(row[label]) for label in labels}


def test_python_and_ase_dictionaries_in_csv(shared: Path) -> None:
    from pymatgen.core import Structure

    found = records(str(shared / "data" / "automatminer" / "phonon_dielectric_mp.csv.gz"))
    frame = pd.read_csv(shared / "data" / "automatminer" / "phonon_dielectric_mp.csv.gz")
    refused = [r for r in found if r.refusal]
    assert len(found) == 1521 and all(r.message for r in refused)
    import ast

    for record, text in list(zip(found, frame["structure"], strict=True))[:20]:
        expected = Structure.from_dict(ast.literal_eval(text))
        assert record.format == "json"
        cell = read(record.payload, record.format)
        np.testing.assert_allclose(cell.fractions, expected.frac_coords, atol=1e-12)
    found = records(str(shared / "data" / "phonon" / "phdos_tutorial_data_1521.csv.gz"))
    assert len(found) == 1521 and not any(r.refusal for r in found)


STRUCTURES = [
    {
        "@module": "pymatgen.core.structure",
        "@class": "Structure",
        "lattice": {"matrix": [[a, 0, 0], [0, a, 0], [0, 0, a]]},
        "sites": [{"species": [{"element": "Fe", "occu": 1}], "abc": [0.0, 0.0, 0.0], "label": "Fe"}],
    }
    for a in (2.5, 3.0, 3.5)
]
IDS = ["x", "y", "z"]
E_FORM = [0.1, None, -0.3]


def layouts() -> dict[str, Any]:
    rows = [
        {"material_id": i, "structure": s, "e_form": e}
        for i, s, e in zip(IDS, STRUCTURES, E_FORM, strict=True)
    ]
    columns = ["material_id", "structure", "e_form"]
    return {
        "records": rows,
        "entries": {"entries": rows},
        "split": {"index": [0, 1, 2], "columns": columns, "data": [[r[c] for c in columns] for r in rows]},
        "data first": {"data": [[r[c] for c in columns] for r in rows], "columns": columns},
        "columns": {c: {str(i): r[c] for i, r in enumerate(rows)} for c in columns},
        "lines": rows,
    }


@pytest.mark.parametrize("layout", list(layouts()))
@pytest.mark.parametrize("compression", ["", ".gz", ".bz2", ".xz", ".zst", ".zip"])
def test_json_layouts_and_compressions(tmp_path: Path, layout: str, compression: str) -> None:
    value = layouts()[layout]
    name = "t.jsonl" if layout == "lines" else "t.json"
    text = "\n".join(map(json.dumps, value)) if layout == "lines" else json.dumps(value)
    path = tmp_path / f"{name}{compression}"
    if compression == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, text)
    else:
        compress = {
            "": bytes,
            ".gz": gzip.compress,
            ".bz2": bz2.compress,
            ".xz": lzma.compress,
            ".zst": zstandard.compress,
        }
        path.write_bytes(compress[compression](text.encode()))
    spec = {
        "kind": "table",
        "path": str(path),
        "id": "material_id",
        "structure": "structure",
        "labels": {"e_form": {"unit": "eV/atom"}},
    }
    found = records(spec)
    assert [r.id for r in found] == IDS and [r.refusal for r in found] == [None] * 3
    assert [r.labels.get("e_form") for r in found] == E_FORM
    assert [json.loads(str(r.payload)) for r in found] == STRUCTURES
    assert [read(r.payload, r.format).lattice[0, 0] for r in found] == [2.5, 3.0, 3.5]


def test_a_matbench_file_with_the_official_ids(shared: Path) -> None:
    folder = shared / "data" / "matbench"
    path = str(folder / "matbench_phonons_structures.json.gz")
    found = records({"kind": "set", "set": "matbench:phonons", "file": path})
    labels = json.loads(bz2.decompress((folder / "labels" / "matbench_phonons.json.bz2").read_bytes()))
    assert [r.id for r in found] == list(labels["mbid"].values())
    peaks = [r.labels["last phdos peak"] for r in found]
    np.testing.assert_allclose(peaks, list(labels["last phdos peak"].values()), rtol=1e-9)  # rounded there


def test_modified_at(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "id,cif,when\na,data_x,2024-05-01T12:00:00\nb,data_y,2024-05-01T12:00:00+02:00\nc,data_z,\nd,data_w,May\n"
    )
    found = records({"kind": "table", "path": str(tmp_path / "t.csv"), "modified_at": "when"})
    noon = datetime(2024, 5, 1, 12, tzinfo=UTC)
    assert [r.modified_at for r in found[:3]] == [noon, noon.replace(hour=10), None]
    assert found[3].refusal == "malformed_row" and "May" in found[3].message


# -- what stands in the cells


def test_lemat_is_known_by_its_columns(shared: Path) -> None:
    """Cartesian positions are no fractions, species are OPTIMADE's, nothing is configured."""
    path = shared / "cases" / "structures" / "lemat.parquet"
    found = records({"kind": "table", "path": str(path), "labels": {"energy": {"unit": "eV"}}})
    assert [(r.id, r.format, r.labels) for r in found] == [
        ("made-1", "optimade", {"energy": -1.0}),
        ("made-2", "optimade", {"energy": -1.0}),
    ]
    assert [encode_cell(read(r.payload, r.format), EncoderSettings()).space_group for r in found] == [
        225,
        221,
    ]
    row = pq.read_table(path).to_pylist()[1]
    cell = read(found[1].payload, found[1].format)
    np.testing.assert_allclose(cell.fractions @ cell.lattice, row["cartesian_site_positions"], atol=1e-12)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "json"])
def test_lemat_as_text(shared: Path, tmp_path: Path, kind: str) -> None:
    rows = pq.read_table(shared / "cases" / "structures" / "lemat.parquet").to_pylist()
    path = tmp_path / f"lemat.{kind}"
    if kind == "csv":
        texts = [{k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()} for row in rows]
        pd.DataFrame(texts).to_csv(path, index=False)
    else:
        path.write_text(json.dumps(rows) if kind == "json" else "\n".join(map(json.dumps, rows)))
    found = records(str(path))
    assert [r.id for r in found] == ["made-1", "made-2"]
    assert [encode_cell(read(r.payload, r.format), EncoderSettings()).space_group for r in found] == [
        225,
        221,
    ]


def test_cartesian_arrays_and_kinds_of_species(tmp_path: Path) -> None:
    lattice = [[4.0, 0.0, 0.0], [1.0, 5.0, 0.0], [0.0, 0.5, 6.0]]
    fractions = [[0.0, 0.0, 0.0], [0.5, 0.25, 0.125]]
    row = {
        "id": "0012",
        "sites": ["A", "B"],
        "cell": lattice,
        "where": (np.array(fractions) @ np.array(lattice)).tolist(),
        "what": '[{"name": "A", "chemical_symbols": ["Fe", "vacancy"], "concentration": [0.5, 0.5]}, '
        '{"name": "B", "chemical_symbols": ["O"]}]',
    }
    pq.write_table(pa.Table.from_pylist([row, row | {"id": "NA", "where": None}]), tmp_path / "t.parquet")
    spec = {"kind": "table", "path": str(tmp_path / "t.parquet")}
    arrays = {"species": "sites", "lattice": "cell", "positions": "where"}
    plain, empty = records(spec | {"structure": arrays})
    assert isinstance(plain.payload, Cell) and plain.id == "0012" and plain.payload.species == ("A", "B")
    np.testing.assert_allclose(plain.payload.fractions, fractions, atol=1e-12)
    assert (empty.id, empty.refusal) == ("NA", "missing_structure")
    record = records(spec | {"structure": arrays | {"kinds": "what"}})[0]
    cell = read(record.payload, record.format)
    assert cell.occupancies is not None and dict(cell.occupancies[0]) == {"Fe": 0.5}
    np.testing.assert_allclose(cell.fractions, fractions, atol=1e-12)
    for wrong, message in (
        ({"fractions": "cartesian_site_positions"}, "looks Cartesian; name it as `positions`"),
        ({"fractions": "a", "positions": "b"}, "not both"),
        ({"kinds": "what"}, "goes with `positions`"),
    ):
        with pytest.raises(SourceError, match=message):
            open_source(spec | {"structure": wrong})
    with pytest.raises(SourceError, match="which column holds the structure"):
        records(spec)  # Cartesian positions alone are never guessed to be fractions


def test_a_label_that_is_not_finite_is_left_out_and_the_structure_stays(shared: Path, tmp_path: Path) -> None:
    spec = {"kind": "table", "labels": {"gap": {"unit": "eV"}}}
    found = records(spec | {"path": str(shared / "cases" / "structures" / "c_inf.csv")})
    assert len(found) > 2 and [r.refusal for r in found] == [None] * len(found)
    infinite = [r for r in found if r.message]
    assert len(infinite) == 3 and not any(r.labels for r in infinite)
    assert all("a label is a finite number: gap = " in r.message for r in infinite)
    values = ["inf", "-Infinity", "1e400", "NaN", "1.5", "1" * 400, '"2.5"', '"Infinity"', "[1]"]
    lines = [f'{{"id": {i}, "cif": "data_x", "gap": {value}}}' for i, value in enumerate(values)]
    lines[0] = lines[0].replace("inf}", '"inf"}')
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    found = records(spec | {"path": str(tmp_path / "t.jsonl")})
    assert [r.labels.get("gap") for r in found] == [None, None, None, None, 1.5, None, 2.5, None, None]
    assert [bool(r.message) for r in found] == [True, True, True, False, False, True, False, True, True]
    assert [r.refusal for r in found] == [None] * 8 + ["bad_label"]


def test_a_cell_of_several_structures_and_of_every_format(tmp_path: Path) -> None:
    from pymatgen.core import Lattice, Structure

    structure = Structure(Lattice.cubic(4.0), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    cif, poscar = structure.to(fmt="cif"), structure.to(fmt="poscar")
    frame = '2\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3\nCs 0 0 0\nCl 2 2 2\n'
    ase = {"numbers": [55, 17], "positions": [[0, 0, 0], [2, 2, 2]], "cell": [4, 4, 4], "pbc": True}
    jarvis = {"lattice_mat": [[4, 0, 0], [0, 4, 0], [0, 0, 4]], "elements": ["Cs", "Cl"], "cartesian": False}
    jarvis["coords"] = [[0, 0, 0], [0.5, 0.5, 0.5]]
    document = structure.as_dict()
    texts = {
        "cif": cif, "two": cif + cif.replace("data_CsCl", "data_other"), "poscar": poscar,
        "frames": frame * 2,
        "json": json.dumps(document), "list": json.dumps([document] * 2), "literal": str(document),
        "ase": json.dumps(ase), "jarvis": json.dumps(jarvis), "gz": gzip.compress(cif.encode()),
    }  # fmt: skip
    expected = ["cif", "two#CsCl", "two#other", "poscar", "frames#0", "frames#1", "json", "list#0", "list#1"]
    expected += ["literal", "ase", "jarvis"]
    (tmp_path / "t.jsonl").write_text(
        "\n".join(json.dumps({"id": i, "structure": t}) for i, t in texts.items() if isinstance(t, str))
    )
    pd.DataFrame({"id": list(texts)[:-1], "structure": list(texts.values())[:-1]}).to_csv(
        tmp_path / "t.csv", index=False
    )
    as_bytes = [t if isinstance(t, bytes) else t.encode() for t in texts.values()]
    pq.write_table(pa.table({"id": list(texts), "structure": as_bytes}), tmp_path / "t.parquet")
    for name in ("t.jsonl", "t.csv", "t.parquet"):
        found = records(str(tmp_path / name))
        assert [r.id for r in found] == expected + (["gz"] if name == "t.parquet" else [])
        assert not any(r.refusal for r in found)
        for record in found:
            cell = read(record.payload, record.format)
            assert cell.species == ("Cs", "Cl") and cell.lattice[0, 0] == 4.0


def test_python_literals_become_json() -> None:
    values: list[Any] = [
        {
            "a": (1, -2.5e-3, True, None),
            "it's": ["\\", "both ' and \"", "\n\t\x07é\u2028"],
            "empty": ((), {}, []),
        },
        {"one": (1,), "deep": [[[{"x": (False,)}]]], "plain": "{[(,:"},
    ]
    for value in values:
        text = f"{{'structure': {value!r}}}"
        ((name, found, format),) = structures_in(text, None)
        assert (name, format) == ("", "json")
        assert json.loads(found) == json.loads(json.dumps({"structure": value}))
    for text in ("{'a': f(1)}", "{'a': 1 + 1}", "{'a': [1, 2}", "{'a': 'open}", "{'a': 1}, 2"):
        with pytest.raises(StructureError) as error:
            for _, found, format in structures_in(text, None):
                read(found, format)
        assert error.value.reason is Reason.PARSE_ERROR


def test_objects_in_parquet_have_no_nulls_of_their_neighbours(tmp_path: Path) -> None:
    """Arrow gives each object the keys of all of them."""
    site = {"species": [{"element": "Fe", "occu": 1.0}], "abc": [0.0, 0.0, 0.0]}
    other = {"species": [{"element": "Fe", "occu": 1.0, "oxidation_state": 3.0}], "xyz": [0.0, 0.0, 0.0]}
    lattice = {"matrix": [[3.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 3.0]]}
    rows = [
        {"id": str(i), "structure": {"lattice": lattice, "sites": [s]}} for i, s in enumerate((site, other))
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    found = records(str(tmp_path / "t.parquet"))
    assert [read(r.payload, r.format).species for r in found] == [("Fe",), ("Fe3+",)]


# -- bad input


def test_each_bad_row_is_refused_alone(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        'id,cif,gap\na,data_a,1\nb,data_b\na,data_c,2\n,data_d,3\ne,,4\nf,data_f,wide\ng,"data_g\n_g",NaN\nh,data_h,True\n'
    )
    found = records({"kind": "table", "path": str(tmp_path / "t.csv"), "labels": {"gap": {"unit": "eV"}}})
    assert [(r.id, None if r.refusal is None else str(r.refusal)) for r in found] == [
        ("a", None),
        ("row 1", "malformed_row"),
        ("a~row 2", "duplicate_id"),
        ("row 3", "missing_id"),
        ("e", "missing_structure"),
        ("f", "bad_label"),
        ("g", None),
        ("h", None),
    ]
    assert "line 3: 2 fields, the header has 3" in found[1].message
    assert "an earlier row has the id a already" in found[2].message
    assert found[6].payload == "data_g\n_g" and found[6].labels == {} and found[7].labels == {"gap": 1.0}
    (tmp_path / "t.jsonl").write_text(
        '{"id": "a", "cif": "data_a"}\n{"id": "b", "ci\n[1]\n{"id": "d", "cif": 5}\n'
    )
    reasons = [str(r.refusal) for r in records(str(tmp_path / "t.jsonl"))]
    assert reasons == ["None", "malformed_row", "malformed_row", "unknown_format"]


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("t.csv", "a,b\n1,2\n", {}, "which column holds the id.*Columns here: a, b"),
        (
            "t.csv",
            "id,cif\n1,2\n",
            {"labels": {"gap": {"unit": "eV"}}},
            "no column 'gap' for label gap; columns here: id",
        ),
        ("t.csv", "id,b\n1,2\n", {"structure": "cif"}, "no column 'cif' for structure"),
        ("t.csv", "", {}, "no header line"),
        ("t.csv", "id,id\n1,2\n", {}, "two columns have one name"),
        (
            "t.csv",
            "<!DOCTYPE html>\n<html>Sign in</html>",
            {},
            "an HTML page was found where data was expected",
        ),
        ("t.csv", 'id,cif\n1,"data_x\n', {}, "a truncated file or a stray quote"),
        ("t.csv", "id,cif,g\n1,x,2\n", {"labels": {"g": {}}}, "'labels.g.unit' is missing"),
        ("t.json", '[{"id": "a", "cif": "x"}, {"id": ', {}, "the JSON ends too early or is damaged"),
        ("t.json", '"text"', {}, "a table in JSON is a list or an object"),
        ("t.json", "[1, 2]", {}, "no list of JSON objects"),
        ("t.jsonl", "nonsense\n", {}, "the first line is not JSON"),
        ("t.parquet", "PAR1 not really", {}, "not a whole Parquet file"),
        ("t.dat", "x", {}, "not the name of a table"),
    ],
)
def test_a_table_that_cannot_be_read_is_a_clear_error(
    tmp_path: Path, name: str, content: str, options: dict[str, Any], message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(SourceError, match=message) as error:
        records({"kind": "table", "path": str(tmp_path / name)} | options)
    assert name in str(error.value)


def test_a_truncated_compressed_table_is_an_error_after_its_whole_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    text = "id,cif\n" + "".join(f"{i},data_{rng.random()}\n" for i in range(20_000))
    whole = gzip.compress(text.encode())
    (tmp_path / "t.csv.gz").write_bytes(whole[: len(whole) // 2])
    source = open_source(str(tmp_path / "t.csv.gz"))
    found = []
    with pytest.raises(SourceError, match=r"t\.csv\.gz: truncated or damaged.*fetch it again"):
        for partition in source.partitions():
            for record in source.read(partition):
                found.append(record)
    assert 1000 < len(found) < 20_000


def test_two_rows_for_one_key_of_a_join(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,cif\na,data_a\n")
    (tmp_path / "labels.csv").write_text("key,gap\na,1\na,2\n")
    join = {"path": str(tmp_path / "labels.csv"), "on": "id", "key": "key"}
    with pytest.raises(SourceError, match=r"labels\.csv: two rows with key = a"):
        records(
            {
                "kind": "table",
                "path": str(tmp_path / "t.csv"),
                "join": join,
                "labels": {"gap": {"unit": "eV"}},
            }
        )


def test_a_changed_table_or_mapping_moves_the_cursor(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    spec = {"kind": "table", "path": str(path)}

    def cursor(**options: Any) -> str:
        return next(iter(open_source(spec | options).partitions())).cursor

    path.write_text("id,cif,gap\na,data_a,1\n")
    first = cursor()
    assert first == cursor() != cursor(labels={"gap": {"unit": "eV"}})
    path.write_text("id,cif,gap\na,data_a,1\nb,data_b,2\n")
    assert cursor() != first


def test_memory_does_not_grow_with_a_json_table(tmp_path: Path) -> None:
    """The 132,752-row MatBench file must stream: here a part of its size."""
    import subprocess
    import sys

    code = """
import resource, sys
from cloud_core.scope.encoder import encode_cell
from cloud_core.scope.settings import EncoderSettings
from cloud_core.sources.catalogue import open_source
source = open_source({"kind": "table", "path": sys.argv[1], "id": "{row}", "structure": "structure"})
n = sum(1 for p in source.partitions() for _ in source.read(p))
print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
    structure = json.dumps(STRUCTURES[0] | {"sites": STRUCTURES[0]["sites"] * 30})
    peaks = []
    for n in (500, 6_000):
        path = tmp_path / f"{n}.json.gz"
        with gzip.open(path, "wt", compresslevel=1) as file:
            file.write(f'{{"index": {list(range(n))}, "columns": ["structure", "e_form"], "data": [')
            file.writelines(f"{',' if i else ''}[{structure}, {i}]" for i in range(n))
            file.write("]}")
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
        )
        count, peak = map(int, done.stdout.split())
        assert count == n
        peaks.append(peak)
    assert peaks[1] < peaks[0] + 60  # MB; 21 MB of JSON are some 190 MB as Python objects
