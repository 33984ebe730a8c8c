"""Labels of structures that are in files of their own: one table beside a folder or archive."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath

from pydantic import Field

from cloud_core.config import ConfigSection
from cloud_core.sources.opening import cursor_of
from cloud_core.sources.properties import Label, label_columns, labels_of
from cloud_core.sources.record import Record, Refusal
from cloud_core.sources.tables import rows_by_key
from cloud_core.structures.formats import stem_of_name


class LabelTable(ConfigSection):
    """A table with a row a file: a key (the file's name, with or without its ending) and the labels."""

    path: str = Field(description="path or fsspec URI of the table (CSV, JSON lines, Parquet)")
    key: str = Field(description="column that names the file, with or without its ending")
    columns: dict[str, Label] = Field(description="label name -> column and unit", min_length=1)

    def cursor(self) -> str:
        """Moves when the table does, so that changed labels are read again."""
        return cursor_of(self.path)


class FileLabels:
    """The labels of a `LabelTable`, held in memory."""

    def __init__(self, table: LabelTable) -> None:
        self._labels = table.columns
        self._rows = rows_by_key(table.path, table.key, label_columns(table.columns))

    def attach(self, record: Record) -> Record:
        """The record with its labels; without a row in the table it has none."""
        values = next((row for key in _keys(record.id) if (row := self._rows.get(key)) is not None), None)
        if values is None or record.refusal is not None:
            return record
        labels = labels_of(self._labels, values)
        if labels.problem:
            message = f"labels of {PurePosixPath(record.id).name}: {labels.problem}"
            return replace(record, refusal=Refusal.BAD_LABEL, message=message)
        return replace(record, labels=labels.values, label_units=labels.units, message=labels.message)


def _keys(identifier: str) -> Iterator[str]:
    """What may name a record's file in the table: its path, its name, its name without suffixes; the whole
    id before the part that `#` begins (a name may hold one)."""
    for path in (identifier, identifier.rpartition("#")[0]):
        if path:
            yield from (path, PurePosixPath(path).name, stem_of_name(path))
