"""What every source gives: records, in partitions that can be listed without reading them."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

from cloud_core.errors import CloudError
from cloud_core.structures.cell import Cell
from cloud_core.structures.errors import Reason

UNKNOWN_LICENCE = "unspecified"


class SourceError(CloudError):
    """A source, or a part of one, that cannot be read. The message names the source and the remedy."""


class Refusal(StrEnum):
    """Why a source gives a record without a usable structure; it goes to quarantine as it is."""

    remedy: str  # what to do about it, in one line

    def __new__(cls, value: str, remedy: str) -> Self:
        member = str.__new__(cls, value)
        member._value_, member.remedy = value, remedy
        return member

    DUPLICATE_ID = "duplicate_id", "give each row an id of its own, or remove the repeated row"
    MISSING_ID = "missing_id", "fill the id column, or name another one: `--id`, or `id` in a configuration"
    MISSING_STRUCTURE = (
        "missing_structure",
        "fill the structure column, or name another one: `--structure`, or `structure` in a configuration",
    )
    MALFORMED_ROW = "malformed_row", "correct the row; the message names its place"
    BAD_LABEL = "bad_label", "make the label a number, or leave it empty"
    UNREADABLE = "unreadable", "check that the file is whole and readable, then sync again"
    UNSAFE_PATH = "unsafe_path", "rename the archive's member to a relative path without '..'"
    TOO_LARGE = "too_large", "no crystal structure is of this size; check it, or divide it into several"


class BadRow(NamedTuple):
    """Stands in a table for a row that could not be read: where and why."""

    message: str
    refusal: Refusal = Refusal.MALFORMED_ROW


@dataclass(frozen=True, slots=True)
class Record:
    """One structure as its source gives it.

    `id` is the source's own (native) id; `structure_id` is what the table calls it. A record with a
    `refusal` was not readable: it is written to quarantine with that reason and `message`. A `message`
    without a refusal tells what was left out (a label that is not finite).
    """

    id: str
    payload: str | Cell
    format: str  # one of structures.formats.FORMATS; "cell" where the payload is a Cell
    source: str
    licence: str = UNKNOWN_LICENCE
    labels: Mapping[str, float] = field(default_factory=dict)
    label_units: Mapping[str, str] = field(default_factory=dict)
    modified_at: datetime | None = None
    refusal: Refusal | Reason | None = None
    message: str = ""

    @property
    def structure_id(self) -> str:
        return storable(f"{self.source}:{self.id}")

    @property
    def content_hash(self) -> str:
        """Hash of the payload alone: equal structures of two sources, or under two ids, share it."""
        return content_hash(self.payload)


def columns_of(records: Sequence[Record]) -> dict[str, list[Any]]:
    """What a table keeps of records beside their structures, by its columns."""
    return {
        "structure_id": [record.structure_id for record in records],
        "source": [record.source for record in records],
        "licence": [record.licence for record in records],
        "content_hash": [content_hash(record.payload) for record in records],
        "labels": [list(record.labels.items()) for record in records],
        "label_units": [list(record.label_units.items()) for record in records],
        "modified_at": [record.modified_at for record in records],
    }


def storable(text: str) -> str:
    """Text that Parquet can hold: half a surrogate pair (a byte that was not UTF-8) is written out."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


@dataclass(frozen=True)
class Partition:
    """A part of a source that is read as one, found without reading it.

    `key` names it and stays; `cursor` moves when its content (or how it is read) does. `n_rows`: its
    records, about (a file may hold several structures); None where only reading tells. `at` is the source's
    own note of where it lies; the whole is JSON-able, so that it travels to another process.
    """

    key: str
    cursor: str
    n_rows: int | None = None
    at: dict[str, Any] = field(default_factory=dict)


def count_rows(partitions: Iterable[Partition]) -> int | None:
    """Records of all partitions, about; None where only reading tells."""
    sizes = [partition.n_rows for partition in partitions]
    return None if None in sizes else sum(size or 0 for size in sizes)


Since = datetime | Mapping[str, datetime] | None


class Source(Protocol):
    """Where structures come from.

    `partitions` may be called often and is cheap: an unchanged partition has an unchanged cursor.
    `since` (one time, or one by partition key) restricts what `read` gives to what was modified at or
    after it, where the source is a Feed; others give everything, and the caller tells what moved.
    `read` yields each record once; it raises SourceError where the partition ends before its end (a
    truncated file), after the records that were whole.
    """

    @property
    def name(self) -> str: ...

    @property
    def licence(self) -> str: ...

    def partitions(self, since: Since = None) -> Iterator[Partition]: ...

    def read(self, partition: Partition) -> Iterator[Record]: ...


@runtime_checkable
class Listing(Source, Protocol):
    """A source of files."""

    def passed_over(self) -> list[str]:
        """Files that the last `partitions` left out, since their names name no format."""
        ...


@runtime_checkable
class Feed(Source, Protocol):
    """A database that tells when each structure changed (`Record.modified_at`), so that only what is
    new has to be read. A partition's `at["total"]` is the number of structures there now (or None)."""

    def ids(self, partition: Partition) -> Iterator[str]:
        """Native ids of everything in the partition now, to tell which were withdrawn."""
        ...


def content_hash(payload: str | Cell) -> str:
    """128-bit hash (hex) of a payload: the text's UTF-8 bytes, or a Cell's numbers and species."""
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(payload, str):
        digest.update(payload.encode("utf-8", "surrogatepass"))
    else:
        digest.update(" ".join(payload.species).encode())
        digest.update(payload.lattice.tobytes())
        digest.update(payload.fractions.tobytes())
        if payload.occupancies is not None:
            digest.update(repr(payload.occupancies).encode())
    return digest.hexdigest()


def since_of(since: Since, key: str) -> datetime | None:
    """The time that holds for one partition."""
    return since.get(key) if isinstance(since, Mapping) else since


def short_hash(value: Any) -> str:
    """16 hex digits that name a JSON-able value; for cursors and keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
