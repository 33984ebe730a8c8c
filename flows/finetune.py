"""Finetune a property model on a table or a file, and show it beside its baselines.

    cloud finetune --config deployments/configs/finetune.yaml

The run's folder is named by what decides its outcome: the same configuration on the same data goes on with
the seeds that are missing, or returns the finished model.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow
from pydantic import Field, model_validator

from cloud_core.config import TableUri, TrainingConfig
from cloud_core.evaluation.data.dataset import Dataset, from_file, from_table, require_labels
from cloud_core.evaluation.data.folds import Split, split_by_group
from cloud_core.evaluation.finetuning import FitConfig, TargetConfig, from_shipped_encoder, identity, plan
from cloud_core.evaluation.metrics.gate import all_of
from cloud_core.evaluation.promotion import gate
from cloud_core.lake.snapshot import Snapshot
from tasks.evaluation import flat_metrics, report
from tasks.finetuning import fit_all, fit_baselines, search_settings
from tasks.registry import champion, enter, resolve
from tasks.reporting import publish_table
from tasks.tracking import git_commit, runs_folder, tracked_run


class FinetuneConfig(FitConfig, TrainingConfig):
    """What to learn, from which rows, and how."""

    name: str = Field("finetune", pattern=r"^[\w.-]+$", description="of the MLflow run and the folders")
    table: TableUri | None = Field(None, description="table of structures: a folder or an s3:// address")
    version: int | None = Field(None, ge=0, description="table version; default: the newest")
    file: Path | None = Field(
        None, description="instead of a table: .csv, .parquet or .json, compressed or not"
    )
    scope_column: str | None = Field(None, description="of the file: SCOPE strings; or")
    structure_column: str | None = Field(None, description="of the file: CIF text or pymatgen JSON")
    id_column: str | None = Field(None, description="of the file: names of the rows")
    encode_processes: int = Field(1, ge=1, description="to encode structures of a file with")
    targets: tuple[TargetConfig, ...] = Field(min_length=1)
    test_fraction: float = Field(0.2, gt=0, lt=1, description="share of the rows, by whole crystals")
    validation_fraction: float = Field(0.1, gt=0, lt=1, description="share of the rows, by whole crystals")
    split_seed: int = Field(0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _start(cls, values: Any) -> Any:
        return from_shipped_encoder(values)

    @model_validator(mode="after")
    def _one_source(self) -> "FinetuneConfig":
        if (self.table is None) == (self.file is None):
            raise ValueError("give either table or file")
        if self.test_fraction + self.validation_fraction >= 1:
            raise ValueError("test_fraction and validation_fraction leave no row to train on")
        return self

    def load(self) -> tuple[Dataset, Snapshot | None]:
        """The labelled rows, and the table version that they come from."""
        targets = [target.target() for target in self.targets]
        if self.table is not None:
            return from_table(self.table, targets, self.form, self.version)
        data = from_file(
            str(self.file),
            targets,
            self.scope_column,
            self.structure_column,
            self.id_column,
            self.form,
            self.encode_processes,
            official=True,
        )
        return data, None


@dataclass(frozen=True)
class FinetuneResult:
    """A finished model and how it did on the test rows."""

    model_folder: str
    run_id: str
    metrics: dict[str, float]
    """`test/<target>/<metric>` and `baseline/<name>/<target>/<metric>`"""
    comparison: list[dict[str, Any]]
    """a row for each target and model"""
    leakage: list[dict[str, Any]]
    predictions: str
    """CSV: id, scope, label and each model's prediction of every test row"""
    rows: dict[str, int]
    left_out: dict[str, int]
    snapshot: Snapshot | None
    gate: str
    """whether the model may serve, and the figures that say so"""
    registered: str | None = None
    """models:/<name>/<version>"""
    promoted: bool = False

    def summary(self) -> str:
        """As text: errors beside the baselines', the gate, and where the model is."""
        shown = ("target", "unit", "model", "test_rows", *METRICS)
        columns = [key for key in shown if any(key in row for row in self.comparison)]
        cells = [[_shown(row.get(key, "")) for key in columns] for row in self.comparison]
        widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in [columns, *cells]
        ]
        rows = ", ".join(f"{n:,} {part}" for part, n in self.rows.items())
        lines += ["", f"{rows} rows; the model {self.gate}"]
        lines += [f"registered as {self.registered}"] if self.registered else []
        lines += [f"predictions of the test rows: {self.predictions}"]
        return "\n".join([*lines, f"to ask it: cloud predict --model {self.model_folder} FILE"])


METRICS = ("mae", "rmse", "r2", "mae_over_mad", "accuracy", "roc_auc", "f1")


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@flow(name="finetune", persist_result=False, validate_parameters=True)
def finetune(config: FinetuneConfig) -> FinetuneResult:
    """Split by crystal, fit a member a seed, and report the test error beside the baselines."""
    start = config.start(resolve)
    data, snapshot = config.load()
    name = f"{config.name}-{identity(config, start, data)}"
    if snapshot is not None:
        snapshot = Snapshot.of(snapshot.uri, snapshot.version, pin=name)
    split = split_by_group(data.keys, config.test_fraction, config.validation_fraction, config.split_seed)
    require_labels(data, split)
    folder, model = runs_folder() / "finetune" / name, runs_folder() / "models" / name
    inputs = {"structures": snapshot} if snapshot is not None else {}
    with tracked_run(config.experiment, config.name, config, inputs, config.parent_run_id) as run:
        rows = dict(zip(Split._fields, map(len, split), strict=True))
        run.log_params({f"rows.{part}": n for part, n in rows.items()} | {"left_out": data.left_out})
        lineage = {
            "form": config.form,
            "snapshot": {"uri": snapshot.uri, "version": snapshot.version} if snapshot else None,
            "file": str(config.file) if config.file else None,
            "code": git_commit(),
            "run_id": run.run_id,
            "parent": config.encoder,
        }
        settings = search_settings(config, start, folder / "search", data, split, run)
        fitted = plan(config, start, folder, data, split, settings, lineage)
        fit_baselines(str(fitted.examples), config.baselines)
        jobs = fitted.all_jobs(config.name)
        fit_all(jobs, config.experiment, run.run_id, config.launch, config.parallel)
        part = fitted.evaluated(data, model, config, lineage)
        found = report(run, folder, data, {0: part}, {0: fitted.jobs})
        run.set_tags({"model_folder": str(model)})
        name = config.register_as or config.name
        serving = champion(name) if config.registered else None
        compared = fitted.compared(data, part, config.baselines)
        decision = all_of({rows.label: gate(rows, serving) for rows in compared})
        entered = None
        if config.registered:
            metrics = flat_metrics(found.comparison)
            entered = enter(model, name, run.run_id, metrics, decision, serving, config.promote)
        publish_table(
            f"{config.name}-comparison", found.comparison, f"Test errors of {config.name} and its baselines"
        )
        publish_table(f"{config.name}-leakage", found.leakage, "Test rows whose string was trained on")
    return FinetuneResult(
        model_folder=str(model),
        run_id=run.run_id,
        metrics=flat_metrics(found.comparison),
        comparison=found.comparison,
        leakage=found.leakage,
        predictions=str(found.predictions),
        rows=rows,
        left_out=data.left_out,
        snapshot=snapshot,
        gate=entered.message if entered else decision.message,
        registered=f"models:/{name}/{entered.version}" if entered else None,
        promoted=entered is not None and entered.promoted,
    )
