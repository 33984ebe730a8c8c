"""Properties: scaled labels, and the loss against them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cloud_core.models.geometry import Geometry
from cloud_core.models.heads import PropertyModel
from cloud_core.models.targets import Target, slices
from cloud_core.training.batches import Batches
from cloud_core.training.job import LABELS, FitJob, Objective
from cloud_core.training.loop import Loss
from cloud_core.training.losses.task import FitTask

_ERRORS = {"l1": F.l1_loss, "l2": F.mse_loss, "huber": F.smooth_l1_loss}


def task(job: FitJob, encoder: Geometry, train: Batches, validation: Batches) -> FitTask:
    """Raises TargetError for labels that a target cannot take."""
    labels = train.columns[LABELS]
    targets = [target.fitted(labels[:, index]) for index, target in enumerate(job.targets)]
    model = PropertyModel(encoder, targets, job.settings.pooling)
    loss = property_loss(targets, 1.0 - np.isnan(labels).mean(axis=0), job.settings.objective)

    def physical(outputs: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
        return model.physical(outputs)

    return FitTask(model, scaled(train, targets), scaled(validation, targets), loss, physical)


def property_loss(targets: Sequence[Target], known: NDArray[np.float64], objective: Objective = "l1") -> Loss:
    """The mean over rows of the mean over targets, each target counting alike however many labels it has.

    Args:
        known: `[targets]` share of the training rows that have a label. Dividing by it, and not by the number
            of labels in the batch, keeps the loss a mean over rows, so that it does not depend on how rows
            are grouped.
    """
    error = _ERRORS[objective]
    weights = (1.0 / (np.maximum(known, 1e-12) * len(targets))).tolist()

    def loss(output: Tensor, columns: Mapping[str, Tensor]) -> Tensor:
        labels = columns[LABELS]
        total = output.new_zeros(())
        for index, (target, place) in enumerate(slices(targets)):
            label, scored = labels[:, index], output[:, place]
            has = ~torch.isnan(label)
            label = label.nan_to_num()
            if target.kind == "classification":
                rows = F.cross_entropy(scored, label.long(), reduction="none")
            else:
                rows = error(scored[:, 0], label.to(scored.dtype), reduction="none")
            total = total + torch.where(has, rows, 0.0).mean() * weights[index]
        return total

    return loss


def scaled(examples: Batches, targets: Sequence[Target]) -> Batches:
    """The examples with labels as the outputs are compared with them."""
    labels = examples.columns[LABELS]
    if labels.shape[1:] != (len(targets),):
        raise ValueError(f"labels {labels.shape} do not fit {len(targets)} targets")
    columns = [target.scale(labels[:, index]) for index, target in enumerate(targets)]
    return replace(examples, columns={LABELS: np.stack(columns, axis=1).astype(np.float32)})
