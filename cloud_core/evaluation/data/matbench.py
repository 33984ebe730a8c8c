"""MatBench's results file: what its leaderboard takes, scored as it scores."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud_core.evaluation.data.catalogue import BenchmarkError, BenchmarkTask
from cloud_core.evaluation.data.folds import N_FOLDS
from cloud_core.evaluation.metrics.classification import classification_metrics
from cloud_core.evaluation.metrics.regression import regression_metrics
from cloud_core.files import json_digest, write_text

BENCHMARK = "matbench_v0.1"
VERSION = "0.6"  # of the package whose format this is
SMALLEST_TRUE = 1e-5  # MatBench leaves smaller targets out of the mean absolute percentage error


@dataclass(frozen=True)
class FoldResult:
    """Test rows of a fold by name, with labels and predictions `[n]` (of a classification: of class 1)."""

    ids: tuple[str, ...]
    labels: NDArray[np.float64]
    predictions: NDArray[np.float64]
    parameters: dict[str, Any]


def scores(task: BenchmarkTask, fold: FoldResult) -> dict[str, float]:
    """The scores that MatBench records for a fold, under its names; its `rocauc` is of thresholded labels."""
    if task.kind == "classification":
        both = np.stack([1.0 - fold.predictions, fold.predictions], axis=1)
        found = classification_metrics(fold.labels, both)
        names = ("accuracy", "balanced_accuracy", "f1")
        return {name: found[name] for name in names} | {"rocauc": found["matbench_rocauc"]}
    found = regression_metrics(fold.labels, fold.predictions)
    big = np.abs(fold.labels) > SMALLEST_TRUE
    share = np.abs((fold.labels[big] - fold.predictions[big]) / fold.labels[big])
    return {key: found[key] for key in ("mae", "rmse", "max_error")} | {"mape": float(share.mean())}


def results_file(
    path: Path, results: Mapping[BenchmarkTask, Sequence[FoldResult]], about: Mapping[str, Any]
) -> Path:
    """Write the five folds of one or more tasks as `MatbenchBenchmark.from_file` reads them.

    Args:
        about: free words on the algorithm, kept as `user_metadata`.

    Raises:
        BenchmarkError: not five folds, or not every row of the task once: no subset is a benchmark result.
    """
    tasks: dict[str, Any] = {}
    for task, folds in results.items():
        if not task.name.startswith("matbench_"):
            raise BenchmarkError(f"{task.name}: no task of {BENCHMARK}")
        rows = [name for fold in folds for name in fold.ids]
        if len(folds) != N_FOLDS or sorted(rows) != task.row_ids():
            raise BenchmarkError(
                f"{task.name}: {len(folds)} folds with {len(set(rows))} of {task.n_rows} rows; MatBench "
                "takes complete tasks only"
            )
        tasks[task.name] = {
            "@module": "matbench.task",
            "@class": "MatbenchTask",
            "benchmark_name": BENCHMARK,
            "dataset_name": task.name,
            "results": {
                f"fold_{number}": {
                    "data": dict(zip(fold.ids, map(float, fold.predictions), strict=True)),
                    "uncertainty": None,
                    "parameters": dict(fold.parameters),
                    "scores": scores(task, fold),
                }
                for number, fold in enumerate(folds)
            },
        }
    content: dict[str, Any] = {
        "@module": "matbench.bench",
        "@class": "MatbenchBenchmark",
        "version": VERSION,
        "benchmark_name": BENCHMARK,
        "tasks": tasks,
        "user_metadata": dict(about),
        "datestamp": datetime.now(UTC).strftime("%Y.%m.%d %H:%M.%S"),
    }
    content["hash"] = json_digest(content)
    return write_text(path, json.dumps(content))
