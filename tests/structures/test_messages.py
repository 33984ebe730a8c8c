"""Refusals and flags say what is wrong in the file's own terms, and what its user can do."""

from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry

from cloud_core.scope import encode
from cloud_core.scope.settings import EncoderSettings
from cloud_core.structures.errors import StructureError, shown
from tests.structures.small_cif import BOX, FILLED, MMM, NACL, ROCKSALT, cif

LENIENT = EncoderSettings(overlaps="flag", formula="flag")


def refusal(text: str, settings: EncoderSettings | None = None) -> str:
    with pytest.raises(StructureError) as caught:
        encode(text, settings=settings)
    return str(caught.value)


def test_overlaps_name_the_labels_of_the_file() -> None:
    said = refusal(cif("Na7 Na .1 .3 .2", "Cl2 Cl .11 .3 .2", cell=BOX, symmetry=MMM))
    assert "Na7 (Na)" in said and "Cl2 (Cl)" in said and "overlaps=flag" in said


def test_images_of_one_site_are_told_as_such() -> None:
    said = refusal(cif("Na7 Na .03 .3 .2", "Cl2 Cl .3 .1 .4", cell=BOX, symmetry=MMM))
    assert "two images of site Na7 (Na)" in said and "special position" in said


def test_other_formats_number_their_sites() -> None:
    poscar = "x\n1\n5 0 0\n0 5 0\n0 0 5\nNa Cl\n1 1\nDirect\n0 0 0\n0.05 0 0\n"
    assert "site 1 (Na) and site 2 (Cl) are 0.250 Å apart" in refusal(poscar)


def test_a_formula_that_is_not_understood_is_flagged() -> None:
    scope = encode(cif(*NACL, symmetry=ROCKSALT, formula="Nax Cl"))
    assert scope.flags == ("formula_not_understood",) and "Nax Cl" in scope.message
    assert encode(cif(*NACL, symmetry=ROCKSALT, formula="(Na)2(Cl)2")).flags == ()
    assert "formula_mismatch" in refusal(cif(*NACL, symmetry=ROCKSALT, formula="(Na)2(Cl)3"))


def test_a_mismatch_speaks_of_solvent_only_where_some_may_be_missing() -> None:
    assert "solvent" not in refusal(cif(*NACL, symmetry=ROCKSALT, formula="Na2 Cl3"))
    said = refusal(cif("C1 C .1 .3 .2", "Fe1 Fe .3 .1 .4", cell=BOX, formula="C2 Fe O3"))
    assert "no site holds O (solvent that was not located?)" in said
    assert "formula=flag" in said


def test_an_ambiguous_symbol_names_its_readings() -> None:
    anatase = ("Ti1 Ti 0 0.25 0.375", "O1 O 0 0.25 0.1674")
    said = refusal(
        cif(
            *anatase,
            cell=(3.78, 3.78, 9.51, 90, 90, 90),
            symmetry="_symmetry_space_group_name_H-M 'I 41/a m d'",
        )
    )
    assert "I 41/a m d:1 or I 41/a m d:2" in said and "formula with Z" in said


def test_a_contradiction_says_what_was_taken_and_by_what() -> None:
    text = cif(*NACL, symmetry=ROCKSALT + "\n_symmetry_Int_Tables_number 221", formula="Na Cl", z="4")
    scope = encode(text)
    assert "symmetry_contradicted" in scope.flags and scope.space_group == 225
    assert "taken: F m -3 m, by the formula with Z" in scope.message


def test_species_that_are_flagged_are_told() -> None:
    heavy = encode(cif("D1 D .1 .3 .2", "O1 O .3 .1 .4", cell=BOX))
    assert "isotope" in heavy.flags and heavy.message
    mixed = encode(cif("A1 Fe 0 0 0 0.5", "A2 Mn 0 0 0 0.5", "O1 O .5 .5 .5 1", columns=FILLED))
    assert "disordered" in mixed.flags and "sites: 1 of 2" in mixed.message


def test_two_capitals_that_are_two_readings() -> None:
    assert "(Co, or C and O?)" in refusal(
        cif("CO .1 .3 .2", columns=("label", "fract_x", "fract_y", "fract_z"), cell=BOX)
    )


def test_a_vasp_4_file_says_where_the_elements_go() -> None:
    said = refusal("some title\n1\n5 0 0\n0 5 0\n0 0 5\n1 1\nDirect\n0 0 0\n.5 .5 .5\n")
    assert "write the elements in a line above" in said and "unknown_element" not in said


def test_settings_that_refuse_are_named() -> None:
    slab = '1\nLattice="3 0 0 0 3 0 0 0 20" Properties=species:S:1:pos:R:3 pbc="T T F"\nC 0.0 0.0 0.0\n'
    assert "assume_periodic=true" in refusal(slab)
    assert "max_sites" in refusal(cif(*NACL, symmetry=ROCKSALT), EncoderSettings(max_sites=3))


def test_only_a_text_is_told_of_paths(tmp_path: Path) -> None:
    assert "Path('NaCl.cif')" in refusal("NaCl.cif")
    (tmp_path / "a.cif2").write_text("NaCl")
    with pytest.raises(StructureError) as caught:
        encode(tmp_path / "a.cif2")
    assert "Path(" not in str(caught.value)


def test_wrong_calls_say_the_right_one() -> None:
    text = cif(*NACL, symmetry=ROCKSALT)
    with pytest.raises(TypeError, match="settings=EncoderSettings"):
        encode(text, LENIENT)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"forms=\('official',\)"):
        encode(text, forms="official")


def test_an_entry_is_read_as_its_structure() -> None:
    structure = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3])
    assert encode(ComputedStructureEntry(structure, -1.0)) == encode(structure)


def test_texts_are_cut_visibly() -> None:
    assert shown("a" * 40) == repr("a" * 40)
    assert shown("a" * 41) == f"'{'a' * 39}'…"
