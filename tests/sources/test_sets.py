"""Public sets by name: downloads from a local server that can fail, and files of the same schema."""

import gzip
import hashlib
import json
import re
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pymatgen.core import Structure

from cloud_core.scope import encode
from cloud_core.sources import sets
from cloud_core.sources.catalogue import open_source
from cloud_core.sources.record import Record, SourceError
from cloud_core.sources.sets import RemoteFile, catalogue
from cloud_core.structures.formats import read
from tests.demo_cut import demo_structures, pymatgen_dictionary

QUICK = {"requests_per_second": 1000, "backoff_s": 0.01, "attempts": 3}


@dataclass
class FileServer:
    """One file, with ranges; `cut` ends each answer after so many bytes, `instead` answers something else."""

    content: bytes = b""
    etag: str = '"one"'
    cut: int | None = None
    instead: tuple[int, bytes] | None = None
    url: str = ""
    ranges: list[str] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[FileServer]:
    state = FileServer()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header("etag", state.etag)
            self.end_headers()

        def do_GET(self) -> None:
            if state.instead is not None:
                self.send_response(state.instead[0])
                self.end_headers()
                self.wfile.write(state.instead[1])
                return
            asked = self.headers.get("range", "")
            state.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
            if self.headers.get("if-range", state.etag) != state.etag:
                start = 0
            body = state.content[start:]
            self.send_response(206 if start else 200)
            self.send_header("etag", state.etag)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if state.cut is None else body[: state.cut])

        def log_message(self, *arguments: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{httpd.server_port}/set.json.gz"
    try:
        yield state
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join(5)


@pytest.fixture
def phonons(server: FileServer, shared: Path, runs: Path, monkeypatch: pytest.MonkeyPatch) -> FileServer:
    """The real file of matbench:phonons, behind a local address; the checksum is the catalogue's own."""
    server.content = (shared / "data" / "matbench" / "matbench_phonons_structures.json.gz").read_bytes()
    published = catalogue()["matbench:phonons"]
    remote = published.file.model_copy(update={"url": server.url})
    here = {**catalogue(), "matbench:phonons": published.model_copy(update={"file": remote})}
    monkeypatch.setattr(sets, "catalogue", lambda: here)
    return server


def records(spec: str | dict[str, Any]) -> list[Record]:
    source = open_source(spec)
    return [record for partition in source.partitions() for record in source.read(partition)]


def test_a_download_is_verified_and_made_once(phonons: FileServer, runs: Path) -> None:
    found = records("matbench:phonons")
    assert len(found) == 1265 == catalogue()["matbench:phonons"].rows
    assert found[0].structure_id == "matbench_phonons:mb-phonons-0001" and found[0].licence == "CC-BY-4.0"
    assert found[0].label_units == {"last phdos peak": "cm^-1"}
    assert len(records("matbench:phonons")) == 1265 and phonons.ranges == [""]
    cached = next(runs.rglob("*.json.gz"))
    cached.write_bytes(cached.read_bytes()[:-1])
    with pytest.raises(SourceError, match="not of the size that was downloaded; remove it"):
        records("matbench:phonons")


def test_a_broken_download_is_continued(phonons: FileServer, runs: Path) -> None:
    phonons.cut = 200_000
    spec = {"kind": "set", "set": "matbench:phonons", "politeness": QUICK | {"attempts": 2}}
    with pytest.raises(SourceError, match="try again later"):
        records(spec)
    assert next(runs.rglob("*.part")).stat().st_size == 400_000
    phonons.cut = None
    assert len(records(spec)) == 1265
    assert phonons.ranges == ["", "bytes=200000-", "bytes=400000-"]
    assert not list(runs.rglob("*.part"))


def test_a_file_that_changed_meanwhile_comes_whole(phonons: FileServer) -> None:
    phonons.cut = 100_000
    spec = {"kind": "set", "set": "matbench:phonons", "politeness": QUICK | {"attempts": 1}}
    with pytest.raises(SourceError, match="try again later"):
        records(spec)
    phonons.cut, phonons.etag = None, '"two"'
    assert len(records(spec)) == 1265


def test_a_wrong_checksum_is_an_error_and_nothing_stays(phonons: FileServer, runs: Path) -> None:
    right, phonons.content = phonons.content, gzip.compress(b'{"index": [], "columns": [], "data": []}')
    with pytest.raises(SourceError, match=r"sha256 is .*, the catalogue says 4db551f2"):
        records("matbench:phonons")
    assert not list(runs.rglob("*.gz"))
    phonons.content = right
    assert len(records("matbench:phonons")) == 1265


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((200, b"<!DOCTYPE html><html>blocked</html>"), "an HTML page was found where data was expected"),
        ((404, b"gone"), "HTTP 404; check the address"),
        ((503, b"busy"), "HTTP 503, 3 times; try again later"),
    ],
)
def test_other_answers_are_clear_errors(phonons: FileServer, answer: tuple[int, bytes], message: str) -> None:
    phonons.instead = answer
    with pytest.raises(SourceError, match=message):
        records({"kind": "set", "set": "matbench:phonons", "politeness": QUICK})


def test_a_set_that_is_renewed_under_one_address(
    server: FileServer, runs: Path, monkeypatch: pytest.MonkeyPatch, shared: Path
) -> None:
    server.content = (shared / "data" / "cif_edge" / "curated_cofs.tar.xz").read_bytes()
    published = catalogue()["cod"]
    remote = RemoteFile(url=server.url, name="cod.txz", moves=True)
    monkeypatch.setattr(sets, "catalogue", lambda: {"cod": published.model_copy(update={"file": remote})})
    found = records("cod")
    assert len(found) == 984 and "05000N2" in {r.id for r in found} and found[0].licence == "CC0-1.0"
    before = next(iter(open_source("cod").partitions())).cursor
    server.etag = '"renewed"'
    assert next(iter(open_source("cod").partitions())).cursor != before


def test_wbm_from_files_of_its_schema(project: Path, tmp_path: Path) -> None:
    """Matbench Discovery's own two files are not to be had here; these are made of the demo's."""
    rows = demo_structures(200)
    with gzip.open(tmp_path / "structures.jsonl.gz", "wt") as file:
        for row in rows:
            line = {"material_id": row["material_id"], "formula_from_cse": row["formula"]}
            file.write(json.dumps(line | {"initial_structure": pymatgen_dictionary(row)}) + "\n")
    labels = pd.read_csv(project / "flows" / "demo_data" / "candidate_labels.csv")
    labels.to_csv(tmp_path / "summary.csv.gz", index=False)
    spec = {"kind": "set", "set": "wbm", "file": str(tmp_path / "structures.jsonl.gz")}
    found = records(spec | {"labels_file": str(tmp_path / "summary.csv.gz")})
    assert [r.structure_id for r in found] == [f"wbm:{row['material_id']}" for row in rows]
    known = labels.set_index("material_id")["e_form_per_atom_mp2020_corrected"]
    assert any(r.labels for r in found)
    for record, row in zip(found, rows, strict=True):
        assert read(record.payload, record.format).fractions.ravel().tolist() == row["abc"]
        assert record.labels.get("e_form_per_atom") == known.get(record.id)
    assert not any(r.labels for r in records(spec))


def test_jarvis_and_alexandria_from_files_of_their_schema(tmp_path: Path) -> None:
    rows = demo_structures(20)
    jarvis = [
        {
            "jid": f"JVASP-{i}",
            "atoms": {
                "lattice_mat": pymatgen_dictionary(row)["lattice"]["matrix"],
                "coords": [row["abc"][3 * k : 3 * k + 3] for k in range(row["n_sites"])],
                "elements": row["species"].split(),
                "cartesian": False,
            },
            "formation_energy_peratom": -0.1 * i,
            "optb88vdw_bandgap": 1.0,
            "ehull": "na",
        }
        for i, row in enumerate(rows)
    ]
    (tmp_path / "j.json").write_text(json.dumps(jarvis))
    found = records({"kind": "set", "set": "jarvis:dft_3d", "file": str(tmp_path / "j.json")})
    assert [r.id for r in found] == [f"JVASP-{i}" for i in range(20)] and not any(r.refusal for r in found)
    assert set(found[3].labels) == {"formation_energy_peratom", "optb88vdw_bandgap"}

    entries = [
        {
            "@module": "pymatgen.entries.computed_entries",
            "@class": "ComputedStructureEntry",
            "energy": -1.0,
            "structure": pymatgen_dictionary(row),
            "data": {"mat_id": f"agm{i:09d}", "e_above_hull": 0.01 * i, "e_form": -0.2},
        }
        for i, row in enumerate(rows)
    ]
    (tmp_path / "a.json").write_text(json.dumps({"entries": entries}))
    found = records({"kind": "set", "set": "alexandria", "file": str(tmp_path / "a.json")})
    assert found[7].id == "agm000000007" and found[7].labels == {"e_above_hull": 0.07, "e_form": -0.2}
    assert not any(r.refusal for r in found)


def test_lemat_bulk_from_shards_of_its_schema(tmp_path: Path) -> None:
    """Cartesian positions, species as JSON text; a folder of shards in place of the address."""
    rows = demo_structures(20)
    table = []
    for number, row in enumerate(rows):
        structure = Structure.from_dict(pymatgen_dictionary(row))
        species = [{"name": e, "chemical_symbols": [e], "concentration": [1.0]} for e in structure.symbol_set]
        table.append(
            {
                "immutable_id": f"agm{number:09d}",
                "lattice_vectors": structure.lattice.matrix.tolist(),
                "cartesian_site_positions": structure.cart_coords.tolist(),
                "species": json.dumps(species),
                "species_at_sites": [site.specie.symbol for site in structure],
                "nsites": len(structure),
                "energy": -1.5 * number,
                "functional": "pbe",
                "cross_compatibility": True,
            }
        )
    for shard in (0, 1):
        pd.DataFrame(table[shard::2]).to_parquet(tmp_path / f"train-{shard:05d}-of-00002.parquet")
    found = {r.id: r for r in records({"kind": "set", "set": "lemat_bulk", "file": str(tmp_path)})}
    assert len(found) == 20 and not any(r.refusal for r in found.values())
    for number, row in enumerate(rows):
        record = found[f"agm{number:09d}"]
        expected = encode(Structure.from_dict(pymatgen_dictionary(row))).canonical
        assert encode(read(record.payload, record.format)).canonical == expected
        assert record.labels == {"energy": -1.5 * number} and record.licence == "CC-BY-4.0"


def test_mp2022_matpes_and_gnome_from_files_of_their_schema(project: Path, tmp_path: Path) -> None:
    rows = demo_structures(8)
    names = [f"mp-{n}" for n in range(8)]
    entries = [
        {"@class": "ComputedStructureEntry", "energy": -1.0, "structure": pymatgen_dictionary(row)}
        for row in rows
    ]
    columns = {"material_id": dict(enumerate(names)), "entry": dict(enumerate(entries))}
    with gzip.open(tmp_path / "entries.json.gz", "wt") as file:
        json.dump(columns, file)
    energies = {"material_id": names, "formation_energy_per_atom": [-0.1] * 8, "energy_above_hull": [0.0] * 8}
    pd.DataFrame(energies).to_csv(tmp_path / "energies.csv.gz", index=False)
    spec = {"kind": "set", "set": "mp2022", "file": str(tmp_path / "entries.json.gz")}
    found = records(spec | {"labels_file": str(tmp_path / "energies.csv.gz")})
    assert [r.id for r in found] == names and not any(r.refusal for r in found)
    assert found[0].labels == {"formation_energy_per_atom": -0.1, "energy_above_hull": 0.0}
    assert read(found[3].payload, found[3].format).fractions.ravel().tolist() == rows[3]["abc"]

    document = [
        {"matpes_id": f"matpes-{n}", "structure": pymatgen_dictionary(row), "formation_energy_per_atom": None,
         "cohesive_energy_per_atom": -3.0, "bandgap": 0.5}
        for n, row in enumerate(rows)
    ]  # fmt: skip
    (tmp_path / "matpes.json").write_text(json.dumps(document))
    found = records({"kind": "set", "set": "matpes:pbe", "file": str(tmp_path / "matpes.json")})
    assert found[2].id == "matpes-2" and found[2].labels == {"cohesive_energy_per_atom": -3.0, "bandgap": 0.5}
    with zipfile.ZipFile(tmp_path / "by_id.zip", "w") as archive:
        archive.write(project / "flows/demo_data/held_out.cif", "by_id/000006a8c4.CIF")
    (record,) = records({"kind": "set", "set": "gnome", "file": str(tmp_path / "by_id.zip")})
    assert (record.id, record.refusal) == ("000006a8c4", None)


def test_a_set_that_is_read_in_place_says_so_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SourceError, match=r"hf:.*name their folder"):
        records("lemat_bulk")


def test_the_catalogue_is_whole() -> None:
    entries = catalogue()
    assert {"matbench:phonons", "wbm", "jarvis:dft_3d", "alexandria", "cod"} <= set(entries)
    for name, entry in entries.items():
        assert entry.licence and entry.reference.startswith("https://"), name
        assert (entry.table is None) != (entry.files is None), name
        assert (entry.file is None) == bool(entry.address), name
        for file in filter(None, (entry.file, entry.labels_file)):
            for digits, checksum in ((64, file.sha256), (32, file.md5)):
                assert checksum is None or re.fullmatch(rf"[0-9a-f]{{{digits}}}", checksum), name
        if not entry.address:
            assert open_source({"kind": "set", "set": name}).name == name.replace(":", "_")
    unchecked = {name for name, e in entries.items() if e.file and not (e.file.sha256 or e.file.md5)}
    # whose publishers give no checksum
    assert unchecked == {"jarvis:dft_2d", "alexandria", "cod", "gnome", "matpes:pbe", "matpes:r2scan"}
    assert sum("matbench:" in name for name in entries) == 9  # the other four tasks have compositions only
    assert len(list(open_source("alexandria").partitions())) == 58


def test_checksum_of_the_shared_file_is_the_published_one(shared: Path) -> None:
    data = (shared / "data" / "matbench" / "matbench_phonons_structures.json.gz").read_bytes()
    assert hashlib.sha256(data).hexdigest() == catalogue()["matbench:phonons"].file.sha256


@pytest.mark.parametrize("name", ["matbench:expt_gap", "jarvis:nothing", "wbm:initial"])
def test_an_unknown_set_lists_its_neighbours(name: str) -> None:
    with pytest.raises(
        SourceError, match=rf"no public set named '{name}'; there are: {name.partition(':')[0]}"
    ):
        open_source(name)
