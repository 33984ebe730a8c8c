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
README = Path(__file__).parent.parent / "README.md"
# The whole chain, which tests/flows/test_pipeline.py runs smaller; a server, a worker and all deployments.
LONG = {"Train, screen, predict", "On a Prefect server"}


def sections() -> dict[str, list[tuple[str, str]]]:
    """Heading -> language and text of each block below it; what stands above the first heading is of ``."""
    first, *others = re.split(r"^## ", README.read_text(encoding="utf-8"), flags=re.MULTILINE)
    parts = {"": first} | {part.partition("\n")[0]: part for part in others}
    return {heading: found for heading, part in parts.items() if (found := BLOCK.findall(part))}


@pytest.fixture
def checkout(project: Path, tmp_path: Path, prefect_server: str, empty_databases: Path) -> Path:
    """What a clone has, with less data; Prefect's databases have their tables already."""
    for name in ("flows", "tasks", "cloud_core", "deployments"):
        shutil.copytree(
            project / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "demo_data")
        )
    cut_demo_data(tmp_path / "flows" / "demo_data", n_structures=60)
    for home in ("runs/prefect", ".prefect"):
        (tmp_path / home).mkdir(parents=True)
        shutil.copy(empty_databases / "prefect.db", tmp_path / home)
    return tmp_path


def test_readme_has_only_blocks_that_can_be_run() -> None:
    blocks = [block for found in sections().values() for block in found]
    assert {kind for kind, _ in blocks} == {"bash", "python", "text"}
    assert sum(kind == "bash" for kind, _ in blocks) >= 5
    made = [line.split("#")[0].strip() for _, text in blocks for line in text.splitlines()]
    assert [line for line in made if line.startswith("make ")] == ["make demo", "make test"]


@pytest.mark.parametrize(
    "heading",
    [
        pytest.param(heading, marks=[pytest.mark.slow] if heading in LONG else [])
        for heading, blocks in sections().items()
        if any(kind != "text" and not text.startswith("make ") for kind, text in blocks)
    ],
)
def test_every_block_of_the_readme_runs(heading: str, checkout: Path, prefect_server: str) -> None:
    """Section by section, each in a fresh checkout; only the long ones start servers of their own."""
    port = str(free_port())
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MLFLOW_"))
    }
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(checkout),
        "PREFECT_SERVER_API_PORT": port,
        "OMP_NUM_THREADS": "1",
    } | ({} if heading in LONG else {"PREFECT_API_URL": prefect_server})
    for kind, text in sections()[heading]:
        if kind == "text":
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
