"""Folders, globs, zip and tar archives, and the structures in one file."""

import bz2
import gzip
import io
import lzma
import random
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from cloud_core.sources.catalogue import open_source
from cloud_core.sources.record import Record, SourceError
from cloud_core.structures.errors import Reason, StructureError
from cloud_core.structures.formats import read as read_structure
from tests.servers import S3Server

CIF = """data_{name}
_cell_length_a {a}
_cell_length_b {a}
_cell_length_c {a}
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
_atom_site_type_symbol
_atom_site_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Na Na1 0 0 0
Cl Cl1 0.5 0.5 0.5
"""


def cif(a: float, name: str = "NaCl") -> str:
    return CIF.format(a=a, name=name)


def records(spec: str | dict[str, Any]) -> list[Record]:
    source = open_source(spec)
    return [record for partition in source.partitions() for record in source.read(partition)]


def by_id(spec: str | dict[str, Any]) -> dict[str, Record]:
    found = records(spec)
    assert len({record.id for record in found}) == len(found)
    return {record.id: record for record in found}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "crystals"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "a.cif").write_text(cif(4.0))
    (folder / "deep" / "b.cif.gz").write_bytes(gzip.compress(cif(5.0).encode()))
    (folder / "deep" / "er" / "c.cif.bz2").write_bytes(bz2.compress(cif(6.0).encode()))
    (folder / "POSCAR_d.xz").write_bytes(
        lzma.compress(b"NaCl\n1.0\n7 0 0\n0 7 0\n0 0 7\nNa Cl\n1 1\ndirect\n0 0 0\n0.5 0.5 0.5\n")
    )
    (folder / "deep" / "Li0.5CoO2.v1.cif.zst").write_bytes(zstandard.compress(cif(8.0).encode()))
    (folder / "README.md").write_text("not a structure")
    (folder / ".hidden.cif").write_text("junk")
    return folder


IDS = {
    "a.cif": 4.0,
    "deep/b.cif.gz": 5.0,
    "deep/er/c.cif.bz2": 6.0,
    "POSCAR_d.xz": 7.0,
    "deep/Li0.5CoO2.v1.cif.zst": 8.0,
}


def lengths(found: dict[str, Record]) -> dict[str, float]:
    return {i: float(read_structure(r.payload, r.format).lattice[0, 0]) for i, r in found.items()}


def test_a_folder_with_compressed_files(folder: Path) -> None:
    found = by_id(str(folder))
    assert lengths(found) == IDS
    assert {r.structure_id for r in found.values()} == {f"crystals:{i}" for i in IDS}
    assert all(r.modified_at is not None and r.licence == "unspecified" for r in found.values())
    assert set(by_id(f"{folder}/*.cif")) == {"a.cif"}
    assert set(by_id(f"{folder}/**/*.cif*")) == {i for i in IDS if ".cif" in i}
    assert set(by_id(f"{folder}/a.cif")) == {"a.cif"}
    stems = {"a", "b", "c", "POSCAR_d", "Li0.5CoO2.v1"}
    assert set(by_id({"kind": "files", "path": str(folder), "id": "stem"})) == stems


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz", "tar.bz2"])
def test_archives_hold_the_same_records_as_the_folder(folder: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"crystals.{kind}"
    names = [*IDS, "README.md"]
    random.Random(1).shuffle(names)
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in names:
                archive.write(folder / name, name)
    else:
        with tarfile.open(path, f"w:{kind.partition('.')[2]}") as tar:
            for name in names:
                tar.add(folder / name, name)
    packed, loose = by_id(str(path)), by_id(str(folder))
    assert {i: r.content_hash for i, r in packed.items()} == {i: r.content_hash for i, r in loose.items()}
    assert {r.source for r in packed.values()} == {"crystals"}
    together = tmp_path / "together"
    together.mkdir()
    path.rename(together / path.name)
    assert set(by_id(str(together))) == {f"{path.name}/{i}" for i in IDS}


def test_a_new_file_moves_one_partition(tmp_path: Path) -> None:
    for i in range(200):
        (tmp_path / f"{i}.cif").write_text(cif(4 + i / 100))
    spec = {"kind": "files", "path": str(tmp_path), "files_per_partition": 30}
    before = {p.key: p.cursor for p in open_source(spec).partitions()}
    assert before == {p.key: p.cursor for p in open_source(spec).partitions()} and len(before) == 8
    (tmp_path / "new.cif").write_text(cif(9.0))
    after = {p.key: p.cursor for p in open_source(spec).partitions()}
    assert sum(before[key] != after[key] for key in before) == 1
    (tmp_path / "7.cif").write_text(cif(9.5))
    changed = {p.key: p.cursor for p in open_source(spec).partitions()}
    assert sum(after[key] != changed[key] for key in after) == 1
    relabelled = {p.key: p.cursor for p in open_source(spec | {"licence": "CC0-1.0"}).partitions()}
    assert all(relabelled[key] != changed[key] for key in changed)


def test_blocks_of_a_cif_are_records_of_their_own(tmp_path: Path) -> None:
    text = (
        "# made by hand\n"
        + cif(4.0, "one")
        + "_note\n;\ndata_no_block here\n;\n"
        + cif(5.0, "two")
        + cif(6.0, "two")
    )
    for ending in ("\n", "\r\n", "\r"):
        (tmp_path / "many.cif").write_bytes(text.replace("\n", ending).encode())
        found = by_id(str(tmp_path / "many.cif"))
        assert lengths(found) == {"many.cif#one": 4.0, "many.cif#two": 5.0, "many.cif#two~2": 6.0}
    (tmp_path / "many.cif").write_text(cif(4.0, "one") + "data_empty\n" + cif(6.0, "three"))
    # a block without atoms is no structure
    assert set(by_id(str(tmp_path / "many.cif"))) == {f"many.cif#{n}" for n in ("one", "three")}


def test_extended_xyz(tmp_path: Path) -> None:
    lattice = np.array([[4.0, 0.1, 0.0], [0.0, 5.0, 0.2], [0.3, 0.0, 6.0]])
    fractions = np.array([[0.0, 0.0, 0.0], [0.5, 0.25, 0.75]])
    frames = []
    for scale in (1.0, 1.1):
        numbers = " ".join(str(x) for x in (scale * lattice).ravel())
        atoms = [
            f"{symbol} 0.1 {' '.join(str(float(x)) for x in row)} 7"
            for symbol, row in zip(("Na", "Cl"), fractions @ (scale * lattice), strict=True)
        ]
        properties = "species:S:1:magmom:R:1:pos:R:3:tag:I:1"
        frames.append(
            f'2\nLattice="{numbers}" Properties={properties} pbc="T T T" energy=-1.5\n' + "\n".join(atoms)
        )
    (tmp_path / "run.extxyz").write_text("\n".join(frames) + "\n")
    found = by_id(str(tmp_path / "run.extxyz"))
    assert list(found) == ["run.extxyz#0", "run.extxyz#1"]
    for scale, record in zip((1.0, 1.1), found.values(), strict=True):
        assert record.format == "extxyz"
        cell = read_structure(record.payload, record.format)
        assert cell.species == ("Na", "Cl")
        np.testing.assert_allclose(cell.lattice, scale * lattice, rtol=1e-15)
        np.testing.assert_allclose(cell.fractions, fractions, atol=1e-12)
    (tmp_path / "molecule.xyz").write_text("1\nno cell\nH 0 0 0\n")
    (molecule,) = records(str(tmp_path / "molecule.xyz"))
    with pytest.raises(StructureError, match="no Lattice"):
        read_structure(molecule.payload, molecule.format)


def test_pymatgen_json(tmp_path: Path) -> None:
    from pymatgen.core import Lattice, Structure

    structures = [Structure(Lattice.cubic(a), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]) for a in (4.0, 4.5)]
    (tmp_path / "one.json").write_text(structures[0].to_json())
    import json

    (tmp_path / "two.json").write_text(json.dumps([s.as_dict() for s in structures]))
    assert lengths(by_id(str(tmp_path / "one.json"))) == {"one.json": 4.0}
    assert lengths(by_id(str(tmp_path))) == {"one.json": 4.0, "two.json#0": 4.0, "two.json#1": 4.5}


def test_no_path_leaves_the_archive_and_nothing_is_unpacked(tmp_path: Path) -> None:
    names = ["../../escaped.cif", "/absolute.cif", "fine.cif", "C:\\windows.cif"]
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        for name in names:
            archive.writestr(name, cif(4.0))
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(cif(4.0))
            tar.addfile(member, io.BytesIO(cif(4.0).encode()))
        link = tarfile.TarInfo("link.cif")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    before = set(tmp_path.rglob("*"))
    for kind in ("zip", "tar"):
        found = by_id(str(tmp_path / f"evil.{kind}"))
        refused = {i: str(r.refusal) for i, r in found.items() if r.refusal}
        assert set(found) - set(refused) == {"fine.cif"}
        links = {"link.cif": "unreadable"} if kind == "tar" else {}
        assert refused == {name: "unsafe_path" for name in names if name != "fine.cif"} | links
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.xz", "zip"])
@pytest.mark.parametrize("kept", [0.5, 0.85])
def test_a_truncated_archive_is_an_error_after_its_whole_members(
    tmp_path: Path, kind: str, kept: float
) -> None:
    path = tmp_path / f"cut.{kind}"
    rng = random.Random(0)
    texts = {f"{i}.cif": cif(4 + rng.random()) + f"# {rng.random()}\n" * 40 for i in range(40)}
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in texts.items():
                archive.writestr(name, text)
    else:
        with tarfile.open(path, f"w:{kind.partition('.')[2]}") as tar:
            for name, text in texts.items():
                member = tarfile.TarInfo(name)
                member.size = len(text)
                tar.addfile(member, io.BytesIO(text.encode()))
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    found = []
    with pytest.raises(SourceError, match=rf"cut\.{kind}: truncated.*fetch it again"):
        source = open_source(str(path))
        for partition in source.partitions():
            for record in source.read(partition):
                found.append(record)
    assert all(record.payload == texts[record.id] for record in found)
    assert len(found) < 40 and bool(found) == (kind != "zip")  # whose list of files is at its end


def test_one_bad_file_stops_no_other(folder: Path) -> None:
    (folder / "deep" / "b.cif.gz").write_bytes(gzip.compress(cif(5.0).encode())[:40])
    (folder / "page.cif").write_text("<!DOCTYPE html><html>404</html>")
    (folder / "huge.cif").write_text(cif(4.0) + "#" * 5000)
    found = by_id({"kind": "files", "path": str(folder), "max_bytes": 4000})
    problems = {i: (str(r.refusal), r.message) for i, r in found.items() if r.refusal}
    assert {i: p[0] for i, p in problems.items()} == {
        "deep/b.cif.gz": "unreadable",
        "page.cif": "unreadable",
        "huge.cif": "too_large",
    }
    assert "truncated or damaged" in problems["deep/b.cif.gz"][1] and "HTML" in problems["page.cif"][1]
    assert len(found) - len(problems) == 4


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere/", "no such file or folder"),
        ("", "an empty source"),
        ({"kind": "sql"}, "unknown kind of source 'sql'; there are: files, table"),
        ({"kind": "files"}, "'path' is missing"),
        ({"kind": "files", "path": "x", "pth": "y"}, r"'pth' is not a key of FilesSpec \(keys: name, "),
        ({"kind": "files", "path": "x", "name": "a:b"}, "a source's name has letters"),
        ("gopher://x", "not a path or URI"),
    ],
)
def test_wrong_sources_are_clear_errors(spec: Any, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        records(spec)


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(SourceError, match="nothing here looks like a structure"):
        records(str(tmp_path))


@pytest.mark.integration
def test_on_s3(s3: S3Server, folder: Path) -> None:
    import fsspec

    fs = fsspec.filesystem("s3", endpoint_url=s3.endpoint)
    fs.put(f"{folder}/", f"{s3.bucket}/crystals/", recursive=True)
    local, remote = by_id(str(folder)), by_id(f"s3://{s3.bucket}/crystals")
    assert {i: r.content_hash for i, r in remote.items()} == {i: r.content_hash for i, r in local.items()}
    assert {r.source for r in remote.values()} == {"crystals"}
    first = {p.key: p.cursor for p in open_source(f"s3://{s3.bucket}/crystals").partitions()}
    fs.pipe_file(f"{s3.bucket}/crystals/a.cif", cif(4.2).encode())
    fs.invalidate_cache()
    assert {p.key: p.cursor for p in open_source(f"s3://{s3.bucket}/crystals").partitions()} != first


def test_every_edge_case_of_other_parsers_is_read(shared: Path) -> None:
    import re

    found = by_id(str(shared / "data" / "cif_edge" / "cif_edge_cases.tar.xz"))
    with tarfile.open(shared / "data" / "cif_edge" / "cif_edge_cases.tar.xz") as archive:
        members = {m.name: archive.extractfile(m).read() for m in archive if m.isfile()}  # type: ignore[union-attr]
    assert {i.partition("#")[0] for i in found} == {n for n in members if n.endswith((".cif", ".mcif"))} | {
        i.partition("#")[0] for i in found
    }
    for name, data in members.items():
        if not name.lower().endswith(".cif"):
            continue
        parts = [r for i, r in found.items() if i.partition("#")[0] == name]
        starts = len(re.findall(rb"(?:^|[\r\n])[ \t]*data_", data, re.IGNORECASE))
        assert 1 <= len(parts) <= max(1, starts), name
        assert all(r.refusal is None for r in parts), name


def test_a_text_that_is_a_path_opens_no_file(tmp_path: Path) -> None:
    (tmp_path / "secret.cif").write_text(cif(4.0))
    (tmp_path / "t.csv").write_text(f"id,cif\na,{tmp_path / 'secret.cif'}\n")
    (tmp_path / "sly").mkdir()
    (tmp_path / "sly" / "b.cif").write_text(str(tmp_path / "secret.cif"))
    (tmp_path / "sly" / "empty.cif").write_text("")
    (row,) = records(str(tmp_path / "t.csv"))
    assert row.refusal is Reason.UNKNOWN_FORMAT and row.payload == ""
    for record in records(str(tmp_path / "sly")):
        with pytest.raises(StructureError) as error:
            read_structure(record.payload, record.format)
        assert error.value.reason in (Reason.PARSE_ERROR, Reason.NO_ATOMS)


def test_files_with_one_id_are_read_in_order_by_one_reader(tmp_path: Path) -> None:
    """Which of them keeps the id must not hang on which partition is read first."""
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for number in range(40):
            (tmp_path / folder / f"{number}.cif").write_text(f"data_{folder}")
    spec = {"kind": "files", "path": str(tmp_path), "id": "stem", "files_per_partition": 10}
    source = open_source(spec)
    partitions = list(source.partitions())
    assert len(partitions) == 8 and sum(p.n_rows or 0 for p in partitions) == 80
    seen: dict[str, list[tuple[str, str]]] = {}
    for partition in partitions:
        for record in source.read(partition):
            seen.setdefault(record.id, []).append((partition.key, str(record.payload)))
    assert len(seen) == 40
    for (key, first), (same, second) in seen.values():
        assert key == same and "one" in first and "two" in second
