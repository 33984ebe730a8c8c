"""Train a Debye model: θ_D from the encoder, C_v(T) or U(T) by the Debye integral.

    cloud debye --config deployments/configs/debye.yaml

On the same test rows stand the control that any claim must beat (the training rows' mean per atom times the
number of atoms), regressors without physics, and the best that the Debye form itself can do.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from prefect import flow
from pydantic import BaseModel, Field, model_validator

from cloud_core.config import TrainingConfig
from cloud_core.evaluation.finetuning import from_shipped_encoder, start_of
from cloud_core.evaluation.promotion import gate, seen_in_training, trained_on
from cloud_core.evaluation.thermal.comparison import (
    BEST,
    CONTROL,
    MODEL,
    as_metrics,
    compare,
    compared,
    control,
    figures,
    own_keys,
    prediction_table,
)
from cloud_core.evaluation.thermal.data import Split, ThermalData, parse_temperatures, split_table
from cloud_core.evaluation.thermal.fits import debye_job, direct_job, direct_values, theta
from cloud_core.evaluation.thermal.table import Parts
from cloud_core.files import json_digest
from cloud_core.models.geometry import EncoderConfig, SitesConfig
from cloud_core.scope import canonicalise
from cloud_core.training.corpus import AnyGeometry
from cloud_core.training.job import Basis, FitSettings, ThermalSettings
from cloud_core.training.launch import FitLaunch
from cloud_core.training.losses.thermal import THETA
from tasks.finetuning import fit_all
from tasks.registry import champion, enter, resolve
from tasks.reporting import publish_figure, publish_table
from tasks.tracking import git_commit, runs_folder, tracked_run


class DebyeConfig(TrainingConfig):
    """What to train on, from which encoder, and how."""

    name: str = Field("debye", pattern=r"^[\w.-]+$", description="of the MLflow run and the model folder")
    experiment: str = Field("debye", description="MLflow experiment")
    data: ThermalData = Field(description="labels of heat capacity or internal energy")
    encoder: str | None = Field(
        None,
        description="of the package (default), a model folder, models:/… or runs:/… to start from",
    )
    from_scratch: AnyGeometry | None = Field(None, description="instead of encoder: geometry of a new one")
    split: Split = Field(default=Split(), description="by canonical string")
    thermal: ThermalSettings = Field(default=ThermalSettings(), description="loss, bounds of θ_D")
    fit: FitSettings = Field(
        default=FitSettings(), description="epochs, batch size, optimiser, pooling, dropout"
    )
    launch: FitLaunch | None = Field(None, description="torchrun's ranks for each fit; default: this process")
    report_per: Basis = Field("cell", description="figures per mole of cells or of atoms")
    direct: bool = Field(True, description="train regressors without physics beside it")
    temperatures: str = Field("0:1000:10", description="of the curves, K: first:last:step")
    crystals: int = Field(3, ge=0, description="test crystals to draw curves of")
    parent_run_id: str | None = Field(None, description="MLflow run to file this one under")

    @model_validator(mode="before")
    @classmethod
    def _earlier_keys(cls, values: Any) -> Any:
        """Version 0.1 had one section `training`."""
        if not isinstance(values, Mapping) or not isinstance(values.get("training"), Mapping):
            return values
        rest = {key: value for key, value in values.items() if key != "training"}
        training = dict(values["training"])
        fit = dict(rest.get("fit", {})) | dict(training.pop("fit", {}))
        fit |= {key: training.pop(key) for key in ("pooling", "dropout") if key in training}
        return rest | {"fit": fit, "thermal": dict(rest.get("thermal", {})) | training}

    @model_validator(mode="before")
    @classmethod
    def _start(cls, values: Any) -> Any:
        return from_shipped_encoder(values)

    @model_validator(mode="after")
    def _one_start(self) -> "DebyeConfig":
        if (self.encoder is None) == (self.from_scratch is None):
            raise ValueError("give encoder or from_scratch, not both")
        if isinstance(self.from_scratch, SitesConfig) and self.data.form != "resolved":
            raise ValueError("an encoder of sites reads resolved strings: data.form: resolved")
        return self


class DebyeResult(BaseModel):
    """A trained model, and how it does on crystals that it has not seen."""

    model_folder: str
    run_id: str
    n_train: int
    n_validation: int
    n_test: int
    metrics: dict[str, float]
    comparison: list[dict[str, Any]]
    curves: str
    gate: str
    version: str | None = None
    promoted: bool = False


@flow(name="debye", persist_result=False, validate_parameters=True)
def debye(config: DebyeConfig) -> DebyeResult:
    """Split by canonical string, train, compare, draw, and log it all to MLflow."""
    temperatures = parse_temperatures(config.temperatures)
    parts = split_table(config.data, config.split)
    start = start_of(config.encoder, config.data.form, config.from_scratch or EncoderConfig(), resolve)
    name = f"{config.name}-{identity(config, parts, start.digest)}"
    folder, model = runs_folder() / "debye" / name, runs_folder() / "models" / name
    tags = {"labels": config.data.path, "parent": config.encoder or "from scratch"}
    with tracked_run(config.experiment, config.name, config, None, config.parent_run_id, tags) as run:
        rows = dict(zip(("training", "validation", "test"), map(len, parts), strict=True))
        lineage = {
            "form": config.data.form,
            "labels": config.data.model_dump(mode="json"),
            "rows": rows,
            "code": git_commit(),
            "run_id": run.run_id,
            "parent": config.encoder,
        }
        how = (config.fit, start.geometry, start.job)
        job = debye_job(folder / "debye", model, parts, config.thermal, *how, lineage)
        direct = {
            f"direct regressor, {'with' if with_atoms else 'without'} n_atoms": with_atoms
            for with_atoms in ((True, False) if config.direct else ())
        }
        regressors = {
            name: direct_job(folder / f"direct-{with_atoms}", parts, with_atoms, *how)
            for name, with_atoms in direct.items()
        }
        fit_all({config.name: job} | regressors, config.experiment, run.run_id, config.launch)
        predicted = theta(job)
        contenders = {MODEL: parts.test.curves(predicted), CONTROL: control(parts)} | {
            name: direct_values(regressor, parts, direct[name]) for name, regressor in regressors.items()
        }
        bounds = (config.thermal.lowest_theta, config.thermal.highest_theta)
        contenders[BEST] = parts.test.curves(parts.test.best_theta(*bounds))
        comparison = compare(parts, contenders, config.report_per)
        publish_table(f"{config.name}-comparison", comparison, "Test rows, never trained on")
        run.log_table(pd.DataFrame(comparison), "comparison.json")
        metrics = as_metrics(comparison[0], "test_") | as_metrics(comparison[1], "control_")
        run.log_metrics(metrics)
        predictions = prediction_table(parts.test, predicted, contenders[CONTROL], config.report_per)
        run.log_table(predictions, "test_predictions.json")
        pictures = folder / "figures"
        pictures.mkdir(parents=True, exist_ok=True)
        drawn = figures(parts, predicted, contenders, temperatures, config.crystals, config.report_per)
        for name, figure in drawn.items():
            run.log_figure(figure, f"{name}.png")
            publish_figure(f"{config.name}-{name}", figure)
            figure.savefig(pictures / f"{name}.png", dpi=110)
        registry_name = config.register_as or config.name
        serving = champion(registry_name) if config.registered else None
        keys = [canonicalise(text) for text in parts.test.texts]
        seen = seen_in_training(start.job.get("start_from"), [THETA], keys)
        test = compared(parts, predicted, config.report_per, config.data.form, seen)
        decision = gate(test, serving)
        entered = None
        known = trained_on({THETA: own_keys(parts)}, start.job.get("start_from"), {})
        if known is not None:
            known.write(model)
        if config.registered:
            entered = enter(model, registry_name, run.run_id, metrics, decision, serving, config.promote)
    return DebyeResult(
        model_folder=str(model),
        run_id=run.run_id,
        n_train=len(parts.train),
        n_validation=len(parts.validation),
        n_test=len(parts.test),
        metrics=metrics,
        comparison=comparison,
        curves=str(pictures / "curves.png"),
        gate=entered.message if entered else decision.message,
        version=entered.version if entered else None,
        promoted=entered is not None and entered.promoted,
    )


def identity(config: DebyeConfig, parts: Parts, start: str) -> str:
    """Eight digits for all that decides the outcome: settings, labels and the weights to start from."""
    values = config.model_dump(mode="json", include={"split", "thermal", "fit", "from_scratch"})
    tables = [[part.texts, part.n_atoms.tolist(), np.nan_to_num(part.values).tolist()] for part in parts]
    return json_digest([values, tables, start])[:8]
