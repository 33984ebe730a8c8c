"""Properties of crystals from SCOPE strings: encoder, one vector of a crystal, one hidden layer, outputs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cloud_core.models.checkpoint import encoder_config, load_weights, read_weights, write_folder
from cloud_core.models.encoder import initialise
from cloud_core.models.folder import CONFIG, WEIGHTS, CheckpointError, config_text, read_config
from cloud_core.models.geometry import ELEMENTS, Geometry, SitesConfig
from cloud_core.models.pooling import Pooling, in_float32, new_encoder, pooled
from cloud_core.models.targets import Target, TargetError, slices, target_from

KIND = "property"


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

    @torch.no_grad()
    def take_head(self, start: "PropertyModel", outputs: Mapping[str, str]) -> None:
        """The hidden layer of `start`, a model of the same geometry, and its output for each of `outputs`
        (target of this model -> target of `start`), so that both give the same physical values; of
        regression, scaled alike."""
        self.hidden.load_state_dict(start.hidden.state_dict())
        ours = {target.name: (target, place) for target, place in slices(self.targets)}
        theirs = {target.name: (target, place) for target, place in slices(start.targets)}
        for name, source in outputs.items():
            (target, place), (given, taken) = ours[name], theirs[source]
            ratio = given.deviation / target.deviation
            self.output.weight[place] = start.output.weight[taken] * ratio
            self.output.bias[place] = start.output.bias[taken] * ratio
            self.output.bias[place] += (given.mean - target.mean) / target.deviation
            if self.elements is not None and start.elements is not None:
                self.elements.weight[place] = start.elements.weight[taken] * ratio

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


def take_encoder(model: nn.Module, folder: str | Path, member: int = 0) -> dict[str, Any]:
    """Put the encoder of a model folder, of any kind, into `model.encoder`; returns the folder's metadata.

    member: of an ensemble, counted round: models fitted from several seeds begin from different members.

    Raises:
        CheckpointError: the folder is missing or damaged, or its geometry is another.
    """
    config = read_config(folder)
    prefix = "encoder."
    weights = {
        name.removeprefix(prefix): tensor
        for name, tensor in read_weights(folder, member).items()
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
    described = config["members"][0] if "members" in config else config
    if "encoder" not in described:
        raise CheckpointError(f"{folder}: a model of kind '{config['kind']}' has no encoder")
    return encoder_config(described["encoder"])
