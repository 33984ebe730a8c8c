"""Hostile or broken bytes cost the record they stand in; the others come."""

import bz2
import csv
import gzip
import io
import json
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from cloud_core.scope import encode
from cloud_core.sources import json_rows, rows
from cloud_core.sources.catalogue import open_source
from cloud_core.sources.record import Record, SourceError
from cloud_core.structures.errors import StructureError
from cloud_core.structures.formats import read
from cloud_core.structures.text import MAX_BYTES
from tests.sources.test_files import cif

DEEP = '{"a":' * 200_000 + "1" + "}" * 200_000
SITE = {"species": [{"element": "Po", "occu": 1}], "abc": [0, 0, 0]}
GOOD = {"lattice": {"matrix": [[3, 0, 0], [0, 3, 0], [0, 0, 3]]}, "sites": [SITE]}
FRAME = '1\nLattice="3 0 0 0 3 0 0 0 3" Properties=species:S:1:pos:R:3\nPo 0 0 0\n'
TOO_LONG = "x" * (MAX_BYTES + 1)


def records(spec: str | dict[str, Any]) -> list[Record]:
    source = open_source(spec)
    return [record for partition in source.partitions() for record in source.read(partition)]


def outcomes(found: list[Record]) -> dict[str, str]:
    """What comes of each record: `read`, or the reason of its refusal by the source or by the reader."""
    assert len({record.id for record in found}) == len(found)
    told = {}
    for record in found:
        assert record.refusal is None or record.message
        try:
            told[record.id] = str(record.refusal or (read(record.payload, record.format) and "read"))
        except StructureError as error:
            told[record.id] = str(error.reason)
    return told


def test_files(tmp_path: Path) -> None:
    """One folder with everything in it, read as one partition."""
    good = json.dumps(GOOD)
    files: dict[str, str | bytes] = {
        "deep.json": DEEP,
        "deep_list.json": f"[{good}, {DEEP}, {good}]",
        "deep.jsonl": f"{good}\n{DEEP}\n{good}\n",
        "brackets.json": "[" * 200_000,
        "cut.json": f"[{good}, {good[:60]}",
        "no_list.json": "[]",
        "number.json": "7",
        "digits.json": good.replace("3", "3" * 5000, 1),
        "negative.extxyz": FRAME + FRAME.replace("1", "-1", 1) + FRAME,
        "huge.extxyz": FRAME + FRAME.replace("1", "999999999", 1) + FRAME,
        "words.extxyz": FRAME + "many\n" + FRAME.partition("\n")[2] + FRAME,
        "nul.cif": b"\0" * 5000,
        "inside.cif": cif(4.0).replace("0.5 0.5 0.5", "0.5 0.5 0.5\0"),
        "half.cif": b"\xff\xfe" + cif(4.0).encode("utf-16-le")[:-31],
        "surrogate.cif": b"\xff\xfe" + (cif(4.0) + "# ").encode("utf-16-le") + b"\x00\xd8\x00\xd8",
        "latin.cif": cif(4.0).encode() + b"# \xb0\xc5\n",
        "bomb.cif.gz": gzip.compress(b"\0" * (2 * MAX_BYTES), 1),
        "bomb.cif.bz2": bz2.compress(b"\0" * (2 * MAX_BYTES)),
        "bomb.cif.zst": zstandard.compress(b"\0" * (2 * MAX_BYTES)),
        "cut.cif.gz": gzip.compress(cif(4.0).encode())[:-20],
        "cut.cif.zst": zstandard.compress(cif(4.0).encode())[:-5],
        "no_gzip.cif.gz": cif(4.0),
        "hidden.cif": gzip.compress(cif(4.0).encode()),
        "sites.cif": cif(4.0) + "".join(f"Na Na{i} 0.1 0.2 {i}e-7\n" for i in range(1_000_000)),
        "empty.cif": "",
        "fine.cif": cif(4.0),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    told = outcomes(records(str(tmp_path)))
    assert {name: reason for name, reason in told.items() if reason == "read"} == dict.fromkeys(
        [
            *("deep_list.json#0", "deep_list.json#2", "deep.jsonl#0", "deep.jsonl#2", "cut.json#0"),
            *(f"{name}.extxyz#{i}" for name in ("negative", "huge") for i in (0, 2)),
            *("words.extxyz#0", "words.extxyz#2"),
            *("surrogate.cif", "latin.cif", "no_gzip.cif.gz", "hidden.cif", "fine.cif"),
        ],
        "read",
    )
    refused = {name: reason for name, reason in told.items() if reason != "read"}
    assert {name.partition("#")[0] for name in told} == set(files)
    assert refused["deep.json"] == refused["deep_list.json#1"] == refused["deep.jsonl#1"] == "parse_error"
    assert refused["brackets.json"] == refused["digits.json"] == refused["cut.json#1"] == "parse_error"
    assert refused["no_list.json"] == "missing_structure"
    assert {refused[f"bomb.cif.{kind}"] for kind in ("gz", "bz2", "zst")} == {"too_large"}
    assert {refused[f"cut.cif.{kind}"] for kind in ("gz", "zst")} == {"unreadable"}
    assert refused["sites.cif"] == "too_many_sites"


def test_members_of_archives(tmp_path: Path) -> None:
    bomb = b"\0" * (2 * MAX_BYTES)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.cif", bomb)
        archive.writestr("nested.cif.gz", gzip.compress(bomb, 1))
        archive.writestr("fine.cif", cif(4.0))
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz", compresslevel=1) as tar:
        for name, data in {
            "bomb.cif": bomb,
            "cut.cif.gz": gzip.compress(cif(4.0).encode())[:-9],
            "fine.cif": cif(4.0).encode(),
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    assert outcomes(records(str(tmp_path / "a.zip"))) == {
        "bomb.cif": "too_large",
        "nested.cif.gz": "too_large",
        "fine.cif": "read",
    }
    assert outcomes(records(str(tmp_path / "a.tar.gz"))) == {
        "bomb.cif": "too_large",
        "cut.cif.gz": "unreadable",
        "fine.cif": "read",
    }


@pytest.mark.parametrize("kind", ["jsonl", "json", "split", "columns", "csv", "parquet"])
def test_cells_of_tables(tmp_path: Path, kind: str) -> None:
    """An object or a text of 200,000 brackets, a text of nothing, one above the limit."""
    good = json.dumps(GOOD)
    cells = {"a": good, "deep": DEEP, "b": good, "brackets": "[" * 200_000 + "]" * 200_000, "c": good}
    cells |= {"literal": "{'a':" * 200_000, "nul": "\0\0", "long": TOO_LONG, "d": cif(4.0)}
    is_object = {"a", "deep", "b", "brackets", "c"}
    values = {i: cell if i in is_object else json.dumps(cell) for i, cell in cells.items()}
    if kind == "parquet":
        pq.write_table(
            pa.table({"id": list(cells), "structure": list(cells.values())}), tmp_path / "t.parquet"
        )
    elif kind == "csv":
        with (tmp_path / "t.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("id", "structure"), *cells.items()])
    elif kind == "columns":  # strings among objects are no structures there
        cells = {i: cell for i, cell in cells.items() if i in is_object}
        ids = ", ".join(f'"{i}": "{i}"' for i in cells)
        inner = ", ".join(f'"{i}": {values[i]}' for i in cells)
        (tmp_path / "t.json").write_text(f'{{"id": {{{ids}}}, "structure": {{{inner}}}}}')
    elif kind == "split":
        inner = ", ".join(f'["{i}", {values[i]}]' for i in cells)
        (tmp_path / "t.json").write_text(f'{{"columns": ["id", "structure"], "data": [{inner}]}}')
    else:
        lines = [f'{{"id": "{i}", "structure": {values[i]}}}' for i in cells]
        text = "\n".join(lines) if kind == "jsonl" else f"[{', '.join(lines)}]"
        (tmp_path / f"t.{kind}").write_text(text)
    path = next(tmp_path.iterdir())
    start = time.monotonic()
    told = outcomes(records({"kind": "table", "path": str(path), "id": "id", "structure": "structure"}))
    assert time.monotonic() - start < 60
    assert list(told.values()).count("read") == sum(i in cells for i in "abcd")
    assert [told[i] for i in "abcd" if i in cells] == ["read"] * sum(i in cells for i in "abcd")
    assert told["deep"] == told["brackets"] == "parse_error" and len(told) == len(cells)
    if "long" in cells:
        long = next(reason for i, reason in told.items() if i == "long" or i.startswith("row "))
        assert long == "too_large" and told["literal"] == "parse_error" and told["nul"] == "unknown_format"


@pytest.mark.parametrize("first", ["deep", "long"])
def test_a_bad_first_row_costs_itself(tmp_path: Path, first: str) -> None:
    value = DEEP if first == "deep" else f'"{TOO_LONG}"'
    lines = [f'{{"id": "{i}", "structure": {v}}}' for i, v in enumerate((value, json.dumps(GOOD)))]
    for name, text in (("t.jsonl", "\n".join(lines)), ("t.json", f"[{', '.join(lines)}]")):
        (tmp_path / name).write_text(text)
        told = list(outcomes(records(str(tmp_path / name))).values())
        assert told == ["parse_error" if first == "deep" else "too_large", "read"]


@pytest.mark.parametrize(
    "long",
    ["y" * 300, '"' + "y" * 300 + '"', '"' + "y\n" * 150 + '"', '"' + 'y""\n' * 90 + '"', "y," * 150],
)
def test_a_csv_row_above_the_limit_is_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, long: str
) -> None:
    monkeypatch.setattr(rows, "MAX_BYTES", 100)
    (tmp_path / "t.csv").write_text(f'id,cif\na,"data_a\nx"\nb,{long}\nc,data_c\n')
    found = records(str(tmp_path / "t.csv"))
    assert [(r.id, str(r.refusal), r.payload) for r in found] == [
        ("a", "None", "data_a\nx"),
        ("row 1", "too_large", ""),
        ("c", "None", "data_c"),
    ]


def test_a_json_line_above_the_limit_is_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "MAX_BYTES", 100)
    lines = [json.dumps({"id": i, "cif": "data_" + "y" * n}) for i, n in enumerate((1, 5000, 60, 5000))]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    found = records(str(tmp_path / "t.jsonl"))
    assert [str(r.refusal) for r in found] == ["None", "too_large", "None", "too_large"]


def test_tables_in_other_encodings(tmp_path: Path) -> None:
    (tmp_path / "u.csv").write_bytes("id,cif\na,data_é\n".encode("utf-16"))
    (tmp_path / "l.csv").write_bytes("id,cif\na,data_é\n".encode("latin-1"))
    (tmp_path / "b.jsonl").write_bytes('\ufeff{"id": "a", "cif": "data_é"}\n'.encode())
    for name in ("u.csv", "l.csv", "b.jsonl"):
        assert [(r.id, r.payload) for r in records(str(tmp_path / name))] == [("a", "data_é")]


def test_damaged_pages_of_parquet_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    table = pa.table({"id": [str(i) for i in range(5000)], "cif": [f"data_{i}" for i in range(5000)]})
    pq.write_table(table, tmp_path / "t.parquet", compression="zstd")
    data = bytearray((tmp_path / "t.parquet").read_bytes())
    data[200:2000] = bytes(1800)
    (tmp_path / "t.parquet").write_bytes(data)
    with pytest.raises(SourceError, match=r"t\.parquet: .*fetch it again|t\.parquet: .*cannot be read"):
        records(str(tmp_path / "t.parquet"))


def test_nothing_in_a_file_is_an_instruction(tmp_path: Path) -> None:
    """Names of modules and classes in a document are data, wherever it comes from."""
    mark = tmp_path / "mark"
    call = {"@module": "pathlib", "@class": "Path", "@version": None, "args": [str(mark)]}
    shell = {"@module": "subprocess", "@callable": "getoutput", "@bound": None, "0": f"touch {mark}"}
    site = SITE | {"properties": {"evil": call, "worse": shell}}
    document = {"@module": "os", "@class": "system", "command": f"touch {mark}"} | GOOD | {"sites": [site]}
    (tmp_path / "one.json").write_text(json.dumps(document))
    (tmp_path / "t.jsonl").write_text(json.dumps({"id": "a", "structure": document}))
    literal = f"{{'a': __import__('os').system('touch {mark}')}}"
    (tmp_path / "t.csv").write_text(f'id,structure\na,"{literal}"\n')
    for name, outcome in (("one.json", "read"), ("t.jsonl", "read"), ("t.csv", "parse_error")):
        assert set(outcomes(records(str(tmp_path / name))).values()) == {outcome}
    assert encode(tmp_path / "one.json").canonical and not mark.exists()
