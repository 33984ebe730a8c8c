"""Several property models as one: the mean of their predictions, and how far they stand apart."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cloud_core.models.checkpoint import load_weights, read_weights, write_folder
from cloud_core.models.folder import CONFIG, config_text, member_file, read_config
from cloud_core.models.heads import KIND as PROPERTY
from cloud_core.models.heads import PropertyModel
from cloud_core.models.targets import TargetError, combined

KIND = "ensemble"


class Ensemble(nn.Module):
    """Property models of the same targets, fitted from different seeds; or one, with its scale of errors.

    `scales` `[targets]`, in physical units: what `targets.standard_deviation` makes of the members' spread,
    for they agree more than they are right, and about some crystals by chance.
    """

    def __init__(
        self, members: Sequence[PropertyModel], scales: Sequence[Sequence[float]] | None = None
    ) -> None:
        super().__init__()
        if not members:
            raise TargetError("an ensemble needs a member")
        names = {tuple(target.name for target in member.targets) for member in members}
        if len(names) > 1:
            raise TargetError(f"members of an ensemble predict the same targets, not {sorted(names)}")
        if len({type(member.config) for member in members}) > 1:
            raise TargetError("members of an ensemble read the same: all strings, or all sites")
        self.members = nn.ModuleList(members)
        self.targets = members[0].targets
        self.scales = tuple(tuple(map(float, scale)) for scale in scales or [(1.0, 0.0)] * len(self.targets))

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

    def combine(
        self,
        members: Sequence[Mapping[str, NDArray[np.float64]]],
        distance: NDArray[np.float64] | None = None,
    ) -> dict[str, NDArray[np.float64]]:
        """`targets.combined` of the members' physical predictions."""
        return combined(self.targets, self.scales, members, distance)

    def save(self, folder: str | Path, metadata: Mapping[str, Any]) -> Path:
        """Write a model folder with all members."""
        members = [member.describe() for member in self.models]
        config = {"kind": KIND, "members": members, "scales": self.scales, "metadata": dict(metadata)}
        weights = {member_file(place): member.state_dict() for place, member in enumerate(self.members)}
        return write_folder(folder, weights, {CONFIG: config_text(config)})

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
        if config.get("version", 1) < 3:  # all members in one file
            load_weights(ensemble, read_weights(folder), folder)
        else:
            for place, member in enumerate(ensemble.members):
                load_weights(member, read_weights(folder, place), folder)
        return ensemble, config["metadata"]


def member_of(folder: str | Path, number: int) -> PropertyModel | None:
    """The property model of a folder, or that member of its ensemble, counted round; None of another kind.

    Raises:
        CheckpointError: the folder is missing or damaged.
    """
    kind = read_config(folder)["kind"]
    if kind == KIND:
        models = Ensemble.load(folder)[0].models
        return models[number % len(models)]
    return PropertyModel.load(folder)[0] if kind == PROPERTY else None
