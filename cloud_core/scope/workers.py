"""Encoding of many structures (first version: in this process)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from cloud_core.scope.encoder import Scope, encode_cell
from cloud_core.scope.settings import EncoderSettings
from cloud_core.structures.errors import Reason, StructureError


class Record(Protocol):
    """What is encoded: an id, a payload and its format."""

    @property
    def id(self) -> str: ...
    @property
    def payload(self) -> Any: ...
    @property
    def format(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Encoded:
    """A structure with its SCOPE."""

    id: str
    scope: Scope


@dataclass(frozen=True, slots=True)
class Refused:
    """A structure that could not be encoded, and why."""

    id: str
    reason: Reason
    message: str


def encode_many(
    records: Iterable[Record],
    settings: EncoderSettings,
    processes: int = 1,
    timeout_s: float = 30.0,
    memory_mb: int | None = None,
) -> Iterator[Encoded | Refused]:
    """SCOPE of each record, in input order."""
    from cloud_core.structures.formats import read

    for record in records:
        try:
            yield Encoded(record.id, encode_cell(read(record.payload, record.format), settings))
        except StructureError as error:
            yield Refused(record.id, error.reason, str(error))
