"""A crystal structure as plain arrays."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """Lattice, species and fractional positions of one crystal.

    lattice: `[3, 3]`, rows are the basis vectors, in Å.
    species: one label a site; sites of equal label are of one kind. The element's symbol, unless
        `occupancies` is given: then any label, e.g. "Fe3+" or "Ga:0.5, In:0.5".
    fractions: `[n, 3]`, fractional coordinates.
    occupancies: None where every site is one whole atom of the element `species[i]`; else, for each
        site, species (an element's symbol, with its charge where the input gave one) → amount.
    """

    lattice: FloatArray
    species: tuple[str, ...]
    fractions: FloatArray
    occupancies: tuple[Mapping[str, float], ...] | None = None

    def __len__(self) -> int:
        return len(self.species)
