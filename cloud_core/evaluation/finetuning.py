"""What every finetuning shares: its configuration, where it starts from, the jobs of a split, its models."""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from safetensors.numpy import load_file

from cloud_core.config import ConfigError, ConfigSection, FlowConfig, moved
from cloud_core.evaluation.baselines import BASELINES
from cloud_core.evaluation.data.dataset import Dataset
from cloud_core.evaluation.data.folds import Split
from cloud_core.evaluation.metrics.uncertainty import scale_of
from cloud_core.evaluation.promotion import ComparedRows, seen_in_training, trained_on
from cloud_core.evaluation.report import (
    MODEL,
    Evaluated,
    Predictions,
    absolute_errors,
    file_name,
    training_rows,
)
from cloud_core.files import json_digest
from cloud_core.inference.predictor import Predictor
from cloud_core.models.ensemble import Ensemble
from cloud_core.models.folder import CheckpointError, read_config, weights_digest
from cloud_core.models.geometry import Geometry, SitesConfig
from cloud_core.models.heads import PropertyModel, geometry
from cloud_core.models.targets import DEVIATION, Scaling, Target
from cloud_core.scope.settings import Form
from cloud_core.training.corpus import AnyGeometry
from cloud_core.training.job import PARTS, FitJob, FitSettings
from cloud_core.training.launch import FitLaunch
from cloud_core.training.search import Space, search

ROWS = "rows.parquet"
SHIPPED_ENCODER = "formation_energy"
"""The model of the package whose encoder a fit starts from unless told otherwise."""


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


def from_shipped_encoder(values: Any) -> Any:
    """A configuration as it was given; where it names no start, that of the package's encoder."""
    if not isinstance(values, Mapping) or values.get("encoder") or values.get("from_scratch"):
        return values
    return {**values, "encoder": SHIPPED_ENCODER}


class SearchConfig(ConfigSection):
    """Settings to look for before the fit, by the validation rows' loss."""

    trials: int = Field(20, ge=2)
    space: Space = Field(Space(), description="ranges and choices")
    seed: int = Field(0, ge=0)


class FitConfig(FlowConfig):
    """What every finetuning needs, whatever it learns from."""

    experiment: str = Field("finetune", description="MLflow experiment")
    form: Form = Field("resolved", description="form of the strings; that of the encoder's pretraining")
    encoder: str | None = Field(
        None,
        description="pretrained encoder: a model of the package, a model folder, models:/name@alias or "
        "runs:/id/path",
    )
    from_scratch: bool = Field(False, description="start from random weights, of the geometry given")
    geometry: AnyGeometry = Field(
        SitesConfig("sites"),
        description="of an encoder from scratch; with `kind: sites` it reads resolved strings as sites",
    )
    fit: FitSettings = Field(
        FitSettings(),
        description="epochs, batch size, optimiser, early stopping, objective, pooling, dropout",
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

    @model_validator(mode="before")
    @classmethod
    def _earlier_keys(cls, values: Any) -> Any:
        return moved(values, ("objective", "pooling", "dropout"), "fit")

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
            raise ValueError("give encoder, a pretrained model, or set from_scratch: true, and never both")
        if self.from_scratch and isinstance(self.geometry, SitesConfig) and self.form != "resolved":
            raise ValueError(f"an encoder of sites reads resolved strings: form: resolved, not {self.form}")
        return self

    def start(self, resolve: Callable[[str], Path]) -> "Start":
        """Where the weights come from; see `start_of`."""
        return start_of(self.encoder, self.form, self.geometry, resolve)


@dataclass(frozen=True)
class Start:
    """What the fits begin from."""

    job: dict[str, Any]
    """the arguments of a `Job`: start_from or from_scratch"""
    geometry: Geometry
    digest: str
    """of the pretrained weights"""


def start_of(
    encoder: str | None, form: str, geometry_of_new: Geometry, resolve: Callable[[str], Path]
) -> Start:
    """Where the weights come from: of an encoder by its address, which `resolve` looks up once, or new ones.

    Raises:
        RegistryError, CheckpointError: the encoder is missing.
        ConfigError: it was pretrained on strings of another form, or of one that it does not say.
    """
    if encoder is None:
        return Start({"from_scratch": geometry_of_new}, geometry_of_new, "scratch")
    folder = resolve(encoder)
    pretrained_on = read_config(folder).get("metadata", {}).get("form")
    if pretrained_on is None:
        raise ConfigError(
            f"{encoder}: does not say on which form of the strings it was pretrained; import it "
            "again with cloud import --form canonical|resolved|official|full"
        )
    if pretrained_on != form:
        raise ConfigError(
            f"{encoder}: pretrained on {pretrained_on} strings, not {form} ones; take strings of that form, "
            f"or an encoder of {form} strings"
        )
    return Start({"start_from": str(folder)}, geometry(folder), weights_digest(folder))


@dataclass(frozen=True)
class Fitted:
    """A split with the jobs of its model, and of its baseline from scratch where there is one."""

    split: Split
    examples: Path
    jobs: list[FitJob]
    scratch: list[FitJob]

    def all_jobs(self, name: str) -> dict[str, FitJob]:
        """By name of the MLflow run."""
        named = {f"{name}-seed-{job.settings.seed}": job for job in self.jobs}
        return named | {f"{name}-scratch-seed-{job.settings.seed}": job for job in self.scratch}

    def evaluated(self, data: Dataset, model: Path, config: FitConfig, lineage: dict[str, Any]) -> Evaluated:
        """Write the model folder and put its test predictions beside the baselines' (all jobs are done)."""
        models = {MODEL: join_members(self.jobs, model, data, self.split, lineage)}
        keys = trained_on(self._own_keys(data), self.jobs[0].start_from, self.outputs_of_start)
        if keys is not None:
            keys.write(model)
        models |= baselines_of(self.examples, config.baselines)
        if self.scratch:
            folder = Path(self.scratch[0].folder).parent / "model"
            models[SCRATCH] = join_members(self.scratch, folder, data, self.split, lineage)
        return Evaluated(self.split, models)

    @property
    def outputs_of_start(self) -> dict[str, str]:
        """Target -> the output of the start that it began from, once the jobs are done."""
        found = read_config(self.jobs[0].model)["metadata"].get("pretrained", {}).get("outputs", {})
        return dict(found)

    def _own_keys(self, data: Dataset) -> dict[str, list[str]]:
        """Canonical strings of the rows that are trained and validated on, by target."""
        rows = training_rows(self.split)
        known = ~np.isnan(data.labels[rows])
        return {
            target.name: [data.keys[i] for i in rows[known[:, place]]]
            for place, target in enumerate(data.targets)
        }

    def compared(self, data: Dataset, part: Evaluated, baselines: Sequence[str]) -> list[ComparedRows]:
        """What the gate compares, for each target."""
        keys = [data.keys[i] for i in self.split.test]
        texts = data.take_texts(self.split.test)
        found = []
        for place, target in enumerate(data.targets):
            labels = data.labels[self.split.test, place]
            errors = {
                name: absolute_errors(target, labels, part.models[name][target.name])
                for name in (MODEL, *baselines)
            }
            names = {target.name, self.outputs_of_start.get(target.name, target.name)}
            found.append(
                ComparedRows(
                    label=target.name,
                    unit=target.unit,
                    keys=keys,
                    errors=errors.pop(MODEL),
                    references=errors,
                    seen=seen_in_training(self.jobs[0].start_from, sorted(names), keys),
                    champion_errors=partial(
                        errors_of, target=target, form=data.form, texts=texts, labels=labels
                    ),
                )
            )
        return found


def errors_of(
    folder: Path, target: Target, form: Form, texts: Sequence[str], labels: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Absolute errors `[n]` of the model in a folder.

    Raises:
        CheckpointError: it reads strings of another form, or predicts no such target in that unit.
    """
    predictor = Predictor.load(folder)
    if predictor.form != form:
        raise CheckpointError(f"it reads {predictor.form} strings, not {form} ones")
    known = {each.name: each for each in predictor.targets}
    theirs = known.get(target.name)
    if theirs is None or (theirs.unit, theirs.classes) != (target.unit, target.classes):
        told = ", ".join(f"{each.name} ({each.unit or 'no unit'})" for each in known.values())
        raise CheckpointError(f"it predicts {told}, not {target.name} ({target.unit or 'no unit'})")
    found = predictor.predict_texts(texts)
    if target.kind == "classification":
        shares = [found[f"{target.name}_probability_{name}"] for name in target.classes]
        return absolute_errors(target, labels, np.stack(shares, axis=1))
    return absolute_errors(target, labels, found[target.name])


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
    examples = write_split(folder / "examples", data, split, start.geometry)
    rest: dict[str, Any] = {"metadata": lineage}
    jobs = jobs_of(folder, examples, data.targets, config.seeds, settings, **start.job, **rest)
    scratch: list[FitJob] = []
    if config.scratch_baseline and config.encoder is not None:
        begin = {"from_scratch": start.geometry}
        scratch = jobs_of(folder / "scratch", examples, data.targets, config.seeds, settings, **begin, **rest)
    return Fitted(split, examples, jobs, scratch)


def find_settings(
    config: FitConfig,
    start: Start,
    folder: Path,
    data: Dataset,
    split: Split,
    validation_loss: Callable[[FitJob, int], float],
) -> tuple[FitSettings, float | None]:
    """The settings to fit with and their loss: the configuration's, or the best that the search finds.

    validation_loss: fits a job, the trial of this number, and gives its validation loss.
    """
    if config.search is None:
        return config.fit, None
    examples = write_split(folder / "examples", data, split, start.geometry)

    def loss(number: int, settings: FitSettings) -> float:
        (job,) = jobs_of(
            folder / f"trial-{number}", examples, data.targets, config.seeds[:1], settings, **start.job
        )
        return validation_loss(job, number)

    return search(config.search.space, config.fit, config.search.trials, config.search.seed, loss)


# What does not decide the outcome of a fit; the encoder does by its weights, whatever it is called.
HOW = {
    "name", "experiment", "encoder", "launch", "parallel", "parent_run_id", "baselines", "scratch_baseline",
    "table", "version", "file", "encode_processes", "registered", "register_as", "promote",
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


def write_split(folder: Path, data: Dataset, split: Split, encoder: Geometry) -> Path:
    """Rows of a split in `folder`: as a table, and tokenized by part for the jobs on it."""
    data.save(folder / ROWS, split)
    for part, rows in zip(PARTS, split, strict=True):
        data.examples(rows, encoder).save(folder / f"{part}.safetensors")
    return folder


def baseline_file(examples: Path, name: str) -> Path:
    return examples / "baselines" / f"{file_name(name)}.safetensors"


def baselines_of(examples: Path, names: Sequence[str]) -> dict[str, Predictions]:
    """What `fit_baselines` left: name -> target -> predictions."""
    return {name: load_file(baseline_file(examples, name)) for name in names}


def jobs_of(
    folder: Path,
    examples: Path,
    targets: Sequence[Target],
    seeds: Sequence[int],
    settings: FitSettings,
    **rest: Any,
) -> list[FitJob]:
    """A job for each seed, below `folder`, written out."""
    jobs = []
    for seed in seeds:
        place = folder / f"seed-{seed}"
        job = FitJob(
            folder=str(place),
            examples=str(examples),
            model=str(place / "model"),
            targets=tuple(targets),
            settings=replace(settings, seed=seed),
            **rest,
        )
        job.write(job.file)
        jobs.append(job)
    return jobs


def join_members(
    jobs: Sequence[FitJob], folder: Path, data: Dataset, split: Split, metadata: dict[str, Any]
) -> Predictions:
    """Write the model folder of all members of a finished split, and give the test predictions.

    Several members become an ensemble, whose standard deviations are scaled to the validation errors.
    """
    models = [PropertyModel.load(job.model)[0] for job in jobs]
    if len(models) == 1:
        models[0].save(folder, PropertyModel.load(jobs[0].model)[1])
        return jobs[0].predictions("test")
    ensemble = Ensemble(models)
    held = ensemble.combine([job.predictions("validation") for job in jobs])
    scales: list[tuple[float, ...]] = []
    for place, target in enumerate(data.targets):
        labels = data.labels[split.validation, place]
        has = ~np.isnan(labels)
        if target.kind == "classification" or not has.any():
            scales.append((1.0, 0.0))
        else:
            spread = held[target.name + DEVIATION]
            scales.append(scale_of(labels[has], held[target.name][has], spread[has]))
    ensemble.scales = tuple(scales)
    ensemble.save(folder, metadata | {"members": [job.model for job in jobs]})
    return ensemble.combine([job.predictions("test") for job in jobs])
