"""The fits of a Debye study: the Debye model, and regressors without physics that it is compared with."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud_core.evaluation.thermal.table import Parts, ThermalTable
from cloud_core.models.geometry import Geometry
from cloud_core.models.targets import Target
from cloud_core.training.batches import Batches
from cloud_core.training.job import LABELS, PARTS, FitJob, FitSettings, ThermalSettings
from cloud_core.training.losses.thermal import THETA

FloatArray = NDArray[np.float64]


def debye_job(
    folder: Path,
    model: Path,
    parts: Parts,
    thermal: ThermalSettings,
    settings: FitSettings,
    geometry: Geometry,
    start: dict[str, Any],
    metadata: dict[str, Any],
) -> FitJob:
    """The job of a Debye model, its examples written. start: `start_from` or `from_scratch` of the job."""
    for name, part in zip(PARTS, parts, strict=True):
        columns = {"values": part.values, "n_atoms": part.n_atoms}
        _save(folder, name, part, columns, geometry)
    train = parts.train
    thermal = replace(
        thermal, quantity=train.quantity, temperatures=tuple(map(float, train.temperatures.tolist()))
    )
    return _job(folder, model, settings, metadata, thermal=thermal, **start)


def direct_job(
    folder: Path,
    parts: Parts,
    with_atoms: bool,
    settings: FitSettings,
    geometry: Geometry,
    start: dict[str, Any],
) -> FitJob:
    """A regressor without physics, with an output for each temperature trained on. It learns values per atom,
    which the number of atoms then multiplies, or without it those of the whole cell."""
    for name, part in zip(PARTS, parts, strict=True):
        labels = part.values if with_atoms else part.scaled(part.values, "cell")
        _save(folder, name, part, {LABELS: labels}, geometry)
    targets = tuple(Target(f"{temperature:g} K") for temperature in parts.train.temperatures)
    return _job(folder, folder / "model", settings, {}, targets=targets, **start)


def _save(
    folder: Path, name: str, part: ThermalTable, columns: dict[str, NDArray[Any]], geometry: Geometry
) -> None:
    examples = Batches.of_texts(part.texts, geometry, columns)
    examples.save(folder / "examples" / f"{name}.safetensors")


def _job(folder: Path, model: Path, settings: FitSettings, metadata: dict[str, Any], **rest: Any) -> FitJob:
    job = FitJob(
        folder=str(folder), examples=str(folder / "examples"), model=str(model), settings=settings,
        metadata=metadata, **rest,
    )  # fmt: skip
    job.write(job.file)
    return job


def theta(job: FitJob) -> FloatArray:
    """θ_D [N] in K of the test rows of a finished Debye job."""
    return job.predictions("test")[THETA]


def direct_values(job: FitJob, parts: Parts, with_atoms: bool) -> FloatArray:
    """Test values [N, K] per atom of a finished `direct_job`; at temperatures that were held out, by a
    straight line in between."""
    found = job.predictions("test")
    values = parts.between(np.stack([found[target.name] for target in job.targets], axis=1))
    return values if with_atoms else values / parts.test.n_atoms[:, None]
