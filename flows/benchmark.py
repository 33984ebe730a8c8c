"""MatBench, UnconvBench or tasks of one's own: every fold by the book, beside the baselines.

    cloud run benchmark --config deployments/configs/finetune-matbench.yaml

A parent run for each task, with a child for each fold and seed; what is done already is not done again.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from prefect import flow
from pydantic import Field, field_validator, model_validator

from cloud_core.evaluation.data.catalogue import (
    MATBENCH,
    TASKS,
    UNCONVBENCH,
    BenchmarkTask,
    find_file,
    load_task,
)
from cloud_core.evaluation.data.dataset import Dataset, require_labels
from cloud_core.evaluation.data.folds import N_FOLDS, split_fold
from cloud_core.evaluation.data.matbench import FoldResult, results_file
from cloud_core.evaluation.finetuning import FitConfig, Start, identity, plan
from cloud_core.evaluation.report import MODEL, Evaluated
from tasks.evaluation import flat_metrics, report
from tasks.finetuning import fit_all, fit_baselines, search_settings
from tasks.registry import resolve
from tasks.reporting import publish_table
from tasks.tracking import git_commit, runs_folder, tracked_run

GROUPS = {"matbench": MATBENCH, "unconvbench": UNCONVBENCH}


class BenchmarkConfig(FitConfig):
    """Which tasks and folds, from which files, and how to fit."""

    name: str = Field("benchmark", pattern=r"^[\w.-]+$", description="of the folders and the results file")
    experiment: str = Field("benchmark", description="MLflow experiment")
    data: Path = Field(
        description="folder with the benchmark's files as published, e.g. matbench_phonons.json.gz"
    )
    tasks: tuple[str, ...] = Field(
        ("matbench",),
        min_length=1,
        description="names of tasks; matbench and unconvbench stand for all of theirs",
    )
    own_tasks: tuple[BenchmarkTask, ...] = Field((), description="tasks that the catalogue does not have")
    folds: tuple[int, ...] = Field(tuple(range(N_FOLDS)), min_length=1)
    subset: bool = Field(False, description="take files with fewer rows than published; no benchmark result")
    validation_fraction: float = Field(0.1, gt=0, lt=1, description="share of a fold's training part")
    validation_seed: int = Field(0, ge=0)
    encode_processes: int = Field(1, ge=1, description="to encode structures with")

    @model_validator(mode="after")
    def _known_tasks(self) -> "BenchmarkConfig":
        known = TASKS.keys() | GROUPS.keys() | {task.name for task in self.own_tasks}
        unknown = [name for name in self.tasks if name not in known]
        if unknown:
            raise ValueError(f"no task '{unknown[0]}'; there are {', '.join(sorted(known))}")
        return self

    @field_validator("folds")
    @classmethod
    def _known_folds(cls, folds: tuple[int, ...]) -> tuple[int, ...]:
        if not set(folds) <= set(range(N_FOLDS)) or len(set(folds)) < len(folds):
            raise ValueError("folds are 0 to 4, each once")
        return tuple(sorted(folds))  # results files and reports count them

    def chosen(self) -> list[BenchmarkTask]:
        catalogue = TASKS | {task.name: task for task in self.own_tasks}
        names = [each for name in self.tasks for each in GROUPS.get(name, (name,))]
        return [catalogue[name] for name in dict.fromkeys(names)]


@dataclass(frozen=True)
class TaskResult:
    """One task: means over folds beside the baselines."""

    task: str
    run_id: str
    rows: int
    metric: str
    complete: bool
    """all published rows and all folds: else it is no benchmark result"""
    comparison: list[dict[str, Any]]
    folds: list[dict[str, Any]]
    leakage: list[dict[str, Any]]
    predictions: str
    metrics: dict[str, float]


@dataclass(frozen=True)
class BenchmarkResult:
    tasks: list[TaskResult]
    results_file: str | None
    """what MatBench's leaderboard takes; None where no MatBench task is complete"""


@flow(name="benchmark", persist_result=False, validate_parameters=True)
def benchmark(config: BenchmarkConfig) -> BenchmarkResult:
    """Every task, all folds of it in parallel as far as `parallel` goes; then MatBench's results file."""
    start = config.start(resolve)  # a missing encoder or file is told before the first structure is encoded
    for task in config.chosen():
        find_file(task, config.data)
    found: list[TaskResult] = []
    complete: dict[BenchmarkTask, list[FoldResult]] = {}
    for task in config.chosen():
        data = load_task(task, config.data, config.form, config.encode_processes, config.subset)
        result, folds = run_task(config, start, task, data)
        found.append(result)
        if result.complete and task.name in MATBENCH:
            complete[task] = folds
    path = None
    if complete:
        path = runs_folder() / "benchmark" / f"{config.name}-matbench.json"
        about = {"algorithm": "CLOUD", "encoder": config.encoder, "form": config.form, "code": git_commit()}
        results_file(path, complete, about)
    lines = [
        {
            "task": result.task,
            "rows": result.rows,
            "complete": result.complete,
            "ranked by": result.metric,
            **row,
        }
        for result in found
        for row in result.comparison
    ]
    publish_table(f"{config.name}-benchmark", lines, "Means over folds, beside the baselines")
    return BenchmarkResult(found, str(path) if path else None)


def run_task(
    config: BenchmarkConfig, start: Start, task: BenchmarkTask, data: Dataset
) -> tuple[TaskResult, list[FoldResult]]:
    """Fit and score the folds of one task."""
    apart = {"tasks", "own_tasks", "folds", "data", "subset"}
    key = identity(config, start, data, apart, task=asdict(task))
    folder = runs_folder() / "benchmark" / f"{config.name}-{task.name}-{key}"
    tags = {"task": task.name}
    with tracked_run(
        config.experiment, task.name, config, parent_run_id=config.parent_run_id, tags=tags
    ) as run:
        tests = task.folds(data)
        splits = {
            fold: split_fold(tests[fold], data.keys, config.validation_fraction, config.validation_seed)
            for fold in config.folds
        }
        for split in splits.values():
            require_labels(data, split)
        whole = len(data) == task.n_rows and len(config.folds) == len(tests)
        run.log_params({"rows": len(data), "published_rows": task.n_rows, "complete": whole})
        lineage = {"form": config.form, "task": task.name, "code": git_commit(), "run_id": run.run_id}
        plans = {}
        for fold, split in splits.items():
            here = folder / f"fold-{fold}"
            # a search for each fold: what another fold validates on may be a test row of this one
            settings = search_settings(config, start, here / "search", data, split, run, f"fold-{fold}-")
            plans[fold] = plan(config, start, here, data, split, settings, lineage | {"fold": fold})
        jobs = {
            name: job
            for fold, each in plans.items()
            for name, job in each.all_jobs(f"{task.name}-fold-{fold}").items()
        }
        fit_all(jobs, config.experiment, run.run_id, config.launch, config.parallel)
        parts: dict[int, Evaluated] = {}
        for fold, each in plans.items():
            fit_baselines(str(each.examples), config.baselines)
            model = folder / f"fold-{fold}" / "model"
            parts[fold] = each.evaluated(data, model, config, lineage | {"fold": fold})
        made = report(run, folder, data, parts, {fold: each.jobs for fold, each in plans.items()})
        publish_table(f"{task.name}-folds", made.folds, f"Folds of {task.name}")
        publish_table(f"{task.name}-leakage", made.leakage, "Test rows whose string was trained on")
    result = TaskResult(
        task=task.name,
        run_id=run.run_id,
        rows=len(data),
        metric=task.metric,
        complete=whole,
        comparison=made.comparison,
        folds=made.folds,
        leakage=made.leakage,
        predictions=str(made.predictions),
        metrics=flat_metrics(made.comparison),
    )
    return result, [fold_result(task, data, part) for part in parts.values()]


def fold_result(task: BenchmarkTask, data: Dataset, part: Evaluated) -> FoldResult:
    """A fold's predictions as MatBench takes them."""
    predicted = part.models[MODEL][task.target]
    rows = part.split.test
    return FoldResult(
        ids=tuple(data.ids[i] for i in rows),
        labels=data.labels[rows, 0],
        predictions=np.asarray(predicted[:, 1] if task.kind == "classification" else predicted),
        parameters={},
    )
