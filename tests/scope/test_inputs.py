"""What a person hands over, encoded under limits: order, names, refusals, and nothing of it is run."""

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cloud_core.scope import EncoderSettings, encode, encode_all
from cloud_core.scope.inputs import Encoded, Refused, encode_inputs
from cloud_core.structures.errors import Reason, StructureError

CELL = "4 0 0 0 4 0 0 0 4"
FRAME = f'2\nLattice="{CELL}"\nCs 0 0 0\nCl 2 2 2\n'
NO_LATTICE = "2\nnothing\nCs 0 0 0\nCl 2 2 2\n"
POSCAR = "salt\n1.0\n4 0 0\n0 4 0\n0 0 4\nCs Cl\n1 1\nDirect\n0 0 0\n.5 .5 .5\n"


def document(**more: Any) -> dict[str, Any]:
    sites = [
        {"species": [{"element": element, "occu": 1}], "abc": [x, x, x], "properties": dict(more)}
        for element, x in (("Cs", 0.0), ("Cl", 0.5))
    ]
    return {"lattice": {"matrix": [[4, 0, 0], [0, 4, 0], [0, 0, 4]]}, "sites": sites} | more


def words(outcomes: list[tuple[int, str, Encoded | Refused]]) -> list[tuple[int, str, str]]:
    return [
        (place, name, found.reason.value if isinstance(found, Refused) else str(found.scope.canonical))
        for place, name, found in outcomes
    ]


def test_outcomes_stand_in_the_order_of_the_inputs(tmp_path: Path) -> None:
    """Refusals of whole inputs, which no child sees, keep their place, also first, last and side by side."""
    (tmp_path / "three.extxyz").write_text(FRAME + NO_LATTICE + FRAME)
    inputs = [
        "x.cif", tmp_path / "nowhere.cif", FRAME, tmp_path / "three.extxyz", document(), [], 3,
        POSCAR.encode(), "y.cif", json.dumps([document(), {"sites": 1}]), tmp_path,
    ]  # fmt: skip
    good = str(encode(FRAME).canonical)
    expected = [
        (0, "", "unknown_format"), (1, "", "file_not_found"), (2, "", good), (3, "#0", good),
        (3, "#1", "unsupported"), (3, "#2", good), (4, "", good), (5, "", "no_atoms"),
        (6, "", "unknown_format"), (7, "", good), (8, "", "unknown_format"), (9, "#0", good),
        (9, "#1", "parse_error"), (10, "", "file_not_found"),
    ]  # fmt: skip
    assert words(list(encode_inputs(inputs, EncoderSettings()))) == expected
    assert words(list(encode_inputs(["x.cif", "y.cif"], EncoderSettings()))) == [
        (0, "", "unknown_format"),
        (1, "", "unknown_format"),
    ]
    assert list(encode_inputs([], EncoderSettings())) == []


@pytest.mark.parametrize("payload", [FRAME + NO_LATTICE + FRAME, json.dumps([document(), 1]), POSCAR])
def test_encode_all_says_what_the_limited_way_says(payload: str) -> None:
    limited = [(name, text) for _, name, text in words(list(encode_inputs([payload], EncoderSettings())))]
    free = [
        (name, found.reason.value if isinstance(found, StructureError) else str(found.canonical))
        for name, found in encode_all(payload)
    ]
    assert free == limited


def test_encode_all_takes_forms_as_encode_does() -> None:
    ((name, scope),) = encode_all(POSCAR, forms=("official",))
    assert (name, scope) == ("", encode(POSCAR, forms=("official",)))
    with pytest.raises(StructureError) as caught:
        list(encode_all("no structure"))
    assert caught.value.reason is Reason.UNKNOWN_FORMAT
    with pytest.raises(StructureError) as caught:
        encode(FRAME + FRAME)
    assert caught.value.reason is Reason.SEVERAL_STRUCTURES


class Touches:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_the_shell_runs_nothing_that_a_file_names(tmp_path: Path) -> None:
    """Files that pymatgen's decoder, a YAML loader or pickle would run leave no mark and load no module."""
    mark = tmp_path / "mark"
    # a module of its own that tells that it was imported
    (tmp_path / "intruder.py").write_text(
        f"import pathlib\ndef call(**_): pathlib.Path({str(mark)!r}).touch()\ncall()\n"
    )
    call = {"@module": "intruder", "@class": "call", "@callable": "call", "command": "x"}
    files = {
        "a.json": json.dumps(document(properties=call, **call)),
        "b.json": json.dumps([{"structure": document(magmom=call), "data": call, **call}]),
        "c.json": f"!!python/object/apply:os.system ['touch {mark}']",
        "d.json": json.dumps(document()) + f"\n!!python/object/apply:pathlib.Path.touch ['{mark}']",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "e.cif").write_bytes(pickle.dumps(Touches(mark)))
    (tmp_path / "POSCAR").write_bytes(pickle.dumps(Touches(mark), protocol=0))
    paths = sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".py")
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "scope", *(str(tmp_path / name) for name in paths)],
        env={"PYTHONPATH": f"{Path(__file__).parents[2]}:{tmp_path}", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    told = [line.partition(": ")[0].removeprefix(f"{tmp_path}/") for line in done.stdout.splitlines()]
    assert told == ["a.json", "b.json#0"], done.stderr
    assert done.returncode == 1 and len(done.stderr.splitlines()) == len(paths) - 2
    assert "Traceback" not in done.stderr
    assert not mark.exists()


def test_reading_a_document_loads_no_module_that_it_names() -> None:
    named = {"@module": "xml.sax.saxutils", "@class": "XMLGenerator", "@callable": "escape"}
    text = json.dumps(document(properties=named, **named))
    code = (
        "import sys; from cloud_core.scope import encode; from cloud_core.structures import read\n"
        f"encode({json.dumps(document())!r}); before = set(sys.modules)\n"
        f"read({text!r}); encode({text!r}); print(sorted(set(sys.modules) - before))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


PLAIN = """
import sys
from pathlib import Path
import psutil
from cloud_core.scope import EncoderSettings
from cloud_core.scope.inputs import encode_inputs
text = Path(sys.argv[1]).read_text()
for here in (True, False):
    ((_, _, outcome),) = encode_inputs([text], EncoderSettings(), one_in_this_process=here)
    children = [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]
    print(outcome.scope.space_group, len(children))
"""


def test_one_plain_file_is_encoded_in_a_child_too_unless_asked_otherwise(project: Path) -> None:
    path = project / "flows" / "demo_data" / "held_out.cif"
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, str(path)], capture_output=True, text=True, check=True
    )
    first, second = done.stdout.splitlines()
    assert first.split()[0] == second.split()[0]
    assert (first.split()[1], second.split()[1]) == ("0", "1")
