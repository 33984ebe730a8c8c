"""Finetune a property model on a table or a file, and show it beside its baselines.

    python -m flows.finetune deployments/configs/finetune.yaml

The run's folder is named by what decides its outcome: the same configuration on the same data goes on with
the seeds that are missing, or returns the finished model.
"""

import hashlib
import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from prefect import flow
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cloud_core.evaluation.baselines import BASELINES
from cloud_core.evaluation.dataset import Dataset, Form, from_file, from_table
from cloud_core.evaluation.folds import Split, split_by_group
from cloud_core.evaluation.report import MODEL, Evaluated
from cloud_core.evaluation.search import Space, search
from cloud_core.lake.snapshot import Snapshot
from cloud_core.models.checkpoint import WEIGHTS, read_config
from cloud_core.models.encoder import EncoderConfig
from cloud_core.models.heads import Scaling, Target, geometry
from cloud_core.training.finetune import FitSettings
from cloud_core.training.property import Job, Objective
from flows.configs import ConfigError, FlowConfig, TableUri
from tasks.evaluation import (
    FitLaunch,
    baselines_of,
    fit_all,
    fit_baselines,
    fit_member,
    flat_metrics,
    jobs_of,
    join_members,
    report,
    write_split,
)
from tasks.registry import resolve
from tasks.reporting import publish_table
from tasks.tracking import Run, flatten, git_commit, runs_folder, tracked_run


class TargetConfig(BaseModel):
    """One property to learn."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    label: str = Field(description="name of the label in the table, or of the column in the file")
    unit: str = Field("", description="for reports")
    kind: Literal["regression", "classification"] = "regression"
    scaling: Scaling = Field("standard", description="log: of positive values that span magnitudes")
    classes: tuple[str, ...] = Field((), description="values of a classification's label, in order")

    def target(self) -> Target:
        return Target(self.label, self.unit, self.kind, self.scaling, classes=self.classes)


SCRATCH = "encoder from scratch"


class SearchConfig(FlowConfig):
    """Settings to look for before the fit, by the validation rows' loss."""

    trials: int = Field(20, ge=2)
    space: Space = Field(Space(), description="ranges and choices")
    seed: int = Field(0, ge=0)


class FitConfig(FlowConfig):
    """What every finetuning needs, whatever it learns from."""

    experiment: str = Field("finetune", description="MLflow experiment")
    form: Form = Field("canonical", description="form of the strings; that of the encoder's pretraining")
    encoder: str | None = Field(
        None, description="pretrained encoder: a model folder, models:/name@alias or runs:/id/path"
    )
    from_scratch: bool = Field(False, description="start from random weights, of the geometry given")
    geometry: EncoderConfig = Field(EncoderConfig(), description="of an encoder from scratch")
    fit: FitSettings = Field(FitSettings(), description="epochs, batch size, optimiser, early stopping")
    objective: Objective = Field("l1", description="of regression, in scaled units")
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="one member each; several: an ensemble")
    search: SearchConfig | None = Field(None, description="look for settings first (on the first seed)")
    baselines: tuple[str, ...] = Field(tuple(BASELINES), description="shown beside the model")
    scratch_baseline: bool = Field(
        False, description="show the same encoder from random weights too; as long again"
    )
    launch: FitLaunch | None = Field(None, description="torchrun's ranks for each fit; default: this process")
    parallel: int = Field(1, ge=1, description="fits side by side, each a process; on GPUs of their own")
    parent_run_id: str | None = Field(None, description="MLflow run to file this one under")

    @field_validator("baselines")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in names if name not in BASELINES]
        if unknown:
            raise ValueError(f"no baseline '{unknown[0]}'; there are {', '.join(BASELINES)}")
        return names

    @model_validator(mode="after")
    def _one_start(self) -> "FitConfig":
        if (self.encoder is None) != self.from_scratch:
            raise ValueError(
                "give encoder, a pretrained model, or set from_scratch: true; never both, and none by default"
            )
        return self

    def start(self) -> "Start":
        """Where the weights come from; an alias is looked up once, here.

        Raises:
            RegistryError, CheckpointError: the encoder is missing.
            ConfigError: it was pretrained on strings of another form.
        """
        if self.encoder is None:
            return Start({"from_scratch": self.geometry}, self.geometry, "scratch")
        folder = resolve(self.encoder)
        form = read_config(folder).get("metadata", {}).get("form")
        if form is not None and form != self.form:
            raise ConfigError(
                f"{self.encoder}: pretrained on {form} strings, not {self.form} ones; set form: {form}"
            )
        digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
        return Start({"start_from": str(folder)}, geometry(folder), digest)


@dataclass(frozen=True)
class Start:
    """What the fits begin from."""

    job: dict[str, Any]
    """the arguments of a `Job`: start_from or from_scratch"""
    geometry: EncoderConfig
    digest: str
    """sha256 of the pretrained weights: a folder or an alias may come to hold others"""


@dataclass(frozen=True)
class Fitted:
    """A split with the jobs of its model, and of its baseline from scratch where there is one."""

    split: Split
    examples: Path
    jobs: list[Job]
    scratch: list[Job]

    def all_jobs(self, name: str) -> dict[str, Job]:
        """By name of the MLflow run."""
        named = {f"{name}-seed-{job.settings.seed}": job for job in self.jobs}
        return named | {f"{name}-scratch-seed-{job.settings.seed}": job for job in self.scratch}

    def evaluated(self, data: Dataset, model: Path, config: FitConfig, lineage: dict[str, Any]) -> Evaluated:
        """Write the model folder and put its test predictions beside the baselines' (all jobs are done)."""
        models = {MODEL: join_members(self.jobs, model, data, self.split, lineage)}
        models |= baselines_of(self.examples, config.baselines)
        if self.scratch:
            folder = Path(self.scratch[0].folder).parent / "model"
            models[SCRATCH] = join_members(self.scratch, folder, data, self.split, lineage)
        return Evaluated(self.split, models)


def plan(
    config: FitConfig,
    start: Start,
    folder: Path,
    data: Dataset,
    split: Split,
    settings: FitSettings,
    lineage: dict[str, Any],
) -> Fitted:
    """Write the rows and jobs of a split below `folder`."""
    examples = write_split(folder / "examples", data, split, start.geometry.positions)
    rest: dict[str, Any] = {"objective": config.objective, "metadata": lineage}
    jobs = jobs_of(folder, examples, data.targets, config.seeds, settings, **start.job, **rest)
    scratch: list[Job] = []
    if config.scratch_baseline and config.encoder is not None:
        begin = {"from_scratch": start.geometry}
        scratch = jobs_of(folder / "scratch", examples, data.targets, config.seeds, settings, **begin, **rest)
    return Fitted(split, examples, jobs, scratch)


def find_settings(
    config: FitConfig, start: Start, folder: Path, data: Dataset, split: Split, run: Run
) -> FitSettings:
    """The settings to fit with: the configuration's, or the best that the search finds, a child a trial."""
    if config.search is None:
        return config.fit
    examples = write_split(folder / "examples", data, split, start.geometry.positions)

    def loss(number: int, settings: FitSettings) -> float:
        (job,) = jobs_of(
            folder / f"trial-{number}",
            examples,
            data.targets,
            config.seeds[:1],
            settings,
            objective=config.objective,
            **start.job,
        )
        path = str(Path(job.folder) / "job.json")
        found = fit_member(path, config.experiment, f"trial-{number}", run.run_id, config.launch)
        return float(found["validation_loss"])

    best, value = search(config.search.space, config.fit, config.search.trials, config.search.seed, loss)
    run.log_params({f"found.{key}": value for key, value in flatten(asdict(best)).items()})
    run.log_metrics({"search/validation_loss": value})
    return best


class FinetuneConfig(FitConfig):
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


# What does not decide the outcome of a fit; the encoder does by its weights, whatever it is called.
HOW = {
    "name", "experiment", "encoder", "launch", "parallel", "parent_run_id", "baselines", "scratch_baseline",
    "table", "version", "file", "encode_processes",
}  # fmt: skip


def identity(config: FitConfig, start: Start, data: Dataset, apart: Collection[str] = ()) -> str:
    """Eight digits for all that decides the outcome: the configuration but for `apart`, weights, rows."""
    values = config.model_dump(mode="json", exclude=HOW | set(apart)) | {"start": start.digest}
    content = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    content.update("\n".join(data.texts).encode())
    content.update(data.labels.tobytes())
    return content.hexdigest()[:8]


@flow(name="finetune", persist_result=False, validate_parameters=True)
def finetune(config: FinetuneConfig) -> FinetuneResult:
    """Split by crystal, fit a member a seed, and report the test error beside the baselines."""
    start = config.start()
    data, snapshot = config.load()
    name = f"{config.name}-{identity(config, start, data)}"
    if snapshot is not None:
        snapshot = Snapshot.of(snapshot.uri, snapshot.version, pin=name)
    split = split_by_group(data.keys, config.test_fraction, config.validation_fraction, config.split_seed)
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
        settings = find_settings(config, start, folder / "search", data, split, run)
        fitted = plan(config, start, folder, data, split, settings, lineage)
        fit_baselines(str(fitted.examples), config.baselines)
        jobs = fitted.all_jobs(config.name)
        fit_all(jobs, config.experiment, run.run_id, config.launch, config.parallel)
        part = fitted.evaluated(data, model, config, lineage)
        found = report(run, folder, data, [part], [fitted.jobs])
        run.set_tags({"model_folder": str(model)})
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
    )


def summary(result: FinetuneResult) -> list[str]:
    """Lines for a terminal: the model first, then the baselines."""
    lines = []
    for row in sorted(result.comparison, key=lambda row: (row["target"], row["model"] != MODEL)):
        figures = "  ".join(f"{k} {v:.4g}" for k, v in row.items() if isinstance(v, float))
        lines.append(f"{row['target']} ({row['unit']})  {row['model']}: {figures}")
    return lines


def main(config: Path) -> None:
    """Finetune a property model as a YAML file says."""
    for line in summary(finetune(FinetuneConfig.from_yaml(config))):
        print(line)


if __name__ == "__main__":
    import typer

    typer.run(main)
