"""What the configuration of every kind of source shares."""

import re
from pathlib import PurePosixPath
from typing import Self

from pydantic import Field, field_validator, model_validator

from cloud_core.config import ConfigSection
from cloud_core.sources.record import UNKNOWN_LICENCE, short_hash
from cloud_core.structures.formats import COMPRESSIONS, SUFFIXES

_SUFFIXES = (
    *COMPRESSIONS,
    *SUFFIXES,
    *(".zip", ".tar", ".tgz", ".txz", ".tbz2", ".tzst", ".csv", ".parquet", ".pq"),
)
_SUFFIX = re.compile(f"({'|'.join(map(re.escape, _SUFFIXES))})$", re.IGNORECASE)


class SourceSpec(ConfigSection):
    """Base of the source configurations; an unknown key is an error."""

    name: str = Field("", description="name in structure ids (`name:native id`); default: from the path")
    licence: str = Field(UNKNOWN_LICENCE, description="licence of the data, written to each row")
    limit: int | None = Field(None, ge=1, description="take the first so many records, to try things out")
    sample: int | None = Field(None, ge=1, description="take so many records at random, the same each time")

    @model_validator(mode="after")
    def _one_choice(self) -> Self:
        if self.limit is not None and self.sample is not None:
            raise ValueError("`limit` or `sample`, not both")
        return self

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        if name and not re.fullmatch(r"[\w+-][\w.+-]*", name):
            raise ValueError("a source's name has letters, digits, '_', '-', '+' and, not first, '.' only")
        return name

    def digest(self) -> str:
        """Hash of everything here that decides what a record holds; part of each cursor."""
        return short_hash(self.model_dump(mode="json", exclude={"name", "path", "limit", "sample"}))


def stem(path: str) -> str:
    """A source's name from its path: `data/mp_20.csv.gz` -> `mp_20`; of a glob, its last plain folder."""
    parts = [
        part for part in PurePosixPath(path.partition("://")[2] or path).parts if part not in ("/", "..", ".")
    ]
    plain = []
    for part in parts:
        if any(c in part for c in "*?["):
            break
        plain.append(part)
    name = plain[-1] if plain else "files"
    while True:
        shorter = _SUFFIX.sub("", name)
        if shorter == name or not shorter:
            return re.sub(r"[^\w.+-]", "_", name)
        name = shorter
