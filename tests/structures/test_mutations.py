"""Whatever the bytes are: a cell that can be encoded, or a StructureError, and nothing else."""

import json
import random
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud_core.structures import Cell, StructureError
from cloud_core.structures.formats import read_all
from cloud_core.structures.pymatgen import species_label
from tests.structures.documents import ase_json, extxyz, jarvis, optimade, rutile

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
STRANGE: list[Any] = [
    None, True, False, 0, -1, 1, 2.5, 10**400, -(10**20), 1e308, float("nan"), float("inf"),
    "", "Fe", "X", "Vac", "D", "Fe3+", "\ud800", "1", "T" * 5000,
    [], {}, [[]], [None], [1, 2, 3], [[1, 2, 3]] * 3, [True] * 3, [{"element": "Fe", "occu": 1}],
    {"a": 1}, {"__ndarray__": [[1], "object", ["a"]]}, {"matrix": []}, {"sites": []},
    {"array": {"array": []}},
]  # fmt: skip


def documents() -> list[Any]:
    disordered = rutile()
    disordered.replace_species({"Ti": {"Ti4+": 0.5, "Zr": 0.25}})
    return [
        rutile().as_dict(), disordered.as_dict(), {"structure": rutile().as_dict(), "energy": 1.0},
        json.loads(ase_json(rutile())), json.loads(ase_json(rutile()))["1"], jarvis(rutile()),
        {"atoms": jarvis(rutile())}, optimade(rutile()), optimade(rutile())["attributes"],
        {"data": [optimade(rutile())], "meta": {}}, [rutile().as_dict(), jarvis(rutile())],
        {"entries": [{"structure": rutile().as_dict()}] * 2},
    ]  # fmt: skip


def texts() -> dict[str, str]:
    poscar = rutile().to(fmt="poscar")
    frame = extxyz(rutile())
    return {
        "poscar": poscar,
        "vasp 4": "\n".join(["Ti O", *poscar.split("\n")[1:5], *poscar.split("\n")[6:]]),
        "extxyz": frame,
        "two frames": frame * 2,
        "lines": (json.dumps(rutile().as_dict()) + "\n") * 2,
        "json": json.dumps(documents()),
        "python": str(rutile().as_dict()),
    }


FORMATS = {"poscar": "poscar", "vasp 4": "poscar", "extxyz": "extxyz", "two frames": "extxyz"}


def check(payload: Any, format: str | None = None) -> None:
    """Reads it. Anything but cells and StructureErrors comes out as it is."""
    try:
        outcomes = [cell for _, cell in read_all(payload, format)]
    except StructureError as error:
        outcomes = [error]
    for outcome in outcomes:
        if isinstance(outcome, Cell):
            assert outcome.lattice.shape == (3, 3) and outcome.fractions.shape == (len(outcome.species), 3)
            assert len(outcome) > 0 and (
                outcome.occupancies is None or len(outcome.occupancies) == len(outcome)
            )
        else:
            assert len(str(outcome)) < 2000 and "Traceback" not in str(outcome)
            assert "CIF" not in str(outcome).replace("no CIF, POSCAR", "")


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    found = [path]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += places(item, (*path, key))
    return found


def replaced(value: Any, path: tuple[Any, ...], new: Any, drop: bool) -> Any:
    copy = json.loads(json.dumps(value))
    if not path:
        return new
    target = copy
    for key in path[:-1]:
        target = target[key]
    if drop:
        del target[path[-1]]
    else:
        target[path[-1]] = new
    return copy


@pytest.mark.parametrize("number", range(len(documents())))
def test_every_place_of_a_document_with_anything_in_it(number: int) -> None:
    """All places, each with a few of the strange values, as objects and as text."""
    document = documents()[number]
    rng = random.Random(number)
    paths = places(document)
    for path in paths if len(paths) < 200 else rng.sample(paths, 200):
        for new in rng.sample(STRANGE, 5):
            changed = replaced(document, path, new, drop=rng.random() < 0.2)
            check(changed)
            check(json.dumps(changed), rng.choice([None, "json", "pymatgen", "ase", "jarvis", "optimade"]))


@st.composite
def damaged(draw: st.DrawFn, text: str) -> str:
    """A text with pieces left out, doubled, swapped or put in."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(len(text) - 1, 0)))
        end = min(len(text), start + draw(st.integers(0, 40)))
        kind = draw(st.integers(0, 4))
        if kind == 0:
            text = text[:start] + text[end:]
        elif kind == 1:
            text = text[:end] + text[start:]
        elif kind == 2:
            text = text[:start] + draw(st.text(max_size=8)) + text[end:]
        elif kind == 3:
            words = [
                "nan",
                "inf",
                "-",
                "1e999",
                "9" * 30,
                "\0",
                "\n",
                '"',
                "{",
                "]",
                "X",
                "D",
                "0",
                "-1",
                "T T F",
                "=",
            ]
            text = text[:start] + draw(st.sampled_from(words)) + text[start:]
        else:
            lines = text.split("\n")
            first, second = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
            lines[first], lines[second] = lines[second], lines[first]
            text = "\n".join(lines)
    return text


@pytest.mark.parametrize("name", list(texts()))
def test_a_damaged_text(name: str) -> None:
    original = texts()[name]

    @QUICK
    @given(damaged(original))
    def run(text: str) -> None:
        check(text)
        check(text, FORMATS.get(name, "json"))
        check(text.encode("utf-8", "surrogatepass"))

    run()


COMPRESSED = (b"\x1f\x8b\x08", b"BZh91AY&SY", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")


@QUICK
@given(st.binary(max_size=300), st.sampled_from([None, "poscar", "extxyz", "json", "ase"]))
def test_any_bytes(data: bytes, format: str | None) -> None:
    for prefix in (b"", b"\xff\xfe", b"{", b"2\n", *COMPRESSED):
        check(prefix + data, format)


KEYS = sorted(set(re.findall(r'"(\w+)"', json.dumps(documents()))))
json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), inner, max_size=5)
    ),
    max_leaves=25,
)


@QUICK
@given(json_values)
def test_any_json_with_the_keys_of_structures(value: Any) -> None:
    check(json.dumps(value), "json")
    if isinstance(value, dict | list):
        check(value)


def test_labels_are_few_whatever_comes() -> None:
    """The memory of labels is bounded: charges of a hostile file do not fill it."""
    for number in range(10_000):
        species_label("Fe", number + 0.5, None)
    assert species_label.cache_info().currsize <= 4096
