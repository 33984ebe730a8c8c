"""A crystal structure as plain arrays."""

import marshal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


class Note(NamedTuple):
    """What a reader found out about an input that its crystal alone does not say.

    flag: one of `errors.READER_FLAGS`; text: a sentence with the values. Whether it is a reason for refusing
    the structure is for the encoder's settings.
    """

    flag: str
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """Lattice, species and fractional positions of one crystal.

    lattice: `[3, 3]`, rows are the basis vectors, in Å.
    species: one label a site; sites of equal label are of one kind. The element's symbol, unless
        `occupancies` is given: then any label, e.g. "Fe3+" or "Ga:0.5, In:0.5".
    fractions: `[n, 3]`, fractional coordinates.
    occupancies: None where every site is one whole atom of the element `species[i]`; else, for each
        site, species (an element's symbol, with its charge where the input gave one) → amount.
    notes: what the reader has to say about the input.
    alternatives: other readings of the same input that nothing in it excludes (two origins of one symbol).
    They are the same crystal, or the input is ambiguous: the encoder compares them.
    labels: of the sites, where their file has some; for messages alone.
    clearance: Å; no two sites are closer than this, as far as the reader knows.
    """

    lattice: FloatArray
    species: tuple[str, ...]
    fractions: FloatArray
    occupancies: tuple[Mapping[str, float], ...] | None = None
    notes: tuple[Note, ...] = ()
    alternatives: tuple["Cell", ...] = ()
    labels: tuple[str, ...] = ()
    clearance: float = 0.0

    def __len__(self) -> int:
        return len(self.species)

    def to_bytes(self) -> bytes:
        """The cell as bytes, for the way to another process; `from_bytes` is the way back."""
        occupancies = None if self.occupancies is None else [dict(site) for site in self.occupancies]
        lattice, fractions = (
            np.ascontiguousarray(array, dtype=float).tobytes() for array in (self.lattice, self.fractions)
        )
        notes = [tuple(note) for note in self.notes]
        others = [other.to_bytes() for other in self.alternatives]
        return marshal.dumps((lattice, self.species, fractions, occupancies, notes, others))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The cell of `to_bytes`."""
        lattice, species, fractions, occupancies, notes, others = marshal.loads(data)
        return cls(
            np.frombuffer(lattice).reshape(-1, 3),
            species,
            np.frombuffer(fractions).reshape(-1, 3),
            None if occupancies is None else tuple(occupancies),
            tuple(Note(*note) for note in notes),
            tuple(map(cls.from_bytes, others)),
        )
