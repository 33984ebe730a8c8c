"""Versions of a table that a run or a model names, and that `vacuum` therefore keeps.

A pin is a small JSON file `_pins/<name>.json` beside the Delta log; Delta leaves names with an
underscore alone.
"""

import json
import re
from datetime import UTC, datetime

from fsspec import AbstractFileSystem

from cloud_core.files import put
from cloud_core.lake.errors import LakeError, naming
from cloud_core.lake.storage import Storage

_FOLDER = "_pins"


def _files(uri: str, storage: Storage | None) -> tuple[AbstractFileSystem, str]:
    fs, path = (storage or Storage.from_environment()).file_system(uri)
    return fs, f"{path}/{_FOLDER}"


def pin(uri: str, name: str, version: int, storage: Storage | None = None) -> None:
    """Keep `version` for `name`; a name that was pinned before moves to this version."""
    if not re.fullmatch(r"[\w.+@-]+", name):
        raise LakeError(
            f"{uri}: {name!r} is no name of a pin: letters, digits, '.', '_', '+', '@' and '-' only"
        )
    fs, folder = _files(uri, storage)
    text = json.dumps({"name": name, "version": version, "pinned_at": datetime.now(UTC).isoformat()})
    with naming(uri):
        put(fs, f"{folder}/{name}.json", text.encode())


def unpin(uri: str, name: str, storage: Storage | None = None) -> None:
    """Let `vacuum` take the version that `name` kept. No error where there is no such pin."""
    fs, folder = _files(uri, storage)
    with naming(uri):
        if fs.exists(f"{folder}/{name}.json"):
            fs.rm_file(f"{folder}/{name}.json")


def pins(uri: str, storage: Storage | None = None) -> dict[str, int]:
    """Name -> version of everything that is pinned."""
    fs, folder = _files(uri, storage)
    with naming(uri):
        fs.invalidate_cache()
        if not fs.isdir(folder):
            return {}
        entries = [
            json.loads(fs.cat_file(path))
            for path in sorted(fs.ls(folder, detail=False))
            if path.endswith(".json")
        ]
    return {str(entry["name"]): int(entry["version"]) for entry in entries}
