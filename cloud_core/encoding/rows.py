"""A chunk's work, as Dask's workers run it: records in, rows of the table out. Imports no Prefect."""

import json
import marshal
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa

from cloud_core.lake.schemas import ENCODED, QUARANTINED, STRUCTURES
from cloud_core.scope import Scope
from cloud_core.scope.isolation import Encoded, PackedCell, encode_many
from cloud_core.scope.settings import ENCODER_VERSION, EncoderSettings, fingerprint
from cloud_core.sources.record import Record, Refusal
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
CELL_FORMAT = "cell"


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
    """What a worker has to know of a record."""

    id: str
    data: str | bytes  # the payload: text, or the bytes of a Cell
    format: str
    refusal: str | None
    message: str

    @classmethod
    def of(cls, record: Record) -> Self:
        payload, refusal = record.payload, record.refusal
        data = payload.to_bytes() if isinstance(payload, Cell) else payload
        message = record.message
        if isinstance(refusal, Refusal):  # the message of a StructureError names the remedy already
            message = f"{message} ({refusal.value}: {refusal.remedy})"
        return cls(record.id, data, record.format, refusal and refusal.value, message)

    @property
    def payload(self) -> str | PackedCell:
        return self.data if isinstance(self.data, str) else PackedCell(self.data)


def pack(items: Sequence[Item]) -> bytes:
    """Items as bytes for the way to a worker, at a tenth of the cost of pickling records with arrays."""
    return marshal.dumps([tuple(item) for item in items])


def encode_packed(
    packed: bytes, settings: EncoderSettings, timeout_s: float, memory_mb: int | None
) -> pa.Table:
    """`encode_chunk` of what `pack` made."""
    return encode_chunk([Item(*values) for values in marshal.loads(packed)], settings, timeout_s, memory_mb)


def encode_chunk(
    items: Sequence[Item], settings: EncoderSettings, timeout_s: float, memory_mb: int | None
) -> pa.Table:
    """OUTCOME of each item, in order. Limits as in `encode_many`."""
    readable = [item for item in items if item.refusal is None]
    outcomes = encode_many(readable, settings, timeout_s=timeout_s, memory_mb=memory_mb)
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


def encoded(scope: Scope, message: str = "") -> dict[str, Any]:
    """The row of a SCOPE. message: what the source had to say of the record."""
    elements = sorted(scope.composition)
    return {
        "status": ENCODED,
        "canonical": scope.canonical,
        "resolved": scope.resolved,
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
        "flags": [*scope.flags, *(["label_left_out"] if message else [])],
        "message": _text("; ".join(filter(None, (message, scope.message)))) or None,
    }


def refused(item: Item, reason: str, message: str) -> dict[str, Any]:
    data = item.data if isinstance(item.data, str) else Cell.from_bytes(item.data)
    payload, payload_format = written_out(data, item.format)
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


def _text(text: str) -> str:
    """Text that Parquet can hold: half a surrogate pair (a byte that was not UTF-8) is written out."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")
