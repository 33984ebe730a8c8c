"""Geometries of the encoders, and what a token of sites consists of. Nothing here needs torch."""

from dataclasses import dataclass
from typing import Literal

# The columns of a token. The first token of a crystal holds its space group and 0 in all other columns.
FIELDS = ("element", "position", "site_symmetry", "multiplicity", "count", "occupancy", "space_group")
ELEMENTS = 119  # atomic numbers 1 … 118; 0 is a hidden element
WYCKOFF_POSITIONS = 1731 + 1  # of the 230 space groups, from 1; 0 is a hidden one
LETTERS = 27  # a … z, A
SITE_SYMMETRIES = 32 + 1  # the crystal classes, from 1
SPACE_GROUPS = 230 + 1
LAST_OF_SYSTEM = (2, 15, 74, 142, 167, 194, 230)  # space groups, triclinic … cubic
LEAST_OCCUPANCY = 0.1  # hundredths: an occupancy that was rounded to 0 is not nothing


@dataclass(frozen=True)
class EncoderConfig:
    """Geometry; the defaults are BERT-base over SCOPE's 564 words, the size that was published."""

    vocabulary_size: int = 564
    hidden_size: int = 768
    layers: int = 12
    heads: int = 12
    positions: int = 64
    feed_forward: int = 3072
    dropout: float = 0.1
    attention_dropout: float = 0.1
    segments: int = 2  # BERT's token types; a SCOPE string is all of type 0
    norm_epsilon: float = 1e-12

    def __post_init__(self) -> None:
        _check(self, "vocabulary_size", "layers", "positions", "segments")

    @property
    def vector_size(self) -> int:
        """Of the vector of a string."""
        return self.hidden_size


@dataclass(frozen=True)
class SitesConfig:
    """Geometry of a sites encoder; `kind` tells it from a string encoder's where either may stand.

    properties: of an element, numbers that `SitesEncoder.set_properties` is given beside the learnt vectors.
    """

    kind: Literal["sites"]
    hidden_size: int = 128
    layers: int = 3
    heads: int = 4
    feed_forward: int = 256
    properties: int = 23
    dropout: float = 0.0
    attention_dropout: float = 0.0
    norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        _check(self)

    @property
    def vector_size(self) -> int:
        """Of the vector of a crystal: mean over the atoms, and the crystal's own token."""
        return 2 * self.hidden_size


def _check(geometry: "EncoderConfig | SitesConfig", *counts: str) -> None:
    for name in ("hidden_size", "heads", "feed_forward", *counts):
        if getattr(geometry, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(geometry, name)}")
    if geometry.hidden_size % geometry.heads:
        raise ValueError(
            f"hidden_size {geometry.hidden_size} is not a multiple of heads {geometry.heads}; "
            "change one of them"
        )


Geometry = EncoderConfig | SitesConfig
