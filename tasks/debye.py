"""Training of Debye models and of what they are compared with."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from cloud_core.evaluation.regression import regression_metrics
from cloud_core.evaluation.thermal_plots import (
    AXIS_LABELS,
    curves,
    errors_by_temperature,
    parity,
    sweep_figure,
)
from cloud_core.inference.thermodynamics import thermodynamics
from cloud_core.models.checkpoint import read_config
from cloud_core.models.debye_model import HIGHEST, LOWEST, DebyeModel, evaluate
from cloud_core.models.encoder import EncoderConfig
from cloud_core.models.heads import PropertyModel, Target, geometry, take_encoder
from cloud_core.training.examples import Examples
from cloud_core.training.finetune import Epoch, FitSettings, Loss, fit, outputs
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

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FloatArray = NDArray[np.float64]

MODEL = "Debye model"
CONTROL = "control: mean per atom × n_atoms"
BEST = "best θ of each crystal"


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
    fit: FitSettings = Field(default=FitSettings(), description="epochs, batches, optimiser")


class Start(BaseModel):
    """The encoder to begin with: a model folder, or the geometry of a new one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: str | None = None
    from_scratch: EncoderConfig | None = None

    def geometry(self) -> EncoderConfig:
        if self.folder is not None:
            form = read_config(self.folder).get("metadata", {}).get("form")
            if form not in (None, "canonical"):
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


class Parts(NamedTuple):
    """Training and validation rows at the temperatures trained on; test rows at all."""

    train: ThermalTable
    validation: ThermalTable
    test: ThermalTable

    @property
    def held_out(self) -> NDArray[np.bool_]:
        """[K] which of the test rows' temperatures were not trained on."""
        return ~np.isin(self.test.temperatures, self.train.temperatures)


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


def control(parts: Parts) -> FloatArray:
    """The training rows' mean per atom at each temperature, for each test row: [N, K] per atom.

    At temperatures that were not trained on: between the two neighbours, by a straight line.
    """
    mean = np.nanmean(parts.train.values, axis=0)
    at = np.interp(parts.test.temperatures, parts.train.temperatures, mean)
    return np.broadcast_to(at, parts.test.values.shape)


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
    encoder = start.geometry()
    initial = float(train.best_theta(training.lowest_theta, training.highest_theta).mean())
    model = DebyeModel(encoder, initial, training.lowest_theta, training.highest_theta)
    start.fill(model)
    labels = train.scaled(train.values, training.loss_per)
    # errors in units of the labels' own spread, so that one learning rate serves C_v and U
    scale = float(np.nanmean(np.abs(labels - np.nanmean(labels, axis=0))))
    loss = thermal_loss(train.quantity, train.temperatures, scale, training.loss_per)
    run = Run(run_id, "", mlflow_client())
    run.log_metrics({"initial_theta_K": initial})
    examples = [
        Examples.from_texts(part.texts, {"values": part.values, "n_atoms": part.n_atoms}, encoder.positions)
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
) -> list[float]:
    """A regressor without physics, of the value per atom or of the whole cell; test values [N] per atom."""
    parts = split_table(data, split)
    encoder = start.geometry()

    def labels(part: ThermalTable) -> FloatArray:
        return part.values[:, 0] if with_atoms else part.values[:, 0] * part.n_atoms

    target = Target("value").fitted(labels(parts.train))
    model = PropertyModel(encoder, [target])
    start.fill(model)
    examples = [
        Examples.from_texts(
            part.texts, {"value": target.scale(labels(part)).astype(np.float32)}, encoder.positions
        )
        for part in (parts.train, parts.validation)
    ]

    def loss(output: torch.Tensor, columns: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return (output[:, 0] - columns["value"]).abs().mean()

    title = f"direct, {'per atom' if with_atoms else 'per cell'}"
    _fit(model, examples[0], examples[1], training.fit, loss, title, None)
    test = Examples.from_texts(parts.test.texts, positions=encoder.positions)
    found = target.unscale(outputs(model, test, training.fit.precision))
    return list((found if with_atoms else found / parts.test.n_atoms).tolist())


def _fit(
    model: nn.Module,
    train: Examples,
    validation: Examples,
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
    found = outputs(model, Examples.from_texts(table.texts, positions=model.config.positions))
    return found.astype(np.float64)


def compare(parts: Parts, contenders: Mapping[str, FloatArray], basis: Basis) -> list[dict[str, Any]]:
    """One row a model: errors on all test labels at temperatures trained on, and at those held out.

    MAE/MAD takes the training rows' mean at each temperature as the dummy.
    """
    train, _, test = parts
    dummies = np.nanmean(train.scaled(train.values, basis), axis=0)
    dummy = np.broadcast_to(np.interp(test.temperatures, train.temperatures, dummies), test.values.shape)
    true = test.scaled(test.values, basis)
    rows = []
    for name, values in contenders.items():
        predicted = test.scaled(values, basis)
        row: dict[str, Any] = {"model": name}
        for prefix, columns in (("", ~parts.held_out), ("held-out T: ", parts.held_out)):
            known = ~np.isnan(true) & columns
            if known.any():
                found = regression_metrics(true[known], predicted[known])
                mad = float(np.abs(true[known] - dummy[known]).mean())
                row |= {
                    f"{prefix}MAE": round(found["mae"], 4),
                    f"{prefix}MAE/MAD": round(found["mae"] / mad, 4),
                    f"{prefix}R2": round(found["r2"], 4),
                }
        rows.append(row)
    return rows


def as_metrics(row: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """A row of `compare` under names that MLflow takes."""
    names = {
        "MAE": "mae",
        "MAE/MAD": "mae_over_mad",
        "R2": "r2",
        "held-out T: MAE": "held_out_T_mae",
        "held-out T: MAE/MAD": "held_out_T_mae_over_mad",
        "held-out T: R2": "held_out_T_r2",
    }
    return {f"{prefix}{name}": float(row[key]) for key, name in names.items() if key in row}


def prediction_table(
    table: ThermalTable, theta: FloatArray, controls: FloatArray, basis: Basis
) -> pd.DataFrame:
    """One row a test crystal and temperature, in the basis of the report."""
    true = table.scaled(table.values, basis)
    crystal, column = np.nonzero(~np.isnan(true))
    return pd.DataFrame(
        {
            "scope": [table.texts[i] for i in crystal],
            "n_atoms": table.n_atoms[crystal],
            "temperature": table.temperatures[column],
            "theta_D": theta[crystal],
            "true": true[crystal, column],
            "predicted": table.scaled(table.curves(theta), basis)[crystal, column],
            "control": table.scaled(controls, basis)[crystal, column],
        }
    )


def figures(
    parts: Parts,
    theta: FloatArray,
    contenders: Mapping[str, FloatArray],
    temperatures: FloatArray,
    crystals: int,
    basis: Basis,
) -> dict[str, "Figure"]:
    """Curves of some test crystals, together and each by itself, predicted against true, error over T."""
    train, _, test = parts
    order = np.argsort(theta, kind="stable")
    # soft, middling and hard ones: spread over the predicted θ
    chosen = order[np.linspace(0, len(order) - 1, crystals + 2)[1:-1].astype(int)]
    lines, points, drawn = {}, {}, {}
    for number, i in enumerate(chosen, start=1):
        name = f"{test.texts[i].rpartition('| ')[2]}, θ = {theta[i]:.0f} K"
        lines[name] = evaluate(test.quantity, float(theta[i]), torch.from_numpy(temperatures)).numpy()
        known = ~np.isnan(test.values[i])
        points[name] = (test.temperatures[known], test.values[i][known])
        single = thermodynamics([theta[i]], temperatures)
        one = {key: values[0] for key, values in single.items() if values.ndim == 2}
        drawn[f"crystal-{number}"] = sweep_figure(one, name)
    if lines:
        drawn["curves"] = curves(temperatures, lines, test.quantity, points)
    true = test.scaled(test.values, basis)
    known = ~np.isnan(true)
    label = AXIS_LABELS[test.quantity].replace("per atom", f"per {basis}").replace("kJ", "J")
    predicted = test.scaled(contenders[MODEL], basis)
    drawn["parity"] = parity(true[known], predicted[known], label, f"{len(test)} test crystals")
    if len(test.temperatures) > 1:
        mad = np.nanmean(np.abs(true - np.nanmean(true, axis=0)), axis=0)
        errors = {
            name: np.nanmean(np.abs(test.scaled(values, basis) - true), axis=0) / mad
            for name, values in contenders.items()
        }
        drawn["errors"] = errors_by_temperature(test.temperatures, errors, train.temperatures.tolist())
    return drawn
