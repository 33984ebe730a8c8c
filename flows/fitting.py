"""What every finetuning flow shares: its configuration, where it starts from, and the plan of a split."""

import hashlib
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from cloud_core.config import ConfigError, FlowConfig
from cloud_core.evaluation.baselines import BASELINES
from cloud_core.evaluation.data.dataset import Dataset, Form
from cloud_core.evaluation.data.folds import Split
from cloud_core.evaluation.report import MODEL, Evaluated
from cloud_core.files import json_digest
from cloud_core.models.checkpoint import read_config, weights_digest
from cloud_core.models.encoder import EncoderConfig
from cloud_core.models.heads import Pooling, Scaling, Target, geometry
from cloud_core.training.corpus import knows_every_word
from cloud_core.training.finetune import FitSettings
from cloud_core.training.property import Job, Objective
from cloud_core.training.search import Space, search
from tasks.evaluation import FitLaunch, baselines_of, fit_member, jobs_of, join_members, write_split
from tasks.registry import resolve
from tasks.tracking import Run, flatten


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
    geometry: Annotated[EncoderConfig, AfterValidator(knows_every_word)] = Field(
        EncoderConfig(), description="of an encoder from scratch"
    )
    fit: FitSettings = Field(FitSettings(), description="epochs, batch size, optimiser, early stopping")
    objective: Objective = Field("l1", description="of regression, in scaled units")
    pooling: Pooling = Field(
        "first",
        description="of a string's vectors: the first token's, as published, or the mean over all",
    )
    dropout: float | None = Field(
        None, ge=0, lt=1, description="while fitting; default: the encoder's own, which may have none"
    )
    seeds: tuple[int, ...] = Field(
        (0,), min_length=1, description="one member each, each once; several: an ensemble"
    )
    search: SearchConfig | None = Field(None, description="look for settings first (on the first seed)")
    baselines: tuple[str, ...] = Field(
        tuple(BASELINES), min_length=1, description="shown beside the model, which is never shown alone"
    )
    scratch_baseline: bool = Field(
        True, description="show the same encoder from random weights too; fitting takes as long again"
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

    @field_validator("seeds")
    @classmethod
    def _each_once(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds {', '.join(map(str, seeds))}: each once; twice the same is one member")
        return seeds

    @model_validator(mode="after")
    def _one_start(self) -> "FitConfig":
        if (self.encoder is None) != self.from_scratch:
            raise ValueError(
                "give encoder, a pretrained model, or set from_scratch: true; never both, and none by default"
            )
        return self

    def of_jobs(self) -> dict[str, Any]:
        """Arguments that every `Job` has."""
        return {"objective": self.objective, "pooling": self.pooling, "dropout": self.dropout}

    def start(self) -> "Start":
        """Where the weights come from; an alias is looked up once, here.

        Raises:
            RegistryError, CheckpointError: the encoder is missing.
            ConfigError: it was pretrained on strings of another form, or of one that it does not say.
        """
        if self.encoder is None:
            return Start({"from_scratch": self.geometry}, self.geometry, "scratch")
        folder = resolve(self.encoder)
        form = read_config(folder).get("metadata", {}).get("form")
        if form is None:
            raise ConfigError(
                f"{self.encoder}: does not say on which form of the strings it was pretrained; import it "
                "again with cloud import --form official|canonical|full"
            )
        if form != self.form:
            raise ConfigError(
                f"{self.encoder}: pretrained on {form} strings, not {self.form} ones; set form: {form}"
            )
        return Start({"start_from": str(folder)}, geometry(folder), weights_digest(folder))


@dataclass(frozen=True)
class Start:
    """What the fits begin from."""

    job: dict[str, Any]
    """the arguments of a `Job`: start_from or from_scratch"""
    geometry: EncoderConfig
    digest: str
    """of the pretrained weights"""


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
    rest = config.of_jobs() | {"metadata": lineage}
    jobs = jobs_of(folder, examples, data.targets, config.seeds, settings, **start.job, **rest)
    scratch: list[Job] = []
    if config.scratch_baseline and config.encoder is not None:
        begin = {"from_scratch": start.geometry}
        scratch = jobs_of(folder / "scratch", examples, data.targets, config.seeds, settings, **begin, **rest)
    return Fitted(split, examples, jobs, scratch)


def find_settings(
    config: FitConfig, start: Start, folder: Path, data: Dataset, split: Split, run: Run, prefix: str = ""
) -> FitSettings:
    """The settings to fit with: the configuration's, or the best that the search finds, a child a trial.

    Args:
        prefix: of the names under which trials and findings are logged, where a run has several searches.
    """
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
            **config.of_jobs(),
            **start.job,
        )
        path = str(Path(job.folder) / "job.json")
        found = fit_member(path, config.experiment, f"{prefix}trial-{number}", run.run_id, config.launch)
        return float(found["validation_loss"])

    best, value = search(config.search.space, config.fit, config.search.trials, config.search.seed, loss)
    run.log_params({f"{prefix}found.{key}": value for key, value in flatten(asdict(best)).items()})
    run.log_metrics({f"{prefix}search/validation_loss": value})
    return best


# What does not decide the outcome of a fit; the encoder does by its weights, whatever it is called.
HOW = {
    "name", "experiment", "encoder", "launch", "parallel", "parent_run_id", "baselines", "scratch_baseline",
    "table", "version", "file", "encode_processes",
}  # fmt: skip


def identity(config: FitConfig, start: Start, data: Dataset, apart: Collection[str] = (), **more: Any) -> str:
    """Eight digits for all that decides the outcome: the configuration but for `apart`, weights, rows, and
    `more`. The rows' names count too: folds may go by them."""
    values = config.model_dump(mode="json", exclude=HOW | set(apart)) | {"start": start.digest} | more
    content = hashlib.sha256(json_digest(values).encode())
    for column in (data.ids, data.keys, data.texts):
        content.update("\n".join(column).encode() + b"\0")
    content.update(data.labels.tobytes())
    return content.hexdigest()[:8]
