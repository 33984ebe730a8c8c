"""Model folders: `model.safetensors` beside `config.json`; and the same weights as Hugging Face's BERT.

A folder is written under another name and renamed when it is whole, so that one which exists is complete.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cloud_core.errors import CloudError
from cloud_core.files import atomic_folder, file_digest
from cloud_core.models.encoder import EncoderConfig, MaskedLanguageModel
from cloud_core.models.sites_encoder import MaskedSites, SitesConfig

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


# Raised when a folder of today cannot be read by the program of yesterday.
MODEL_VERSION = 2


class CheckpointError(CloudError):
    """A folder that cannot be read as what it was asked to be; names the folder and the remedy."""


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


def config_text(config: Mapping[str, Any]) -> str:
    """`config.json` of a model folder, with the version of its layout."""
    return json.dumps({"version": MODEL_VERSION, **config}, indent=1)


def read_config(folder: str | Path, kind: str | None = None) -> dict[str, Any]:
    """`config.json` of a model folder.

    Raises:
        CheckpointError: there is none, it is not ours, or its `kind` is not the one asked for.
    """
    path = Path(folder) / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder}: no {CONFIG}; give the folder of a trained model") from error
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path}: not valid JSON ({error}); the folder is damaged") from error
    if "kind" not in config:
        remedy = (
            "`cloud import` it first" if "architectures" in config else "give the folder of a trained model"
        )
        raise CheckpointError(f"{folder}: {CONFIG} names no kind of model; {remedy}")
    if config.get("version", 1) > MODEL_VERSION:
        raise CheckpointError(
            f"{folder}: a model folder of version {config['version']}, and this program knows "
            f"{MODEL_VERSION}: upgrade the program"
        )
    if kind is not None and config["kind"] != kind:
        raise CheckpointError(f"{folder}: holds a model of kind '{config['kind']}', not '{kind}'")
    return dict(config)


def read_weights(folder: str | Path) -> dict[str, Tensor]:
    """Tensors of a model folder, on the CPU."""
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{folder}: no {WEIGHTS}; the folder is incomplete")
    return dict(load_file(path))


def weights_digest(folder: str | Path) -> str:
    """sha256 of a model folder's weights: a folder, or an alias, may come to hold others.

    Raises:
        CheckpointError: it is no model folder.
    """
    read_config(folder)
    return file_digest(Path(folder) / WEIGHTS)


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
