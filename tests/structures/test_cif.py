"""The CIF reader against pymatgen where that reads right, its fast path against the whole, and the edges."""

import gzip
import re
import tarfile
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud_core.scope import EncoderSettings, encode
from cloud_core.scope.encoder import encode_cell
from cloud_core.structures import Cell, Reason, StructureError
from cloud_core.structures.cif import _values_of_gemmi, _values_of_pymatgen, read_cif, read_plain
from cloud_core.structures.lattice import BY_ELECTRONEGATIVITY
from cloud_core.structures.pymatgen import from_pymatgen

# As pymatgen writes it; the reader knows this head by heart, and takes others by their tags.
FORMULA = """_symmetry_Int_Tables_number   1
_chemical_formula_structural   {formula}
_chemical_formula_sum   '{formula}'
_cell_volume   74.1
_cell_formula_units_Z   1
"""
PLAIN = (
    """data_test
_symmetry_space_group_name_H-M   'P 1'
_cell_length_a   {a}
_cell_length_b   {b}
_cell_length_c   {c}
_cell_angle_alpha   {alpha}
_cell_angle_beta   {beta}
_cell_angle_gamma   {gamma}
"""
    + FORMULA
    + """loop_
 _symmetry_equiv_pos_site_id
 _symmetry_equiv_pos_as_xyz
  1  'x, y, z'
loop_
 _atom_site_type_symbol
 _atom_site_label
 _atom_site_symmetry_multiplicity
 _atom_site_fract_x
 _atom_site_fract_y
 _atom_site_fract_z
 _atom_site_occupancy
{sites}
"""
)
CUBIC = dict.fromkeys("abc", 4.2) | dict.fromkeys(("alpha", "beta", "gamma"), 90.0)


def plain(sites: list[tuple[str, float, float, float]], **cell: float) -> str:
    lines = [f" {e} {e}{i} 1 {x:.8f} {y:.8f} {z:.8f} 1" for i, (e, x, y, z) in enumerate(sites)]
    counts = Counter(element for element, *_ in sites)
    formula = "".join(f"{element}{count}" for element, count in counts.items())
    return PLAIN.format(sites="\n".join(lines), formula=formula, **(CUBIC | cell))


def without_formula(text: str) -> str:
    """The same file in another layout than pymatgen's."""
    return re.sub(r"_symmetry_Int_Tables_number.*_cell_formula_units_Z   1\n", "", text, flags=re.DOTALL)


def by_pymatgen(text: str) -> Cell:
    """The cell of pymatgen's own reader, as the published encoder calls it."""
    from pymatgen.io.cif import CifParser

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return from_pymatgen(CifParser.from_str(text).parse_structures(primitive=False)[0])


def same(a: Cell, b: Cell) -> bool:
    """Equal to the last bit."""
    return (
        a.species == b.species
        and a.lattice.tobytes() == b.lattice.tobytes()
        and a.fractions.tobytes() == b.fractions.tobytes()
        and a.occupancies == b.occupancies
    )


def outcome(text: str, fast: bool) -> Cell | Reason:
    try:
        return read_cif(text, fast)
    except StructureError as error:
        return error.reason


def real_cifs(shared: Path, per_set: int) -> list[str]:
    data = shared / "data"
    rng = np.random.default_rng(11)
    texts: list[str] = []
    for name in ("crysxpp/mp_cifs_36737.parquet", "qmof/qmof_cifs_sample.parquet"):
        column = pd.read_parquet(data / name, columns=["cif"])["cif"]
        texts += [bytes(column[i]).decode() for i in rng.choice(len(column), per_set, replace=False)]
    for name in ("mp_cif_csv/mp_20_biternary_val", "cdvae/perov_5_val", "cdvae/carbon_24_val"):
        column = pd.read_csv(data / f"{name}.csv.gz", usecols=["cif"])["cif"]
        texts += [column[i] for i in rng.choice(len(column), per_set, replace=False)]
    return texts


def test_real_files_are_read_as_pymatgen_reads_them(shared: Path) -> None:
    texts = [text for text in real_cifs(shared, 60) if len(text) < 60_000]
    assert len(texts) > 250
    covered = 0
    for text in texts:
        fast = read_plain(text)
        if fast is not None:
            covered += 1
            assert same(fast, by_pymatgen(text))
            assert same(fast, read_cif(text, fast=False))
    assert covered > 0.97 * len(texts)


def check_symmetric_files(shared: Path, count: int) -> None:
    """Files with operators, as pymatgen writes them: bit for bit what pymatgen reads, where that is the
    crystal that was written; the others (atoms that it splits, off their special positions by less than
    its tolerance when writing and by more when reading) are refused."""
    from pymatgen.core import Structure
    from pymatgen.io.cif import CifWriter

    column = pd.read_parquet(shared / "data/crysxpp/mp_cifs_36737.parquet", columns=["cif"])["cif"]
    rng = np.random.default_rng(7)
    found = split = 0
    for index in rng.permutation(len(column)):
        structure = Structure.from_str(bytes(column[index]).decode(), fmt="cif")
        if len(structure) > 100:
            continue
        text = str(CifWriter(structure, symprec=0.01))
        theirs = by_pymatgen(text)
        written, found_there = Counter(site.specie.symbol for site in structure), Counter(theirs.species)
        if any(found_there[symbol] * len(structure) != n * len(theirs) for symbol, n in written.items()):
            with pytest.raises(StructureError) as refused:
                encode(text)
            assert refused.value.reason in (Reason.FORMULA_MISMATCH, Reason.OVERLAPPING_SITES), text
            split += 1
            continue
        cell = read_cif(text)
        assert same(cell, theirs), text
        assert cell.notes == () and cell.alternatives == ()
        found += 1
        if found == count:
            assert split <= 0.01 * count
            return


def test_symmetric_files_are_read_as_pymatgen_reads_them(shared: Path) -> None:
    check_symmetric_files(shared, 40)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_thousand_symmetric_files_are_read_as_pymatgen_reads_them(shared: Path) -> None:
    check_symmetric_files(shared, 2000)


thirds = st.sampled_from(
    [0.0, 0.5, 0.3333, 0.33333333, 0.6667, 0.66663, 0.33337, -0.3333, 0.99999999, -1e-9, 1.25]
)
coordinates = st.one_of(thirds, st.floats(-1.5, 1.5))
elements = st.sampled_from([*BY_ELECTRONEGATIVITY.split(), "He", "Ne", "D", "Cn", "X", "Fe2+"])
lengths = st.floats(0.3, 30)
angles = st.floats(20, 160)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(elements, coordinates, coordinates, coordinates), min_size=1, max_size=8),
    st.tuples(lengths, lengths, lengths, angles, angles, angles),
)
def test_the_fast_path_reads_made_up_files_as_the_whole_reader_does(
    sites: list[tuple[str, float, float, float]], cell: tuple[float, ...]
) -> None:
    names = ("a", "b", "c", "alpha", "beta", "gamma")
    text = plain(sites, **dict(zip(names, cell, strict=True)))
    for layout in (text, without_formula(text)):
        slow = outcome(layout, False)
        fast = outcome(layout, True)
        if isinstance(fast, Cell):
            assert isinstance(slow, Cell)
            assert same(fast, slow)
            if fast.occupancies is None and not {"D", "T"} & set(fast.species):
                assert same(fast, by_pymatgen(layout))
        else:
            assert fast == slow


SITES = [("Na", 0.0, 0.0, 0.0), ("Cl", 0.5, 0.5, 0.5)]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda t: t + t.replace("data_test", "data_other"), id="two blocks"),
        pytest.param(lambda t: t.replace("0.50000000 1\n", "0.50000000 0.5\n"), id="occupancy"),
        pytest.param(lambda t: t.replace("0.50000000 1", "0.5(2) 1"), id="uncertainty"),
        pytest.param(lambda t: t.replace("'x, y, z'", "'x, y, z'\n 2 '-x, -y, -z'"), id="symmetry"),
        pytest.param(lambda t: t.replace(" Cl Cl1", " Cl1- Cl1"), id="ion"),
        pytest.param(lambda t: t.replace(" Cl Cl1", " He Cl1"), id="no electronegativity"),
        pytest.param(
            lambda t: t.replace("_atom_site_type_symbol\n", "_atom_site_type_symbol_x\n"), id="label"
        ),
        pytest.param(lambda t: t.replace("_atom_site_fract_x", "_Atom_Site_Fract_X"), id="case"),
        pytest.param(lambda t: t.replace("data_test", "data_tést"), id="not ASCII"),
        pytest.param(lambda t: t.replace("0.50000000 0.5", "0.00000000 0.5"), id="moved"),
        pytest.param(
            lambda t: t.replace("0.50000000 0.50000000 0.50000000", "0.0 0.00005 0.0"), id="coincide"
        ),
        pytest.param(
            lambda t: t.replace("0.50000000 0.50000000 0.50000000", "0.0 0.99999 0.0"), id="wrapped"
        ),
        pytest.param(lambda t: t.replace("4.2", "0.009", 1), id="flat"),
        pytest.param(lambda t: t.replace("4.2", "?", 1), id="no length"),
        pytest.param(lambda t: t[: t.index("loop_\n _atom")], id="no atoms"),
        pytest.param(lambda t: t.replace("\n", "\r\n"), id="CRLF"),
        pytest.param(lambda t: t.replace("\n", "\r"), id="CR"),
        pytest.param(lambda t: t + "_atom_type_symbol Na\n_atom_type_oxidation_number 1\n", id="oxidation"),
        pytest.param(lambda t: t.replace("'x, y, z'", "-x,-y,z"), id="another operation"),
        pytest.param(
            lambda t: t + "loop_\n_atom_site_moment.label\n_atom_site_moment.crystalaxis_x\nNa0 1.0\n",
            id="moments",
        ),
        pytest.param(lambda t: t.replace("Na Na0", "Na 'Na0 1'"), id="quoted label"),
        pytest.param(lambda t: t.replace("Na Na0", "Na #Na0"), id="comment"),
        pytest.param(lambda t: t.replace("0.50000000 0.5", "true 0.5"), id="a word of JSON"),
        pytest.param(lambda t: t.replace("0.50000000 0.5", "0.5,0.1 0.5"), id="two values"),
        pytest.param(lambda t: t.replace("0.50000000 0.5", "[0.5] 0.5"), id="a list"),
        pytest.param(lambda t: t.replace("0.50000000 0.5", "nan 0.5"), id="not a number"),
        pytest.param(lambda t: t.replace("0.50000000 0.5", "1e400 0.5"), id="infinite"),
        pytest.param(lambda t: t.replace("0.50000000 0.5", "5.0e-1 0.5"), id="power of ten"),
        pytest.param(lambda t: t.replace("0.50000000 0.5", "+.5 0.5"), id="no JSON"),
        pytest.param(lambda t: t.replace("0.50000000 0.5", "-0.0 0.5"), id="negative zero"),
        pytest.param(lambda t: t.replace("4.2", "nan", 1), id="no number of a length"),
        pytest.param(lambda t: t.replace("90.0", "2.0", 1), id="sharp angle"),
        pytest.param(lambda t: t + ";\nloop_\n_cell_length_a 7\n;\n", id="text field"),
    ],
)
def test_the_fast_path_reads_variants_as_the_whole_reader_does(change: object) -> None:
    for text in (change(plain(SITES)), change(without_formula(plain(SITES)))):  # type: ignore[operator]
        fast, slow = outcome(text, True), outcome(text, False)
        if isinstance(slow, Cell):
            assert isinstance(fast, Cell)
            assert same(fast, slow)
            assert fast.notes == slow.notes
        else:
            assert fast == slow


def test_both_layouts_take_the_fast_path() -> None:
    text = plain(SITES)
    assert _values_of_pymatgen(text) == _values_of_gemmi(text)
    other = without_formula(text)
    assert _values_of_pymatgen(other) is None
    assert read_plain(other) is not None


def test_sites_across_the_edge_of_the_cell() -> None:
    """Neighbours on both sides of the edge, and sites just below it, wherever the cut is made."""
    for near in (0.99999, 0.9999, 0.99985, 0.9998, 0.9997, 0.9995, 0.999, 0.9982):
        for other in (0.0, 0.00005, near + 0.00005, near - 0.00005, near - 0.0002, near - 0.00012):
            text = plain([("Na", 0.2, near, 0.3), ("Cl", 0.2, other, 0.3), ("Cl", 0.5, 0.99999, 0.5)])
            fast, slow = outcome(text, True), outcome(text, False)
            if isinstance(slow, Cell):
                assert isinstance(fast, Cell)
                assert same(fast, slow)
            else:
                assert fast == slow


@pytest.mark.filterwarnings("ignore:No Pauling")
def test_the_order_of_elements_is_pymatgens() -> None:
    from pymatgen.core import Element

    ordered = sorted((e for e in Element if e.X == e.X), key=lambda e: (e.X, e.symbol))
    assert " ".join(e.symbol for e in ordered) == BY_ELECTRONEGATIVITY


def edge_files(shared: Path, folder: Path, name: str) -> list[Path]:
    with tarfile.open(shared / "data" / "cif_edge" / f"{name}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return sorted(path for path in folder.rglob("*") if path.is_file())


# Dictionaries and reflections: no atoms in them.
WITHOUT_ATOMS = """
cctbx/mmtbx/ions: ion_parameters.cif
cctbx/mmtbx/ligands: crystallization_screens.cif
cctbx/xcif/regression: 1yjp-sf.cif
gemmi/docs: components.cif
gemmi/tests: 4aap-sf-subset.cif HEM.cif HEN.cif SO3.cif cc12-hkl.cif ener_lib.cif eol-test.cif misc.cif
gemmi/tests/ccd: ALA.cif ASP.cif ATP.cif CYS.cif HEM.cif HIS.cif SEC.cif TRP.cif TYR.cif
gemmi/tests/list: mon_lib_list.cif
"""
MACROMOLECULES = """
cctbx/iotbx/regression/data: big_cube_model.cif non_zero_origin_model.cif non_zero_origin_model_split.cif
cctbx/iotbx/regression/data: non_zero_origin_ncs_model.cif
cctbx/mmtbx/regression/pdbs: AF_json_v3.cif fibronectin_af_ca_1358_1537.cif pae_model.cif test1.cif
cctbx/xcif/regression: 1yjp.cif example.cif
gemmi/tests: 1pfe.cif.gz 3dg1_final.cif 5i55.cif
"""
# Two or three blocks with atoms: one crystal in several settings, or several crystals.
OF_SEVERAL = """
openbabel/scripts/python/examples: hashizume.cif
pymatgen-core/test-files/cif: MultiStructure.cif PF_sd_1002871.cif PF_sd_1011081.cif PF_sd_1500382.cif
pymatgen-core/test-files/cif: PF_sd_1615854.cif PF_sd_1622133.cif PF_sd_1704003.cif PF_sd_1811457.cif
pymatgen-core/test-files/cif: PF_sd_1908491.cif PF_sd_1928405.cif
"""
REFUSED = {
    "pymatgen-core/test-files/cif/bad_occu.cif": Reason.INVALID_OCCUPANCY,
    "pymatgen-core/test-files/io/cif/mcif/magnetic.incommensurate.example.Cr.mcif": Reason.UNSUPPORTED,
    "pymatgen-core/test-files/cif/bad_superflat_inf_loop.cif.gz": Reason.INVALID_LATTICE,
    "janus-core/tests/data/H2O.cif": Reason.INVALID_LATTICE,
    # F1 at (.5, ., .): two coordinates are not given
    "pymatgen-core/test-files/cif/ICSD59959.cif": Reason.INVALID_POSITIONS,
    # a quoted text over four lines
    "pymatgen-core/test-files/cif/srycoo.cif": Reason.PARSE_ERROR,
    # C73 H61.5 N3.5 is stated, C74 H63 N4 are listed
    "matterviz/src/site/structures/P24Ru4H252C296S24N16.cif": Reason.FORMULA_MISMATCH,
    "pymatgen-core/test-files/cif/P24Ru4H252C296S24N16.cif": Reason.FORMULA_MISMATCH,
} | {
    f"{folder}/{name}": reason
    for reason, listing in (
        (Reason.NO_ATOMS, WITHOUT_ATOMS),
        (Reason.UNSUPPORTED, MACROMOLECULES),
        (Reason.SEVERAL_STRUCTURES, OF_SEVERAL),
    )
    for folder, names in (line.split(": ") for line in listing.split("\n") if line)
    for name in names.split()
}
# Files that pymatgen reads as another crystal: ours is that of the text.
READ_OTHERWISE = {
    # OH and OH2 share a site: four oxygen atoms that pymatgen leaves out
    "matterviz/src/site/structures/PF-sd-1601634.cif": (
        12,
        {"As": 4, "Fe": 1.38, "Pb": 2.04, "Zn": 2.58, "O": 20},
    ),
    "pymatgen-core/test-files/cif/PF_sd_1601634.cif": (
        12,
        {"As": 4, "Fe": 1.38, "Pb": 2.04, "Zn": 2.58, "O": 20},
    ),
    # a list of moments without rows
    "pymatgen-core/test-files/io/cif/mcif/CsCl-manual-oxi-ref.mcif": (221, {"Cs": 1, "Cl": 1}),
    # a mixed site in a magnetic CIF
    "pymatgen-core/test-files/io/cif/mcif/magnetic.disordered.example.CuMnO2.mcif": (
        12,
        {"Cu": 8.544, "Mn": 7.456, "O": 16},
    ),
}


def refusals(files: list[Path], root: Path, capfd: pytest.CaptureFixture[str]) -> dict[str, Reason]:
    """The reasons of the files that are not encoded; nothing is printed and nothing warned about."""
    refused = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for path in files:
            try:
                scope = encode(path, ("canonical", "official"))
                assert scope.canonical and scope.official
            except StructureError as error:
                refused[str(path.relative_to(root))] = error.reason
    assert [str(warning.message) for warning in caught] == []
    assert capfd.readouterr() == ("", "")
    return refused


def text_of(path: Path) -> str:
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig", "replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def check_against_pymatgen(files: list[Path], root: Path) -> None:
    """All forms, the key and the composition are those of what pymatgen reads."""
    settings = EncoderSettings(forms=("canonical", "official", "full"))
    for path in files:
        name = str(path.relative_to(root))
        if name in READ_OTHERWISE:
            scope = encode(path)
            space_group, composition = READ_OTHERWISE[name]
            total = sum(composition.values())
            assert scope.space_group == space_group
            assert scope.composition == pytest.approx(
                {element: amount / total for element, amount in composition.items()}, abs=1e-4
            )
            continue
        ours, theirs = (
            encode_cell(read_cif(text_of(path)), settings),
            encode_cell(by_pymatgen(text_of(path)), settings),
        )
        assert (ours.official, ours.full, ours.canonical, ours.element_key, ours.composition) == (
            theirs.official,
            theirs.full,
            theirs.canonical,
            theirs.element_key,
            theirs.composition,
        ), name


def test_edge_files_are_encoded_or_refused_with_the_right_code(
    shared: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files = edge_files(shared, tmp_path, "cif_edge_cases")
    assert len(files) == 185
    assert refusals(files, tmp_path, capfd) == REFUSED
    check_against_pymatgen([p for p in files if str(p.relative_to(tmp_path)) not in REFUSED], tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_frameworks_are_encoded_or_refused_with_the_right_code(
    shared: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files = edge_files(shared, tmp_path, "curated_cofs")
    assert len(files) == 984
    folder = files[0].parent.relative_to(tmp_path)
    # two atoms on one place; two of nitrogen 0.31 Å apart
    refused = {f"{folder}/{name}.cif": Reason.OVERLAPPING_SITES for name in ("21131N2", "22104N2", "22400N2")}
    assert refusals(files, tmp_path, capfd) == refused
    check_against_pymatgen([p for p in files if str(p.relative_to(tmp_path)) not in refused], tmp_path)
