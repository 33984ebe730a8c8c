"""JSON taken apart as text, held against the json module and against the reader of objects."""

import json
import random
from typing import Any

import pytest

from cloud_core.structures.documents import split_document
from cloud_core.structures.json_text import JsonError, Scanner, split_json

DEEP = "[" * 200_000 + "]" * 200_000
SITES = {"sites": [], "lattice": {"matrix": []}}
ENTRY = {"id": "a", "attributes": {"species_at_sites": ['"', "\\", "]"]}}
ATOMS = {"numbers": [1], "positions": [[0, 0, 0]], "cell": [1, 1, 1]}
DOCUMENTS: list[Any] = [
    SITES,
    [SITES],
    [SITES, {"structure": SITES, "entries": [1]}],
    {"entries": [{"structure": SITES}, SITES]},
    {"structure": SITES, "data": [1, 2]},
    {"data": [ENTRY, ENTRY], "meta": {"data": [1]}},
    {"meta": {}, "data": ENTRY},
    ENTRY,
    {"1": ATOMS, "ids": [1], "nextid": 2},
    {"2": ATOMS, "7": ATOMS, "ids": [2, 7], "nextid": 8},
    {"structures": []},
    {"jid": "JVASP-1", "atoms": {"lattice_mat": [], "elements": []}},
    {},
]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_texts_split_as_their_objects(document: Any) -> None:
    for text in (json.dumps(document), "\ufeff\n" + json.dumps(document, indent=3)):
        parts = list(split_json(text))
        assert [(name, json.loads(part.lstrip("\ufeff"))) for name, part in parts] == list(
            split_document(document)
        )


def value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(8 if depth < 5 else 6)
    if kind < 3:
        return "".join(rng.choice('ab"\\{}[],: \né') for _ in range(rng.randrange(9)))
    if kind < 6:
        return rng.choice([1, -2.5e300, True, None, 10**30])
    many = range(rng.randrange(5))
    if kind == 6:
        return [value(rng, depth + 1) for _ in many]
    return {f'k"{i}': value(rng, depth + 1) for i in many}


def in_pieces(text: str, rng: random.Random) -> Scanner:
    """The text as a stream of tiny pieces, which cut every token somewhere."""
    at = [0]

    def read(_: int) -> str:
        start, at[0] = at[0], at[0] + rng.randrange(1, 5)
        return text[start : at[0]]

    return Scanner(read)


def test_values_of_a_stream_are_those_of_the_json_module() -> None:
    rng = random.Random(3)
    for _ in range(300):
        rows = [value(rng) for _ in range(4)]
        text = json.dumps({"a": rows, "b": 1, "c": rows}, ensure_ascii=rng.random() < 0.5)
        scanner = in_pieces(text, rng)
        found = {}
        for key in scanner.members():
            if key == "a":
                found[key] = [json.loads(scanner.value() or "") for _ in scanner.elements()]
            elif key == "b":
                scanner.skip()
            else:
                found[key] = json.loads(scanner.value() or "")
        assert found == {"a": rows, "c": rows} and scanner.peek() == ""


def test_a_value_above_the_limit_is_passed_and_the_next_is_read() -> None:
    rng = random.Random(0)
    long = ['"' + "x" * 100 + '\\""', "[" + "1," * 100 + "{}]", '{"a": "' + "]" * 90 + '"}']
    text = "[" + ",".join(f"{one}, 7" for one in long) + "]"
    scanner = in_pieces(text, rng)
    scanner._limit = 50
    assert [scanner.value() for _ in scanner.elements()] == [None, "7"] * 3


@pytest.mark.parametrize(
    "text", ["[1, ", '["a', '{"a": [1', '{"a" 1}', "[1 2]", "[:]", "[}", '{"a": 1, b: 2}', "["]
)
def test_what_is_no_json_is_an_error(text: str) -> None:
    def walk(scanner: Scanner) -> None:
        if scanner.peek() == "[":
            for _ in scanner.elements():
                scanner.skip()
        else:
            for _ in scanner.members():
                scanner.skip()

    for seed in range(5):
        with pytest.raises(JsonError):
            walk(in_pieces(text, random.Random(seed)))


def test_a_bad_part_costs_itself() -> None:
    good = json.dumps(SITES)
    parts = [f'[{good}, {{"a": {DEEP}}}, {good}, {{bad}}, {good}]', f'[{good}, {good}, {{"cut": [1']
    assert [name for name, _ in split_json(parts[0])] == ["#0", "#1", "#2", "#3", "#4"]
    assert [part for _, part in split_json(parts[0])][::2] == [good] * 3
    assert [part for _, part in split_json(parts[1])] == [good, good, '{"cut": [1']
    lines = f'{good}\n\n{{"a": {DEEP}}}\n{{"cut": [\n{good}\n'
    assert [part == good for _, part in split_json(lines)] == [True, False, False, True]
    brackets = "[" * 200
    assert list(split_json(brackets)) == [("", brackets)] and list(split_json(DEEP)) == [("", DEEP)]
