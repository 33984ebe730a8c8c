"""Pretrain an encoder on the SCOPE strings of a table.

    cloud pretrain --config deployments/configs/pretrain.yaml

The run's folder is named by what decides its outcome: the same configuration on the same snapshot (or on
files that hold the same) goes on from its last checkpoint, or returns the finished model; any other starts
afresh.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import fsspec
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from pydantic import Field, field_validator, model_validator

from cloud_core.config import FlowConfig, TableUri, TrainingConfig, moved
from cloud_core.evaluation.learning_curve import learning_curve
from cloud_core.evaluation.metrics.gate import GateDecision
from cloud_core.files import json_digest
from cloud_core.lake.snapshot import Snapshot
from cloud_core.lake.storage import Storage
from cloud_core.models.folder import weights_digest
from cloud_core.models.geometry import SitesConfig
from cloud_core.scope.settings import Form
from cloud_core.scope.tokenizer import Tokenizer
from cloud_core.training.batches import Batches, CorpusError, batches_per_epoch
from cloud_core.training.corpus import check_form, knows_every_word, read_pairs
from cloud_core.training.job import RESULT, PretrainJob, PretrainSettings
from cloud_core.training.launch import Launch
from cloud_core.training.progress import METRICS
from tasks.registry import enter
from tasks.reporting import publish_figure
from tasks.tracking import git_commit, runs_folder, tracked_run
from tasks.training import torchrun

NOT_COMPARED = GateDecision(
    False, "is not promoted: an encoder is compared by a model that is finetuned from it; none was here"
)


class PretrainConfig(TrainingConfig):
    """What to train on, what to train, and how."""

    name: str = Field(
        default="pretrain", pattern=r"^[\w.-]+$", description="of the MLflow run and the folders"
    )
    experiment: str = Field(default="pretrain", description="MLflow experiment")
    table: TableUri | None = Field(
        default=None, description="table of structures: a folder or an s3:// address"
    )
    version: int | None = Field(default=None, ge=0, description="table version; default: the newest")
    texts: Path | None = Field(
        default=None,
        description="instead of a table: a file of one SCOPE string per line; split by these strings",
    )
    column: Form = Field(
        default="resolved",
        description="form of the strings; a table is split by the canonical ones beside them all the same",
    )
    exclude: tuple[Path, ...] = Field(
        (),
        description="files with one SCOPE string per line, canonical or as in `column`, whose crystals "
        "must not be trained on or validated with",
    )
    validation_fraction: float = Field(default=0.02, gt=0, lt=1, description="share of the distinct strings")
    data_fraction: float = Field(default=1.0, gt=0, le=1, description="share of the training strings to use")
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
    def _one_of_each(self) -> "PretrainConfig":
        if (self.table is None) == (self.texts is None):
            raise ValueError("give either table or texts")
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


@task(cache_policy=NO_CACHE, persist_result=False)
def prepare_corpus(config: PretrainConfig, files: list[str], folder: str) -> dict[str, Any]:
    """Tokenize once, split by string, and leave two files for the ranks; returns what they hold.

    Of a table, a crystal is its canonical string: it gives one string of the column, to one side, or none.
    """
    training_file, validation_file = (
        Path(folder) / "training.safetensors",
        Path(folder) / "validation.safetensors",
    )
    if config.texts is not None:
        pairs = {(text, text) for text in read_lines_of(config.texts)}
        check_form((text for text, _ in pairs), config.column, str(config.texts))
    else:
        pairs = read_pairs(files, config.column, file_system(str(config.table)))
    unwanted = {text for path in config.exclude for text in read_lines_of(path)}
    excluded = {key for key, text in pairs if key in unwanted or text in unwanted}
    # The first of a crystal's strings; and should two crystals share one, it stays one row.
    crystals = dict(sorted((pair for pair in pairs if pair[0] not in excluded), reverse=True))
    crystal_of = {text: key for key, text in crystals.items()}
    rows = sorted(crystal_of)
    keys = [crystal_of[text] for text in rows]
    corpus = Batches.of_texts(rows, config.training.encoder)
    by = corpus if keys == rows else Batches.of_rows(keys)
    training, validation = corpus.split(config.validation_fraction, by)
    training = training.subset(config.data_fraction)
    training.save(training_file)
    validation.save(validation_file)
    return {
        "training": str(training_file),
        "validation": str(validation_file),
        "training_strings": len(training),
        "validation_strings": len(validation),
        "training_tokens": len(training.ids),
        "truncated_strings": corpus.truncated,
        "excluded_strings": len(excluded),
        "digest": training.digest,
    }


def file_system(uri: str) -> Any:
    """Of a table that is not on this machine; None for a local one."""
    if "://" not in uri:
        return None
    return fsspec.filesystem(uri.split("://")[0], **Storage.from_environment().for_fsspec(uri))


def read_lines_of(path: Path) -> list[str]:
    """SCOPE strings of a text file; a first line without `|` is a header."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise CorpusError(f"{path}: cannot read the strings ({error.strerror}); check the path") from error
    strings = [line for line in lines if line]
    return strings[1:] if strings and "|" not in strings[0] else strings


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
        values["texts"] = digest_of(config.texts)
    values["exclude"] = sorted(digest_of(path) for path in config.exclude)
    if config.start_from is not None:
        values["start_from"] = weights_digest(config.start_from)
    return json_digest(values)[:8]


def digest_of(path: Path) -> str:
    """sha256 of the strings of a file."""
    return hashlib.sha256("\n".join(read_lines_of(path)).encode()).hexdigest()


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
        corpus = prepare_corpus(config, list(snapshot.files) if snapshot else [], str(folder))
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
