"""Training of Debye models and of the regressors that they are compared with."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from cloud_core.evaluation.thermal.comparison import Parts
from cloud_core.models.checkpoint import read_config
from cloud_core.models.debye_model import HIGHEST, LOWEST, DebyeModel
from cloud_core.models.encoder import EncoderConfig
from cloud_core.models.first_token import Pooling
from cloud_core.models.heads import PropertyModel, Target, geometry, take_encoder
from cloud_core.training.batches import Batches
from cloud_core.training.finetune import Epoch, FitSettings, Loss, fit, outputs
from cloud_core.training.property import LABELS, property_loss, scaled
from cloud_core.training.thermal import (
    Basis,
    ThermalError,
    ThermalTable,
    split_by_string,
    thermal_loss,
)
from tasks.reporting import Progress
from tasks.thermal import ThermalData, read_thermal
from tasks.tracking import Run, mlflow_client

FloatArray = NDArray[np.float64]


class Split(BaseModel):
    """What is trained on, what chooses the epoch, and what judges."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    test_share: float = Field(
        default=0.2, gt=0, lt=1, description="of the distinct strings, never trained on"
    )
    validation_share: float = Field(default=0.1, gt=0, lt=1, description="of the distinct strings")
    held_out_temperatures: tuple[float, ...] = Field(
        default=(), description="K, judged on test rows, not trained on"
    )
    seed: int = Field(default=0, ge=0)


class Training(BaseModel):
    """How a Debye model is trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    loss_per: Basis = Field(default="atom", description="loss per mole of cells or of atoms")
    lowest_theta: float = Field(default=LOWEST, gt=0, description="K")
    highest_theta: float = Field(default=HIGHEST, gt=0, description="K")
    pooling: Pooling = Field(
        default="first", description="the vector of a string: of its first token, or the mean over its tokens"
    )
    dropout: float | None = Field(
        default=None, ge=0, lt=1, description="while it is fitted; default: the encoder's own"
    )
    fit: FitSettings = Field(default=FitSettings(), description="epochs, batches, optimiser")


class Start(BaseModel):
    """The encoder to begin with: a model folder, or the geometry of a new one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: str | None = None
    from_scratch: EncoderConfig | None = None

    def geometry(self, dropout: float | None = None) -> EncoderConfig:
        """The encoder's, with another dropout where one is given."""
        found = self._geometry()
        return found if dropout is None else replace(found, dropout=dropout, attention_dropout=dropout)

    def _geometry(self) -> EncoderConfig:
        if self.folder is not None:
            form = read_config(self.folder).get("metadata", {}).get("form")
            if form is None:
                raise ThermalError(
                    f"{self.folder}: does not say on which form of the strings it was pretrained; import it "
                    "again with cloud import --form official|canonical|full"
                )
            if form != "canonical":
                raise ThermalError(
                    f"{self.folder}: pretrained on {form} strings; Debye models take canonical ones, "
                    "pretrain on those"
                )
            return geometry(self.folder)
        if self.from_scratch is None:
            raise ThermalError("no encoder: name one, or the geometry of a new one (from_scratch)")
        return self.from_scratch

    def fill(self, model: nn.Module) -> None:
        if self.folder is not None:
            take_encoder(model, self.folder)


def split_table(data: ThermalData, split: Split) -> Parts:
    """The parts of a table; the same for the same arguments.

    Raises:
        ThermalError: the table cannot be used, a held-out temperature is not in it, or a part would be empty.
    """
    table = read_thermal(data)
    train, validation, test = split_by_string(
        table.texts, split.test_share, split.validation_share, split.seed
    )
    held = np.isin(table.temperatures, split.held_out_temperatures)
    if held.sum() != len(set(split.held_out_temperatures)) or held.all():
        raise ThermalError(
            f"held_out_temperatures {split.held_out_temperatures}: must be among the table's "
            f"{table.temperatures.tolist()} K, and leave some to train on"
        )
    seen = table.at(~held)
    return Parts(seen.take(train), seen.take(validation), table.take(test))


@task(cache_policy=NO_CACHE, persist_result=False)
def train_debye(
    data: ThermalData,
    split: Split,
    training: Training,
    start: Start,
    folder: str,
    run_id: str,
    metadata: dict[str, Any],
) -> str:
    """Train and write the model folder; losses go to the MLflow run while it trains."""
    parts = split_table(data, split)
    train = parts.train
    encoder = start.geometry(training.dropout)
    initial = float(train.best_theta(training.lowest_theta, training.highest_theta).mean())
    torch.manual_seed(training.fit.seed)
    bounds = (training.lowest_theta, training.highest_theta)
    model = DebyeModel(encoder, initial, *bounds, training.pooling)
    start.fill(model)
    labels = train.scaled(train.values, training.loss_per)
    # errors in units of the labels' own spread, so that one learning rate serves C_v and U
    scale = float(np.nanmean(np.abs(labels - np.nanmean(labels, axis=0))))
    loss = thermal_loss(train.quantity, train.temperatures, scale, training.loss_per)
    run = Run(run_id, "", mlflow_client())
    run.log_metrics({"initial_theta_K": initial})
    examples = [
        Batches.of_rows(part.texts, {"values": part.values, "n_atoms": part.n_atoms}, encoder.positions)
        for part in (train, parts.validation)
    ]
    _fit(model, examples[0], examples[1], training.fit, loss, "debye", run)
    rows = {"training": len(train), "validation": len(parts.validation), "test": len(parts.test)}
    facts = {"quantity": train.quantity, "temperatures_K": train.temperatures.tolist(), "rows": rows}
    model.save(folder, metadata | facts)
    return folder


@task(cache_policy=NO_CACHE, persist_result=False)
def train_direct(
    data: ThermalData, split: Split, training: Training, start: Start, with_atoms: bool
) -> list[list[float]]:
    """A regressor without physics, with an output for each temperature trained on: test values [N, K] per
    atom; at temperatures that were held out, by a straight line in between.

    It learns values per atom, which n_atoms then multiplies, or without n_atoms those of the whole cell.
    """
    parts = split_table(data, split)
    encoder = start.geometry(training.dropout)

    def labels(part: ThermalTable) -> FloatArray:
        return part.values if with_atoms else part.scaled(part.values, "cell")

    train, validation = (
        Batches.of_rows(part.texts, {LABELS: labels(part)}, encoder.positions)
        for part in (parts.train, parts.validation)
    )
    columns = train.columns[LABELS].T
    targets = [
        Target(f"{temperature:g} K").fitted(values)
        for temperature, values in zip(parts.train.temperatures, columns, strict=True)
    ]
    torch.manual_seed(training.fit.seed)
    model = PropertyModel(encoder, targets, training.pooling)
    start.fill(model)
    loss = property_loss(targets, 1 - np.isnan(columns).mean(axis=1))
    title = f"direct, {'per atom' if with_atoms else 'per cell'}"
    _fit(model, scaled(train, targets), scaled(validation, targets), training.fit, loss, title, None)
    test = Batches.of_rows(parts.test.texts, positions=encoder.positions)
    found = model.physical(outputs(model, test))
    values = parts.between(np.stack([found[target.name] for target in targets], axis=1))
    return list((values if with_atoms else values / parts.test.n_atoms[:, None]).tolist())


def _fit(
    model: nn.Module,
    train: Batches,
    validation: Batches,
    settings: FitSettings,
    loss: Loss,
    title: str,
    run: Run | None,
) -> None:
    with Progress(settings.epochs, title, unit="epochs") as progress:

        def on_epoch(epoch: Epoch) -> None:
            progress.advance(1, validation=f"{epoch.validation_loss:.4f}")
            if run is not None:
                losses = {"train_loss": epoch.train_loss, "validation_loss": epoch.validation_loss}
                run.log_metrics(losses, step=epoch.number)

        fit(model, train, validation, settings, loss, on_epoch)


def predicted_theta(folder: str | Path, table: ThermalTable) -> FloatArray:
    """θ_D [N] in K."""
    model, _ = DebyeModel.load(folder)
    found = outputs(model, Batches.of_rows(table.texts, positions=model.config.positions))
    return found.astype(np.float64)
