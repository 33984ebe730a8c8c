"""`cloud` on the shell: exit codes, output, one line for a mistake.

Some tests start processes (`cloud`); the others call `main` in this one (`shell`), whose imports are done.
"""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import psutil
import pytest

from flows.cli import app, main
from tests.servers import free_port

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


Shell = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Shell]:
    """`cloud ARGUMENTS` by `main` in this process; no server is started."""
    monkeypatch.setenv("CLOUD_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("PREFECT_API_URL", os.environ.get("PREFECT_API_URL", "http://127.0.0.1:1/api"))
    handler = signal.getsignal(signal.SIGTERM)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["cloud", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code or 0
        assert isinstance(code, int)
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    yield run
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.parametrize("command", [None, *(c.name or c.callback.__name__ for c in app.registered_commands)])
def test_every_command_explains_itself_with_an_example(command: str | None, shell: Shell) -> None:
    done = shell(*([command] if command else []), "--help")
    assert done.returncode == 0, done.stderr
    assert command is None or "Example" in done.stdout


def test_scope_prints_the_string_of_a_file(tmp_path: Path) -> None:
    done = cloud("scope", str(DATA / "held_out.cif"), runs=tmp_path)
    assert done.returncode == 0
    assert done.stdout.strip().endswith("| 4a 4b | Cl 0.5 Na 0.5")
    shown = json.loads(cloud("scope", "--json", str(DATA / "held_out.cif"), runs=tmp_path).stdout)
    assert shown[0]["space_group"] == 225


def test_a_good_file_is_printed_though_another_is_broken(tmp_path: Path, shell: Shell) -> None:
    (tmp_path / "broken.cif").write_text("data_x\n_cell_length_a 1\n")
    done = shell("scope", str(tmp_path / "broken.cif"), str(DATA / "held_out.cif"))
    assert done.returncode == 1
    assert "held_out.cif: 1 6 a" in done.stdout and "broken.cif" in done.stderr


def test_a_refusal_is_in_the_json_document_too(tmp_path: Path, shell: Shell) -> None:
    """A refusal stands on stderr and in the JSON document."""
    (tmp_path / "broken.cif").write_text("data_x\n_cell_length_a 1\n")
    done = shell("scope", "--json", str(tmp_path / "broken.cif"), str(DATA / "held_out.cif"))
    refused, shown = json.loads(done.stdout)
    assert done.returncode == 1 and refused["reason"] == "no_atoms" and refused["message"] in done.stderr
    assert shown["canonical"].endswith("Cl 0.5 Na 0.5") and "reason" not in shown


def test_settings_of_the_encoder_on_the_shell(tmp_path: Path, shell: Shell) -> None:
    slab = tmp_path / "slab.extxyz"
    slab.write_text(
        '1\nLattice="3 0 0 0 3 0 0 0 20" Properties=species:S:1:pos:R:3 pbc="T T F"\nC 0.0 0.0 0.0\n'
    )
    refused = shell("scope", str(slab))
    assert refused.returncode == 1 and "assume_periodic" in refused.stderr
    done = shell("scope", str(slab), "--setting", "assume_periodic=true")
    assert done.returncode == 0 and done.stdout.strip().endswith("| C 1.0")
    assert "slab.extxyz: not_periodic" in done.stderr


@pytest.mark.integration
def test_encode_status_and_a_second_run(tmp_path: Path, shell: Shell, prefect_server: str) -> None:
    folder = tmp_path / "cifs"
    folder.mkdir()
    (folder / "NaCl.cif").write_bytes((DATA / "held_out.cif").read_bytes())
    (folder / "broken.cif").write_text("data_x\n_cell_length_a 1\n")
    (folder / "notes.txt").write_text("no structure\n")
    table = str(tmp_path / "table")
    first = shell("encode", str(folder), "--to", table, "--workers", "1", "--json")
    assert first.returncode == 0, first.stderr
    result = json.loads(first.stdout)
    assert (result["n_encoded"], result["n_quarantined"]) == (1, 1)
    assert result["passed_over"] == ["notes.txt"]
    (tmp_path / "encode.yaml").write_text(f"source: {folder}\ntable: {table}\n")
    told = shell("encode", "--config", str(tmp_path / "encode.yaml"))
    assert told.stdout.startswith("Nothing to do: all 2 structures are in the table already."), told.stderr
    second = shell("encode", str(folder), "--to", table, "--workers", "1", "--json")
    assert json.loads(second.stdout)["n_skipped"] == 2
    shown = shell("status", table).stdout
    assert "in quarantine:\n  cifs:broken.cif: CIF: " in shown and "quarantine:\n" in shown
    refused = tmp_path / "refused.csv"
    assert shell("status", table, "--quarantine", str(refused)).returncode == 0
    assert refused.read_text().splitlines()[1].startswith('"cifs:broken.cif"')
    status = json.loads(shell("status", table, "--json").stdout)
    assert status["rows"]["encoded"] == 1 and sum(status["quarantine"].values()) == 1
    again = shell("replay", table, "--symprec", "0.05", "--workers", "1", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["n_replayed"] == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["scope", "nowhere.cif"], "nowhere.cif: no such file"),
        (["scope", str(DATA)], "is a folder; name its files"),
        (["scope", str(DATA / "structures.zip")], "is an archive; `cloud encode"),
        (["scope", str(DATA / "held_out.cif"), "--setting", "nothing=1"], "no setting 'nothing': choose"),
        (["scope", str(DATA / "held_out.cif"), "--setting", "formula=no"], "setting formula: Input should"),
        (["scope", str(DATA / "held_out.cif"), "--setting", "formula"], "write NAME=VALUE"),
        (["encode", str(DATA / "held_out.cif"), "--to", "t", "--id", "a"], "not the name of a table"),
        (["encode", str(DATA), "--to", "t", "--setting", "formula=no"], "'encoding.formula': Input should"),
        (["status", "no-table"], "no-table"),
        (["sync", "nothing"], "no sync named 'nothing'"),
        (["pretrain", "--config", "nowhere.yaml"], "nowhere.yaml: cannot read the configuration"),
        (["predict", "no-model", str(DATA / "held_out.cif")], "no-model"),
        (["predict", "models:/nothing@champion", str(DATA / "held_out.cif")], "models:/nothing@champion"),
        (["encode"], "give SOURCE and --to TABLE, or --config FILE"),
        (["encode", "x.csv", "--config", "x.yaml"], "a configuration names all"),
        (["predict", "no-model", str(DATA)], "no-model: no such file or folder"),
        (["predict", str(DATA / "held_out.cif"), "--to", "table.xlsx"], "ends in .csv or .parquet"),
        (["debye"], "give --config FILE to train"),
        (["export", "no-model", "out"], "no-model"),
        (["import", "no-folder", "out"], "no-folder"),
        (["ui"], "run `make demo` first"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_1(
    tmp_path: Path, arguments: list[str], named: str, shell: Shell
) -> None:
    done = shell(*arguments, *(["--runs", str(tmp_path / "none")] if arguments == ["ui"] else []))
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("cloud: ") and named in lines[0]


def test_the_shell_completes_commands() -> None:
    asked = {"_CLOUD_COMPLETE": "complete_bash", "COMP_WORDS": "cloud pre", "COMP_CWORD": "1"}
    command = str(Path(sys.executable).with_name("cloud"))
    done = subprocess.run([command], env=os.environ | asked, capture_output=True, text=True)
    assert done.stdout.split() == ["pretrain", "predict"]


def test_the_keys_of_a_configuration_are_listed(shell: Shell) -> None:
    lines = {line.split()[0]: line for line in shell("schema", "finetune").stdout.splitlines()}
    assert "required" in lines["targets"] and "auto|force|never" in lines["promote"]
    assert "share of the rows" in lines["test_fraction"] and "0.2" in lines["test_fraction"]
    assert "section" in lines["fit"] and "number" in lines["fit.optimiser.learning_rate"]
    assert "targets" in json.loads(shell("schema", "finetune", "--json").stdout)["properties"]
    assert "no flow named 'nothing'" in shell("schema", "nothing").stderr


def test_the_version_is_that_of_the_package(shell: Shell) -> None:
    done = shell("--version")
    assert (done.returncode, done.stdout) == (0, f"cloud-pipeline {version('cloud-pipeline')}\n")


def test_public_sets_are_listed_with_licence_and_address(shell: Shell) -> None:
    rows = {row["set"]: row for row in json.loads(shell("sources", "--json").stdout)}
    assert rows["lemat_bulk"]["rows"] == 5_335_299 and rows["lemat_bulk"]["address"].startswith("hf://")
    assert all(row["licence"] and row["address"] and row["reference"] for row in rows.values())
    assert "CC-BY-4.0" in shell("sources").stdout


def test_predictions_of_an_archive_are_printed_or_written(tmp_path: Path, shell: Shell) -> None:
    """One broken file costs itself alone; the command fails where nothing could be predicted."""
    (tmp_path / "cifs").mkdir()
    shutil.copy(DATA / "held_out.cif", tmp_path / "cifs" / "salt.cif")
    (tmp_path / "cifs" / "broken.cif").write_text("data_x")
    done = shell("predict", str(tmp_path / "cifs"), "--model", "moduli")
    assert done.returncode == 0, done.stderr
    assert "salt.cif: NaCl, space group 225" in done.stdout and " GPa" in done.stdout
    assert "broken.cif: " in done.stdout and "1 of 2 structures predicted" in done.stderr
    printed = pd.read_csv(io.StringIO(shell("predict", str(tmp_path / "cifs"), "--csv").stdout))
    for name in ("out.csv", "out.parquet"):
        done = shell("predict", str(tmp_path / "cifs"), "--to", str(tmp_path / name))
        assert done.returncode == 0, done.stderr
        read = pd.read_csv if name.endswith("csv") else pd.read_parquet
        again = pd.read_csv(io.StringIO(read(tmp_path / name).to_csv(index=False)))
        pd.testing.assert_frame_equal(again, printed)
    assert printed[printed["error"].isna()]["id"].tolist() == ["salt.cif"]
    assert "formation_energy (eV/atom)" in printed and "bulk_modulus_std (GPa)" in printed
    table = ["predict", str(DATA / "heat_capacity.csv"), "--scope", "resolved", "--model", "moduli"]
    strings = pd.read_csv(io.StringIO(shell(*table, "--csv").stdout))
    assert len(strings) == 1213 and strings["error"].isna().sum() == 1208  # the others have none
    assert "no column 'nothing'" in shell(*table, "--id", "nothing").stderr
    (tmp_path / "empty.csv").write_text("id,cif\n")
    empty = shell("predict", str(tmp_path / "empty.csv"), "--to", str(tmp_path / "empty.parquet"))
    assert empty.returncode == 1 and "hold no structure" in empty.stderr
    assert not (tmp_path / "empty.parquet").exists()
    nothing = shell("predict", str(tmp_path / "cifs" / "broken.cif"), "--json")
    assert nothing.returncode == 1 and json.loads(nothing.stdout)[0]["error"]


@pytest.mark.integration
def test_a_table_of_ones_own_is_encoded_with_its_labels(
    tmp_path: Path, shell: Shell, prefect_server: str
) -> None:
    from cloud_core.lake.table import Table

    table = tmp_path / "mine.csv"
    cif = (DATA / "held_out.cif").read_text().replace('"', '""')
    table.write_text(f'sample,text,gap\nsalt,"{cif}",8.5\nnone,,1.0\n')
    arguments = ["--id", "sample", "--structure", "text", "--label", "gap=eV", "--workers", "1"]
    done = shell("encode", str(table), *arguments, "--to", str(tmp_path / "table"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 encoded, 1 quarantined, 0 there already")
    assert "mine:none" in done.stdout and "has no structure" in done.stdout
    (row,) = Table.open(str(tmp_path / "table")).scope(["structure_id", "labels", "label_units"]).to_pylist()
    assert row["structure_id"] == "mine:salt"
    assert (dict(row["labels"]), dict(row["label_units"])) == ({"gap": 8.5}, {"gap": "eV"})


def test_a_server_that_does_not_answer_is_named_with_the_remedy(tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{free_port()}/api"
    arguments = ["encode", str(DATA / "held_out.cif"), "--to", str(tmp_path / "table")]
    done = cloud(*arguments, runs=tmp_path / "runs", PREFECT_API_URL=address)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("cloud: Failed to reach API")
    assert address in done.stderr and "unset PREFECT_API_URL" in done.stderr


@pytest.mark.integration
def test_no_module_of_the_working_folder_is_run(tmp_path: Path, prefect_server: str) -> None:
    """In the command, its children under limits, Dask's workers and torchrun's ranks."""
    for name in (
        "orjson",
        "torch",
        "numpy",
        "gemmi",
        "distributed",
        "safetensors",
        "sitecustomize",
        "pebble",
    ):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'a').write({name!r})")
    (tmp_path / "fit.yaml").write_text(
        f"file: {DATA / 'heat_capacity.csv'}\nscope_column: resolved\ntargets: [{{label: cv}}]\n"
        "fit: {epochs: 1}\nbaselines: [mean]\nscratch_baseline: false\nregistered: false\n"
        "launch: {processes: 1}\n"
    )
    environment = os.environ | {"CLOUD_RUNS": str(tmp_path / "runs"), "PREFECT_API_URL": prefect_server}
    for arguments in (
        ["scope", str(DATA / "held_out.cif"), str(DATA / "held_out.cif")],
        ["predict", str(DATA / "held_out.cif"), str(DATA / "held_out.cif")],
        ["encode", str(DATA / "structures.zip"), "--limit", "20", "--to", "table", "--workers", "1"],
        ["finetune", "--config", "fit.yaml"],
    ):
        command = [str(Path(sys.executable).with_name("cloud")), *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert not (tmp_path / "mark").exists(), (arguments, (tmp_path / "mark").read_text())


@pytest.mark.integration
def test_a_small_source_is_encoded_without_a_server(
    tmp_path: Path, dask_workers: dict[str, str], prefect_server: str
) -> None:
    """The same table as the flow on Dask writes; killed and run again too."""
    from cloud_core.lake.table import Table
    from flows.encode import EncodeConfig, encode

    source, runs = str(DATA / "structures.zip"), tmp_path / "runs"
    first = cloud("encode", source, "--to", str(tmp_path / "alone"), runs=runs)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("1,000 encoded, 6 quarantined, 0 there already")
    assert not (runs / "prefect").exists()
    again = cloud("encode", source, "--to", str(tmp_path / "alone"), runs=runs)
    assert "Nothing to do: all 1,006" in again.stdout and again.returncode == 0
    encode(EncodeConfig(source=source, table=str(tmp_path / "flow"), cluster=dask_workers))
    own = {key: value for key, value in os.environ.items() if key not in ("PREFECT_API_URL", "PREFECT_HOME")}
    process = subprocess.Popen(
        [*CLOUD, "encode", source, "--to", str(tmp_path / "killed")], env=own | {"CLOUD_RUNS": str(runs)}
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "killed/_delta_log/00000000000000000001.json").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert cloud("encode", source, "--to", str(tmp_path / "killed"), runs=runs).returncode == 0
    hashes = {Table.open(str(tmp_path / name)).content_hash() for name in ("alone", "flow", "killed")}
    assert len(hashes) == 1


@pytest.mark.integration
def test_a_command_that_is_ended_leaves_no_server_behind(tmp_path: Path) -> None:
    own = {key: value for key, value in os.environ.items() if key not in ("PREFECT_API_URL", "PREFECT_HOME")}
    process = subprocess.Popen(
        [*CLOUD, "encode", str(DATA / "structures.zip"), "--to", str(tmp_path / "table"), "--flow"],
        env=own | {"CLOUD_RUNS": str(tmp_path / "runs"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    deadline = time.monotonic() + 120
    family: list[psutil.Process] = []
    while not any("uvicorn" in " ".join(child.cmdline()) for child in family):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
        family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert psutil.wait_procs(family, timeout=30)[1] == []


@pytest.mark.integration
@pytest.mark.parametrize(
    "kind", ["an empty folder", "an unreadable archive", "a wrong address", "an unknown name"]
)
def test_a_source_that_cannot_be_read_leaves_no_table(
    tmp_path: Path, kind: str, prefect_server: str, empty_databases: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 not a zip")
    source = {
        "an empty folder": str(tmp_path / "empty"),
        "an unreadable archive": str(tmp_path / "broken.zip"),
        "a wrong address": "s4://bucket/cifs",
        "an unknown name": "matbenchmark:phonons",
    }[kind]
    server = {"PREFECT_API_URL": prefect_server, "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}
    if kind == "an unreadable archive":  # here a temporary server, whose database has its tables already
        server = {}
        (tmp_path / "runs" / "prefect").mkdir(parents=True)
        shutil.copy(empty_databases / "prefect.db", tmp_path / "runs" / "prefect")
    done = cloud("encode", source, "--to", str(tmp_path / "table"), runs=tmp_path / "runs", **server)
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("cloud: "), done.stderr
    assert source.split("/")[-1] in lines[0]
    assert not (tmp_path / "table").exists()
