"""Model folders: `model.safetensors` beside `config.json`; and the same weights as Hugging Face's BERT.

A folder is written under another name and renamed when it is whole, so that one which exists is complete.
"""

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cloud_core.files import atomic_folder
from cloud_core.models.encoder import MaskedLanguageModel
from cloud_core.models.folder import (
    CONFIG,
    WEIGHTS,
    CheckpointError,
    config_text,
    read_config,
    weight_files,
)
from cloud_core.models.geometry import EncoderConfig, SitesConfig
from cloud_core.models.sites_encoder import MaskedSites


def write_folder(
    folder: str | Path, tensors: Mapping[str, Mapping[str, Tensor]], texts: Mapping[str, str]
) -> Path:
    """Write `tensors` (file name -> named tensors) and `texts` (file name -> content) as one new folder.

    Everything reaches the disk before the folder gets its name. A model folder already there is replaced.

    Raises:
        CheckpointError: something else is there.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / CONFIG).is_file() and not (folder.is_dir() and _empty(folder)):
        raise CheckpointError(f"{folder}: is there and no model folder; name a new folder, or remove it")
    with atomic_folder(folder) as partial:
        for name, named in tensors.items():
            contiguous = {key: value.detach().cpu().contiguous() for key, value in named.items()}
            save_file(contiguous, partial / name)
        for name, text in texts.items():
            (partial / name).write_text(text, encoding="utf-8")
    return folder


def _empty(folder: Path) -> bool:
    return next(folder.iterdir(), None) is None


def read_weights(folder: str | Path, member: int = 0) -> dict[str, Tensor]:
    """Tensors of a model folder, on the CPU; of an ensemble, those of one member."""
    files = weight_files(folder)
    return dict(load_file(files[member % len(files)]))


def encoder_config(values: Mapping[str, Any]) -> EncoderConfig | SitesConfig:
    """The geometry of an encoder from JSON.

    Raises:
        CheckpointError: a key that this version does not know.
    """
    kind = SitesConfig if values.get("kind") == "sites" else EncoderConfig
    unknown = set(values) - {field.name for field in fields(kind)}
    if unknown:
        raise CheckpointError(
            f"encoder keys {sorted(unknown)} are unknown here; the model needs a newer version"
        )
    return kind(**values)


def save_encoder(
    folder: str | Path, model: MaskedLanguageModel | MaskedSites, metadata: Mapping[str, Any]
) -> Path:
    """Write a pretrained encoder with its head; `metadata` is JSON-able (snapshot, code, form, parent)."""
    config = {"kind": "encoder", "encoder": asdict(model.config), "metadata": dict(metadata)}
    return write_folder(folder, {WEIGHTS: model.state_dict()}, {CONFIG: config_text(config)})


def load_encoder(folder: str | Path) -> tuple[MaskedLanguageModel, dict[str, Any]]:
    """The model that `save_encoder` wrote, and its metadata.

    Raises:
        CheckpointError: the folder is missing, damaged, or of another kind.
    """
    config = read_config(folder, "encoder")
    geometry = encoder_config(config["encoder"])
    if not isinstance(geometry, EncoderConfig):
        raise CheckpointError(f"{folder}: holds an encoder of sites, not of strings")
    model = MaskedLanguageModel(geometry)
    load_weights(model, read_weights(folder), folder)
    return model, config["metadata"]


def load_weights(model: torch.nn.Module, weights: Mapping[str, Tensor], source: str | Path) -> None:
    """Every tensor of `model` from `weights`, none left over; `source` is named in the error."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"{source}: weights do not fit the model: {' '.join(str(error).split())}"
        ) from error
