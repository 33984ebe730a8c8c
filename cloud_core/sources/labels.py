"""Labels of structures that stand in files of their own: one table beside a folder or archive."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath

from pydantic import BaseModel, ConfigDict, Field

from cloud_core.sources import rows
from cloud_core.sources.opening import file_cursor, locate, naming
from cloud_core.sources.properties import Label, labels_of
from cloud_core.sources.record import Record, Refusal, SourceError
from cloud_core.sources.tables import table_format
from cloud_core.structures.formats import stem_of_name


class LabelTable(BaseModel):
    """A table with a row a file: a key (the file's name, with or without its ending) and the labels."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(description="path or fsspec URI of the table (CSV, JSON lines, Parquet)")
    key: str = Field(description="column that names the file, with or without its ending")
    columns: dict[str, Label] = Field(description="label name -> column and unit", min_length=1)

    def cursor(self) -> str:
        """Moves when the table does, so that changed labels are read again."""
        fs, path = locate(self.path)
        with naming(self.path):
            return file_cursor(fs.info(path))


class FileLabels:
    """The labels of a `LabelTable`, held in memory."""

    def __init__(self, table: LabelTable) -> None:
        self._units = {name: label.unit for name, label in table.columns.items()}
        self._rows: dict[str, tuple[object, ...]] = {}
        wanted = [table.key, *(label.column or name for name, label in table.columns.items())]
        for key, *values in rows.read_all(table.path, table_format(table.path), wanted):
            if str(key) in self._rows:
                raise SourceError(f"{table.path}: two rows with {table.key} = {key}; labels need one a file")
            self._rows[str(key)] = tuple(values)

    def attach(self, record: Record) -> Record:
        """The record with its labels; without a row in the table it has none."""
        values = next((row for key in _keys(record.id) if (row := self._rows.get(key)) is not None), None)
        if values is None or record.refusal is not None:
            return record
        labels = labels_of(zip(self._units, values, strict=True))
        if labels.problem:
            message = f"labels of {PurePosixPath(record.id).name}: {labels.problem}"
            return replace(record, refusal=Refusal.BAD_LABEL, message=message)
        units = {name: self._units[name] for name in labels.values}
        return replace(record, labels=labels.values, label_units=units, message=labels.message)


def _keys(identifier: str) -> Iterator[str]:
    """What may name a record's file in the table: its path, its name, its name without suffixes; the whole
    id before the part that `#` begins (a name may hold one)."""
    for path in (identifier, identifier.rpartition("#")[0]):
        if path:
            yield from (path, PurePosixPath(path).name, stem_of_name(path))
