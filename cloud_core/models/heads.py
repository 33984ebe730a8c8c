"""Properties of crystals from SCOPE strings: encoder, one vector of a crystal, one hidden layer, outputs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from cloud_core.errors import CloudError
from cloud_core.models.checkpoint import (
    CONFIG,
    WEIGHTS,
    CheckpointError,
    config_text,
    encoder_config,
    load_weights,
    read_config,
    read_weights,
    write_folder,
)
from cloud_core.models.encoder import initialise
from cloud_core.models.pooling import Geometry, Pooling, in_float32, new_encoder, pooled
from cloud_core.models.sites_encoder import ELEMENTS, SitesConfig

KIND = "property"

Scaling = Literal["standard", "log", "none"]


class TargetError(CloudError):
    """Labels that a target cannot take; names the target and the remedy."""


@dataclass(frozen=True)
class Target:
    """One property: its name and unit, and how its labels become what the model puts out.

    Regression has one output, `(value - mean) / deviation`, of the value's natural logarithm where `scaling`
    is "log". Classification has a logit for each of `classes`; its labels are their indices.
    """

    name: str
    unit: str = ""
    kind: Literal["regression", "classification"] = "regression"
    scaling: Scaling = "standard"
    mean: float = 0.0
    deviation: float = 1.0
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind == "classification" and len(self.classes) < 2:
            raise TargetError(f"{self.name}: classification needs at least two classes")

    @property
    def width(self) -> int:
        """Outputs of the model for this target."""
        return len(self.classes) if self.kind == "classification" else 1

    def fitted(self, labels: ArrayLike) -> "Target":
        """With mean and deviation of `labels` (training rows; nan where there is none).

        Raises:
            TargetError: no labels, not finite, not positive where the scaling is "log", or no class index.
        """
        values = np.asarray(labels, dtype=np.float64)
        values = values[~np.isnan(values)]
        if not len(values):
            raise TargetError(f"{self.name}: no training row has a label; check the name of the label")
        if self.kind == "classification":
            if not np.isin(values, np.arange(len(self.classes))).all():
                raise TargetError(f"{self.name}: labels must be indices of the classes {self.classes}")
            return self
        if not np.isfinite(values).all():
            raise TargetError(f"{self.name}: a label is infinite; remove the row")
        scaled = self._transform(values)
        if self.scaling == "none":
            return self
        return replace(self, mean=float(scaled.mean()), deviation=float(scaled.std()) or 1.0)

    def _transform(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.scaling != "log":
            return values
        if (values <= 0).any():
            raise TargetError(
                f"{self.name}: log scaling needs positive labels, found {values[values <= 0].max():g}; "
                "use scaling: standard"
            )
        return np.log(values)

    def scale(self, labels: ArrayLike) -> NDArray[np.float64]:
        """Labels in physical units, or class indices, to what outputs are compared with; nan stays nan."""
        values = np.asarray(labels, dtype=np.float64)
        if self.kind == "classification":
            return values
        return (self._transform(values) - self.mean) / self.deviation

    def unscale(self, outputs: ArrayLike) -> NDArray[np.float64]:
        """Outputs `[n, width]` to physical units `[n]`, or to class probabilities `[n, classes]`."""
        values = np.asarray(outputs, dtype=np.float64)
        if self.kind == "classification":
            shifted = np.exp(values - values.max(axis=-1, keepdims=True))
            return shifted / shifted.sum(axis=-1, keepdims=True)
        physical = values[..., 0] * self.deviation + self.mean
        return np.exp(physical) if self.scaling == "log" else physical


def slices(targets: Sequence[Target]) -> Iterator[tuple[Target, slice]]:
    """Each target with its place among the outputs."""
    start = 0
    for target in targets:
        yield target, slice(start, start + target.width)
        start += target.width


class PropertyModel(nn.Module):
    """One or several properties from one encoder.

    Over a sites encoder, a linear function of the composition is added: what reference energies are.
    """

    def __init__(self, encoder: Geometry, targets: Sequence[Target], pooling: Pooling = "first") -> None:
        super().__init__()
        if pooling not in ("first", "mean"):
            raise ValueError(f"pooling is first or mean, not '{pooling}'")
        if len({target.name for target in targets}) != len(targets) or not targets:
            raise TargetError("give at least one target, and each under a name of its own")
        self.config = encoder
        self.targets = tuple(targets)
        self.pooling = pooling
        self.encoder = new_encoder(encoder)
        self.hidden = nn.Linear(encoder.vector_size, encoder.hidden_size)
        self.dropout = nn.Dropout(encoder.dropout)
        width = sum(target.width for target in targets)
        self.output = nn.Linear(encoder.hidden_size, width)
        self.elements: nn.Linear | None = None
        if isinstance(encoder, SitesConfig):
            self.elements = nn.Linear(ELEMENTS, width, bias=False)
            nn.init.zeros_(self.elements.weight)
        else:
            initialise(self.hidden)
        initialise(self.output)

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """input_ids `[B, L]`, or `[B, L, fields]` of sites; lengths `[B]` -> `[B, outputs]` in scaled units,
        targets side by side."""
        vector, composition = pooled(self.encoder, input_ids, lengths, self.pooling)
        with in_float32(vector):
            hidden = self.hidden(self.dropout(vector.float()))
            outputs = self.output(self.dropout(torch.nn.functional.silu(hidden)))
            return outputs if self.elements is None else outputs + self.elements(composition)

    def physical(self, outputs: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
        """Outputs `[n, outputs]` by target name: values `[n]`, or class probabilities `[n, classes]`."""
        return {target.name: target.unscale(outputs[:, place]) for target, place in slices(self.targets)}

    @torch.inference_mode()
    def predict(self, input_ids: Tensor, lengths: Tensor) -> dict[str, NDArray[np.float64]]:
        """`physical` of one batch, without dropout."""
        self.eval()
        return self.physical(self(input_ids, lengths).float().cpu().numpy())

    def describe(self) -> dict[str, Any]:
        """What `config.json` says, but for kind and metadata."""
        targets = [asdict(target) for target in self.targets]
        return {"encoder": asdict(self.config), "targets": targets, "pooling": self.pooling}

    @classmethod
    def described(cls, values: Mapping[str, Any]) -> "PropertyModel":
        """What `describe` said, with random weights. Folders older than the choice have the first token.

        Raises:
            CheckpointError: a key that this version does not know.
        """
        targets = [target_from(entry) for entry in values["targets"]]
        return cls(encoder_config(values["encoder"]), targets, values.get("pooling", "first"))

    def save(self, folder: str | Path, metadata: Mapping[str, Any]) -> Path:
        """Write a model folder; `metadata` is JSON-able (snapshot, code, SCOPE form, parent, figures)."""
        config = {"kind": KIND, **self.describe(), "metadata": dict(metadata)}
        return write_folder(folder, {WEIGHTS: self.state_dict()}, {CONFIG: config_text(config)})

    @classmethod
    def load(cls, folder: str | Path) -> tuple["PropertyModel", dict[str, Any]]:
        """The model that `save` wrote, and its metadata.

        Raises:
            CheckpointError: the folder is missing, damaged, or of another kind.
        """
        config = read_config(folder, KIND)
        model = cls.described(config)
        load_weights(model, read_weights(folder), folder)
        return model, config["metadata"]


def target_from(entry: Mapping[str, Any]) -> Target:
    """A target from its JSON."""
    return Target(**{**entry, "classes": tuple(entry.get("classes", ()))})


def take_encoder(model: nn.Module, folder: str | Path) -> dict[str, Any]:
    """Put the encoder of a model folder, of any kind, into `model.encoder`; returns the folder's metadata.

    Raises:
        CheckpointError: the folder is missing or damaged, or its geometry is another.
    """
    config = read_config(folder)
    prefix = "encoder."
    weights = {
        name.removeprefix(prefix): tensor
        for name, tensor in read_weights(folder).items()
        if name.startswith(prefix)
    }
    encoder = model.encoder
    if not weights or not isinstance(encoder, nn.Module):
        raise CheckpointError(f"{folder}: a model of kind '{config['kind']}' has no encoder to start from")
    load_weights(encoder, weights, folder)
    return dict(config["metadata"])


def geometry(folder: str | Path) -> Geometry:
    """The encoder's geometry in a model folder.

    Raises:
        CheckpointError: there is no such folder, or no encoder in it.
    """
    config = read_config(folder)
    if "encoder" not in config:
        raise CheckpointError(f"{folder}: a model of kind '{config['kind']}' has no encoder")
    return encoder_config(config["encoder"])
