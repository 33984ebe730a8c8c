"""Files that are whole or not there, digests, and tables as frames."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from cloud_core.errors import CloudError

if TYPE_CHECKING:
    import pandas as pd
    from fsspec import AbstractFileSystem


class FrameError(CloudError):
    """A table that cannot be read; names the file and the remedy."""


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` at the end of the block and is removed where that fails.

    The file is on the disk before it gets its name; of two writers the later one wins, whole.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid4().hex[:12]}.partial")
    try:
        yield partial
        flush(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: str | Path) -> Iterator[Path]:
    """A new folder to fill, which takes the place of `folder` at the end of the block."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    name = f".{folder.name}.{uuid4().hex[:12]}"
    partial, replaced = folder.with_name(f"{name}.partial"), folder.with_name(f"{name}.replaced")
    partial.mkdir()
    try:
        yield partial
        for path in (*partial.iterdir(), partial):
            flush(path)
        if folder.exists():
            folder.rename(replaced)
        partial.rename(folder)
    except BaseException:
        if replaced.exists() and not folder.exists():
            replaced.rename(folder)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    flush(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def flush(path: Path) -> None:
    """A file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str | Path, text: str) -> Path:
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return Path(path)


def write_json(path: str | Path, content: Any) -> Path:
    return write_text(path, json.dumps(content, indent=1))


def put(fs: "AbstractFileSystem", path: str, data: bytes) -> None:
    """An object of any file system, whole or not there; object stores write so by themselves."""
    fs.makedirs(path.rpartition("/")[0], exist_ok=True)
    if "file" in fs.protocol:
        with atomic(path) as partial:
            partial.write_bytes(data)
    else:
        fs.pipe_file(path, data)


def modified_at(info: dict[str, Any]) -> datetime | None:
    """When a file was last changed, from what fsspec tells of it; None where its file system does not say."""
    value = info.get("mtime") or info.get("LastModified") or info.get("last_modified")
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    return value.astimezone(UTC) if isinstance(value, datetime) else None


def file_digest(path: str | Path, algorithm: str = "sha256") -> str:
    """Hex digest of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def json_digest(content: Any) -> str:
    """sha256, in hex, of a JSON-able value; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_frame(path: str | Path) -> "pd.DataFrame":
    """A CSV, Parquet or JSON file (compressed or not; a path or an fsspec address) as a frame.

    JSON is in records or in split form, as MatBench publishes it. Raises FrameError.
    """
    import pandas as pd

    name = str(path)
    plain = name
    for suffix in (".gz", ".bz2", ".xz", ".zst"):
        plain = plain.removesuffix(suffix)
    try:
        if plain.endswith((".parquet", ".pq")):
            return pd.read_parquet(name)
        if plain.endswith(".csv"):
            return pd.read_csv(name)
        if plain.endswith(".json"):
            # MatBench's files have an "index" beside "columns" and "data".
            raw: Any = pd.read_json(name, typ="series", dtype=False, convert_dates=False)
            if {"columns", "data"} <= set(raw.index):
                return pd.DataFrame(raw["data"], columns=raw["columns"])
            return pd.read_json(name, dtype=False, convert_dates=False)
    except FileNotFoundError as error:
        raise FrameError(f"{name}: no such file; check the path") from error
    except (ValueError, OSError) as error:
        raise FrameError(f"{name}: cannot be read ({' '.join(str(error).split())})") from error
    raise FrameError(f"{name}: of unknown kind; give .csv, .parquet or .json (or one of them compressed)")
