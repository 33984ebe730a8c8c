"""The served model over HTTP: a request is content, under limits, and never a file of the server or code."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import httpx
import mlflow
import pytest

from cloud_core.models.geometry import EncoderConfig
from cloud_core.models.heads import PropertyModel
from cloud_core.models.targets import Target
from cloud_core.scope import encode
from tasks.registry import SERVING_REQUIREMENTS, register
from tests.servers import free_port, stop, wait_until_healthy

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
GEOMETRY = EncoderConfig(hidden_size=16, layers=1, heads=2, feed_forward=32)
SALT_FILE = Path(__file__).parents[2] / "flows" / "demo_data" / "held_out.cif"
Ask = Callable[[list[str]], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def mlflow_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An embedded store of this module's own, put back afterwards."""
    folder = tmp_path_factory.mktemp("registry")
    uri = f"sqlite:///{folder}/mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.setenv("CLOUD_RUNS", str(folder))
        yield uri


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory, mlflow_store: str) -> Iterator[Ask]:
    """Asks `mlflow models serve` of a registered model."""
    folder = tmp_path_factory.mktemp("served")
    model = PropertyModel(GEOMETRY, [Target("gap", "eV").fitted([0.0, 4.0])]).save(
        folder / "model", {"form": "canonical"}
    )
    mlflow.set_tracking_uri(mlflow_store)
    with mlflow.start_run() as run:
        pass
    version = register(model, "served", run.info.run_id)
    port = free_port()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", f"models:/served/{version}"),
            *("--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)),
        ],
        # mlflow looks for uvicorn on the path, where an activated environment has it
        env=os.environ
        | {
            "MLFLOW_TRACKING_URI": mlflow_store,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        },
        cwd=folder,
        start_new_session=True,
    )
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}/health", process, 180)

        def ask(structures: list[str]) -> list[dict[str, Any]]:
            answer = httpx.post(
                f"http://127.0.0.1:{port}/invocations",
                json={"dataframe_split": {"columns": ["structure"], "data": [[text] for text in structures]}},
                timeout=120,
            )
            assert answer.status_code == 200, answer.text[:500]
            return answer.json()["predictions"]  # type: ignore[no-any-return]

        yield ask
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # uvicorn is a child of mlflow's shell
        stop(process)


@pytest.fixture(scope="module")
def good(project: Path) -> str:
    with ZipFile(project / "flows" / "demo_data" / "structures.zip") as archive:
        return archive.read(next(name for name in archive.namelist() if "mp-" in name)).decode()


def test_texts_and_strings_are_answered(ask: Ask, good: str) -> None:
    text = encode(good).canonical
    first, second = ask([good, str(text)])
    assert first["scope"] == second["scope"] == text
    assert first["gap"] == pytest.approx(second["gap"], rel=1e-6) and first["error"] is None


def test_no_file_of_the_server_is_opened(ask: Ask, tmp_path: Path, good: str) -> None:
    secret = tmp_path / "secret.cif"
    secret.write_text(good + "# a line that nobody may see\n")
    names = [
        str(secret),
        f"file://{secret}",
        f"{secret}\n",
        "/etc/passwd",
        "~/.ssh/id_rsa",
        "../../etc/passwd",
    ]
    for name, row in zip(names, ask(names), strict=True):
        assert row["scope"] is None, name
        assert "root:" not in row["error"] and "nobody may see" not in row["error"]
    assert "a file is given as Path" in ask([str(secret)])[0]["error"]


def hostile(marker: Path) -> dict[str, str]:
    """Inputs that would leave a mark, hang, or take all memory."""
    lattice = {"matrix": [[4, 0, 0], [0, 4, 0], [0, 0, 4]]}
    command = f"touch {marker}"
    call = {"@module": "os", "@class": "system", "@callable": "system", "command": command, "args": [command]}
    path = {"@module": "pathlib", "@class": "Path", "args": [str(marker)]}
    popen = {"@module": "subprocess", "@class": "Popen", "@version": "1", "args": ["touch", str(marker)]}
    sites = [
        {"species": [{"element": "Na", "occu": 1}], "abc": [0, 0, 0], "properties": {"a": call, "b": popen}},
        {"species": [{"element": "Cl", "occu": 1}], "abc": [0.5, 0.5, 0.5], "properties": {"c": path}},
    ]
    structure = {"@module": "os", "@class": "system", "lattice": lattice, "sites": sites, "properties": call}
    deep = "[" * 200_000 + "]" * 200_000
    cell = "data_x\n" + "".join(f"_cell_length_{axis} 4\n" for axis in "abc")
    return {
        "code in properties": json.dumps(structure),
        "code as an entry": json.dumps({"structure": structure, "@module": "os", "@class": "system"}),
        "deep JSON": deep,
        "deep JSON in an object": '{"sites": ' + deep + "}",
        "a negative number of atoms": '-5\nLattice="4 0 0 0 4 0 0 0 4"\nNa 0 0 0\n',
        "a number of atoms that is too large": '999999999\nLattice="4 0 0 0 4 0 0 0 4"\nNa 0 0 0\n',
        "a length of 1e300": cell.replace("a 4", "a 1e300")
        + "loop_\n_atom_site_label\n_atom_site_fract_x\nNa1 0\n",
        "a million operators": cell + "loop_\n_symmetry_equiv_pos_as_xyz\n" + "x,y,z\n" * 1_000_000,
        "yaml": "!!python/object/apply:os.system ['" + command + "']\n",
        "a pickle": f"cos\nsystem\n(S'{command}'\ntR.\n",
    }


def test_hostile_input_costs_its_row_and_leaves_no_mark(ask: Ask, tmp_path: Path, good: str) -> None:
    marker = tmp_path / "mark"
    inputs = hostile(marker)
    rows = ask([good, *inputs.values(), good])
    assert [row["input"] for row in rows] == list(range(len(inputs) + 2))
    assert rows[0]["error"] is None and rows[0]["scope"] == rows[-1]["scope"]
    for name, row in zip(inputs, rows[1:-1], strict=True):
        if name.startswith("code"):  # the crystal is read, and nothing else of it
            assert (row["error"], row["scope"].rpartition("| ")[2]) == (None, "Cl 0.5 Na 0.5")
        else:
            assert row["scope"] is None and row["error"], name
    assert not marker.exists()
    assert ask([good])[0]["error"] is None


def test_what_a_served_model_imports_is_among_its_requirements() -> None:
    """So that it starts in an environment that has them alone."""
    program = (
        "import importlib.metadata as m, json, sys\n"
        "before = set(sys.modules)\n"
        "from pathlib import Path\n"
        "from cloud_core.inference.predictor import Predictor\n"
        f"text = Path({str(SALT_FILE)!r}).read_text()\n"
        "assert Predictor.load('formation_energy').predict(text)[0]['error'] is None\n"
        "import cloud_core.models.ensemble, cloud_core.models.debye_model, cloud_core.training.loop\n"
        "of = m.packages_distributions()\n"
        "tops = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(json.dumps(sorted({d for top in tops for d in of.get(top, [])})))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    needed = {_normal(name) for name in json.loads(done.stdout)} - {"cloud-pipeline"}
    known: set[str] = set()
    waiting = [_normal(name) for name in SERVING_REQUIREMENTS]
    while waiting:
        name = waiting.pop()
        if name not in known:
            known.add(name)
            with suppress(PackageNotFoundError):
                waiting += [_normal(re.split(r"[\s;<>=!~\[(]", text)[0]) for text in requires(name) or ()]
    assert needed <= known, needed - known


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
