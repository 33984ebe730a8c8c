"""Structures in tables: CSV, JSON lines, JSON arrays and Parquet, by a mapping of columns."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cloud_core.sources import rows
from cloud_core.sources.opening import COMPRESSIONS, decode, file_cursor, locate, naming, whole_lines
from cloud_core.sources.record import Partition, Record, Refusal, Since, SourceError, short_hash
from cloud_core.sources.remote import SecretLookup, from_environment
from cloud_core.sources.shapes import CONVERTERS, cell_from_arrays
from cloud_core.sources.spec import SourceSpec, stem
from cloud_core.structures.cell import Cell
from cloud_core.structures.errors import Reason, StructureError

TableFormat = Literal["csv", "jsonl", "json", "parquet"]
_SUFFIXES: dict[str, TableFormat] = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
}
# Column names that need no mapping: those of the public files this pipeline is used with.
_IDS = ("material_id", "structure_id", "mat_id", "mbid", "jid", "mp_id", "mpid", "id", "path")
_STRUCTURES = ("cif", "structure", "initial_structure", "atoms", "poscar")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Label(_Part):
    """A property column."""

    column: str = Field("", description="column of the table; default: the label's name")
    unit: str = Field(description="unit of the values, e.g. eV/atom; '1' for a pure number")


class Arrays(_Part):
    """A structure in three columns of numbers."""

    species: str = Field(default="species", description="symbols, a list or separated by spaces")
    lattice: str = Field(default="lattice", description="nine numbers, lattice vectors as rows, Å")
    fractions: str = Field(default="abc", description="3n fractional coordinates, site by site")


class Join(_Part):
    """Columns from a second, smaller table (held in memory): a row each, found by a key."""

    path: str = Field(description="path or URI of the second table")
    on: str = Field(description="key column of the first table")
    key: str = Field(description="key column of the second table")


class TableSpec(SourceSpec):
    """A table of structures and labels."""

    kind: Literal["table"] = "table"
    path: str = Field(description="path or fsspec URI of the table, compressed or not")
    format: TableFormat | None = Field(None, description="by default told by the file's name")
    items: str = Field(
        "", description="JSON: where the rows are, e.g. `entries`; default: told by the file's head"
    )
    id: str = Field(
        "", description="column of the ids, or a template of `{row}` (from 0) and `{index}` (from 1)"
    )
    structure: str | Arrays | None = Field(
        None, description="column of the structures, or the three array columns"
    )
    structure_format: Literal["cif", "poscar", "pymatgen", "jarvis", "ase"] | None = Field(
        None, description="format of the structure column; by default told by each value"
    )
    labels: dict[str, Label] = Field({}, description="label name -> column and unit")
    missing_labels: tuple[str, ...] = Field((), description="texts that stand for a missing label, e.g. na")
    modified_at: str = Field(
        "", description="column of the time of last change (ISO 8601, UTC unless it says)"
    )
    join: Join | None = Field(None, description="columns from a second table")
    rows_per_partition: Annotated[int, Field(ge=1)] = Field(
        16_384, description="Parquet: rows read as one partition; other formats are read as one"
    )

    @model_validator(mode="after")
    def _format_is_known(self) -> Self:
        table_format(self.path, self.format)
        return self

    def open(self, secrets: SecretLookup = from_environment) -> "TableSource":
        return TableSource(self)


def table_format(path: str, given: TableFormat | None = None) -> TableFormat:
    """Format of a table by its name.

    Raises:
        ValueError: the name tells none.
    """
    if given:
        return given
    name = path.lower()
    for suffix in (*COMPRESSIONS, ".zip"):
        name = name.removesuffix(suffix)
    suffix = PurePosixPath(name).suffix
    if suffix not in _SUFFIXES:
        raise ValueError(f"{path}: not the name of a table ({', '.join(_SUFFIXES)}); name its `format`")
    return _SUFFIXES[suffix]


@dataclass(frozen=True)
class _Mapping:
    """Where in a row of wanted values each part of a record stands."""

    columns: list[str]  # wanted columns of the table itself
    id: int | None  # position of the id, None for a template
    structure: int
    arrays: tuple[int, int, int] | None
    labels: list[tuple[str, int]]
    modified_at: int | None
    on: int | None  # position of the join key
    joined: list[str]  # columns of the second table; their positions follow those of the first


class TableSource:
    """One record a row. See `TableSpec` for what the columns mean."""

    def __init__(self, spec: TableSpec) -> None:
        self.spec = spec
        self.name = spec.name or stem(spec.path)
        self.licence = spec.licence
        self._format = table_format(spec.path, spec.format)
        self._units = {name: label.unit for name, label in spec.labels.items()}
        self._second: dict[str, tuple[Any, ...]] | None = None

    def partitions(self, since: Since = None) -> Iterator[Partition]:
        """Row ranges of a Parquet file; one partition for a text file, which only reading can count.

        Raises:
            SourceError: the file is missing or damaged, or a column of the mapping is not there.
        """
        cursor = short_hash([self.spec.digest(), *map(_cursor, self._paths())])
        mapping = self._mapping()
        if self._format != "parquet":
            yield Partition("rows", cursor, None, {})
            return
        repeated = self._repeated_ids(mapping)
        for group, start, stop, first in rows.parquet_ranges(self.spec.path, self.spec.rows_per_partition):
            at = {"group": group, "start": start, "stop": stop, "first": first}
            again = [row for row in repeated if first <= row < first + stop - start]
            key = f"rows {first}-{first + stop - start}"
            yield Partition(key, cursor, stop - start, at | ({"repeated": again} if again else {}))

    def read(self, partition: Partition) -> Iterator[Record]:
        mapping = self._mapping()
        at = partition.at
        values: Iterator[tuple[Any, ...]]
        path, columns = self.spec.path, mapping.columns
        if self._format == "parquet":
            values = rows.parquet(path, columns, at["group"], at["start"], at["stop"])
            repeated = set(at.get("repeated", ()))
            is_repeated: Callable[[int, str], bool] = lambda row, _: row in repeated  # noqa: E731
        else:
            values = rows.READERS[self._format](path, columns, self.spec.items)
            seen: set[int] = set()

            def is_repeated(row: int, identifier: str) -> bool:
                key = hash(identifier)  # 64 bits: a million ids need 60 MB, not 150
                known = key in seen
                seen.add(key)
                return known

        yield from self._records(values, mapping, at.get("first", 0), is_repeated)

    # -- records

    def _records(
        self,
        values: Iterator[tuple[Any, ...]],
        mapping: _Mapping,
        first: int,
        is_repeated: Callable[[int, str], bool],
    ) -> Iterator[Record]:
        second = self._joined(mapping)
        empty = (None,) * len(mapping.joined)
        for row, value in enumerate(values, first):
            if len(value) == 1 and isinstance(value[0], rows.BadRow):
                yield self._refused(f"row {row}", Refusal.MALFORMED_ROW, str(value[0]))
                continue
            if second is not None and mapping.on is not None:
                value = (*value, *second.get(str(value[mapping.on]), empty))
            yield self._record(row, value, mapping, is_repeated)

    def _record(
        self, row: int, value: tuple[Any, ...], mapping: _Mapping, is_repeated: Callable[[int, str], bool]
    ) -> Record:
        if mapping.id is None:
            identifier = self.spec.id.format(row=row, index=row + 1)
        elif (raw := value[mapping.id]) is None or raw == "":
            return self._refused(f"row {row}", Refusal.MISSING_ID, f"row {row} has no {self.spec.id or 'id'}")
        else:
            identifier = str(raw)
        if is_repeated(row, identifier):
            message = f"row {row}: an earlier row has the id {identifier} already"
            return self._refused(f"{identifier}~row {row}", Refusal.DUPLICATE_ID, message)
        payload: str | Cell
        try:
            if mapping.arrays is not None:
                species, lattice, fractions = mapping.arrays
                payload = cell_from_arrays(value[species], value[lattice], value[fractions])
                format = "cell"
            else:
                found = value[mapping.structure]
                if found is None or found == "":
                    message = f"row {row} ({identifier}) has no structure"
                    return self._refused(identifier, Refusal.MISSING_STRUCTURE, message)
                payload, format = _payload(found, self.spec.structure_format)
        except StructureError as error:
            return self._refused(identifier, error.reason, f"row {row} ({identifier}): {error}")
        except (ValueError, TypeError, KeyError) as error:
            return self._refused(identifier, Refusal.MALFORMED_ROW, f"row {row} ({identifier}): {error}")
        labels = {}
        for name, position in mapping.labels:
            label = value[position]
            if label is None or label == "" or label in self.spec.missing_labels:
                continue
            try:
                number = _number(label)
            except (ValueError, TypeError):
                message = f"row {row} ({identifier}): {name} is not a number: {str(label)[:60]!r}"
                return self._refused(identifier, Refusal.BAD_LABEL, message)
            if number == number:  # NaN is how pandas writes an empty cell
                labels[name] = number
        modified_at = None
        if mapping.modified_at is not None and value[mapping.modified_at]:
            try:
                modified_at = timestamp(value[mapping.modified_at])
            except ValueError as error:
                return self._refused(identifier, Refusal.MALFORMED_ROW, f"row {row} ({identifier}): {error}")
        return Record(
            identifier,
            payload,
            format,
            self.name,
            self.licence,
            labels,
            self._units if labels else {},
            modified_at,
        )

    def _refused(self, identifier: str, refusal: Refusal | Reason, message: str) -> Record:
        return Record(
            identifier,
            "",
            "",
            self.name,
            self.licence,
            refusal=refusal,
            message=f"{self.spec.path}: {message}",
        )

    # -- columns

    def _paths(self) -> list[str]:
        return [self.spec.path] + ([self.spec.join.path] if self.spec.join else [])

    def _mapping(self) -> _Mapping:
        """Find the columns of the mapping in the table (and the joined one); every miss is an error."""
        spec = self.spec
        own = rows.columns_of(spec.path, self._format, spec.items)
        other = _columns(spec.join.path) if spec.join else None
        columns: list[str] = []
        joined: list[str] = []

        def place(column: str, what: str) -> int | tuple[str, int]:
            if own is None or column in own or column.split(".")[0] in own:
                if column not in columns:
                    columns.append(column)
                return columns.index(column)
            if other is not None and column in other:
                if column not in joined:
                    joined.append(column)
                return ("joined", joined.index(column))
            there = ", ".join([*(own or []), *(other or [])][:40])
            raise SourceError(
                f"{spec.path}: no column {column!r} for {what}; columns here: {there}. "
                "Name the right one in the source's configuration"
            )

        def guess(names: tuple[str, ...], what: str) -> str:
            there = [*(own or []), *(other or [])]
            for name in names:
                if name in there:
                    return name
            raise SourceError(
                f"{spec.path}: which column holds the {what}? Columns here: {', '.join(there[:40])}. "
                f"Name it as `{what}` in the source's configuration"
            )

        id_at = None
        if "{" not in spec.id:
            id_at = place(spec.id or guess(_IDS, "id"), "id")
        structure = spec.structure
        if structure is None:
            arrays = Arrays()
            if own is not None and {arrays.species, arrays.lattice, arrays.fractions} <= set(own):
                structure = arrays
            else:
                structure = guess(_STRUCTURES, "structure")
        arrays_at: list[Any] = []
        structure_at: Any = -1
        if isinstance(structure, Arrays):
            arrays_at = [
                place(column, "structure")
                for column in (structure.species, structure.lattice, structure.fractions)
            ]
        else:
            structure_at = place(structure, "structure")
        labels = [(name, place(label.column or name, f"label {name}")) for name, label in spec.labels.items()]
        modified = place(spec.modified_at, "modified_at") if spec.modified_at else None
        on = place(spec.join.on, "join.on") if spec.join else None

        def final(position: Any) -> Any:
            return len(columns) + position[1] if isinstance(position, tuple) else position

        return _Mapping(
            columns,
            final(id_at),
            final(structure_at),
            tuple(map(final, arrays_at)) or None,
            [(name, final(position)) for name, position in labels],
            final(modified),
            final(on),
            joined,
        )

    def _joined(self, mapping: _Mapping) -> dict[str, tuple[Any, ...]] | None:
        join = self.spec.join
        if join is None or not mapping.joined:
            return None
        if self._second is None:
            second: dict[str, tuple[Any, ...]] = {}
            for value in rows.read_all(join.path, table_format(join.path), [join.key, *mapping.joined]):
                key = str(value[0])
                if key in second:
                    raise SourceError(
                        f"{join.path}: two rows with {join.key} = {key}; a join needs one a key"
                    )
                second[key] = value[1:]
            self._second = second
        return self._second

    def _repeated_ids(self, mapping: _Mapping) -> list[int]:
        """Row numbers of a Parquet file whose id an earlier row has."""
        if mapping.id is None or mapping.id >= len(mapping.columns):
            return []
        return rows.parquet_repeated(self.spec.path, mapping.columns[mapping.id])


def _columns(path: str) -> list[str] | None:
    return rows.columns_of(path, table_format(path), "")


def _cursor(path: str) -> str:
    fs, inner = locate(path)
    with naming(path):
        return file_cursor(fs.info(inner))


def _payload(value: Any, format: str | None) -> tuple[str | Cell, str]:
    """A structure as it stands in a column, as a payload and its format."""
    if isinstance(value, bytes):
        value = decode(value)
    if isinstance(value, dict):
        if format is None:
            format = "pymatgen" if "sites" in value else "jarvis" if "lattice_mat" in value else "ase"
        return CONVERTERS[format](value), "cell"
    if not isinstance(value, str):
        raise ValueError(f"a structure is text or a JSON object, not {type(value).__name__}")
    if format is None:
        head = value.lstrip()[:1]
        if head == "{":
            return _payload(rows.loads(value), None)
        format = "cif" if "_cell_length_a" in value else "poscar"
    elif format in ("jarvis", "ase", "pymatgen"):
        return _payload(rows.loads(value), format)
    return whole_lines(value), format


def _number(value: Any) -> float:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return float(value.lower() == "true")
    return float(value)


def timestamp(value: Any) -> datetime:
    """A time of last change as an aware datetime (UTC unless the text says otherwise)."""
    if not isinstance(value, datetime):
        value = datetime.fromisoformat(str(value))
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
