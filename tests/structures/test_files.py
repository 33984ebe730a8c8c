"""Files as programs write them, that were once read as another crystal, lost, or ended a reader."""

from pathlib import Path

import pytest

from cloud_core.scope import encode, encode_all
from cloud_core.scope.encoder import Scope
from cloud_core.structures.errors import StructureError
from cloud_core.structures.formats import read
from tests.structures.small_cif import TYPED, cif

FILES = Path(__file__).parent / "files"
SALT = {"Na": 0.5, "Cl": 0.5}
HALF = {"Na": 1 / 3, "Cl": 2 / 3}

# What is in a file, and a flag that it has ("": none).
READ: dict[str, tuple[dict[str, float], int | None, str]] = {
    "H1O_noform.cif": ({"C": 0.25, "H": 0.5, "O": 0.25}, 1, ""),
    "Oa_Os.cif": ({"O": 0.75, "Si": 0.25}, 1, ""),
    "Pa_Pb.cif": ({"P": 2 / 3, "O": 1 / 3}, 1, ""),
    "Va_Vb.cif": ({"V": 0.5, "O": 0.5}, 1, ""),
    "amcsd_albite_labels.cif": ({"Na": 1 / 12, "Al": 2 / 12, "Si": 2 / 12, "O": 7 / 12}, 1, ""),
    "ase_disordered.extxyz": ({"Na": 0.25, "K": 0.25, "Cl": 0.5}, 225, "disordered"),
    "extxyz_occupancy_column.extxyz": (HALF, 221, "disordered"),
    "atoms_ase_data_list.json": (SALT, 221, ""),
    "structure_ase_data_list.json": (SALT, 221, ""),
    "structure_jarvis_data_list.json": (SALT, 221, ""),
    "structure_optimade_entries.json": (SALT, 221, ""),
    "exc_wyckoff_5000.cif": (SALT, 221, ""),
    "fast_attached_H_case.cif": ({"O": 0.5, "Cl": 0.5}, 221, "hydrogen_missing"),
    "fast_calc_flag_case.cif": (SALT, 221, ""),
    "fast_dotted_calcflag.cif": (SALT, 221, ""),
    "fast_dotted_occ.cif": (HALF, 221, "disordered"),
    "fast_moment_case.cif": (SALT, 221, "moments_ignored"),
    "fast_occ_UPPER.cif": (HALF, 221, "disordered"),
    "fast_occ_upper_case.cif": (HALF, 221, "disordered"),
    "name_HM_ref.cif": (SALT, 225, ""),
    "ops_unknown_tag.cif": (SALT, 225, ""),
    "pymatgen_499_999.cif": (
        {"Sr": 2 / 9, "Mn": 1 / 9, "Ga": 1 / 9, "O": 5 / 9},
        46,
        "symmetry_contradicted",
    ),
    "pymatgen_spin.cif": (SALT, 225, ""),
}
REFUSED = {
    "VA1_noform.cif": "unknown_element",
    "XDATCAR_npt.vasp": "unsupported",
    "XDATCAR_nvt.vasp": "unsupported",
    "ase_both.json": "parse_error",
    "exc_mixture_digits.cif": "invalid_occupancy",
    "exc_type_OH_dot.cif": "unknown_element",
    "fast_dotted_second_sites.cif": "parse_error",
    "fast_modulated_case.cif": "unsupported",
    "fast_wave_vector_case.cif": "unsupported",
    "fast_symmetry_number_in_loop.cif": "contradictory_symmetry",
    "fast_symops_dotted_too.cif": "contradictory_symmetry",
    "fast_underscore_cell.cif": "invalid_lattice",
    "fast_underscore_num.cif": "invalid_positions",
    "hang_type_OH_digits.cif": "unknown_element",
    "jana_mod.cif": "unsupported",
    "kinds_inf.json": "parse_error",
    "kinds_nan.json": "parse_error",
    "mcif_24_partial.cif": "contradictory_symmetry",
    "mcif_OG.cif": "unknown_symmetry",
    "mcif_chen.cif": "unknown_symmetry",
    "spin_space_group.cif": "unknown_symmetry",
    "op_huge_translation.cif": "unknown_symmetry",
    "optimade_asymmetric_unit.json": "unsupported",
    "optimade_disorder_without_species.json": "unsupported",
    "optimade_formula_contradicts.json": "formula_mismatch",
    "symbol_P_3_2.cif": "unknown_symmetry",
}
# Names of the structures in a file of several, and whether each is read.
SEVERAL = {
    "cif_blocks_question_marks_ab.cif": {"#t": True, "#u": True},
    "cif_blocks_question_marks_ac.cif": {"#t": True, "#v": True},
    "cif_blocks_question_marks_acd.cif": {"#t": True, "#v": True, "#w": True},
    "list_pairs.json": {"#0": False, "#1": False},
    "null_first.json": {"#0": False, "#1": True, "#2": True},
    "str_first.json": {"#0": False, "#1": True},
}


def test_each_file_is_expected() -> None:
    assert {path.name for path in FILES.iterdir()} == READ.keys() | REFUSED.keys() | SEVERAL.keys()


@pytest.mark.parametrize("name", READ)
def test_the_crystal_of_the_file_is_read(name: str) -> None:
    composition, group, flag = READ[name]
    scope = encode(FILES / name)
    assert dict(scope.composition) == pytest.approx(composition, abs=1e-6)
    assert scope.space_group == group and scope.flags == ((flag,) if flag else ())


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_says_no_crystal_for_certain_is_refused(name: str) -> None:
    with pytest.raises(StructureError) as caught:
        encode(FILES / name)
    assert caught.value.reason.value == REFUSED[name]


@pytest.mark.parametrize("name", SEVERAL)
def test_no_structure_of_several_is_lost(name: str) -> None:
    found = {part: isinstance(outcome, Scope) for part, outcome in encode_all(FILES / name)}
    assert found == SEVERAL[name]


@pytest.mark.parametrize("name", sorted(path.name for path in FILES.glob("fast_*.cif")))
def test_the_fast_reader_says_the_same(name: str) -> None:
    def outcome(fast: bool) -> object:
        try:
            cell = read(FILES / name, fast=fast)
        except StructureError as error:
            return error.reason
        return cell.species, cell.fractions.tolist(), cell.occupancies

    assert outcome(True) == outcome(False)


def test_blanks_without_end_cost_nothing() -> None:
    blanks = " " * 60_000
    text = cif(f"Na1 Na 0 0 0 '{blanks}a'", "Cl1 Cl .5 .5 .5 b", columns=(*TYPED, "Wyckoff_symbol"))
    assert encode(text).space_group == 221
