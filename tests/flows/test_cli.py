"""`cloud` on the shell, as a person uses it: real processes, exit codes, one line for a mistake."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli import app

DATA = Path(__file__).parents[2] / "flows" / "demo_data"
CLOUD = [sys.executable, "-m", "flows.cli"]


def cloud(*arguments: str, runs: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {key: value for key, value in os.environ.items() if key not in ("PREFECT_API_URL", "PREFECT_HOME")}
    return subprocess.run(
        [*CLOUD, *arguments],
        env=own | {"CLOUD_RUNS": str(runs), "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.parametrize("command", [None, *(c.name or c.callback.__name__ for c in app.registered_commands)])
def test_every_command_explains_itself_with_an_example(command: str | None, tmp_path: Path) -> None:
    done = cloud(*([command] if command else []), "--help", runs=tmp_path)
    assert done.returncode == 0, done.stderr
    assert command is None or "Example" in done.stdout


def test_scope_prints_the_string_of_a_file(tmp_path: Path) -> None:
    done = cloud("scope", str(DATA / "held_out.cif"), runs=tmp_path)
    assert done.returncode == 0
    assert done.stdout.strip().endswith("| 4a 4b | Cl 0.5 Na 0.5")
    shown = json.loads(cloud("scope", "--json", str(DATA / "held_out.cif"), runs=tmp_path).stdout)
    assert shown[0]["space_group"] == 225


def test_a_good_file_is_printed_though_another_is_broken(tmp_path: Path) -> None:
    (tmp_path / "broken.cif").write_text("data_x\n_cell_length_a 1\n")
    done = cloud("scope", str(tmp_path / "broken.cif"), str(DATA / "held_out.cif"), runs=tmp_path)
    assert done.returncode == 1
    assert "held_out.cif: 1 6 a" in done.stdout and "broken.cif" in done.stderr


@pytest.mark.integration
def test_encode_status_and_a_second_run(tmp_path: Path) -> None:
    folder = tmp_path / "cifs"
    folder.mkdir()
    (folder / "NaCl.cif").write_bytes((DATA / "held_out.cif").read_bytes())
    (folder / "broken.cif").write_text("data_x\n_cell_length_a 1\n")
    table = str(tmp_path / "table")
    first = cloud("encode", str(folder), "--to", table, "--workers", "1", "--json", runs=tmp_path / "runs")
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["n_encoded"] == 1 and json.loads(first.stdout)["n_quarantined"] == 1
    second = cloud("encode", str(folder), "--to", table, "--workers", "1", "--json", runs=tmp_path / "runs")
    assert json.loads(second.stdout)["n_skipped"] == 2
    status = json.loads(cloud("status", table, "--json", runs=tmp_path).stdout)
    assert status["rows"]["encoded"] == 1 and sum(status["quarantine"].values()) == 1
    again = cloud("replay", table, "--symprec", "0.05", "--workers", "1", "--json", runs=tmp_path / "runs")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["n_replayed"] == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["scope", "nowhere.cif"], "nowhere.cif: no such file"),
        (["status", "no-table"], "no-table"),
        (["sync", "nothing"], "no sync named 'nothing'"),
        (["pretrain", "--config", "nowhere.yaml"], "nowhere.yaml: cannot read the configuration"),
        (["predict", "no-model", str(DATA / "held_out.cif")], "no-model"),
        (["predict", "models:/nothing@champion", str(DATA / "held_out.cif")], "models:/nothing@champion"),
        (["debye"], "give --config FILE to train"),
        (["export", "no-model", "out"], "no-model"),
        (["import", "no-folder", "out"], "no-folder"),
        (["ui"], "run `make demo` first"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_1(tmp_path: Path, arguments: list[str], named: str) -> None:
    done = cloud(
        *arguments, *(["--runs", str(tmp_path / "none")] if arguments == ["ui"] else []), runs=tmp_path
    )
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("cloud: ") and named in lines[0]


@pytest.mark.integration
@pytest.mark.parametrize(
    "kind", ["an empty folder", "an unreadable archive", "a wrong address", "an unknown name"]
)
def test_a_source_that_cannot_be_read_leaves_no_table(tmp_path: Path, kind: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 not a zip")
    source = {
        "an empty folder": str(tmp_path / "empty"),
        "an unreadable archive": str(tmp_path / "broken.zip"),
        "a wrong address": "s4://bucket/cifs",
        "an unknown name": "matbenchmark:phonons",
    }[kind]
    done = cloud("encode", source, "--to", str(tmp_path / "table"), runs=tmp_path / "runs")
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("cloud: "), done.stderr
    assert source.split("/")[-1] in lines[0]
    assert not (tmp_path / "table").exists()
