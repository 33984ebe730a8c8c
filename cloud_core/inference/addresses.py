"""Where a model lies: with the package, in a folder, at a URL, on Hugging Face, in a registry."""

from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path

from cloud_core.files import json_digest
from cloud_core.models.folder import CONFIG, CheckpointError, model_folder

GROUP = "cloud_core.models"
"""entry points, by scheme, of functions that make a local folder of an address"""
_FILES = (".json", ".safetensors")


def local_folder(address: str | Path) -> Path:
    """The folder of a model on this machine.

    Args:
        address: name of a model of the package; folder, or its URL that fsspec opens (s3://…);
            hf:owner/name; an address whose scheme an installed package has registered: models:/name@alias,
            models:/name/7 and runs:/id/path with the pipeline.

    Raises:
        CheckpointError: there is no model, or nothing that opens such addresses.
        CloudError: what the registered function raises.
    """
    text = str(address)
    scheme, colon, rest = text.partition(":")
    if isinstance(address, Path) or not colon or Path(text, CONFIG).is_file():
        return model_folder(address)
    for entry in entry_points(group=GROUP, name=scheme):
        return Path(entry.load()(text))
    if scheme in ("models", "runs"):
        raise CheckpointError(
            f"{text}: an address of MLflow's registry; install the pipeline (cloud-pipeline)"
        )
    if scheme == "hf":
        return hugging_face_folder(rest)
    return _fetched(text)


def hugging_face_folder(name: str, suffixes: Sequence[str] = _FILES) -> Path:
    """A copy of the files of these suffixes in a repository `owner/name` of Hugging Face, in its own cache.

    Raises:
        CheckpointError: it cannot be fetched, or the package huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise CheckpointError(f"hf:{name}: needs the package huggingface_hub: pip install it") from error
    try:
        return Path(snapshot_download(name, allow_patterns=[f"*{suffix}" for suffix in suffixes]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        why = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        raise CheckpointError(
            f"hf:{name}: cannot be fetched ({why}); check the name and the network, or give a local folder"
        ) from error


def _fetched(url: str) -> Path:
    """A copy of the folder at a URL, under `cache_folder("models")`; made anew where its files changed."""
    import fsspec

    from cloud_core.sources.download import cache_folder

    try:
        fs, path = fsspec.url_to_fs(url)
        found = [entry for entry in fs.ls(path, detail=True) if entry["name"].endswith(_FILES)]
        state = [
            [entry["name"], entry["size"], str(entry.get("ETag", entry.get("mtime")))] for entry in found
        ]
        folder = cache_folder("models", json_digest([url, state])[:16])
        if not (folder / CONFIG).is_file():
            folder.mkdir(parents=True, exist_ok=True)
            # the configuration last: a folder without it is no model
            for entry in sorted(found, key=lambda entry: str(entry["name"]).endswith(CONFIG)):
                fs.get_file(entry["name"], folder / Path(entry["name"]).name)
    except (OSError, ValueError, ImportError) as error:
        why = f"{type(error).__name__}: {error}"
        raise CheckpointError(
            f"{url}: cannot be fetched ({why}); check the address, or give a local folder"
        ) from error
    return model_folder(folder)
