"""Extended XYZ: frames, columns, lattices and periodicity, held against ASE."""

import io
import time
from typing import Any

import numpy as np
import pytest

from cloud_core.scope import EncoderSettings, encode
from cloud_core.structures import Reason, StructureError, read
from cloud_core.structures.extxyz import read_extxyz, split_frames

CUBE = 'Lattice="4 0 0 0 4 0 0 0 4"'
PAIR = "Cs 0 0 0\nCl 2 2 2\n"
FRAME = f"2\n{CUBE}\n{PAIR}"


def refusal(text: str) -> StructureError:
    with pytest.raises(StructureError) as caught:
        read_extxyz(text)
    assert "extended XYZ" in str(caught.value) and "CIF" not in str(caught.value)
    return caught.value


def test_what_ase_writes_is_read_as_ase_reads_it() -> None:
    from ase.atoms import Atoms
    from ase.io import read as ase_read
    from ase.io import write

    rng = np.random.default_rng(0)
    for number in range(60):
        n = int(rng.integers(1, 20))
        atoms = Atoms(
            numbers=rng.integers(1, 100, n), positions=rng.normal(size=(n, 3)) * 5,
            cell=rng.normal(size=(3, 3)) * 6, pbc=rng.integers(0, 2, 3).astype(bool) | bool(number % 3),
        )  # fmt: skip
        atoms.set_array("forces", rng.normal(size=(n, 3)))
        atoms.set_array("tags2", rng.integers(0, 9, n))
        atoms.info |= {"energy": -1.5, "config type": 'a "quoted" = b', "virial": rng.normal(size=(3, 3))}
        file = io.StringIO()
        write(file, atoms, format="extxyz")
        text = file.getvalue()
        found = ase_read(io.StringIO(text), format="extxyz")
        cell = read(text)
        assert list(cell.species) == found.get_chemical_symbols()
        np.testing.assert_array_equal(cell.lattice, found.cell.array)
        np.testing.assert_allclose(cell.fractions @ cell.lattice, found.positions, atol=1e-9)
        assert bool(cell.notes) == (not found.pbc.all())


@pytest.mark.parametrize(
    "comment",
    [
        CUBE, CUBE.lower(), CUBE.upper(), CUBE.replace("=", " = "), "energy=1 " + CUBE + ' note="a=b"',
        "Lattice={4 0 0 0 4 0 0 0 4}", "Lattice='4.0 0 0 0 4 0 0 0 4e0'", "Lattice=[4,0,0,0,4,0,0,0,4]",
        "Lattice=[[4, 0, 0], [0, 4, 0], [0, 0, 4]] x=[[1, 2], [3]]", CUBE + " Properties=species:S:1:pos:R:3",
        CUBE + " Properties=pos:R:3:species:S:1".replace("pos:R:3:species:S:1", "species:S:1:pos:R:3"),
        CUBE + ' pbc="T T T"', CUBE + " pbc=[T, T, T]", CUBE + ' pbc="True True True"', CUBE + ' pbc="1 1 1"',
    ],
)  # fmt: skip
def test_ways_to_write_the_comment(comment: str) -> None:
    cell = read_extxyz(f"2\n{comment}\n{PAIR}")
    np.testing.assert_array_equal(cell.lattice, 4 * np.eye(3))
    assert cell.species == ("Cs", "Cl") and cell.notes == ()


def test_columns() -> None:
    expected = read_extxyz(FRAME)
    for properties, lines in {
        "Z:I:1:pos:R:3": "55 0 0 0\n17 2 2 2\n",
        "pos:R:3:Z:I:1": "0 0 0 55\n2 2 2 17\n",
        "species:S:1:Z:I:1:pos:R:3:tag:I:1": "Cs 55 0 0 0 1\nCl 17 2 2 2 1\n",
        "id:I:1:species:S:1:move_mask:L:3:pos:R:3": "1 Cs T T F 0 0 0\n2 Cl T T F 2 2 2\n",
    }.items():
        cell = read_extxyz(f"2\n{CUBE} Properties={properties}\n{lines}")
        assert cell.species == expected.species
        assert cell.fractions.tobytes() == expected.fractions.tobytes()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"-2\n{CUBE}\n{PAIR}", Reason.PARSE_ERROR),
        (f"two\n{CUBE}\n{PAIR}", Reason.PARSE_ERROR),
        (f"2.0\n{CUBE}\n{PAIR}", Reason.PARSE_ERROR),
        (f"3\n{CUBE}\n{PAIR}", Reason.PARSE_ERROR),
        (f"1\n{CUBE}\n{PAIR}", Reason.PARSE_ERROR),
        (f"999999999\n{CUBE}\n{PAIR}", Reason.TOO_MANY_SITES),
        (f"99999999999999999999\n{CUBE}\n{PAIR}", Reason.PARSE_ERROR),
        ("2\n", Reason.PARSE_ERROR),
        (f"0\n{CUBE}\n", Reason.NO_ATOMS),
        (f"2\nno lattice here\n{PAIR}", Reason.UNSUPPORTED),
        (f'2\nLattice="4 0 0"\n{PAIR}', Reason.INVALID_LATTICE),
        (f'2\nLattice="4 0 0 0 4 0 0 0 nan"\n{PAIR}', Reason.INVALID_LATTICE),
        (f'2\nLattice="4 0 0 0 4 0 0 0 0"\n{PAIR}', Reason.INVALID_LATTICE),
        (f"2\n{CUBE} {CUBE}\n{PAIR}", Reason.PARSE_ERROR),
        (f'2\n{CUBE} pbc="T T"\n{PAIR}', Reason.PARSE_ERROR),
        (f'2\n{CUBE} pbc="T T maybe"\n{PAIR}', Reason.PARSE_ERROR),
        (f"2\n{CUBE}\nCs 0 0 0\nCl 2 2 x\n", Reason.PARSE_ERROR),
        (f"2\n{CUBE}\nCs 0 0 0\nCl 2 2\n", Reason.PARSE_ERROR),
        (f"2\n{CUBE}\nCs 0 0 0\nCl 2 2 inf\n", Reason.INVALID_POSITIONS),
        (f"2\n{CUBE}\nCs 0 0 0\nX 2 2 2\n", Reason.UNKNOWN_ELEMENT),
        (f"2\n{CUBE}\nCs 0 0 0\nCL 2 2 2\n", Reason.UNKNOWN_ELEMENT),
        (f"2\n{CUBE}\nCs 0 0 0\nCl1 2 2 2\n", Reason.UNKNOWN_ELEMENT),
        (f"2\n{CUBE} Properties=Z:I:1:pos:R:3\n0 0 0 0\n17 2 2 2\n", Reason.UNKNOWN_ELEMENT),
        (f"2\n{CUBE} Properties=Z:I:1:pos:R:3\n55.5 0 0 0\n17 2 2 2\n", Reason.UNKNOWN_ELEMENT),
        (f"2\n{CUBE} Properties=species:S:1:Z:I:1:pos:R:3\nCs 54 0 0 0\nCl 17 2 2 2\n", Reason.PARSE_ERROR),
        (f"2\n{CUBE} Properties=species:S:1:pos:R:2\n{PAIR}", Reason.PARSE_ERROR),
        (f"2\n{CUBE} Properties=species:S:-1:pos:R:3\n{PAIR}", Reason.PARSE_ERROR),
        (f"2\n{CUBE} Properties=species:S:1\n{PAIR}", Reason.PARSE_ERROR),
        (f"2\n{CUBE} Properties=species:S:1:pos:R:3:forces:R:3\n{PAIR}", Reason.PARSE_ERROR),
        (f"2\n{CUBE} Properties=species:S:1:pos:R:3:pos:R:3\n{PAIR}", Reason.PARSE_ERROR),
    ],
)
def test_a_wrong_frame_is_refused(text: str, reason: Reason) -> None:
    assert refusal(text).reason is reason


@pytest.mark.parametrize("pbc", ["F F F", "T T F", "F T T", "0 0 0", "False False False", "[T, T, F]", "F"])
def test_what_is_not_periodic_is_refused_unless_it_is_assumed(pbc: str) -> None:
    value = pbc if pbc.startswith("[") else f'"{pbc}"'
    text = f"2\n{CUBE} pbc={value}\n{PAIR}"
    with pytest.raises(StructureError) as caught:
        encode(text)
    assert caught.value.reason is Reason.UNSUPPORTED
    assert encode(text, settings=EncoderSettings(assume_periodic=True)).space_group == 221


BAD = {
    "no lattice": f"2\nno lattice here\n{PAIR}",
    "negative": f"-1\n{CUBE}\n{PAIR}",
    "one too many": f"3\n{CUBE}\n{PAIR}",
    "one too few": f"1\n{CUBE}\n{PAIR}",
    "as many as the next frame is long": f"6\n{CUBE}\n{PAIR}",
    "huge": f"999999999\n{CUBE}\n{PAIR}",
    "longer than a number": f"{'9' * 19}\n{CUBE}\n{PAIR}",
    "words": f"two\n{CUBE}\n{PAIR}",
    "garbage": "what is this\n",
    "a coordinate": f"2\n{CUBE}\nCs 0 0 0\nCl 2 2 z\n",
    "cut": f"2\n{CUBE}\nCs 0 0 0\n",
}


@pytest.mark.parametrize("bad", list(BAD))
def test_a_bad_frame_costs_itself(bad: str) -> None:
    for before, after in ((1, 1), (0, 2), (2, 0), (3, 2)):
        frames = list(split_frames(FRAME * before + BAD[bad] + FRAME * after))
        outcomes: list[Any] = []
        for frame in frames:
            try:
                outcomes.append(len(read_extxyz(frame)))
            except StructureError:
                outcomes.append("refused")
        assert outcomes == [2] * before + ["refused"] + [2] * after


def test_frames_between_blank_lines_and_without_an_end() -> None:
    for text in (FRAME + "\n\n" + FRAME, "\n" + FRAME * 2 + "\n\n", (FRAME * 2).rstrip()):
        assert [len(read_extxyz(frame)) for frame in split_frames(text)] == [2, 2]


def test_nothing_is_looked_at_twice() -> None:
    """Each text is a million characters that a careless search would go through a million times."""
    million = 1_000_000
    started = time.process_time()
    for word in ("a", "a=", 'a="', "a={", "[", "a=[", " ", "a ", "Lattice=1 ", 'Lattice="'):
        refusal(f"2\n{word * (million // len(word))}\n{PAIR}")
    for lines in ("1\nx\nH 0 0 0\n", "1\n", "-1\n", "x\n", "\n", f"1\n{CUBE}\n"):
        list(split_frames(lines * (million // len(lines))))
    assert time.process_time() - started < 40
