"""One reader: whatever a structure comes as, in any encoding, the same cell comes out, or one true reason."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from cloud_core.scope import Scope, encode, encode_all
from cloud_core.structures import Cell, Reason, StructureError, read
from cloud_core.structures.formats import format_of_name, format_of_text, read_all, split
from cloud_core.structures.text import MAX_BYTES
from tests.structures.documents import ase_json, extxyz, jarvis, optimade, rutile


def encodings() -> dict[str, Callable[[str], bytes]]:
    return {
        "plain": str.encode,
        "mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
        "cr": lambda text: text.replace("\n", "\r").encode(),
        "crlf": lambda text: text.replace("\n", "\r\n").encode(),
        "utf-16": lambda text: text.encode("utf-16"),
        "utf-16-be": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
        "utf-16 without a mark": lambda text: text.encode("utf-16-le"),
        "gz": lambda text: gzip.compress(text.encode()),
        "bz2": lambda text: bz2.compress(text.encode()),
        "xz": lambda text: lzma.compress(text.encode()),
        "zst": lambda text: zstandard.compress(text.encode()),
        "gz of utf-16": lambda text: gzip.compress(text.encode("utf-16")),
        "two gz": lambda text: gzip.compress(text[:50].encode()) + gzip.compress(text[50:].encode()),
        "two zst": lambda text: (
            zstandard.compress(text[:50].encode()) + zstandard.compress(text[50:].encode())
        ),
    }


def texts() -> dict[str, str]:
    """A crystal in every format that is text, by a file's name."""
    structure = rutile()
    document = structure.as_dict()
    return {
        "a.cif": structure.to(fmt="cif"),
        "POSCAR": structure.to(fmt="poscar"),
        "a.vasp": structure.to(fmt="poscar"),
        "a.extxyz": extxyz(structure),
        "a.json": json.dumps(document),
        "list.json": json.dumps([document]),
        "entry.json": json.dumps({"@class": "ComputedStructureEntry", "energy": -1.0, "structure": document}),
        "entries.json": json.dumps({"entries": [{"structure": document, "data": {"e": 1}}]}),
        "ase.json": ase_json(structure),
        "jarvis.json": json.dumps({"jid": "JVASP-1", "atoms": jarvis(structure)}),
        "optimade.json": json.dumps(optimade(structure)),
        "attributes.json": json.dumps(optimade(structure)["attributes"]),
        "answer.json": json.dumps({"data": [optimade(structure)], "meta": {"data_returned": 1}}),
        "one_answer.json": json.dumps({"data": optimade(structure), "meta": {}}),
        "a.jsonl": json.dumps({"x-optimade": {"meta": {"api_version": "1.2.0"}}})
        + "\n"
        + json.dumps({"type": "info", "id": "structures"})
        + "\n"
        + json.dumps(optimade(structure))
        + "\n",
    }


@pytest.mark.parametrize("name", list(texts()))
def test_every_format_gives_the_same_cell_by_every_way_in(name: str, tmp_path: Path) -> None:
    text = texts()[name]
    expected = rutile()
    path = tmp_path / name
    for encoding, encoded in encodings().items():
        path.write_bytes(encoded(text))
        payloads = [path, encoded(text)] + (
            [text, "\ufeff" + text, text.replace("\n", "\r\n")] * (encoding == "plain")
        )
        for payload in payloads:
            cell = read(payload)
            assert cell.occupancies is None and cell.notes == ()
            assert cell.species == ("Ti", "Ti", "O", "O", "O", "O")
            difference = cell.fractions - expected.frac_coords
            assert np.abs(difference - np.round(difference)).max() < 1e-7
            metric = cell.lattice @ cell.lattice.T
            assert np.allclose(metric, expected.lattice.matrix @ expected.lattice.matrix.T, atol=1e-6)
    assert encode(text).canonical == encode(expected).canonical
    listed = name in ("list.json", "entries.json", "answer.json", "a.jsonl")
    assert [name for name, _ in encode_all(path)] == ["#0" if listed else ""]


def test_objects_give_the_same_cell() -> None:
    from ase.atoms import Atoms

    expected = rutile()
    atoms = Atoms(
        [site.specie.symbol for site in expected],
        positions=expected.cart_coords,
        cell=expected.lattice.matrix,
        pbc=True,
    )
    document = expected.as_dict()
    payloads = [
        expected, atoms, atoms.todict(), document, {"structure": document}, {"structure": expected},
        [document], optimade(expected), jarvis(expected), read(expected), {"atoms": jarvis(expected)},
        {"atoms": atoms},
    ]  # fmt: skip
    for payload in payloads:
        assert encode(payload).canonical == encode(expected).canonical
        assert [name for name, _ in encode_all(payload)] == ["#0" if isinstance(payload, list) else ""]
    cell = read(document)
    assert cell.fractions.tobytes() == np.array(expected.frac_coords).tobytes()
    assert cell.lattice.tobytes() == expected.lattice.matrix.tobytes()


@pytest.mark.parametrize(
    "name", ["x.cif", "no/such/file.cif", "/etc/passwd", "C:\\a.cif", "\0.cif", "POSCAR"]
)
@pytest.mark.parametrize("way", [read, encode, lambda text: list(encode_all(text))])
def test_a_text_is_content_and_never_a_path(
    name: str, way: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for existing in ("x.cif", "POSCAR"):
        Path(existing).write_text(texts()["a.cif"])
    with pytest.raises(StructureError) as caught:
        way(name)
    assert caught.value.reason is Reason.UNKNOWN_FORMAT
    assert f"a file is given as Path({name!r})" in str(caught.value)


def test_with_a_format_a_text_is_content_too(tmp_path: Path) -> None:
    (tmp_path / "a.cif").write_text(texts()["a.cif"])
    for format in ("cif", "poscar", "extxyz", "json", "ase"):
        assert reason_of(str(tmp_path / "a.cif"), format) is Reason.PARSE_ERROR


def reason_of(payload: Any, format: str | None = None) -> Reason:
    with pytest.raises(StructureError) as caught:
        read(payload, format)
    assert caught.value.reason.remedy in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize(
    ("payload", "format", "reason"),
    [
        (Path("no/such/file.cif"), None, Reason.FILE_NOT_FOUND),
        (Path("\0.cif"), None, Reason.FILE_NOT_FOUND),
        (Path(), None, Reason.FILE_NOT_FOUND),
        ("{not json", None, Reason.PARSE_ERROR),
        ("{}", None, Reason.PARSE_ERROR),
        ("[]", None, Reason.NO_ATOMS),
        ([], None, Reason.NO_ATOMS),
        ("comment\n1.0\nnonsense\n", None, Reason.UNKNOWN_FORMAT),
        ("", None, Reason.UNKNOWN_FORMAT),
        ("\n\n\n", None, Reason.UNKNOWN_FORMAT),
        ("", "cif", Reason.PARSE_ERROR),
        ("data_x\n_cell_length_a 3\n", None, Reason.NO_ATOMS),
        (3.14, None, Reason.UNKNOWN_FORMAT),
        (None, None, Reason.UNKNOWN_FORMAT),
        ("data_x\n", "xyz", Reason.UNKNOWN_FORMAT),
        ({"sites": []}, None, Reason.NO_ATOMS),
        (b"\x1f\x8b\x08damaged", None, Reason.UNREADABLE),
        (gzip.compress(b"data_x" * 1000, mtime=0)[:40], "cif", Reason.UNREADABLE),
        (zstandard.compress(b"data_x" * 1000)[:-4], "cif", Reason.UNREADABLE),
        (bz2.compress(b"data_x" * 1000)[:-4], "cif", Reason.UNREADABLE),
        (lzma.compress(b"data_x" * 1000)[:-4], "cif", Reason.UNREADABLE),
        ("x" * (MAX_BYTES + 1), None, Reason.TOO_LARGE),
        ("x" * (MAX_BYTES + 1), "json", Reason.TOO_LARGE),
        (b"x" * (MAX_BYTES + 1), "cif", Reason.TOO_LARGE),
    ],
)
def test_bad_input_has_a_reason(payload: Any, format: str | None, reason: Reason) -> None:
    assert reason_of(payload, format) is reason


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", "zst"])
def test_a_bomb_is_refused_unread(suffix: str, tmp_path: Path) -> None:
    import tracemalloc

    chunk = b"#" * 1_000_000
    path = tmp_path / f"bomb.cif.{suffix}"
    if suffix == "zst":
        compressor: Any = zstandard.ZstdCompressor().compressobj()
    elif suffix == "gz":
        import zlib

        compressor = zlib.compressobj(wbits=31)
    else:
        compressor = {"bz2": bz2.BZ2Compressor, "xz": lzma.LZMACompressor}[suffix]()
    with path.open("wb") as file:
        for _ in range(300):
            file.write(compressor.compress(chunk))
        file.write(compressor.flush())
    assert path.stat().st_size < 1_000_000
    tracemalloc.start()
    assert reason_of(path) is Reason.TOO_LARGE
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * MAX_BYTES


def test_a_comment_may_begin_as_a_compressed_file_does() -> None:
    assert len(read("BZh9 made by hand" + texts()["POSCAR"][texts()["POSCAR"].index("\n") :])) == 6


def test_several_structures_are_told_apart_or_refused(tmp_path: Path) -> None:
    document = rutile().as_dict()
    files = {
        "two.cif": (texts()["a.cif"] + texts()["a.cif"].replace("data_", "DATA_x"), ["#TiO2", "#xTiO2"]),
        "same.cif": (texts()["a.cif"] * 2, ["#TiO2", "#TiO2~2"]),
        "two.extxyz": (texts()["a.extxyz"] * 2, ["#0", "#1"]),
        "two.json": (json.dumps([document] * 2), ["#0", "#1"]),
        "entries.json": (json.dumps({"entries": [{"structure": document}] * 2}), ["#0", "#1"]),
        "answer.json": (json.dumps({"data": [optimade(rutile())] * 2, "meta": {}}), ["#0", "#1"]),
        "two.jsonl": ((json.dumps(document) + "\n") * 2, ["#0", "#1"]),
        "ase.json": (ase_json(rutile(), rutile()), ["#0", "#1"]),
    }
    for name, (text, suffixes) in files.items():
        path = tmp_path / name
        path.write_text(text)
        for payload in (path, text):
            found = list(encode_all(payload))
            assert [key for key, _ in found] == suffixes
            assert {getattr(scope, "space_group", scope) for _, scope in found} == {136}
            with pytest.raises(StructureError, match=r"encode_all\(") as caught:
                encode(payload)
            assert caught.value.reason is Reason.SEVERAL_STRUCTURES


def test_the_two_blocks_of_one_name(shared: Path) -> None:
    path = shared / "cases" / "structures" / "x_twoblocks.cif"
    found = dict(encode_all(path))
    assert {name: getattr(scope, "space_group", scope) for name, scope in found.items()} == {
        "#a": 225,
        "#a~2": 221,
    }
    assert reason_of(path) is Reason.SEVERAL_STRUCTURES


def test_blocks_without_atoms_and_words_that_begin_none(tmp_path: Path) -> None:
    whole = texts()["a.cif"]
    text = (
        "# data_comment is none\ndata_global\n_publ_text\n;\ndata_none here\n;\n_note 'data_no'\n"
        + whole
        + "data_refln\nloop_\n_refln_index_h\n1 2 3\n"
    )
    assert [name for name, _ in read_all(text)] == [""]
    assert encode(text).canonical == encode(whole).canonical
    two = text + whole.replace("data_TiO2", "DaTa_other")
    assert [name for name, _ in read_all(two)] == ["#TiO2", "#other"]


def test_one_bad_part_costs_itself() -> None:
    document = json.dumps(rutile().as_dict())
    deep = "[" * 200_000 + "]" * 200_000
    for text in (
        f"[{document}, {deep}, {document}]",
        f"[{document}, {{\"sites\": 1}}, {document}]",
        f'[{document}, "data_x", {document}]',
        f"{document}\n{{\"a\": {deep}}}\n{document}\n",
        f"{document}\n{{\"a\": \n{document}\n",
        f'{{"entries": [{document}, {deep}, {document}], "meta": 1}}',
        texts()["a.extxyz"] + "2\nnone\nCs 0 0 0\nCl 2 2 2\n" + texts()["a.extxyz"],
        texts()["a.cif"] + "data_2\nloop_\n_atom_site_label\n_atom_site_fract_x\nA .1\n" + texts()["a.cif"],
    ):  # fmt: skip
        outcomes = [scope for _, scope in encode_all(text)]
        assert [isinstance(scope, StructureError) for scope in outcomes] == [False, True, False], text[:80]


def test_a_list_that_is_cut_keeps_what_was_whole() -> None:
    document = json.dumps(rutile().as_dict())
    cut = f"[{document}, {document}, {document[:200]}"
    outcomes = [scope for _, scope in encode_all(cut)]
    assert [isinstance(scope, StructureError) for scope in outcomes] == [False, False, True]
    assert isinstance(outcomes[2], StructureError) and outcomes[2].reason is Reason.PARSE_ERROR


def test_parts_of_a_path_are_texts() -> None:
    """What a source hands to a worker: nothing is built or parsed before."""
    text = json.dumps([rutile().as_dict()] * 2)
    assert [(type(part), format) for _, part, format in split(text)] == [(str, "json")] * 2
    assert [(type(part), format) for _, part, format in split(texts()["a.cif"] * 2)] == [(str, "cif")] * 2


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.CIF", "cif"), ("b/a.mcif.gz", "cif"), ("POSCAR", "poscar"), ("contcar_relaxed.xz", "poscar"),
        ("a.vasp.zst", "poscar"), ("run.XYZ", "extxyz"), ("a.json.bz2", "json"), ("a.jsonl", "json"),
        ("notes.txt", None), ("a.cif.bak", None), ("", None),
    ],
)  # fmt: skip
def test_names_tell_formats(name: str, format: str | None) -> None:
    assert format_of_name(name) == format


def test_texts_tell_formats() -> None:
    for name, text in texts().items():
        expected = format_of_name(name)
        assert format_of_text(text) == expected, name
        assert format_of_text("\ufeff\n" * (expected not in ("poscar", "extxyz")) + text) == expected
    assert format_of_text("2\nplain xyz\nO 0 0 0\nO 0 0 1.2\n") == "extxyz"
    assert format_of_text('-2\nLattice="1 0 0 0 1 0 0 0 1"\nO 0 0 0\n') == "extxyz"


def outcomes_of(payload: str) -> list[Scope | StructureError]:
    try:
        return [scope for _, scope in encode_all(payload)]
    except StructureError as error:
        return [error]


def test_telling_a_format_takes_no_long_look() -> None:
    """A million empty lines, words or brackets are looked at once."""
    import time

    started = time.process_time()
    for text in (
        "\n" * 1_000_000,
        " " * 1_000_000,
        "a" * 1_000_000,
        "data_" * 200_000,
        "1\n" * 500_000,
        "[" * 10**6,
    ):
        for payload in (text, "x\n" + text, "{" + text):
            assert all(isinstance(scope, StructureError) for scope in outcomes_of(payload))
    assert time.process_time() - started < 60


def test_every_reason_has_a_remedy() -> None:
    assert all(len(reason.remedy) > 20 for reason in Reason)


def test_cells_pass_through() -> None:
    cell = Cell(np.eye(3), ("H",), np.zeros((1, 3)))
    assert read(cell) is cell
    assert read(cell, "cell") is cell


def test_disorder_and_charges_are_kept() -> None:
    mixed = rutile()
    mixed.replace_species({"Ti": {"Ti": 0.75, "Zr": 0.25}})
    for payload in (mixed, mixed.as_dict(), mixed.to(fmt="cif")):
        cell = read(payload)
        assert cell.occupancies is not None
        assert cell.occupancies[0] == {"Ti": 0.75, "Zr": 0.25}
    charged = rutile()
    charged.add_oxidation_state_by_element({"Ti": 4, "O": -2})
    cell = read(charged.as_dict())
    assert cell.occupancies is not None
    assert cell.species[0] == "Ti4+"
