"""Every code block of README.md is run (the two make commands aside), on a cut of the demo's data."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.demo_cut import cut_demo_data
from tests.servers import free_port

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(project: Path) -> list[tuple[str, str]]:
    return BLOCK.findall((project / "README.md").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def checkout(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clone has, with less data."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("flows", "tasks", "cloud_core", "deployments"):
        shutil.copytree(
            project / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "demo_data")
        )
    cut_demo_data(folder / "flows" / "demo_data", n_structures=60)
    return folder


def test_readme_has_only_blocks_that_can_be_run(project: Path) -> None:
    kinds = [kind for kind, _ in blocks(project)]
    assert set(kinds) <= {"bash", "python", "text"} and kinds.count("bash") >= 5
    made = [line.split("#")[0].strip() for _, text in blocks(project) for line in text.splitlines()]
    assert [line for line in made if line.startswith("make ")] == ["make demo", "make test"]


def test_every_block_of_the_readme_runs(project: Path, checkout: Path) -> None:
    port = str(free_port())
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MLFLOW_"))
    }
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(checkout),
        "PREFECT_SERVER_API_PORT": port,
        "OMP_NUM_THREADS": "1",
    }
    for kind, text in blocks(project):
        if kind == "text" or re.search(r"^make ", text, re.MULTILINE):
            continue
        program = ["bash", "-euo", "pipefail", "-c"] if kind == "bash" else [sys.executable, "-c"]
        done = subprocess.run(
            [*program, text.replace("4200", port)],
            cwd=checkout,
            env=environment,
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
