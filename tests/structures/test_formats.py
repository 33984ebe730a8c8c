"""Every kind of input gives the same cell."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloud_core.scope import encode
from cloud_core.structures import Cell, Reason, StructureError, read
from cloud_core.structures.formats import read_all


@pytest.fixture(scope="module")
def rutile() -> Any:
    from pymatgen.core import Lattice, Structure

    u = 0.3053
    positions = [
        [0, 0, 0],
        [0.5, 0.5, 0.5],
        [u, u, 0],
        [-u, -u, 0],
        [0.5 - u, 0.5 + u, 0.5],
        [0.5 + u, 0.5 - u, 0.5],
    ]
    return Structure(Lattice.tetragonal(4.594, 2.959), ["Ti"] * 2 + ["O"] * 4, positions)


def optimade(structure: Any) -> dict[str, Any]:
    return {
        "id": "rutile",
        "type": "structures",
        "attributes": {
            "lattice_vectors": structure.lattice.matrix.tolist(),
            "cartesian_site_positions": structure.cart_coords.tolist(),
            "species_at_sites": [site.species_string for site in structure],
            "species": [
                {"name": name, "chemical_symbols": [name], "concentration": [1.0]} for name in ("Ti", "O")
            ],
            "dimension_types": [1, 1, 1],
            "structure_features": [],
        },
    }


def test_all_formats_agree(rutile: Any, tmp_path: Path) -> None:
    cif = rutile.to(fmt="cif")
    poscar = rutile.to(fmt="poscar")
    document = rutile.as_dict()
    (tmp_path / "rutile.cif").write_text(cif)
    (tmp_path / "rutile.cif.gz").write_bytes(gzip.compress(cif.encode()))
    (tmp_path / "POSCAR").write_text(poscar)
    payloads = [
        rutile, cif, cif.encode(), poscar, document, json.dumps(document), optimade(rutile),
        json.dumps(optimade(rutile)), optimade(rutile)["attributes"], tmp_path / "rutile.cif",
        str(tmp_path / "rutile.cif.gz"), tmp_path / "POSCAR", read(rutile),
    ]  # fmt: skip
    for payload in payloads:
        assert encode(payload).canonical == encode(rutile).canonical
        cell = read(payload)
        assert cell.occupancies is None
        assert cell.species == ("Ti", "Ti", "O", "O", "O", "O")
        difference = cell.fractions - rutile.frac_coords
        assert np.abs(difference - np.round(difference)).max() < 1e-7
        assert np.allclose(cell.lattice @ cell.lattice.T, rutile.lattice.matrix @ rutile.lattice.matrix.T)
    fast, slow = read(document), read(document, fast=False)
    assert fast.fractions.tobytes() == slow.fractions.tobytes()
    assert fast.lattice.tobytes() == slow.lattice.tobytes()


def test_disorder_and_charges_are_kept(rutile: Any) -> None:
    mixed = rutile.copy()
    mixed.replace_species({"Ti": {"Ti": 0.75, "Zr": 0.25}})
    for payload in (mixed, mixed.as_dict(), mixed.to(fmt="cif")):
        cell = read(payload)
        assert cell.occupancies is not None
        assert cell.occupancies[0] == {"Ti": 0.75, "Zr": 0.25}
    charged = rutile.copy()
    charged.add_oxidation_state_by_element({"Ti": 4, "O": -2})
    cell = read(charged.as_dict())
    assert cell.occupancies is not None
    assert cell.species[0] == "Ti4+"


def test_optimade_vacancies_and_features(rutile: Any) -> None:
    entry = optimade(rutile)
    entry["attributes"]["species"][0] |= {"chemical_symbols": ["Ti", "vacancy"], "concentration": [0.9, 0.1]}
    cell = read(entry)
    assert cell.occupancies is not None
    assert cell.occupancies[0] == {"Ti": 0.9}
    assert reason_of(optimade(rutile)["attributes"] | {"dimension_types": [1, 1, 0]}) is Reason.UNSUPPORTED
    assert (
        reason_of(optimade(rutile)["attributes"] | {"structure_features": ["assemblies"]})
        is Reason.UNSUPPORTED
    )
    assert reason_of(optimade(rutile)["attributes"] | {"lattice_vectors": None}) is Reason.PARSE_ERROR
    flat = [[1, 0, 0], [2, 0, 0], [0, 0, 1]]
    assert reason_of(optimade(rutile)["attributes"] | {"lattice_vectors": flat}) is Reason.INVALID_LATTICE


def reason_of(payload: Any, format: str | None = None) -> Reason:
    with pytest.raises(StructureError) as caught:
        read(payload, format)
    assert caught.value.reason.remedy in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize(
    ("payload", "format", "reason"),
    [
        ("no/such/file.cif", None, Reason.FILE_NOT_FOUND),
        ("\0.cif", None, Reason.FILE_NOT_FOUND),
        ("{not json", None, Reason.PARSE_ERROR),
        ("{}", None, Reason.PARSE_ERROR),
        ("comment\n1.0\nnonsense\n", None, Reason.PARSE_ERROR),
        ("", "cif", Reason.PARSE_ERROR),
        ("data_x\n_cell_length_a 3\n", None, Reason.NO_ATOMS),
        (3.14, None, Reason.UNKNOWN_FORMAT),
        ("data_x\n", "xyz", Reason.UNKNOWN_FORMAT),
        ({"sites": []}, None, Reason.PARSE_ERROR),
    ],
)
def test_bad_input_has_a_reason(payload: Any, format: str | None, reason: Reason) -> None:
    assert reason_of(payload, format) is reason


def test_every_reason_has_a_remedy() -> None:
    assert all(len(reason.remedy) > 20 for reason in Reason)


def test_cells_pass_through() -> None:
    cell = Cell(np.eye(3), ("H",), np.zeros((1, 3)))
    assert read(cell) is cell
    assert read(cell, "cell") is cell


def test_with_a_format_text_is_content_and_never_a_path() -> None:
    with pytest.raises(StructureError) as caught:
        read(__file__, "cif")
    assert caught.value.reason is Reason.PARSE_ERROR


def test_each_bad_frame_costs_itself() -> None:
    """Counts that are wrong, negative, huge or no number; no lattice; an atom too many."""
    good = '1\nLattice="3 0 0 0 3 0 0 0 3" Properties=species:S:1:pos:R:3\nPo 0 0 0\n'
    rest = good.partition("\n")[2]
    bad = ["-1\n" + rest, "999999999\n" + rest, "2\n" + rest, "many\n" + rest, "1\nno cell\nPo 0 0 0\n"]
    bad.append(good + "Po 1 1 1\n")
    for frame in bad:
        for blank in ("", "\n"):
            found = list(read_all(good + blank + frame + blank + good, "extxyz"))
            assert [name for name, _ in found] == ["#0", "#1", "#2"], frame
            assert [isinstance(cell, Cell) for _, cell in found] == [True, False, True], frame
