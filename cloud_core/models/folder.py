"""What a model folder is: `config.json` beside safetensors. Nothing here needs torch."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cloud_core.errors import CloudError
from cloud_core.files import file_digest

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
SHIPPED = Path(__file__).parent / "shipped"
"""folder of the models that come with the package"""

# Raised when a folder of today cannot be read by the program of yesterday.
MODEL_VERSION = 3


class CheckpointError(CloudError):
    """A folder that cannot be read as what it was asked to be; names the folder and the remedy."""


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


def member_file(number: int) -> str:
    """Weights of a member of an ensemble, from 0; the first one's are where a single model has its own."""
    return WEIGHTS if number == 0 else f"model-{number}.safetensors"


def weight_files(folder: str | Path) -> list[Path]:
    """All files of weights in a model folder.

    Raises:
        CheckpointError: there is none.
    """
    paths = [Path(folder) / WEIGHTS]
    while paths[-1].is_file():
        paths.append(Path(folder) / member_file(len(paths)))
    if len(paths) == 1:
        raise CheckpointError(f"{folder}: no {WEIGHTS}; the folder is incomplete")
    return paths[:-1]


def weights_digest(folder: str | Path) -> str:
    """sha256 of a model folder's weights: a folder, or an alias, may come to hold others.

    Raises:
        CheckpointError: it is no model folder.
    """
    read_config(folder)
    digests = [file_digest(path) for path in weight_files(folder)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def shipped_models() -> list[str]:
    """Names of the models that come with the package, that of formation energies first."""
    names = (path.parent.name for path in SHIPPED.glob(f"*/{CONFIG}"))
    return sorted(names, key=lambda name: (name != "formation_energy", name))


def model_folder(address: str | Path) -> Path:
    """The folder of a model by its path, or by the name of one that comes with the package.

    Raises:
        CheckpointError: neither.
    """
    folder = Path(address)
    if (folder / CONFIG).is_file():
        return folder
    if isinstance(address, str) and address in shipped_models():
        return SHIPPED / address
    raise CheckpointError(
        f"{address}: no model folder here ({CONFIG} is missing), and none of the models that come with the "
        f"package: {', '.join(shipped_models())}"
    )
