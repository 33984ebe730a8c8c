"""POSCARs of VASP 4 to 6, held against pymatgen's reader where that reads them right."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cloud_core.scope import encode
from cloud_core.structures import Cell, Reason, StructureError, read
from cloud_core.structures.poscar import read_poscar
from cloud_core.structures.pymatgen import from_pymatgen
from tests.structures.documents import rutile
from tests.structures.test_documents import equal

HEAD = "title\n1.0\n4.0 0 0\n0 4.0 0\n0 0 4.0\n"
SITES = "Direct\n0 0 0\n0.5 0.5 0.5\n"


def poscar(species: str = "Cs Cl\n1 1\n", sites: str = SITES, head: str = HEAD) -> str:
    return head + species + sites


def pymatgen_reads(text: str) -> Cell:
    from pymatgen.io.vasp import Poscar

    return from_pymatgen(Poscar.from_str(text).structure)


def refusal(text: str) -> StructureError:
    with pytest.raises(StructureError) as caught:
        read_poscar(text)
    assert "POSCAR" in str(caught.value) and "CIF" not in str(caught.value)
    return caught.value


def test_real_files_are_read_as_pymatgen_reads_them(shared: Path) -> None:
    texts = []
    for archive in sorted((shared / "data" / "jarvis_leaderboard").glob("*.zip")):
        with zipfile.ZipFile(archive) as opened:
            for name in opened.namelist():
                for rows in json.loads(opened.read(name)).values():
                    texts += [
                        text.replace("\\n", "\n") for text in rows.values() if str(text)[:6] == "System"
                    ]
    assert len(texts) > 15_000
    for text in texts[::60]:
        assert equal(read(text, "poscar"), pymatgen_reads(text))


def test_made_up_files_are_read_as_pymatgen_reads_them() -> None:
    from pymatgen.core import Lattice, Structure
    from pymatgen.io.vasp import Poscar

    rng = np.random.default_rng(1)
    for number in range(150):
        n = int(rng.integers(1, 30))
        symbols = sorted(rng.choice(["Fe", "O", "H", "U", "Si", "Cl"], n).tolist())
        if number % 3 == 0:
            rng.shuffle(symbols)  # many groups: VASP breaks the lines, pymatgen does not
        structure = Structure(Lattice(rng.normal(size=(3, 3)) * 6), symbols, rng.normal(size=(n, 3)) * 1.2)
        flags = [[bool(x) for x in row] for row in rng.integers(0, 2, (n, 3))]
        flags[0][0] = False
        velocities = rng.normal(size=(n, 3)).tolist() if number % 5 == 0 else None
        options = Poscar(structure, selective_dynamics=flags if number % 2 else None, velocities=velocities)
        text = options.get_str(direct=number % 4 != 0, significant_figures=int(rng.integers(6, 17)))
        assert equal(read_poscar(text), pymatgen_reads(text)), text
        scale = float(rng.uniform(0.3, 3))
        scaled = text.replace("\n1.0\n", f"\n{scale!r}\n", 1)
        assert scaled != text
        assert equal(read_poscar(scaled), pymatgen_reads(scaled))


def test_broken_lines_of_many_groups() -> None:
    symbols = ["Fe", "Cr"] * 13
    head = " ".join(symbols[:20]) + "\n" + " ".join(symbols[20:]) + "\n"
    counts = "1 " * 20 + "\n" + "1 " * 6 + "\n"
    sites = "Direct\n" + "".join(f"{i / 26} 0.1 {i / 52}\n" for i in range(26))
    text = poscar(head + counts, sites)
    assert equal(read_poscar(text), pymatgen_reads(text))
    assert read_poscar(text).species == tuple(symbols)


@pytest.mark.parametrize(
    "species",
    ["Cs_sv/f474ac0d  Cl/79d9987ad87\n1 1\n", "Cs_sv_GW Cl_h\n1 1\n", "Cs Cl ! elements\n1 1 # counts\n"],
)
def test_names_of_potentials(species: str) -> None:
    assert read_poscar(poscar(species)).species == ("Cs", "Cl")


def test_groups_without_atoms_and_empty_places() -> None:
    assert read_poscar(poscar("Cs O Cl\n1 0 1\n")).species == ("Cs", "Cl")
    assert read_poscar(poscar("Cs Vac\n1 1\n")).species == ("Cs",)


def test_three_factors_scale_the_axes_x_y_and_z() -> None:
    skewed = "c\n1.0 1.0 1.05\n4.0 0 0.4\n0 4.0 0\n0 0.4 4.0\nCs Cl\n1 1\n"
    cell = read_poscar(skewed + SITES)
    np.testing.assert_allclose(cell.lattice, [[4, 0, 0.42], [0, 4, 0], [0, 0.4, 4.2]])
    cartesian = read_poscar(skewed + "Cartesian\n0 0 0\n2 2.2 2.2\n")
    np.testing.assert_allclose(cartesian.fractions, cell.fractions, atol=1e-12)
    assert encode(poscar(head=HEAD.replace("\n1.0\n", "\n1 1 1.05\n"))).space_group == 123


def test_a_negative_factor_is_the_volume() -> None:
    head = HEAD.replace("\n1.0\n", "\n-125.0\n")
    assert equal(read_poscar(poscar(head=head)), pymatgen_reads(poscar(head=head)))
    cartesian = read_poscar(poscar(head=head, sites="Kartesian\n0 0 0\n2 2 2\n"))
    # pymatgen multiplies Cartesian coordinates by the negative volume itself
    np.testing.assert_allclose(cartesian.fractions, [[0, 0, 0], [0.5, 0.5, 0.5]], atol=1e-12)
    np.testing.assert_allclose(cartesian.lattice, 5 * np.eye(3), atol=1e-12)


@pytest.mark.parametrize(
    ("comment", "symbols"),
    [
        ("Cs Cl", ("Cs", "Cl")),
        ("  Cs   Cl  ", ("Cs", "Cl")),
        ("Cs1 Cl1", ("Cs", "Cl")),
        ("Cs2 Cl2", ("Cs", "Cl")),
        ("CsCl", ("Cs", "Cl")),
        ("Cs Cl high pressure", ("Cs", "Cl")),
        ("some title", None),
        ("", None),
        ("Cs", None),
        ("Cs Cl O", None),
        ("Cs Cl with O", None),
        ("Cs Xx", None),
        ("Cs1 Cl2", None),
        ("cs cl", None),
        ("CS CL", None),
        ("In situ", None),
    ],
)
def test_vasp_4_takes_symbols_from_the_comment(comment: str, symbols: tuple[str, ...] | None) -> None:
    text = poscar("1 1\n").replace("title", comment, 1)
    if symbols is None:
        error = refusal(text)
        assert error.reason is Reason.PARSE_ERROR and "VASP 4" in str(error)
        return
    cell = read(text, "poscar")
    assert cell.species == symbols
    assert [note.flag for note in cell.notes] == ["symbols_from_comment"]
    scope = encode(text)
    assert scope.space_group == 221
    assert "symbols_from_comment" in scope.flags and "Cs Cl" in scope.message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", Reason.PARSE_ERROR),
        ("title\n", Reason.PARSE_ERROR),
        (HEAD, Reason.PARSE_ERROR),
        (poscar("\n"), Reason.PARSE_ERROR),
        (poscar("Cs Cl\n"), Reason.PARSE_ERROR),
        (poscar("Cs Cl\n1\n"), Reason.PARSE_ERROR),
        (poscar("Cs Cl\n1 1 1\n"), Reason.PARSE_ERROR),
        (poscar("Cs Cl\n1 -1\n"), Reason.PARSE_ERROR),
        (poscar("Cs Cl\n1.0 1.0\n"), Reason.PARSE_ERROR),
        (poscar("Cs X\n1 1\n"), Reason.UNKNOWN_ELEMENT),
        (poscar("Cs H1.25\n1 1\n"), Reason.UNKNOWN_ELEMENT),
        (poscar("Cs CL\n1 1\n"), Reason.UNKNOWN_ELEMENT),
        (poscar("Cs Cl\n0 0\n"), Reason.NO_ATOMS),
        (poscar("Cs Cl\n1 999999999\n"), Reason.TOO_MANY_SITES),
        (poscar("Cs Cl\n1 99999\n"), Reason.PARSE_ERROR),
        (poscar("Cs Cl\n1 2\n"), Reason.PARSE_ERROR),
        (poscar("Cs Cl\n1 2\n", SITES + "\n0.1 0.1 0.1\n"), Reason.PARSE_ERROR),
        (poscar(sites="Direct\n0 0 0\n0.5 0.5\n"), Reason.PARSE_ERROR),
        (poscar(sites="Direct\n0 0 0\n0.5 0.5 nan\n"), Reason.INVALID_POSITIONS),
        (poscar(sites="Direct\n0 0 0\n0.5 0.5 inf\n"), Reason.INVALID_POSITIONS),
        (poscar(sites="Direct\n0 0 0\n0.5 0.5 1_0\n"), Reason.PARSE_ERROR),
        (poscar(sites="Direct\n0 0 0\n0.5 0.5 x\n"), Reason.PARSE_ERROR),
        (poscar(sites="0 0 0\n0.5 0.5 0.5\n"), Reason.PARSE_ERROR),
        (poscar(sites="Selective dynamics\n0 0 0 T T T\n0.5 0.5 0.5 T T T\n"), Reason.PARSE_ERROR),
        (poscar(sites=SITES + "0.1 0.1 0.1\n"), Reason.PARSE_ERROR),
        (poscar(sites=SITES.replace("Direct", "Direct configuration= 1") * 2), Reason.UNSUPPORTED),
        (poscar(head=HEAD.replace("\n1.0\n", "\n0.0\n")), Reason.INVALID_LATTICE),
        (poscar(head=HEAD.replace("\n1.0\n", "\nnan\n")), Reason.INVALID_LATTICE),
        (poscar(head=HEAD.replace("\n1.0\n", "\n1 1\n")), Reason.PARSE_ERROR),
        (poscar(head=HEAD.replace("\n1.0\n", "\n1 1 -1\n")), Reason.INVALID_LATTICE),
        (poscar(head=HEAD.replace("\n1.0\n", "\n1 1 1 1\n")), Reason.PARSE_ERROR),
        (poscar(head=HEAD.replace("\n1.0\n", "\nscale\n")), Reason.PARSE_ERROR),
        (poscar(head=HEAD.replace("0 0 4.0", "0 4.0 0")), Reason.INVALID_LATTICE),
        (poscar(head=HEAD.replace("0 0 4.0", "0 0 1e300")), Reason.INVALID_LATTICE),
        (poscar(head=HEAD.replace("0 0 4.0", "0 0")), Reason.PARSE_ERROR),
    ],
)  # fmt: skip
def test_what_vasp_would_not_read_is_refused(text: str, reason: Reason) -> None:
    assert refusal(text).reason is reason


def test_what_fortran_writes_and_what_follows_the_coordinates() -> None:
    plain = read_poscar(poscar())
    for sites in (
        "Direct\n 0.0D+00 0 0\n 5.0d-1 0.5E+00 .5\n",
        "direct\n0 0 0 Cs\n0.5 0.5 0.5 Cl\n",
        "Selective dynamics\nDirect\n0 0 0 T T F\n0.5 0.5 0.5 F F F\n",
        SITES + "\n0.1 0.1 0.1\n0.2 0.2 0.2\n",
        SITES
        + "Lattice velocities and vectors\n1\n0 0 0\n0 0 0\n0 0 0\n4 0 0\n0 4 0\n0 0 4\n\n0 0 0\n0 0 0\n",
        SITES + "   \n\n\n",
        SITES.rstrip(),
        "Fractional\n0 0 0\n0.5 0.5 0.5",
    ):
        assert equal(read_poscar(poscar(sites=sites)), plain)
    merged = read_poscar(poscar(sites="Direct\n0 0 0\n0.50000000-0.50000000-0.50000000\n"))
    np.testing.assert_allclose(merged.fractions[1], [0.5, -0.5, -0.5])


def test_a_poscar_that_pymatgen_wrote_and_its_json_are_one_crystal() -> None:
    text = rutile().to(fmt="poscar")
    assert encode(text).canonical == encode(json.dumps(rutile().as_dict())).canonical
