"""Where a model has learnt: what tells a crystal like those of its training from others. Without torch."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from cloud_core.files import atomic
from cloud_core.structures.elements import ATOMIC_NUMBERS, ISOTOPES

DOMAIN = "domain.safetensors"
_LEAST = 0.1  # of the median distance: nearer crystals are not known better


@dataclass(frozen=True, eq=False)
class Domain:
    """The training crystals of a model in its embedding.

    centres: `[K, V]` vectors that stand for them (cluster means). median, radius: of the distances of
    training
    crystals to the nearest centre, the median and the 99th percentile. elements: `[119]` by atomic number,
    whether one was trained on.
    """

    centres: NDArray[np.float32]
    median: float
    radius: float
    elements: NDArray[np.bool_]

    def distances(self, vectors: NDArray[np.floating]) -> NDArray[np.float64]:
        """vectors `[n, V]` -> `[n]` to the nearest centre."""
        centres = self.centres.astype(np.float64)
        nearest = np.empty(len(vectors))
        for start in range(0, len(vectors), 4096):
            part = np.asarray(vectors[start : start + 4096], np.float64)
            squares = (part**2).sum(1)[:, None] - 2 * part @ centres.T + (centres**2).sum(1)
            nearest[start : start + 4096] = np.sqrt(np.maximum(squares.min(1), 0.0))
        return nearest

    def relative(self, distances: NDArray[np.float64]) -> NDArray[np.float64]:
        """In median distances of training crystals."""
        return np.maximum(distances / self.median, _LEAST)

    def reasons(self, distances: NDArray[np.float64], compositions: NDArray[np.floating]) -> list[str | None]:
        """Why a crystal is out of the training distribution, in words; None for one that is not.

        compositions: `[n, 119]` fractions by atomic number.
        """
        symbols = {number: symbol for symbol, number in ATOMIC_NUMBERS.items() if symbol not in ISOTOPES}
        found: list[str | None] = []
        for distance, elements in zip(distances, (compositions > 0) & ~self.elements, strict=True):
            new = [symbols[int(number)] for number in np.flatnonzero(elements)]
            if new:
                found.append(f"no training crystal holds {', '.join(new)}")
            elif distance > self.radius:
                found.append(
                    f"{distance / self.radius:.1f} times as far from the training crystals as 99 % of them"
                )
            else:
                found.append(None)
        return found

    def save(self, folder: Path) -> None:
        values = {
            "centres": self.centres.astype(np.float16),
            "distances": np.array([self.median, self.radius]),
            "elements": self.elements,
        }
        with atomic(folder / DOMAIN) as partial:
            save_file(values, partial)

    @classmethod
    def load(cls, folder: Path) -> "Domain | None":
        """What a model folder says; None where it says nothing."""
        if not (folder / DOMAIN).is_file():
            return None
        values = load_file(folder / DOMAIN)
        median, radius = values["distances"].tolist()
        return cls(values["centres"].astype(np.float32), median, radius, values["elements"])
