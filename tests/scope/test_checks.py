"""What refuses a cell and what is flagged: overlaps, notes of the reader, readings that differ."""

from dataclasses import replace

import numpy as np
import pytest

from cloud_core.scope import EncoderSettings, Scope, encode
from cloud_core.scope.encoder import FLAGS
from cloud_core.structures import Cell, Reason, StructureError
from cloud_core.structures.cell import Note

EDGE = 6.0
CUBE = EDGE * np.eye(3)
CENTRE = np.array([[0, 0, 0], [0.5, 0.5, 0.5]])
PLAIN = Cell(CUBE, ("Cs", "Cl"), CENTRE)


def pair(first: dict[str, float], second: dict[str, float], distance: float) -> Cell:
    """Two sites so far apart (Å), and chlorine between their images."""
    fractions = np.array([[0, 0, 0], [0, 0, 1 - distance / EDGE], [0.5, 0.5, 0.5]])
    occupancies = (first, second, {"Cl": 1.0})
    if all(site in ({name: 1.0} for name in site) for site in occupancies):
        return Cell(CUBE, tuple(name for site in occupancies for name in site), fractions)
    return Cell(CUBE, tuple(map(str, occupancies)), fractions, occupancies)


def refused(cell: Cell, settings: EncoderSettings | None = None) -> StructureError:
    with pytest.raises(StructureError) as caught:
        encode(cell, settings=settings)
    return caught.value


@pytest.mark.parametrize(
    ("first", "second", "distance", "overlaps"),
    [
        ({"Na": 1.0}, {"K": 1.0}, 0.49, True),
        ({"Na": 1.0}, {"K": 1.0}, 0.51, False),
        ({"Na": 1.0}, {"Na": 1.0}, 0.0, True),
        ({"Na": 0.5}, {"K": 0.5}, 0.2, False),  # one or the other
        ({"Na": 0.5}, {"K": 0.51}, 0.2, False),  # as rounded
        ({"Na": 0.5}, {"K": 0.52}, 0.2, True),
        ({"Na": 0.6, "Rb": 0.4}, {"K": 0.1}, 0.2, True),
        ({"O": 1.0}, {"H": 1.0}, 0.31, False),  # a hydrogen atom as X-rays see it, badly
        ({"O": 1.0}, {"D": 1.0}, 0.31, False),
        ({"O": 1.0}, {"D": 0.9}, 0.31, False),
        ({"H": 1.0}, {"H": 1.0}, 0.31, False),
        ({"O": 1.0}, {"H": 1.0}, 0.29, True),
        ({"O": 1.0}, {"Na": 0.5, "H": 0.5}, 0.31, True),  # sodium is no hydrogen
    ],
)
def test_overlaps(first: dict[str, float], second: dict[str, float], distance: float, overlaps: bool) -> None:
    cell = pair(first, second, distance)
    flag = EncoderSettings(overlaps="flag", symprec=1e-4)
    if not overlaps:
        assert "overlapping_sites" not in encode(cell, settings=flag).flags
        assert "apart" not in encode(cell, settings=replace(flag, overlaps="refuse")).message
        return
    error = refused(cell, replace(flag, overlaps="refuse"))
    assert error.reason is Reason.OVERLAPPING_SITES
    assert f"{distance:.3f} Å" in str(error) and "site 1" in str(error) and "site 2" in str(error)
    scope = encode(cell, settings=flag)
    assert "overlapping_sites" in scope.flags and f"{distance:.3f} Å apart" in scope.message


def test_a_cell_thinner_than_an_atom() -> None:
    error = refused(Cell(np.diag([0.4, 5, 5]), ("Na",), np.zeros((1, 3))))
    assert error.reason is Reason.OVERLAPPING_SITES and "its own image" in str(error)


def noted(*flags: str) -> Cell:
    return replace(PLAIN, notes=tuple(Note(flag, f"words of {flag}") for flag in flags))


@pytest.mark.parametrize(
    ("flag", "strict", "lenient", "reason"),
    [
        (
            "formula_mismatch",
            EncoderSettings(formula="refuse"),
            EncoderSettings(formula="flag"),
            Reason.FORMULA_MISMATCH,
        ),
        (
            "not_periodic",
            EncoderSettings(assume_periodic=False),
            EncoderSettings(assume_periodic=True),
            Reason.UNSUPPORTED,
        ),
    ],
)
def test_notes_that_a_setting_refuses(
    flag: str, strict: EncoderSettings, lenient: EncoderSettings, reason: Reason
) -> None:
    error = refused(noted(flag), strict)
    assert error.reason is reason and f"words of {flag}" in str(error)
    scope = encode(noted(flag), settings=lenient)
    assert scope == replace(encode(PLAIN), flags=(flag,), message=f"words of {flag}")


def test_other_notes_are_flags_with_their_words() -> None:
    scope = encode(noted("hydrogen_missing", "moments_ignored", "hydrogen_missing"))
    assert scope.flags == ("hydrogen_missing", "moments_ignored")
    words = ["words of hydrogen_missing", "words of moments_ignored", "words of hydrogen_missing"]
    assert scope.message == "; ".join(words)
    assert set(scope.flags) <= FLAGS.keys()
    assert encode(PLAIN).message == ""


AMBIGUOUS = noted("ambiguous_setting", "no_symmetry_given")


def without_alternatives() -> Scope:
    return encode(noted("no_symmetry_given"))


def test_readings_that_are_one_crystal_are_no_ambiguity() -> None:
    moved = replace(PLAIN, fractions=CENTRE + 0.25)
    assert encode(replace(AMBIGUOUS, alternatives=(moved,))) == without_alternatives()
    official = EncoderSettings(forms=("official",))
    assert (
        "ambiguous_setting" not in encode(replace(AMBIGUOUS, alternatives=(moved,)), settings=official).flags
    )


def test_readings_that_differ_are_refused() -> None:
    swapped = replace(PLAIN, species=("Cl", "Cs"))  # the same key: both letters are one under relabeling
    other = replace(PLAIN, fractions=CENTRE * 0.8)
    assert encode(replace(AMBIGUOUS, alternatives=(swapped,))) == without_alternatives()
    for alternatives in ((other,), (swapped, other)):
        error = refused(replace(AMBIGUOUS, alternatives=alternatives))
        assert error.reason is Reason.AMBIGUOUS_SETTING and "words of ambiguous_setting" in str(error)
    error = refused(replace(PLAIN, alternatives=(other,)))
    assert error.reason is Reason.AMBIGUOUS_SETTING and "2 readings" in str(error)


def test_a_reading_that_cannot_be_encoded_differs_from_one_that_can() -> None:
    impossible = replace(PLAIN, fractions=CENTRE * 0.01)
    assert refused(replace(PLAIN, alternatives=(impossible,))).reason is Reason.AMBIGUOUS_SETTING


def test_settings_are_checked() -> None:
    for wrong in ({"formula": "ignore"}, {"overlaps": ""}):
        with pytest.raises(ValueError, match="refuse or flag"):
            EncoderSettings(**wrong)  # type: ignore[arg-type]
