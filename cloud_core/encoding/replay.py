"""The quarantine of a table, encoded again: after a fix, or with other settings."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cloud_core.encoding.engine import Chunk, EncodeError, Encoding
from cloud_core.encoding.options import EncodingOptions
from cloud_core.encoding.rows import INPUT_COLUMNS, Item, read_back
from cloud_core.lake.rows import with_column
from cloud_core.lake.schemas import ENCODED, QUARANTINED
from cloud_core.lake.table import Claim, Table
from cloud_core.scope.settings import FORMS
from cloud_core.sources.record import Record, Refusal


class Again:
    """A table as the sink of its own rows, which are encoded a second time."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def claim(self, inputs: pa.Table, place: str) -> Claim:
        return self._table.claim(inputs, place, again=True)

    def append_chunk(
        self, rows: pa.Table, key: str, seen: np.ndarray | None, metadata: dict[str, str] | None
    ) -> bool:
        return self._table.append_chunk(rows, key, seen, metadata, again=True)


class Quarantine:
    """The quarantined structures of a table, from the payloads that it holds."""

    def __init__(self, table: Table, reasons: Sequence[str] | None) -> None:
        """reasons: codes of those that are tried again; None for all."""
        self._table = table
        self._reasons = reasons
        self.n_refused_by_source = 0  # have no payload: they are corrected at the source

    def chunks(self, encoding: Encoding) -> Iterator[Chunk]:
        """For `encoding`, whose sink is an `Again` of this table."""
        held = Table.open(
            self._table.uri, self._table.storage
        )  # one version, whatever is committed meanwhile
        number = 0
        for batch in held.batches(QUARANTINED, [*INPUT_COLUMNS, "reason", "payload", "payload_format"]):
            rows = pa.Table.from_batches([batch])
            wanted = pc.invert(pc.is_in(rows["reason"], pa.array([refusal.value for refusal in Refusal])))
            self.n_refused_by_source += rows.num_rows - int(pc.sum(wanted).as_py() or 0)
            if self._reasons is not None:
                wanted = pc.and_(wanted, pc.is_in(rows["reason"], pa.array(self._reasons, pa.string())))
            rows = rows.filter(wanted)
            for start in range(0, rows.num_rows, encoding.options.chunk_rows):
                yield self._chunk(encoding, rows.slice(start, encoding.options.chunk_rows), number)
                number += 1

    def _chunk(self, encoding: Encoding, rows: pa.Table, number: int) -> Chunk:
        items = [
            Item.of(Record(identifier, read_back(payload, payload_format), payload_format, ""))
            for identifier, payload, payload_format in zip(
                *(rows[name].to_pylist() for name in ("structure_id", "payload", "payload_format")),
                strict=True,
            )
        ]
        fingerprints = [encoding.fingerprint] * rows.num_rows
        inputs = with_column(rows.select(list(INPUT_COLUMNS)), "fingerprint", fingerprints)
        encoding.seen.see(inputs["structure_id"])
        claim = self._table.claim(inputs, f"replay\n{encoding.fingerprint}", again=True)
        metadata = {"run": encoding.run, "partition": "replay", "chunk": str(number)}
        return Chunk(claim.key, items, inputs, claim.revisions, 0, metadata, before=rows["reason"])


def like_the_first(table: Table, named: EncodingOptions) -> EncodingOptions:
    """`named`, and where it is silent the table's forms and the tolerances that its quarantine had.

    Raises:
        EncodeError: the quarantine was refused under several tolerances, and none is named.
    """
    settings: dict[str, Any] = named.model_dump(exclude_unset=True)
    if "forms" not in settings:
        forms = [
            form
            for form in FORMS
            if any(batch[form].null_count < batch.num_rows for batch in table.batches(ENCODED, [form]))
        ]
        settings |= {"forms": tuple(forms)} if forms else {}
    tolerances = table.quarantine([x for x in ("symprec", "angle_tolerance") if x not in settings])
    for name in tolerances.column_names:
        values = pc.unique(tolerances[name]).drop_null().to_pylist()
        if len(values) > 1:
            several = " and ".join(map(str, sorted(values)))
            raise EncodeError(f"{table.uri}: refused under {name} {several}; name the {name} to replay with")
        if values:
            settings[name] = values[0]
    return EncodingOptions.model_validate(settings)
