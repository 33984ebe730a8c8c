"""Several property models as one: the mean of their predictions, and how far they stand apart."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cloud_core.models.checkpoint import (
    CONFIG,
    WEIGHTS,
    config_text,
    load_weights,
    read_config,
    read_weights,
    write_folder,
)
from cloud_core.models.heads import PropertyModel, TargetError

KIND = "ensemble"
DEVIATION = "_std"  # after a target's name: its predictive standard deviation


class Ensemble(nn.Module):
    """Property models of the same targets, fitted from different seeds.

    `scales` `[targets]`, in physical units: of members that spread by s the standard deviation is
    √(a² s² + b²), for they agree more than they are right, and about some crystals by chance.
    """

    def __init__(
        self, members: Sequence[PropertyModel], scales: Sequence[tuple[float, float]] | None = None
    ) -> None:
        super().__init__()
        if len(members) < 2:
            raise TargetError("an ensemble needs at least two members")
        names = {tuple(target.name for target in member.targets) for member in members}
        if len(names) > 1:
            raise TargetError(f"members of an ensemble predict the same targets, not {sorted(names)}")
        if len({type(member.config) for member in members}) > 1:
            raise TargetError("members of an ensemble read the same: all strings, or all sites")
        self.members = nn.ModuleList(members)
        self.targets = members[0].targets
        self.scales = tuple((float(a), float(b)) for a, b in scales or [(1.0, 0.0) for _ in self.targets])

    @property
    def models(self) -> list[PropertyModel]:
        return [member for member in self.members if isinstance(member, PropertyModel)]

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """input_ids `[B, L]`, lengths `[B]` -> `[B, members, outputs]`, each in its member's scaled units."""
        return torch.stack([member(input_ids, lengths) for member in self.members], dim=1)

    def physical(self, outputs: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
        """Outputs `[n, members, outputs]` by target name: means `[n]` (or class probabilities
        `[n, classes]`), and for regression `<name>_std` `[n]`."""
        return self.combine([member.physical(outputs[:, i]) for i, member in enumerate(self.models)])

    def combine(self, members: Sequence[Mapping[str, NDArray[np.float64]]]) -> dict[str, NDArray[np.float64]]:
        """Physical predictions of each member to means, and for regression standard deviations."""
        found: dict[str, NDArray[np.float64]] = {}
        for target, (a, b) in zip(self.targets, self.scales, strict=True):
            stacked = np.stack([member[target.name] for member in members])
            found[target.name] = stacked.mean(axis=0)
            if target.kind == "regression":
                found[target.name + DEVIATION] = np.hypot(a * stacked.std(axis=0, ddof=1), b)
        return found

    def save(self, folder: str | Path, metadata: Mapping[str, Any]) -> Path:
        """Write a model folder with all members."""
        members = [member.describe() for member in self.models]
        config = {"kind": KIND, "members": members, "scales": self.scales, "metadata": dict(metadata)}
        return write_folder(folder, {WEIGHTS: self.state_dict()}, {CONFIG: config_text(config)})

    @classmethod
    def load(cls, folder: str | Path) -> tuple["Ensemble", dict[str, Any]]:
        """The ensemble that `save` wrote, and its metadata.

        Raises:
            CheckpointError: the folder is missing, damaged, or of another kind.
        """
        config = read_config(folder, KIND)
        # Version 1 had one factor for the spread.
        scales = config.get("scales") or [(factor, 0.0) for factor in config["widening"]]
        ensemble = cls([PropertyModel.described(entry) for entry in config["members"]], scales)
        load_weights(ensemble, read_weights(folder), folder)
        return ensemble, config["metadata"]
