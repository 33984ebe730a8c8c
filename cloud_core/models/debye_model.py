"""A Debye temperature for each crystal, from its SCOPE string; curves by `cloud_core.models.debye`."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cloud_core.models import debye
from cloud_core.models.checkpoint import encoder_config, load_weights, read_weights, write_folder
from cloud_core.models.folder import CONFIG, WEIGHTS, config_text, read_config
from cloud_core.models.geometry import ELEMENTS, Geometry, SitesConfig
from cloud_core.models.pooling import Pooling, in_float32, new_encoder, pooled

KIND = "debye"
LOWEST, HIGHEST = 20.0, 5000.0  # K: cesium has 38, diamond 2,230; light hydrides come out higher

Quantity = Literal["heat_capacity", "internal_energy", "internal_energy_thermal"]
"""What labels hold: C_v, U with the zero-point energy, U without it."""


def evaluate(
    quantity: Quantity, theta: debye.Value, temperature: debye.Value, n_atoms: debye.Value = 1.0
) -> Tensor:
    """`quantity` by name: J/(mol K) or J/mol, as the functions of `cloud_core.models.debye`."""
    if quantity == "heat_capacity":
        return debye.heat_capacity(theta, temperature, n_atoms)
    zero_point = quantity == "internal_energy"
    return debye.internal_energy(theta, temperature, n_atoms, zero_point=zero_point)


class DebyeModel(nn.Module):
    """Encoder, one hidden layer on the vector of a string, and θ_D between two bounds on a logarithmic scale.

    θ = lowest (highest / lowest)^sigmoid(z) stays inside whatever the weights are, and its gradient is
    relative: a step moves soft and hard crystals by the same share.
    """

    def __init__(
        self,
        encoder: Geometry,
        initial_theta: float = 400.0,
        lowest: float = LOWEST,
        highest: float = HIGHEST,
        pooling: Pooling = "first",
    ) -> None:
        """`initial_theta` K is what the untrained head gives: take the training rows' mean."""
        super().__init__()
        if not 0 < lowest < initial_theta < highest:
            raise ValueError(
                f"Debye temperatures: 0 < lowest {lowest} < initial {initial_theta:.6g} < highest {highest} "
                "must hold; change the bounds, or look at the units of the labels"
            )
        self.config = encoder
        self.lowest, self.highest = lowest, highest
        self.pooling = pooling
        self.encoder = new_encoder(encoder)
        self.hidden = nn.Linear(encoder.vector_size, encoder.hidden_size)
        self.dropout = nn.Dropout(encoder.dropout)
        self.output = nn.Linear(encoder.hidden_size, 1)
        nn.init.zeros_(self.output.weight)
        share = math.log(initial_theta / lowest) / math.log(highest / lowest)
        nn.init.constant_(self.output.bias, math.log(share / (1 - share)))
        self.elements: nn.Linear | None = None
        if isinstance(encoder, SitesConfig):
            self.elements = nn.Linear(ELEMENTS, 1, bias=False)
            nn.init.zeros_(self.elements.weight)

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """input_ids `[B, L]`, or `[B, L, fields]` of sites; lengths `[B]` -> θ_D `[B]` in K."""
        vector, composition = pooled(self.encoder, input_ids, lengths, self.pooling)
        with in_float32(vector):
            z = self.output(self.dropout(torch.tanh(self.hidden(vector.float()))))
            z = (z if self.elements is None else z + self.elements(composition))[:, 0]
        return self.lowest * torch.exp(math.log(self.highest / self.lowest) * torch.sigmoid(z))

    def save(self, folder: str | Path, metadata: Mapping[str, Any]) -> Path:
        """Write a model folder; `metadata` is JSON-able (snapshot, code, SCOPE form, parent, figures)."""
        config = {
            "kind": KIND,
            "encoder": asdict(self.config),
            "theta": {"unit": "K", "lowest": self.lowest, "highest": self.highest},
            "pooling": self.pooling,
            "metadata": dict(metadata),
        }
        return write_folder(folder, {WEIGHTS: self.state_dict()}, {CONFIG: config_text(config)})

    @classmethod
    def load(cls, folder: str | Path) -> tuple["DebyeModel", dict[str, Any]]:
        """The model that `save` wrote, and its metadata.

        Raises:
            CheckpointError: the folder is missing, damaged, or of another kind.
        """
        config = read_config(folder, KIND)
        lowest, highest = config["theta"]["lowest"], config["theta"]["highest"]
        geometry = encoder_config(config["encoder"])
        pooling = config.get("pooling", "first")
        model = cls(geometry, math.sqrt(lowest * highest), lowest, highest, pooling)
        load_weights(model, read_weights(folder), folder)
        return model, config["metadata"]


def best_theta(
    values: Tensor,
    temperatures: Tensor,
    quantity: Quantity,
    lowest: float = LOWEST,
    highest: float = HIGHEST,
    points: int = 512,
) -> Tensor:
    """The θ_D [N] in K whose curve is nearest to each crystal's labels, on a logarithmic grid.

    What no encoder can beat: the error that is left is that of the Debye form itself.

    Args:
        values: [N, K] per atom, nan where there is no label.
        temperatures: [N, K] or [K] in K.
        points: of the grid; 512 are 1.1 % apart.
    """
    grid = torch.logspace(math.log10(lowest), math.log10(highest), points, dtype=torch.float64)
    temperatures = temperatures.double().expand_as(values)
    distance = torch.empty(len(values), points, dtype=torch.float64)
    for column, theta in enumerate(grid):
        error = evaluate(quantity, theta, temperatures) - values
        distance[:, column] = error.abs().nansum(dim=1)
    return grid[distance.argmin(dim=1)]
