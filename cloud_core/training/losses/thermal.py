"""Heat capacities and energies of a Debye model, at one temperature or many."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cloud_core.models.debye_model import DebyeModel, Quantity, best_theta, evaluate
from cloud_core.models.geometry import Geometry
from cloud_core.training.batches import Batches
from cloud_core.training.job import Basis, FitJob, ThermalSettings
from cloud_core.training.losses.task import FitTask

THETA = "debye_temperature"


def task(job: FitJob, encoder: Geometry, train: Batches, validation: Batches) -> FitTask:
    """Columns as in `ThermalSettings`; the model begins at the mean of the θ_D that fit the labels best."""
    settings = job.thermal
    assert settings is not None
    temperatures = np.array(settings.temperatures)
    values = train.columns["values"]
    initial = float(
        best_theta(
            torch.from_numpy(values), torch.from_numpy(temperatures), settings.quantity,
            settings.lowest_theta, settings.highest_theta,
        ).mean()
    )  # fmt: skip
    model = DebyeModel(encoder, initial, settings.lowest_theta, settings.highest_theta, job.settings.pooling)
    labels = values * train.columns["n_atoms"][:, None] if settings.loss_per == "cell" else values
    # errors in units of the labels' own spread, so that one learning rate serves C_v and U
    scale = float(np.nanmean(np.abs(labels - np.nanmean(labels, axis=0))))
    loss = thermal_loss(settings.quantity, temperatures, scale, settings.loss_per)

    def physical(outputs: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
        return {THETA: outputs.astype(np.float64)}

    return FitTask(model, train, validation, loss, physical, _facts(settings, initial))


def _facts(settings: ThermalSettings, initial: float) -> dict[str, Any]:
    return {
        "quantity": settings.quantity,
        "temperatures_K": list(settings.temperatures),
        "initial_theta_K": initial,
    }


def thermal_loss(
    quantity: Quantity, temperatures: NDArray[np.float64], scale: float, basis: Basis
) -> Callable[[Tensor, Mapping[str, Tensor]], Tensor]:
    """Mean absolute error over the labels of a batch, in units of `scale`.

    The function takes θ `[B]` in K and the columns `values` `[B, K]` per atom (nan: no label) and
    `n_atoms` `[B]`.
    """
    levels = torch.from_numpy(temperatures.astype(np.float32))

    def loss(theta: Tensor, columns: Mapping[str, Tensor]) -> Tensor:
        target = columns["values"].to(theta.dtype)
        known = ~torch.isnan(target)
        predicted = evaluate(quantity, theta[:, None], levels.to(theta.device))
        error = torch.where(known, predicted - target.nan_to_num(), 0.0).abs()
        if basis == "cell":
            error = error * columns["n_atoms"].to(theta.dtype)[:, None]
        return error.sum() / known.sum().clamp(min=1) / scale

    return loss
