"""Labels of structures that stand in files of their own: one table beside a folder or archive."""

from dataclasses import replace
from pathlib import PurePosixPath

from pydantic import BaseModel, ConfigDict, Field

from cloud_core.sources import rows
from cloud_core.sources.opening import file_cursor, locate, naming
from cloud_core.sources.record import Record, Refusal, SourceError
from cloud_core.sources.tables import Label, table_format


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
        path = PurePosixPath(record.id.partition("#")[0])
        values = (
            self._rows.get(str(path)) or self._rows.get(path.name) or self._rows.get(path.name.split(".")[0])
        )
        if values is None or record.refusal is not None:
            return record
        try:
            numbers = {
                name: float(str(value))
                for name, value in zip(self._units, values, strict=True)
                if value not in (None, "")
            }
            labels = {name: number for name, number in numbers.items() if number == number}  # NaN is empty
        except ValueError as error:
            return replace(record, refusal=Refusal.BAD_LABEL, message=f"labels of {path.name}: {error}")
        units = {name: self._units[name] for name in labels}
        return replace(record, labels=labels, label_units=units)
