"""What a fit needs to know of a loss."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud_core.models.debye_model import DebyeModel
from cloud_core.models.heads import PropertyModel
from cloud_core.training.batches import Batches
from cloud_core.training.loop import Loss


@dataclass(frozen=True)
class FitTask:
    """A model before its first step, rows with labels as the loss takes them, the loss, and the way back to
    physical units: outputs `[rows, …]` -> name -> values."""

    model: PropertyModel | DebyeModel
    train: Batches
    validation: Batches
    loss: Loss
    physical: Callable[[NDArray[Any]], dict[str, NDArray[np.float64]]]
    metadata: dict[str, Any] = field(default_factory=dict)
    """what the model folder says beside the job's own"""
