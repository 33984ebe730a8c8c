"""MatBench's results file, read and scored by the matbench package: a published model's predictions."""

import bz2
import gzip
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from cloud_core.evaluation.data.catalogue import TASKS, BenchmarkError
from cloud_core.evaluation.data.matbench import FoldResult, results_file, scores

ORACLES = Path(sys.prefix) / "oracles"
NAMES = ("matbench_jdft2d", "matbench_mp_is_metal")


def labels_of(shared: Path, name: str) -> pd.Series:
    packed = (shared / "data/matbench/labels" / f"{name}.json.bz2").read_bytes()
    columns = json.loads(bz2.decompress(packed))
    return pd.Series(list(columns[TASKS[name].target].values()), list(columns["mbid"].values()))


def published(shared: Path, name: str) -> tuple[list[FoldResult], list[dict[str, float]]]:
    """Predictions of each fold, and the scores that stand beside them."""
    with gzip.open(shared / "data/matbench/leaderboard_results/cgcnnv2019_results.json.gz") as file:
        results = json.load(file)["tasks"][name]["results"]
    labels, folds, there = labels_of(shared, name), [], []
    for number in range(5):
        entry = results[f"fold_{number}"]
        ids = tuple(entry["data"])
        said = np.array([float(value) for value in entry["data"].values()])
        folds.append(FoldResult(ids, labels[list(ids)].to_numpy(float), said, {}))
        there.append(entry["scores"])
    return folds, there


def test_scores_are_the_published_ones(shared: Path) -> None:
    """Which the package has made of the same predictions, classes of a classification."""
    for name in NAMES:
        folds, expected = published(shared, name)
        for fold, there in zip(folds, expected, strict=True):
            assert scores(TASKS[name], fold) == pytest.approx(there, rel=1e-6)


@pytest.mark.skipif(
    not (ORACLES / "matbench").is_dir(), reason="matbench is not in .venv/oracles (make install)"
)
def test_matbench_reads_and_scores_regression_and_probabilities(shared: Path, tmp_path: Path) -> None:
    """Its rocauc is of thresholded labels, also where it is given probabilities."""
    found = {name: published(shared, name)[0] for name in NAMES}
    rng = np.random.default_rng(0)
    found["matbench_mp_is_metal"] = [
        replace(fold, predictions=np.clip(0.35 * fold.labels + rng.uniform(0, 0.65, len(fold.ids)), 0, 1))
        for fold in found["matbench_mp_is_metal"]
    ]
    path = results_file(
        tmp_path / "results.json", {TASKS[name]: found[name] for name in NAMES}, {"by": "a test"}
    )
    labels = {name: labels_of(shared, name).to_dict() for name in NAMES}
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    script = Path(__file__).parent.parent / "oracles" / "matbench_scores.py"
    shown = subprocess.run(
        [sys.executable, str(script), str(path), str(tmp_path / "labels.json")],
        env=os.environ | {"PYTHONPATH": str(ORACLES)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    said = json.loads(shown.splitlines()[-1])
    for name in NAMES:
        ours = pd.DataFrame([scores(TASKS[name], fold) for fold in found[name]]).mean()
        for metric in ours.index:
            assert said[name]["read"][metric]["mean"] == pytest.approx(ours[metric], rel=1e-6), (name, metric)
            assert said[name]["scored"][metric]["mean"] == pytest.approx(ours[metric], rel=1e-6), (
                name,
                metric,
            )
    areas = [roc_auc_score(fold.labels, fold.predictions) for fold in found["matbench_mp_is_metal"]]
    assert np.mean(areas) > said["matbench_mp_is_metal"]["scored"]["rocauc"]["mean"] + 0.05


def test_no_subset_and_no_other_benchmark_is_a_result(shared: Path, tmp_path: Path) -> None:
    folds, _ = published(shared, "matbench_jdft2d")
    task = TASKS["matbench_jdft2d"]
    with pytest.raises(BenchmarkError, match="4 folds with"):
        results_file(tmp_path / "results.json", {task: folds[:4]}, {})
    with pytest.raises(BenchmarkError, match="complete tasks only"):
        results_file(tmp_path / "results.json", {task: [*folds[:4], folds[0]]}, {})
    with pytest.raises(BenchmarkError, match="no task of"):
        results_file(tmp_path / "results.json", {TASKS["unconvbench_supercon"]: folds}, {})
    assert not (tmp_path / "results.json").exists()
