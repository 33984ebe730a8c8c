"""A chunk's work, as Dask's workers run it: records in, rows of the table out. Imports no Prefect."""

import json
import marshal
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa

from cloud_core.lake.schemas import ENCODED, QUARANTINED, STRUCTURES
from cloud_core.scope import Scope
from cloud_core.scope.isolation import Encoded, PackedCell, encode_many
from cloud_core.scope.settings import ENCODER_VERSION, EncoderSettings, fingerprint
from cloud_core.sources.record import Record, Refusal, columns_of, storable
from cloud_core.structures.cell import Cell, Note

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
_INPUTS = pa.schema([STRUCTURES.field(name) for name in INPUT_COLUMNS])
CELL_FORMAT = "cell"


def input_rows(records: Sequence[Record], settings: EncoderSettings) -> pa.Table:
    """INPUT_COLUMNS of the table for these records."""
    prints = [fingerprint(settings)] * len(records)
    return pa.table(columns_of(records) | {"fingerprint": prints, "request": prints}, schema=_INPUTS)


class Item(NamedTuple):
    """What a worker has to know of a record."""

    id: str
    payload: str | PackedCell
    format: str
    refusal: str | None
    message: str

    @classmethod
    def of(cls, record: Record) -> Self:
        payload, refusal = record.payload, record.refusal
        packed = PackedCell(payload.to_bytes()) if isinstance(payload, Cell) else payload
        message = record.message
        if isinstance(refusal, Refusal):  # the message of a StructureError names the remedy already
            message = f"{message} ({refusal.value}: {refusal.remedy})"
        return cls(record.id, packed, record.format, refusal and refusal.value, message)


def pack(items: Sequence[Item]) -> bytes:
    """Items as bytes for the way to a worker, at a tenth of the cost of pickling records with arrays."""
    return marshal.dumps([tuple(item) for item in items])


def encode_packed(
    packed: bytes, settings: EncoderSettings, timeout_s: float, memory_mb: int | None
) -> pa.Table:
    """`encode_chunk` of what `pack` made."""
    items = [
        Item(name, payload if isinstance(payload, str) else PackedCell(payload), *rest)
        for name, payload, *rest in marshal.loads(packed)
    ]
    return encode_chunk(items, settings, timeout_s, memory_mb)


def encode_chunk(
    items: Sequence[Item], settings: EncoderSettings, timeout_s: float, memory_mb: int | None
) -> pa.Table:
    """OUTCOME of each item, in order. Limits as in `encode_many`."""
    readable = [item for item in items if item.refusal is None]
    outcomes = iter(list(encode_many(readable, settings, timeout_s=timeout_s, memory_mb=memory_mb)))
    rows = []
    for item in items:
        if item.refusal is not None:
            rows.append(refused(item, item.refusal, item.message))
            continue
        outcome = next(outcomes)
        if isinstance(outcome, Encoded):
            rows.append(encoded(outcome.scope, item.message))
        else:
            rows.append(refused(item, outcome.reason.value, outcome.message))
    return outcome_table(rows, settings)


def outcome_table(rows: Sequence[dict[str, Any]], settings: EncoderSettings) -> pa.Table:
    """Rows as dictionaries of OUTCOME columns -> a table."""
    columns: dict[str, list[Any]] = {field.name: [row.get(field.name) for row in rows] for field in OUTCOME}
    columns["symprec"] = [settings.symprec] * len(rows)
    columns["angle_tolerance"] = [settings.angle_tolerance] * len(rows)
    columns["encoder_version"] = [ENCODER_VERSION] * len(rows)
    return pa.table(columns, schema=OUTCOME)


OUTCOME = pa.schema(
    [
        field
        for field in STRUCTURES
        if field.name not in (*INPUT_COLUMNS, "encoded_at", "chunk_key", "revision")
    ]
)


_OF_SCOPE = tuple(one.name for one in fields(Scope) if one.name in OUTCOME.names)


def encoded(scope: Scope, message: str = "") -> dict[str, Any]:
    """The row of a SCOPE. message: what the source had to say of the record."""
    elements = sorted(scope.composition)
    flags = [*scope.flags, *(["label_left_out"] if message else [])]
    message = "; ".join(filter(None, (message, scope.message)))
    return {name: getattr(scope, name) for name in _OF_SCOPE} | {
        "status": ENCODED,
        "elements": elements,
        "fractions": [scope.composition[element] for element in elements],
        "flags": flags,
        "message": storable(message) if message else None,
    }


def refused(item: Item, reason: str, message: str) -> dict[str, Any]:
    given = item.payload
    cell_or_text = Cell.from_bytes(given) if isinstance(given, PackedCell) else given
    payload, payload_format = written_out(cell_or_text, item.format)
    return {
        "status": QUARANTINED,
        "reason": reason,
        "message": storable(message),
        "payload": payload,
        "payload_format": payload_format,
    }


def written_out(payload: str | Cell, payload_format: str) -> tuple[str, str]:
    """A payload as text and its format, as quarantine keeps it; `read_back` is the way back."""
    if isinstance(payload, str):
        return storable(payload), payload_format
    return json.dumps(_values(payload)), CELL_FORMAT


def read_back(payload: str, payload_format: str) -> str | Cell:
    return _of_values(json.loads(payload)) if payload_format == CELL_FORMAT else payload


def _values(cell: Cell) -> dict[str, Any]:
    return {
        "lattice": cell.lattice.tolist(),
        "species": list(cell.species),
        "fractions": cell.fractions.tolist(),
        "occupancies": None if cell.occupancies is None else [dict(site) for site in cell.occupancies],
        "notes": [list(note) for note in cell.notes],
        "alternatives": [_values(other) for other in cell.alternatives],
    }


def _of_values(values: dict[str, Any]) -> Cell:
    occupancies = values["occupancies"]
    return Cell(
        np.array(values["lattice"], float),
        tuple(values["species"]),
        np.array(values["fractions"], float).reshape(-1, 3),
        None if occupancies is None else tuple(occupancies),
        tuple(Note(*note) for note in values.get("notes", ())),  # rows of encoder version 1 have none
        tuple(_of_values(other) for other in values.get("alternatives", ())),
    )
