"""Curves over temperature from Debye temperatures."""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from cloud_core.inference.units import CURVE_TEMPERATURES
from cloud_core.models import debye


def thermodynamics(
    theta: ArrayLike, temperatures: ArrayLike = CURVE_TEMPERATURES
) -> dict[str, NDArray[np.float64]]:
    """`debye_temperature` [N] and, for each crystal, `temperature` and the curves [N, K]; see `UNITS`.

    Args:
        theta: [N] in K.
        temperatures: [K] in K, 0 or above.
    """
    column = torch.from_numpy(np.asarray(theta, dtype=np.float64))[:, None]
    t = torch.from_numpy(np.asarray(temperatures, dtype=np.float64))
    curves = {
        "heat_capacity": debye.heat_capacity(column, t),
        "internal_energy": debye.internal_energy(column, t),
        "internal_energy_thermal": debye.internal_energy(column, t, zero_point=False),
        "entropy": debye.entropy(column, t),
        "helmholtz_energy": debye.helmholtz_energy(column, t),
    }
    return {
        "debye_temperature": column[:, 0].numpy(),
        "temperature": np.broadcast_to(t.numpy(), (len(column), len(t))),
        **{name: values.numpy() for name, values in curves.items()},
    }
