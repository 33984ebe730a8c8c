"""The quarantine of a table, encoded again: after a fix, or with other settings."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cloud_core.lake.index import hash_strings
from cloud_core.lake.schemas import ENCODED, QUARANTINED
from cloud_core.lake.table import Table
from cloud_core.scope.settings import FORMS, fingerprint
from cloud_core.sources.record import Partition, Record, Refusal
from tasks.chunks import INPUT_COLUMNS, Item, read_back
from tasks.encoding import Chunk, EncodeError, Encoding, EncodingOptions, Shard


class Replay(Encoding):
    """The quarantine again, from the payloads that the table holds. Its one shard has no partitions."""

    def __init__(self, table: Table, reasons: Sequence[str] | None, *arguments: Any, **options: Any) -> None:
        super().__init__(None, table, *arguments, **options)
        self.reasons = reasons
        self.n_not_replayable = 0

    def _chunks(self, shard: Shard) -> Iterator[Chunk]:
        held = Table.open(self.table.uri, self.table.storage)  # one version, whatever is committed meanwhile
        columns = [*INPUT_COLUMNS, "reason", "payload", "payload_format"]
        number = 0
        for batch in held.batches(QUARANTINED, columns):
            rows = pa.Table.from_batches([batch])
            wanted = pc.invert(pc.is_in(rows["reason"], pa.array([refusal.value for refusal in Refusal])))
            self.n_not_replayable += rows.num_rows - int(pc.sum(wanted).as_py() or 0)
            if self.reasons is not None:
                wanted = pc.and_(wanted, pc.is_in(rows["reason"], pa.array(self.reasons, pa.string())))
            rows = rows.filter(wanted)
            for start in range(0, rows.num_rows, self.options.chunk_rows):
                yield self._again(rows.slice(start, self.options.chunk_rows), number)
                number += 1

    def _again(self, rows: pa.Table, number: int) -> Chunk:
        items = [
            Item.of(Record(identifier, read_back(payload, payload_format), payload_format, ""))
            for identifier, payload, payload_format in zip(
                *(rows[name].to_pylist() for name in ("structure_id", "payload", "payload_format")),
                strict=True,
            )
        ]
        fingerprints = pa.array([fingerprint(self._settings)] * rows.num_rows, pa.string())
        inputs = rows.select(list(INPUT_COLUMNS)).set_column(
            INPUT_COLUMNS.index("fingerprint"), "fingerprint", fingerprints
        )
        with self._lock:
            self._seen.add(hash_strings(inputs["structure_id"]))
        claim = self.table.claim(inputs, f"replay-{self._key(inputs, Partition('replay', ''))}", again=True)
        metadata = {"run": self.run, "partition": "replay", "chunk": str(number)}
        return Chunk(claim.key, items, inputs, claim.revisions, 0, metadata, before=rows["reason"])

    def _commit(self, chunk: Chunk, rows: pa.Table) -> None:
        """Only what came out differently: a structure refused for the same reason keeps its row."""
        changed = pc.not_equal(pc.fill_null(rows["reason"], ""), pc.fill_null(chunk.before, ""))
        rows, revisions = rows.filter(changed), chunk.revisions[np.asarray(changed)]
        self.table.append_chunk(rows, chunk.key, revisions, chunk.metadata, again=True)


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
