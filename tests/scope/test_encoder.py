"""Whole: every kind of structure is encoded, flagged or refused with a reason; golden strings."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cloud_core.scope import EncoderSettings, canonicalise, decode, encode, fingerprint
from cloud_core.scope.encoder import FLAGS
from cloud_core.structures import Cell, Reason, StructureError

CUBE = 4.2 * np.eye(3)
CENTRE = np.array([[0, 0, 0], [0.5, 0.5, 0.5]])
ALL = ("canonical", "official", "full")


def caesium_chloride(a: str = "Cs", b: str = "Cl", **more: Any) -> Cell:
    return Cell(CUBE, (a, b), CENTRE, **more)


# Raise ENCODER_VERSION when one of these must change.
GOLDEN = {
    ("Cs", "Cl"): "1 4 b O O O c O O O d O O O e O O O 0 | 1a 1b | Cl 0.5 Cs 0.5",
    ("Po", "Po"): "1 6 a O D D a D O D b O O O c O O O d O O O e O O O 0",
}


def test_golden_strings() -> None:
    scope = encode(caesium_chloride(), ALL)
    assert scope.canonical == GOLDEN["Cs", "Cl"]
    assert scope.official == "1 4 b O O O c O O O d O O O e O O O 0 | 1a 1b | Cs 0.5 Cl 0.5"
    assert scope.full == "1 4 b O O O c O O O d O O O e O O O 0 | 1a 1b | Cs Cl"
    assert scope.element_key == "221 Cl:a Cs:b"
    assert (scope.space_group, scope.space_group_official) == (221, 221)
    assert scope.wyckoff == ("1a", "1b")
    assert scope.composition == {"Cs": 0.5, "Cl": 0.5}
    assert (scope.n_sites, scope.n_atoms_primitive, scope.n_atoms_conventional) == (2, 2, 2)
    assert scope.flags == ()


def test_only_what_is_asked_for_is_computed() -> None:
    scope = encode(caesium_chloride(), ("official",))
    assert scope.canonical is None
    assert scope.element_key is None
    assert scope.full is None
    assert scope.n_atoms_primitive is None
    assert encode(caesium_chloride()).official is None
    assert encode(caesium_chloride(), settings=EncoderSettings(forms=("full",))).full
    with pytest.raises(ValueError, match="unknown form"):
        encode(caesium_chloride(), ("reduced",))
    with pytest.raises(ValueError, match="symprec"):
        EncoderSettings(symprec=0)


def test_all_elements_are_encoded_and_the_unknown_flagged() -> None:
    from cloud_core.structures.elements import SYMBOLS

    flagged = set()
    for element in SYMBOLS:
        scope = encode(caesium_chloride(element, "H" if element != "H" else "O"), ALL)
        assert decode(scope.canonical or "").text == scope.canonical
        flagged |= {element} if "not_in_vocabulary" in scope.flags else set()
    assert {"At", "Fr", "Es", "Og"} <= flagged
    assert not {"H", "Ac", "Cf", "Cn"} & flagged


def test_a_vanishing_fraction_is_flagged() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(6) / 6] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    scope = encode(Cell(np.eye(3) * 18, ("Cr", *["Al"] * 215), grid))
    assert scope.flags == ("zero_fraction",)
    assert (scope.canonical or "").endswith("| Al 1.0 Cr 0.0")
    assert decode(scope.canonical or "").composition == {"Al": 1.0, "Cr": 0.0}
    assert set(scope.flags) <= FLAGS.keys()


def test_single_atoms_and_molecules() -> None:
    atom = encode(Cell(10 * np.eye(3), ("He",), np.zeros((1, 3))), ALL)
    assert atom.space_group == 221
    water = encode(
        Cell(
            12 * np.eye(3), ("O", "H", "H"), np.array([[0, 0, 0], [0.0632, 0.0489, 0], [-0.0632, 0.0489, 0]])
        )
    )
    assert water.space_group == 25
    assert water.composition == {"O": 1 / 3, "H": 2 / 3}


def test_two_thousand_sites() -> None:
    """A 10 x 10 x 10 supercell of CsCl is CsCl."""
    grid = np.stack(np.meshgrid(*[np.arange(10)] * 3, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    fractions = ((grid + CENTRE) / 10).reshape(-1, 3)
    large = encode(Cell(CUBE * 10, ("Cs", "Cl") * 1000, fractions), ALL)
    assert large.n_sites == 2000
    assert large.canonical == GOLDEN["Cs", "Cl"]
    assert large.official == encode(caesium_chloride(), ("official",)).official
    moved = fractions + np.random.default_rng(0).normal(scale=0.005, size=fractions.shape)
    liquid = encode(Cell(CUBE * 10, ("Cs", "Cl") * 1000, moved), ALL)
    assert (liquid.space_group, liquid.space_group_official, liquid.wyckoff) == (1, 1, ("1a",))
    assert large.element_key == "221 Cl:a Cs:b"


def test_disordered_sites() -> None:
    """Composition from occupancies, Wyckoff letters from the sites; mixtures are kinds of their own."""
    mixed = Cell(CUBE, ("Na,K", "Cl"), CENTRE, ({"Na": 0.75, "K": 0.25}, {"Cl": 1.0}))
    scope = encode(mixed, ALL)
    assert scope.canonical == "1 4 b O O O c O O O d O O O e O O O 0 | 1a 1b | Cl 0.5 K 0.12 Na 0.38"
    assert scope.official == "1 4 b O O O c O O O d O O O e O O O 0 | 1a 1b | Na 0.38 K 0.12 Cl 0.5"
    assert scope.element_key == "221 Cl:a K0.2500,Na0.7500:b"
    assert scope.flags == ("disordered",)
    assert canonicalise(scope.official) == scope.canonical
    vacant = Cell(CUBE, ("Ti", "O"), CENTRE, ({"Ti": 0.5}, {"O": 1.0}))
    assert encode(vacant).composition == {"Ti": round(1 / 3, 9), "O": round(2 / 3, 9)}


def test_charges_and_isotopes_are_no_part_of_the_canonical_form() -> None:
    bare = encode(caesium_chloride("Fe", "O"), ALL)
    charged = Cell(CUBE, ("Fe2+", "O2-"), CENTRE, ({"Fe2+": 1.0}, {"O2-": 1.0}))
    assert encode(charged, ALL) == bare
    heavy = encode(caesium_chloride("Li", "D"), ALL)
    assert heavy.canonical == encode(caesium_chloride("Li", "H")).canonical
    assert heavy.flags == ("isotope",)
    # as pymatgen, and so the published encoder, writes deuterium
    assert (heavy.official or "").endswith("Li 0.5 H 0.5")


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (Cell(CUBE, (), np.zeros((0, 3))), Reason.NO_ATOMS),
        (Cell(CUBE * 0, ("H",), np.zeros((1, 3))), Reason.INVALID_LATTICE),
        (Cell(CUBE * np.nan, ("H",), np.zeros((1, 3))), Reason.INVALID_LATTICE),
        (Cell(np.eye(2), ("H",), np.zeros((1, 3))), Reason.INVALID_LATTICE),
        (Cell(CUBE, ("H",), np.full((1, 3), np.nan)), Reason.INVALID_POSITIONS),
        (Cell(CUBE, ("H",), np.zeros((2, 3))), Reason.INVALID_POSITIONS),
        (caesium_chloride("X", "Cl"), Reason.UNKNOWN_ELEMENT),
        (Cell(CUBE, ("Vac", "Cl"), CENTRE, ({"Vac": 1.0}, {"Cl": 1.0})), Reason.UNKNOWN_ELEMENT),
        (Cell(CUBE, ("Cs", "Cs"), CENTRE * 0.001), Reason.OVERLAPPING_SITES),
        (caesium_chloride(occupancies=({"Cs": 0.7, "K": 0.6}, {"Cl": 1.0})), Reason.INVALID_OCCUPANCY),
        (caesium_chloride(occupancies=({"Cs": -0.5}, {"Cl": 1.0})), Reason.INVALID_OCCUPANCY),
        (caesium_chloride(occupancies=({}, {"Cl": 1.0})), Reason.INVALID_OCCUPANCY),
    ],
)
def test_refusals(cell: Cell, reason: Reason) -> None:
    with pytest.raises(StructureError) as caught:
        encode(cell)
    assert caught.value.reason is reason


def test_too_many_sites() -> None:
    with pytest.raises(StructureError) as caught:
        encode(caesium_chloride(), settings=EncoderSettings(max_sites=1))
    assert caught.value.reason is Reason.TOO_MANY_SITES


def test_sensitivity_to_the_tolerance_is_flagged_on_request() -> None:
    """A perovskite-like shift of 0.012 Å: cubic at 2 x symprec, not at symprec."""
    shifted = Cell(CUBE, ("Cs", "Cl"), CENTRE + np.array([[0, 0, 0], [0.0032, 0.0011, 0]]))
    checked = EncoderSettings(check_tolerance=True)
    assert "tolerance_sensitive" in encode(shifted, settings=checked).flags
    assert "tolerance_sensitive" not in encode(shifted).flags
    assert encode(caesium_chloride(), settings=checked).flags == ()


def noisy_supercell() -> Cell:
    """Moyo gives the supercell's cubic symmetry at twice the tolerance, and spglib a lower one."""
    grid = np.stack(np.meshgrid(*[np.arange(4) / 4] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    noise = np.random.default_rng(0).normal(scale=2e-4, size=grid.shape)
    return Cell(12 * np.eye(3), ("C",) * 64, grid + noise)


def test_a_tolerance_that_the_engine_changed_is_flagged() -> None:
    scope = encode(noisy_supercell())
    assert scope.flags == ("tolerance_changed",)
    assert "at symprec 0.01 Å, but at 0.0" in scope.message
    assert set(scope.flags) <= FLAGS.keys()


def test_where_spglib_fails_the_canonical_form_is_kept() -> None:
    """Two atoms closer than a coarse tolerance are too close for spglib, not for moyo."""
    fractions = np.array([[0, 0, 0], [0, 0, 0.125], [0.4, 0.5, 0.45]])
    molecule = Cell(np.diag([4.0, 5.0, 6.0]), ("H", "H", "H"), fractions)
    coarse = EncoderSettings(symprec=1.0, forms=ALL)
    with pytest.raises(StructureError, match=r"two sites are 0\.75.* Å apart") as caught:
        encode(molecule, settings=replace(coarse, forms=("official",)))
    assert caught.value.reason is Reason.SYMMETRY_FAILED
    scope = encode(molecule, settings=coarse)
    assert scope.canonical == encode(molecule, settings=EncoderSettings(symprec=1.0)).canonical is not None
    assert (scope.official, scope.full, scope.space_group_official) == (None, None, None)
    assert scope.flags == ("tolerance_changed", "official_missing")
    assert "; no official form: spglib at symprec 1.0 Å: " in scope.message


def test_fingerprint_moves_with_what_strings_depend_on() -> None:
    base = EncoderSettings()
    assert fingerprint(base) == fingerprint(EncoderSettings())
    others = [
        replace(base, symprec=0.1),
        replace(base, angle_tolerance=1.0),
        replace(base, forms=ALL),
        replace(base, formula="flag"),
        replace(base, overlaps="flag"),
        replace(base, assume_periodic=True),
    ]
    assert len({fingerprint(settings) for settings in (base, *others)}) == 7


def test_moyo_is_silent() -> None:
    """Supercells make moyo warn; a fresh process says nothing on stdout or stderr."""
    script = (
        "import numpy as np\n"
        "from cloud_core.scope import encode\n"
        "from cloud_core.structures import Cell\n"
        "g = np.stack(np.meshgrid(*[np.arange(4)/4]*3, indexing='ij'), -1).reshape(-1, 3)\n"
        "g = g + np.random.default_rng(0).normal(scale=2e-4, size=g.shape)\n"
        "encode(Cell(np.eye(3)*12, ('C',)*64, g))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


def test_importing_is_light() -> None:
    script = (
        "import sys, cloud_core.scope\n"
        "print([m for m in ('spglib', 'moyopy', 'pymatgen', 'gemmi', 'pandas', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
