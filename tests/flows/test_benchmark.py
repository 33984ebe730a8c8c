"""The benchmark flow on all of matbench_phonons, scored again by the matbench package."""

import bz2
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from cloud_core.evaluation.data.catalogue import BenchmarkError, BenchmarkTask, load_task
from cloud_core.evaluation.finetuning import identity
from flows.benchmark import BenchmarkConfig, benchmark
from tasks.registry import resolve
from tests.demo_cut import demo_structures, pymatgen_dictionary

TINY = {"hidden_size": 16, "layers": 1, "heads": 2, "feed_forward": 32}
ORACLES = Path(sys.prefix) / "oracles"


def config(data: Path, **changes: Any) -> BenchmarkConfig:
    values: dict[str, Any] = {
        "form": "canonical",
        "name": "b",
        "data": data,
        "tasks": ["matbench_phonons"],
        "from_scratch": True,
        "geometry": TINY,
        "fit": {"epochs": 2, "batch_size": 64, "optimiser": {"learning_rate": 5e-3}},
        "baselines": ["mean"],
    }
    return BenchmarkConfig.model_validate(values | changes)


def salts(folder: Path, **changes: Any) -> tuple[BenchmarkTask, ...]:
    """A task of one's own on 30 rows of made-up strings, whose names are no order."""
    pairs = [(a, b) for a in ("Li", "Na", "K", "Rb", "Cs", "Ag") for b in ("F", "Cl", "Br", "I", "H")]
    frame = pd.DataFrame(
        {
            "id": [f"salt-{number:02d}" for number in range(1, 31)],
            "scope": [f"0 3 n O O O i O O O e O O O 0 | 1a | {a} 0.5 {b} 0.5" for a, b in pairs],
            "y": [float(number % 7) for number in range(30)],
        }
    )
    frame.to_csv(folder / "salts.csv", index=False)
    values = {"name": "salts", "file": "salts", "target": "y", "unit": "", "n_rows": 30, "prefix": "salt"}
    return (BenchmarkTask(**values | changes),)


@pytest.fixture(scope="module")
def phonons(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The task's file as MatBench publishes it: structures and targets, in one JSON."""
    folder = tmp_path_factory.mktemp("matbench")
    source = shared / "data" / "matbench"
    labels = json.loads(bz2.decompress((source / "labels" / "matbench_phonons.json.bz2").read_bytes()))
    target = "last phdos peak"
    structures = pd.read_json(source / "matbench_phonons_structures.json.gz", typ="series", dtype=False)
    frame = pd.DataFrame(structures["data"], columns=structures["columns"])
    if target not in frame.columns:
        frame[target] = list(labels[target].values())
    published = {
        "index": list(range(len(frame))),
        "columns": ["structure", target],
        "data": frame[["structure", target]].to_numpy().tolist(),
    }
    (folder / "matbench_phonons.json").write_text(json.dumps(published))
    return folder


@pytest.mark.slow
@pytest.mark.integration
def test_matbench_accepts_and_scores_the_results_file(
    phonons: Path, runs: Path, mlflow_uri: str, prefect_server: str, shared: Path
) -> None:
    result = benchmark(config(phonons))
    (task,) = result.tasks
    assert task.complete
    assert task.rows == 1265
    assert [row["fold"] for row in task.folds if row["model"] == "model"] == [0, 1, 2, 3, 4]
    # folds are the official ones
    official = pd.read_csv(shared / "data" / "matbench" / "matbench_v0.1_test_folds.csv.gz")
    official = official[official["task"] == "matbench_phonons"].set_index("mbid")["test_fold"]
    said = pd.read_csv(task.predictions).set_index("id")
    assert said["fold"].sort_index().equals(official.sort_index().rename("fold"))
    # a parent run with a child for each fold
    client = MlflowClient(tracking_uri=mlflow_uri)
    parent = client.get_run(task.run_id)
    children = client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{task.run_id}'")
    assert len(children) == 5
    # resumable: the finished folds are not fitted again
    again = benchmark(config(phonons))
    assert again.tasks[0].metrics == task.metrics
    assert not client.search_runs(
        [parent.info.experiment_id], f"tags.mlflow.parentRunId = '{again.tasks[0].run_id}'"
    )
    # the package reads it, and scores its predictions to the same numbers
    if not (ORACLES / "matbench").is_dir():
        pytest.skip("matbench is not installed: pip install --no-deps --target .venv/oracles …")
    assert result.results_file is not None
    labels = runs / "labels.json"
    labels.write_text(json.dumps({"matbench_phonons": said["last phdos peak"].to_dict()}))
    script = Path(__file__).parent.parent / "oracles" / "matbench_scores.py"
    shown = subprocess.run(
        [sys.executable, str(script), result.results_file, str(labels)],
        env=os.environ | {"PYTHONPATH": str(ORACLES)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    scores = json.loads(shown.splitlines()[-1])["matbench_phonons"]  # the package logs before
    for metric in ("mae", "rmse", "max_error"):
        (ours,) = [row[metric] for row in task.comparison if row["model"] == "model"]
        assert scores["read"][metric]["mean"] == pytest.approx(ours, rel=1e-9)
        assert scores["scored"][metric]["mean"] == pytest.approx(ours, rel=1e-9)
    assert scores["scored"]["mape"]["mean"] == pytest.approx(scores["read"]["mape"]["mean"], rel=1e-9)


@pytest.mark.integration
def test_folds_run_side_by_side_and_a_subset_is_no_result(
    runs: Path, mlflow_uri: str, prefect_server: str, tmp_path: Path
) -> None:
    structures = [json.dumps(pymatgen_dictionary(row)) for row in demo_structures(60)]
    ids = [f"mb-phonons-{i:04d}" for i in range(1, 1 + 8 * len(structures), 8)]
    cut = pd.DataFrame({"id": ids, "structure": structures, "last phdos peak": np.arange(60.0)})
    cut.to_csv(tmp_path / "matbench_phonons.csv", index=False)
    with pytest.raises(BenchmarkError, match="subset"):
        benchmark(config(tmp_path))
    result = benchmark(config(tmp_path, subset=True, parallel=2, folds=[0, 1]))
    assert result.results_file is None
    assert not result.tasks[0].complete
    assert result.tasks[0].rows == 60
    logs = list((runs / "benchmark").rglob("torchrun.log"))
    assert len(logs) == 2
    shutil.rmtree(runs)


@pytest.mark.integration
def test_folds_are_searched_named_and_resumed_by_themselves(
    runs: Path, mlflow_uri: str, prefect_server: str, tmp_path: Path
) -> None:
    changes = {"tasks": ["salts"], "own_tasks": salts(tmp_path), "search": {"trials": 2}}
    first = benchmark(config(tmp_path, **changes, folds=[3])).tasks[0]
    assert {row["fold"] for row in first.folds} == {row["fold"] for row in first.leakage} == {3}
    assert set(pd.read_csv(first.predictions)["fold"]) == {3}
    folder = Path(first.predictions).parent
    assert (folder / "fold-3" / "search" / "trial-1").is_dir()  # by its own validation rows alone
    weights = folder / "fold-3" / "seed-0" / "model" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    both = benchmark(config(tmp_path, **changes, folds=[3, 1])).tasks[0]
    assert Path(both.predictions).parent == folder
    assert weights.stat().st_mtime_ns == before
    assert (folder / "fold-1" / "search" / "trial-1").is_dir()
    assert [row["fold"] for row in both.folds if row["model"] == "model"] == [1, 3]
    said = pd.read_csv(both.predictions)
    assert said.groupby("fold")["id"].count().to_dict() == {1: 6, 3: 6}
    client = MlflowClient(tracking_uri=mlflow_uri)
    parent = client.get_run(both.run_id)
    children = client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{both.run_id}'")
    names = {child.info.run_name for child in children}
    assert names == {"fold-1-trial-0", "fold-1-trial-1", "salts-fold-1-seed-0"}


def test_other_folds_or_names_of_rows_are_another_run(tmp_path: Path) -> None:
    (task,) = salts(tmp_path)
    (drawn,) = salts(tmp_path, fold_seed=1)
    settings = config(tmp_path)
    start, data = settings.start(resolve), load_task(task, tmp_path)
    key = identity(settings, start, data, task=asdict(task))
    assert key == identity(settings, start, data, task=asdict(task))
    assert key != identity(settings, start, data, task=asdict(drawn))
    renamed = replace(data, ids=data.ids[::-1])  # BenchmarkTask.folds goes by them
    assert key != identity(settings, start, renamed, task=asdict(task))


def test_folds_stand_in_order_each_once(tmp_path: Path) -> None:
    assert config(tmp_path, folds=[4, 0, 2]).folds == (0, 2, 4)
    for wrong in ([0, 0], [5], [-1]):
        with pytest.raises(ValueError, match="each once"):
            config(tmp_path, folds=wrong)
    with pytest.raises(ValueError, match="same is one member"):
        config(tmp_path, seeds=[0, 0])
    with pytest.raises(ValueError, match="at least 1 item"):
        config(tmp_path, baselines=[])


def test_every_file_is_looked_for_before_the_first_fit(
    runs: Path, mlflow_uri: str, prefect_server: str, tmp_path: Path
) -> None:
    with pytest.raises(BenchmarkError, match="matbench_phonons: no"):
        benchmark(config(tmp_path, tasks=["salts", "matbench_phonons"], own_tasks=salts(tmp_path)))
    assert not (runs / "benchmark").exists()
