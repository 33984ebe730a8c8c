"""Which crystals a model has seen the labels of: hashes of their canonical strings, kept in its folder.

The file `training_keys.safetensors` holds a sorted tensor of 32-bit hashes for each label, of training and
validation rows, of the model itself and of all that it was started from. With 10⁵ hashes, one in 4·10⁴ unseen
crystals is taken for a seen one by chance; a seen one is never taken for unseen.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from cloud_core.files import atomic
from cloud_core.models.folder import CheckpointError, model_folder, read_config

FILE = "training_keys.safetensors"
VERSION = 1
_HASH = "BLAKE2b of the canonical string, 4 bytes, big-endian"


def hash_keys(keys: Iterable[str]) -> NDArray[np.uint32]:
    """`[n]` hashes of canonical strings."""
    digests = b"".join(hashlib.blake2b(key.encode(), digest_size=4).digest() for key in keys)
    return np.frombuffer(digests, dtype=">u4").astype(np.uint32)


@dataclass(frozen=True)
class TrainingKeys:
    """Hashes by label, each sorted and without repetition; without any: no label was seen."""

    hashes: Mapping[str, NDArray[np.uint32]] = field(default_factory=dict)

    @classmethod
    def of(cls, keys: Mapping[str, Iterable[str]]) -> "TrainingKeys":
        """Of canonical strings by label."""
        return cls({label: np.unique(hash_keys(strings)) for label, strings in keys.items()})

    def __or__(self, other: "TrainingKeys") -> "TrainingKeys":
        """What either has seen."""
        none = np.empty(0, np.uint32)
        return TrainingKeys(
            {
                label: np.union1d(self.hashes.get(label, none), other.hashes.get(label, none))
                for label in {**self.hashes, **other.hashes}
            }
        )

    def seen(self, label: str, keys: Sequence[str]) -> NDArray[np.bool_]:
        """`[n]` of which canonical strings this label was seen."""
        if label not in self.hashes:
            return np.zeros(len(keys), dtype=bool)
        return np.isin(hash_keys(keys), self.hashes[label])

    def write(self, folder: str | Path, start: str = "") -> Path:
        """Into a model folder, in place of those that are there.

        start: a model of the package, whose keys are read with these and need not be among them.
        """
        path = Path(folder) / FILE
        with atomic(path) as partial:
            about = {"version": str(VERSION), "hash": _HASH, "start": start}
            save_file(dict(self.hashes), partial, about)
        return path


def read_training_keys(folder: str | Path) -> TrainingKeys | None:
    """Those of a model folder; None where it does not say, as models of version 0.1 do not.

    An encoder without the file was pretrained on strings alone, and has seen no label.

    Raises:
        CheckpointError: no model folder, a damaged file, or one of a later version.
    """
    kind = read_config(folder)["kind"]
    path = Path(folder) / FILE
    if not path.is_file():
        return TrainingKeys() if kind == "encoder" else None
    try:
        with safe_open(path, framework="numpy") as file:
            about = file.metadata() or {}
            version = int(about.get("version", 0))
            if version == VERSION:
                found = TrainingKeys({label: file.get_tensor(label) for label in file.keys()})  # noqa: SIM118
                start = about.get("start")
                before = read_training_keys(model_folder(start)) if start else None
                return found if before is None else found | before
    except SafetensorError as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); the folder is damaged") from error
    raise CheckpointError(
        f"{path}: of version {version}, and this program knows {VERSION}: upgrade the program"
    )
