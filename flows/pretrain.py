"""Pretrain an encoder on the SCOPE strings of a table.

    cloud pretrain --config deployments/configs/pretrain.yaml

The run's folder is named by what decides its outcome: the same configuration on the same snapshot (or on
files that hold the same) goes on from its last checkpoint, or returns the finished model; any other starts
afresh.
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from prefect import flow
from pydantic import Field, field_validator, model_validator

from cloud_core.config import FlowConfig, TrainingConfig, moved
from cloud_core.evaluation.learning_curve import learning_curve
from cloud_core.evaluation.metrics.gate import GateDecision
from cloud_core.files import json_digest
from cloud_core.lake.snapshot import Snapshot
from cloud_core.models.folder import weights_digest
from cloud_core.models.geometry import SitesConfig
from cloud_core.scope.tokenizer import Tokenizer
from cloud_core.training.batches import batches_per_epoch
from cloud_core.training.corpus import CorpusConfig, knows_every_word, texts_digest
from cloud_core.training.job import RESULT, PretrainJob, PretrainSettings
from cloud_core.training.launch import Launch
from cloud_core.training.progress import METRICS
from tasks.registry import enter
from tasks.reporting import publish_figure
from tasks.tracking import git_commit, runs_folder, tracked_run
from tasks.training import prepare_corpus, torchrun

NOT_COMPARED = GateDecision(
    False, "is not promoted: an encoder is compared by a model that is finetuned from it; none was here"
)


class PretrainConfig(CorpusConfig, TrainingConfig):
    """What to train, and how."""

    name: str = Field(
        default="pretrain", pattern=r"^[\w.-]+$", description="of the MLflow run and the folders"
    )
    experiment: str = Field(default="pretrain", description="MLflow experiment")
    training: PretrainSettings = Field(
        default=PretrainSettings(), description="encoder, masking, optimiser, batches, precision, intervals"
    )
    epochs: float | None = Field(default=None, gt=0, description="passes over the strings; or give steps")
    steps: int | None = Field(default=None, ge=1, description="optimiser steps; or give epochs")
    start_from: Path | None = Field(default=None, description="model folder whose weights to start from")
    launch: Launch = Field(default=Launch(), description="processes and nodes")
    parent_run_id: str | None = Field(default=None, description="MLflow run to file this one under")

    @model_validator(mode="before")
    @classmethod
    def _earlier_keys(cls, values: Any) -> Any:
        return moved(values, [field.name for field in fields(PretrainSettings)], "training")

    @field_validator("training")
    @classmethod
    def _knows_every_word(cls, training: PretrainSettings) -> PretrainSettings:
        knows_every_word(training.encoder)
        return training

    @model_validator(mode="after")
    def _one_length(self) -> "PretrainConfig":
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either epochs or steps")
        if isinstance(self.training.encoder, SitesConfig) and self.column != "resolved":
            raise ValueError(
                f"an encoder of sites reads resolved strings: column: resolved, not {self.column}"
            )
        return self


@dataclass(frozen=True)
class PretrainResult:
    """A finished encoder and where it came from."""

    model_folder: str
    run_id: str
    metrics: dict[str, float]
    snapshot: Snapshot | None
    registered: str | None = None
    """models:/<name>/<version>"""


def identity(config: PretrainConfig, snapshot: Snapshot | None) -> str:
    """Eight digits for all that decides the outcome; files by what they hold, wherever they lie.

    Raises:
        CorpusError, CheckpointError: a file of strings, or the model to start from, is not there.
    """
    apart = {"name", "experiment", "launch", "parent_run_id", "texts", "exclude", "start_from"}
    apart |= set(TrainingConfig.model_fields) - set(FlowConfig.model_fields)
    values = config.model_dump(mode="json", exclude=apart)
    for name in ("log_every", "keep_checkpoints"):
        del values["training"][name]
    if snapshot is not None:
        values |= {"table": snapshot.uri, "version": snapshot.version}
    if config.texts is not None:
        values["texts"] = texts_digest(config.texts)
    values["exclude"] = sorted(texts_digest(path) for path in config.exclude)
    if config.start_from is not None:
        values["start_from"] = weights_digest(config.start_from)
    return json_digest(values)[:8]


@flow(name="pretrain", persist_result=False, validate_parameters=True)
def pretrain(config: PretrainConfig) -> PretrainResult:
    """Pin the table, tokenize, train under torchrun, and report to MLflow while it goes."""
    snapshot = None
    if config.table is not None:
        snapshot = Snapshot.of(config.table, config.version)
    name = f"{config.name}-{identity(config, snapshot)}"
    if snapshot is not None:
        snapshot = Snapshot.of(snapshot.uri, snapshot.version, pin=name)
    folder, model = runs_folder() / "checkpoints" / name, runs_folder() / "models" / name
    folder.mkdir(parents=True, exist_ok=True)
    inputs = {"structures": snapshot} if snapshot is not None else {}
    with tracked_run(config.experiment, config.name, config, inputs, config.parent_run_id) as run:
        corpus = prepare_corpus(
            config, config.training.encoder, snapshot.files if snapshot else (), str(folder)
        )
        per_epoch = batches_per_epoch(corpus["training_strings"], config.training.batch_size)
        steps = config.steps or max(1, round((config.epochs or 0) * per_epoch))
        lineage = {
            "form": config.column,
            "vocabulary": {"words": Tokenizer().vocabulary_size, "name": "SCOPE"},
            "snapshot": {"uri": snapshot.uri, "version": snapshot.version} if snapshot else None,
            "texts": str(config.texts) if config.texts else None,
            "code": git_commit(),
            "run_id": run.run_id,
            "parent": str(config.start_from) if config.start_from else None,
        }
        job = PretrainJob(
            folder=str(folder),
            training=corpus["training"],
            validation=corpus["validation"],
            model=str(model),
            steps=steps,
            settings=config.training,
            metadata=lineage,
            start_from=str(config.start_from) if config.start_from else None,
        )
        job_file = folder / "job.json"
        job.write(job_file)
        run.log_params({f"corpus.{key}": value for key, value in corpus.items()} | {"total_steps": steps})
        run.set_tags({"model_folder": str(model), "job": json.dumps(asdict(job))[:4000]})
        result = torchrun(str(folder), str(job_file), config.launch, run.run_id, steps, corpus["digest"])
        curve = learning_curve(folder / METRICS)
        run.log_figure(curve, "learning_curve.png")
        publish_figure(f"{config.name}-learning-curve", curve, "Loss and masked accuracy")
        run.log_artifact(folder / RESULT)
        registered = None
        if config.registered:
            name = config.register_as or config.name
            entered = enter(model, name, run.run_id, result["metrics"], NOT_COMPARED, None, config.promote)
            registered = f"models:/{name}/{entered.version}"
    return PretrainResult(str(model), run.run_id, result["metrics"], snapshot, registered)
