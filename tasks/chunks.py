"""A chunk's work, as Dask's workers run it: records in, rows of the table out. Imports no Prefect."""

import gc
import json
import marshal
import signal
import threading
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa

from cloud_core.lake.schemas import ENCODED, QUARANTINED, STRUCTURES
from cloud_core.scope.isolation import Encoded, Refused, encode_many
from cloud_core.scope.settings import EncoderSettings, fingerprint
from cloud_core.sources.record import Record
from cloud_core.structures.cell import Cell
from cloud_core.structures.errors import StructureError

# Columns that say what is to be encoded; the others say what came of it.
INPUT_COLUMNS = (
    "structure_id",
    "source",
    "licence",
    "content_hash",
    "fingerprint",
    "request",
    "labels",
    "label_units",
    "modified_at",
)
CELL_FORMAT = "cell"
# A process has one alarm clock; a worker with several threads would reset it for each other.
_ONE_AT_A_TIME = threading.Lock()


def input_rows(records: Sequence[Record], settings: EncoderSettings) -> pa.Table:
    """INPUT_COLUMNS of the table for these records."""
    columns: dict[str, list[Any]] = {
        "structure_id": [_text(record.structure_id) for record in records],
        "source": [record.source for record in records],
        "licence": [record.licence for record in records],
        "content_hash": [record.content_hash for record in records],
        "fingerprint": [fingerprint(settings)] * len(records),
        "request": [fingerprint(settings)] * len(records),
        "labels": [list(record.labels.items()) for record in records],
        "label_units": [list(record.label_units.items()) for record in records],
        "modified_at": [record.modified_at for record in records],
    }
    schema = pa.schema([STRUCTURES.field(name) for name in INPUT_COLUMNS])
    return pa.table(columns, schema=schema)


class Item(NamedTuple):
    """What a worker has to know of a record; a Cell as plain bytes."""

    id: str
    packed: str | tuple[Any, ...]
    format: str
    refusal: str | None
    message: str

    @classmethod
    def of(cls, record: Record) -> Self:
        payload, refusal = record.payload, record.refusal
        if isinstance(payload, Cell):
            packed: str | tuple[Any, ...] = (
                np.ascontiguousarray(payload.lattice, float).tobytes(),
                payload.species,
                np.ascontiguousarray(payload.fractions, float).tobytes(),
                payload.occupancies and tuple(dict(site) for site in payload.occupancies),
            )
        else:
            packed = payload
        return cls(record.id, packed, record.format, refusal and refusal.value, record.message)

    @property
    def payload(self) -> str | Cell:
        if isinstance(self.packed, str):
            return self.packed
        lattice, species, fractions, occupancies = self.packed
        return Cell(
            np.frombuffer(lattice).reshape(3, 3),
            species,
            np.frombuffer(fractions).reshape(-1, 3),
            occupancies,
        )


def pack(items: Sequence[Item]) -> bytes:
    """Items as bytes for the way to a worker, at a tenth of the cost of pickling records with arrays."""
    return marshal.dumps([tuple(item) for item in items])


def encode_packed(
    packed: bytes, settings: EncoderSettings, timeout_s: float, memory_mb: int | None, isolated: bool
) -> pa.Table:
    """`encode_chunk` of what `pack` made."""
    items = [Item(*values) for values in marshal.loads(packed)]
    return encode_chunk(items, settings, timeout_s, memory_mb, isolated)


def encode_chunk(
    items: Sequence[Item],
    settings: EncoderSettings,
    timeout_s: float,
    memory_mb: int | None,
    isolated: bool = False,
) -> pa.Table:
    """OUTCOME of each item, in order.

    Not isolated, the structures are encoded in this process, as fast as it goes: one that hangs, crashes or
    eats memory ends the process, and the caller tries the chunk again, isolated. Then each structure is in
    the hands of `scope.workers`, which ends and names the guilty one and goes on with its neighbours.
    """
    with _ONE_AT_A_TIME:
        return _encode_chunk(items, settings, timeout_s, memory_mb, isolated)


def _encode_chunk(
    items: Sequence[Item],
    settings: EncoderSettings,
    timeout_s: float,
    memory_mb: int | None,
    isolated: bool,
) -> pa.Table:
    readable = [item for item in items if item.refusal is None]
    if isolated:
        outcomes = encode_many(readable, settings, timeout_s=timeout_s, memory_mb=memory_mb)
    else:
        outcomes = _encode_here(readable, settings, timeout_s)
    rows = []
    for item in items:
        if item.refusal is not None:
            rows.append(refused(item, item.refusal, item.message))
            continue
        outcome = next(outcomes)
        if isinstance(outcome, Encoded):
            rows.append(encoded(outcome.scope))
        else:
            rows.append(refused(item, outcome.reason.value, outcome.message))
    return outcome_table(rows, settings)


def _encode_here(
    items: Sequence[Item], settings: EncoderSettings, timeout_s: float
) -> Iterator[Encoded | Refused]:
    from cloud_core.scope.encoder import encode_cell
    from cloud_core.structures.formats import read

    _freeze()
    try:
        for item in items:
            # The kernel's default for SIGALRM ends the process. No thread of ours could: a C library that
            # hangs does so with the interpreter's lock in its hands.
            signal.setitimer(signal.ITIMER_REAL, timeout_s)
            try:
                yield Encoded(item.id, encode_cell(read(item.payload, item.format), settings))
            except StructureError as error:
                yield Refused(item.id, error.reason, str(error))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@cache
def _freeze() -> None:
    """What is imported by now stays; the search for garbage need not walk through it again and again."""
    gc.freeze()


def outcome_table(rows: Sequence[dict[str, Any]], settings: EncoderSettings) -> pa.Table:
    """Rows as dictionaries of OUTCOME columns -> a table."""
    columns: dict[str, list[Any]] = {field.name: [row.get(field.name) for row in rows] for field in OUTCOME}
    columns["symprec"] = [settings.symprec] * len(rows)
    columns["angle_tolerance"] = [settings.angle_tolerance] * len(rows)
    return pa.table(columns, schema=OUTCOME)


OUTCOME = pa.schema(
    [
        field
        for field in STRUCTURES
        if field.name not in (*INPUT_COLUMNS, "encoded_at", "chunk_key", "revision")
    ]
)


def encoded(scope: Any) -> dict[str, Any]:
    elements = sorted(scope.composition)
    return {
        "status": ENCODED,
        "canonical": scope.canonical,
        "element_key": scope.element_key,
        "official": scope.official,
        "full": scope.full,
        "space_group": scope.space_group,
        "space_group_official": scope.space_group_official,
        "wyckoff": list(scope.wyckoff),
        "elements": elements,
        "fractions": [scope.composition[element] for element in elements],
        "n_sites": scope.n_sites,
        "n_atoms_primitive": scope.n_atoms_primitive,
        "n_atoms_conventional": scope.n_atoms_conventional,
        "flags": list(scope.flags),
    }


def refused(item: Item, reason: str, message: str) -> dict[str, Any]:
    payload, payload_format = written_out(item.payload, item.format)
    return {
        "status": QUARANTINED,
        "reason": reason,
        "message": _text(message),
        "payload": payload,
        "payload_format": payload_format,
    }


def written_out(payload: str | Cell, payload_format: str) -> tuple[str, str]:
    """A payload as text and its format, as quarantine keeps it; `read_back` is the way back."""
    if isinstance(payload, str):
        return _text(payload), payload_format
    values = {
        "lattice": payload.lattice.tolist(),
        "species": list(payload.species),
        "fractions": payload.fractions.tolist(),
        "occupancies": None if payload.occupancies is None else [dict(site) for site in payload.occupancies],
    }
    return json.dumps(values), CELL_FORMAT


def read_back(payload: str, payload_format: str) -> str | Cell:
    if payload_format != CELL_FORMAT:
        return payload
    values = json.loads(payload)
    occupancies = values["occupancies"]
    return Cell(
        np.array(values["lattice"], float),
        tuple(values["species"]),
        np.array(values["fractions"], float).reshape(-1, 3),
        None if occupancies is None else tuple(occupancies),
    )


def _text(text: str) -> str:
    """Text that Parquet can hold: half a surrogate pair (a byte that was not UTF-8) is written out."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")
