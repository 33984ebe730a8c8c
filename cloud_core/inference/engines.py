"""The two ways to evaluate a model: torch for all of them, numpy for those over sites."""

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from scipy.special import expit

from cloud_core.inference.network import SitesNetwork
from cloud_core.models.folder import weight_files
from cloud_core.models.geometry import EncoderConfig, Geometry, SitesConfig
from cloud_core.models.targets import Target, slices, target_from
from cloud_core.training.batches import Batches


class Evaluated(NamedTuple):
    """Of n crystals: what each member predicts in physical units, by target name (or `debye_temperature`, K),
    and of sites, where they are wanted, vectors `[n, V]` and fractions of the elements `[n, 119]`."""

    members: list[dict[str, NDArray[np.float64]]]
    vectors: NDArray[np.float32] | None = None
    fractions: NDArray[np.float32] | None = None


class Engine(Protocol):
    """A loaded model."""

    geometry: Geometry

    def __call__(self, rows: Batches) -> Evaluated: ...


def described(config: dict[str, Any]) -> list[dict[str, Any]]:
    """What config.json says of each member; of a single model, of it alone."""
    return list(config.get("members", [config]))


class NumpyEngine:
    """Models over sites, without torch."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        members = described(config)
        self.geometry: Geometry = SitesConfig(**members[0]["encoder"])
        self.theta = config.get("theta")
        self.targets: tuple[Target, ...] = tuple(map(target_from, members[0].get("targets", ())))
        activation = "silu" if self.theta is None else "tanh"
        self.networks = [
            SitesNetwork(load_file(path), member["encoder"], activation)
            for path, member in zip(weight_files(folder), members, strict=True)
        ]
        self.member_targets = [tuple(map(target_from, member.get("targets", ()))) for member in members]

    def __call__(self, rows: Batches) -> Evaluated:
        done = [network(rows) for network in self.networks]
        _, vectors, fractions = done[0]
        if self.theta is not None:
            lowest, highest = self.theta["lowest"], self.theta["highest"]
            z = done[0][0][:, 0].astype(np.float64)
            theta = lowest * np.exp(np.log(highest / lowest) * expit(z))
            return Evaluated([{"debye_temperature": theta}], vectors, fractions)
        members = [
            {target.name: target.unscale(outputs[:, place]) for target, place in slices(targets)}
            for (outputs, _, _), targets in zip(done, self.member_targets, strict=True)
        ]
        return Evaluated(members, vectors, fractions)


class TorchEngine:
    """Any model, on any device."""

    def __init__(self, model: Any, device: str | None = None) -> None:
        import torch

        from cloud_core.models.debye_model import DebyeModel
        from cloud_core.models.ensemble import Ensemble

        self.model = model.eval()
        self.members = list(model.models) if isinstance(model, Ensemble) else [model]
        self.is_ensemble = isinstance(model, Ensemble)
        self.is_debye = isinstance(model, DebyeModel)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.precision: Any = "float32"
        self.geometry: Geometry = min(
            (member.config for member in self.members), key=lambda config: getattr(config, "positions", 0)
        )

    @classmethod
    def load(cls, folder: Path, kind: str, device: str | None = None) -> "TorchEngine":
        from cloud_core.models.debye_model import DebyeModel
        from cloud_core.models.ensemble import Ensemble
        from cloud_core.models.heads import PropertyModel

        loaders: dict[str, Any] = {"property": PropertyModel, "ensemble": Ensemble, "debye": DebyeModel}
        return cls(loaders[kind].load(folder)[0], device)

    def __call__(self, rows: Batches) -> Evaluated:
        from cloud_core.training.loop import outputs

        found = outputs(self.model, rows, self.precision, self.device)
        if self.is_debye:
            return Evaluated([{"debye_temperature": found.astype(np.float64)}])
        if not self.is_ensemble:
            found = found[:, None]
        members = [member.physical(found[:, place]) for place, member in enumerate(self.members)]
        return Evaluated(members, *self._place(rows))

    def _place(self, rows: Batches) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
        """Vectors and fractions, of sites."""
        if isinstance(self.geometry, EncoderConfig):
            return None, None
        from torch import nn

        from cloud_core.models.pooling import pooled
        from cloud_core.training.loop import outputs

        class Vectors(nn.Module):
            def __init__(self, encoder: Any) -> None:
                super().__init__()
                self.encoder = encoder

            def forward(self, fields: Any, lengths: Any) -> Any:
                import torch

                return torch.cat(pooled(self.encoder, fields, lengths, "mean"), dim=1)  # type: ignore[arg-type]

        both = outputs(Vectors(self.members[0].encoder), rows, self.precision, self.device)
        size = self.geometry.vector_size
        return both[:, :size], both[:, size:]
