"""Structures in tables: CSV, JSON lines, JSON arrays and Parquet, by a mapping of columns."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from cloud_core.config import ConfigSection
from cloud_core.sources import rows
from cloud_core.sources.arrays import cell_from_arrays, optimade_text
from cloud_core.sources.cells import structures_in
from cloud_core.sources.opening import cursor_of
from cloud_core.sources.properties import Label, labels_of
from cloud_core.sources.record import BadRow, Partition, Record, Refusal, Since, SourceError, short_hash
from cloud_core.sources.remote import SecretLookup, from_environment
from cloud_core.sources.shards import TableFormat, shards_of, table_format
from cloud_core.sources.spec import SourceSpec, stem
from cloud_core.structures.cell import Cell
from cloud_core.structures.errors import Reason, StructureError
from cloud_core.structures.formats import SUFFIXES, TextFormat

# Column names that need no mapping: those of the public files this pipeline is used with.
IDS = (
    "material_id",
    "structure_id",
    "mat_id",
    "mbid",
    "jid",
    "mp_id",
    "mpid",
    "immutable_id",
    "id",
    "path",
)
_OPTIMADE = (
    "lattice_vectors",
    "cartesian_site_positions",
    "species_at_sites",
    "species",
    "dimension_types",
    "structure_features",
)
_STRUCTURES = ("cif", "structure", "initial_structure", "atoms", "poscar")


class Arrays(ConfigSection):
    """A structure in columns of numbers, as lists or as JSON."""

    species: str = Field(default="species", description="symbols, a list or separated by spaces")
    lattice: str = Field(default="lattice", description="nine numbers, lattice vectors as rows, Å")
    fractions: str = Field(
        default="", description="3n fractional coordinates, site by site; default: abc, without `positions`"
    )
    positions: str = Field(default="", description="instead: 3n Cartesian coordinates, Å")
    kinds: str = Field(
        default="",
        description="what each of `species` stands for, as OPTIMADE's `species`: objects of name, "
        "chemical_symbols and concentration, or their JSON",
    )

    @model_validator(mode="after")
    def _one_kind_of_coordinates(self) -> Self:
        if self.fractions and self.positions:
            raise ValueError("`fractions` or `positions`, not both")
        if "cart" in self.fractions.lower():
            raise ValueError(f"{self.fractions!r} looks Cartesian; name it as `positions` instead")
        if self.kinds and not self.positions:
            raise ValueError("`kinds` goes with `positions`")
        return self

    def columns(self) -> list[str]:
        """Species, lattice, coordinates, and the kinds of the species if they are named."""
        coordinates = self.positions or self.fractions or "abc"
        return [self.species, self.lattice, coordinates] + ([self.kinds] if self.kinds else [])


class Join(ConfigSection):
    """Columns from a second, smaller table (held in memory): a row each, found by a key."""

    path: str = Field(description="path or URI of the second table")
    on: str = Field(description="key column of the first table")
    key: str = Field(description="key column of the second table")


class TableSpec(SourceSpec):
    """A table of structures and labels."""

    kind: Literal["table"] = "table"
    path: str = Field(
        description="path or fsspec URI of the table, compressed or not; a folder or glob of such files with "
        "the same columns; or a Delta table"
    )
    format: TableFormat | None = Field(None, description="by default told by the file's name")
    items: str = Field(
        "", description="JSON: where the rows are, e.g. `entries`; default: told by the file's head"
    )
    id: str = Field(
        "", description="column of the ids, or a template of `{row}` (from 0) and `{index}` (from 1)"
    )
    structure: str | Arrays | None = Field(
        None,
        description="column of the structures, or columns of arrays; by default told by the names of the "
        "columns, those of OPTIMADE's structures among them",
    )
    structure_format: TextFormat | None = Field(
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
        if PurePosixPath(self.path).suffix in SUFFIXES:
            table_format(self.path, self.format)  # a structure file
        return self

    def open(self, secrets: SecretLookup = from_environment) -> "TableSource":
        return TableSource(self)


@dataclass(frozen=True)
class _Mapping:
    """Where in a row of wanted values each part of a record stands."""

    columns: list[str]  # wanted columns of the table itself
    id: int | None  # position of the id, None for a template
    structure: list[int]  # positions of the structure's column or columns
    is_text: bool  # whether it is in one column
    optimade: tuple[str, ...]  # OPTIMADE's names of the columns, if they make an OPTIMADE structure
    labels: list[int]
    modified_at: int | None
    on: int | None  # position of the join key
    joined: list[str]  # columns of the second table; their positions follow those of the first


class TableSource:
    """One record a row. See `TableSpec` for what the columns mean."""

    def __init__(self, spec: TableSpec) -> None:
        self.spec = spec
        self.name = spec.name or stem(spec.path)
        self.licence = spec.licence
        self._shards = shards_of(spec.path, spec.format)
        self._format = table_format(self._shards[0].uri, spec.format)
        self._second: dict[str, tuple[Any, ...]] | None = None

    def partitions(self, since: Since = None) -> Iterator[Partition]:
        """Row ranges of a Parquet file, one of a text file, which only reading can count; of a folder, a glob
        or a Delta table one a file.

        Raises:
            SourceError: the file is missing or damaged, or a column of the mapping is not there.
        """
        mapping = self._mapping()
        joined = [cursor_of(self.spec.join.path)] if self.spec.join else []
        if self._shards[0].key:
            if "{" in self.spec.id:
                raise SourceError(
                    f"{self.spec.path}: rows of several files need a column of ids; name it as `id`"
                )
            for shard in self._shards:
                cursor = short_hash([self.spec.digest(), shard.cursor, *joined])
                yield Partition(shard.key, cursor, shard.n_rows, {"path": shard.uri})
            return
        cursor = short_hash([self.spec.digest(), cursor_of(self._shards[0].uri), *joined])
        if self._format != "parquet":
            yield Partition("rows", cursor, None, {})
            return
        repeated = self._repeated_ids(mapping)
        for group, start, stop, first in rows.parquet_ranges(
            self._shards[0].uri, self.spec.rows_per_partition
        ):
            at = {"group": group, "start": start, "stop": stop, "first": first}
            again = [row for row in repeated if first <= row < first + stop - start]
            key = f"rows {first}-{first + stop - start}"
            yield Partition(key, cursor, stop - start, at | ({"repeated": again} if again else {}))

    def read(self, partition: Partition) -> Iterator[Record]:
        mapping = self._mapping()
        at = partition.at
        values: Iterator[tuple[Any, ...] | BadRow]
        path, columns = at.get("path", self._shards[0].uri), mapping.columns
        if self._format == "parquet" and "group" in at:
            values = rows.parquet(path, columns, at["group"], at["start"], at["stop"])
            repeated = set(at.get("repeated", ()))
            is_repeated: Callable[[int, str], bool] = lambda row, _: row in repeated  # noqa: E731
        else:
            if self._format == "parquet":
                values = rows.parquet_whole(path, columns)
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
        values: Iterator[tuple[Any, ...] | BadRow],
        mapping: _Mapping,
        first: int,
        is_repeated: Callable[[int, str], bool],
    ) -> Iterator[Record]:
        second = self._joined(mapping)
        empty = (None,) * len(mapping.joined)
        for row, value in enumerate(values, first):
            if isinstance(value, BadRow):
                yield self._refused(f"row {row}", value.refusal, value.message)
                continue
            if second is not None and mapping.on is not None:
                value = (*value, *second.get(str(value[mapping.on]), empty))
            yield from self._row(row, value, mapping, is_repeated)

    def _row(
        self, row: int, value: tuple[Any, ...], mapping: _Mapping, is_repeated: Callable[[int, str], bool]
    ) -> Iterator[Record]:
        """The record of a row; several where its structure is a text of several."""
        if mapping.id is None:
            identifier = self.spec.id.format(row=row, index=row + 1)
        elif (raw := value[mapping.id]) is None or raw == "":
            yield self._refused(
                f"row {row}", Refusal.MISSING_ID, f"data row {row + 1} has no {self.spec.id or 'id'}"
            )
            return
        else:
            identifier = str(raw)
        if is_repeated(row, identifier):
            message = f"data row {row + 1}: an earlier row has the id {identifier} already"
            yield self._refused(f"{identifier}~row {row}", Refusal.DUPLICATE_ID, message)
            return
        where = f"data row {row + 1} ({identifier})"
        try:
            parts = self._structures(value, mapping)
            modified_at = None
            if mapping.modified_at is not None and value[mapping.modified_at]:
                modified_at = timestamp(value[mapping.modified_at])
        except StructureError as error:
            yield self._refused(identifier, error.reason, f"{where}: {error}")
            return
        except (ValueError, TypeError, KeyError) as error:
            yield self._refused(identifier, Refusal.MALFORMED_ROW, f"{where}: {error}")
            return
        if not parts:
            yield self._refused(identifier, Refusal.MISSING_STRUCTURE, f"{where} has no structure")
            return
        numbers = [value[position] for position in mapping.labels]
        labels = labels_of(self.spec.labels, numbers, self.spec.missing_labels)
        if labels.problem:
            yield self._refused(identifier, Refusal.BAD_LABEL, f"{where}: {labels.problem}")
            return
        for suffix, payload, format in parts:
            yield Record(
                identifier + suffix,
                payload,
                format,
                self.name,
                self.licence,
                labels.values,
                labels.units,
                modified_at,
                message=labels.message,
            )

    def _structures(self, value: tuple[Any, ...], mapping: _Mapping) -> list[tuple[str, str | Cell, str]]:
        """(suffix of the id, payload, format) of each structure of a row. Raises ValueError."""
        columns = [value[position] for position in mapping.structure]
        if mapping.is_text:
            return list(structures_in(columns[0], self.spec.structure_format))
        if mapping.optimade:
            return [("", optimade_text(zip(mapping.optimade, columns, strict=True)), "optimade")]
        species, lattice, coordinates = columns
        if species is None or lattice is None or coordinates is None:
            return []
        is_cartesian = isinstance(self.spec.structure, Arrays) and bool(self.spec.structure.positions)
        return [("", cell_from_arrays(species, lattice, coordinates, is_cartesian), "cell")]

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

    def _mapping(self) -> _Mapping:
        """Find the columns of the mapping in the table (and the joined one); every miss is an error."""
        spec = self.spec
        own = rows.columns_of(self._shards[0].uri, self._format, spec.items)
        other = _columns(spec.join.path) if spec.join else None
        columns: list[str] = []
        joined: list[str] = []
        there = [*(own or []), *(other or [])]
        shown = ", ".join(there[:40])

        def wanted(column: str, what: str) -> str:
            """`column`, noted as one to read from the table that has it."""
            of_labels = what.startswith("label ")  # of rows whose columns are not known, they may be joined
            if own is not None and (column in own or column.split(".")[0] in own):
                names = columns
            elif other is not None and column in other and (own is not None or of_labels):
                names = joined
            elif own is None:
                names = columns
            else:
                raise SourceError(
                    f"{spec.path}: no column {column!r} for {what}; columns here: {shown}. Name the right one"
                )
            if column not in names:
                names.append(column)
            return column

        def guess(names: tuple[str, ...], what: str) -> str:
            for name in names:
                if name in there:
                    return name
            raise SourceError(
                f"{spec.path}: which column holds the {what}? Columns here: {shown}. "
                f"Name it: `--{what} COLUMN` on the shell, `{what}: COLUMN` in a configuration"
            )

        identifier = None if "{" in spec.id else wanted(spec.id or guess(IDS, "id"), "id")
        structure = spec.structure
        optimade: tuple[str, ...] = ()
        if structure is None:
            if set(Arrays().columns()) <= set(own or ()):
                structure = Arrays()
            elif set(_OPTIMADE[:3]) <= set(own or ()) and not set(_STRUCTURES).intersection(own or ()):
                optimade = tuple(name for name in _OPTIMADE if name in (own or ()))
            else:
                structure = guess(_STRUCTURES, "structure")
        if isinstance(structure, Arrays):
            parts = structure.columns()
            if structure.kinds:
                optimade = (_OPTIMADE[2], _OPTIMADE[0], _OPTIMADE[1], _OPTIMADE[3])
        else:
            parts = [structure] if structure is not None else list(optimade)
        parts = [wanted(column, "structure") for column in parts]
        labels = [wanted(label.column or name, f"label {name}") for name, label in spec.labels.items()]
        modified_at = wanted(spec.modified_at, "modified_at") if spec.modified_at else None
        on = wanted(spec.join.on, "join.on") if spec.join else None
        position = {name: number for number, name in enumerate([*columns, *joined])}
        return _Mapping(
            columns=columns,
            joined=joined,
            id=None if identifier is None else position[identifier],
            structure=[position[name] for name in parts],
            is_text=isinstance(structure, str),
            optimade=optimade,
            labels=[position[name] for name in labels],
            modified_at=None if modified_at is None else position[modified_at],
            on=None if on is None else position[on],
        )

    def _joined(self, mapping: _Mapping) -> dict[str, tuple[Any, ...]] | None:
        join = self.spec.join
        if join is None or not mapping.joined:
            return None
        if self._second is None:
            self._second = rows_by_key(join.path, join.key, mapping.joined)
        return self._second

    def _repeated_ids(self, mapping: _Mapping) -> list[int]:
        """Row numbers of a Parquet file whose id an earlier row has."""
        if mapping.id is None or mapping.id >= len(mapping.columns):
            return []
        return rows.parquet_repeated(self._shards[0].uri, mapping.columns[mapping.id])


def _columns(path: str) -> list[str] | None:
    return rows.columns_of(path, table_format(path), "")


def rows_by_key(path: str, key: str, columns: list[str]) -> dict[str, tuple[Any, ...]]:
    """The wanted columns of every row of a table, by the value in the column `key`.

    Raises:
        SourceError: a row cannot be read, or two have one key.
    """
    found: dict[str, tuple[Any, ...]] = {}
    for value, *others in rows.read_all(path, table_format(path), [key, *columns]):
        if str(value) in found:
            raise SourceError(
                f"{path}: two rows with {key} = {value}; each key has one row: remove the other"
            )
        found[str(value)] = tuple(others)
    return found


def timestamp(value: Any) -> datetime:
    """A time of last change as an aware datetime (UTC unless the text says otherwise)."""
    if not isinstance(value, datetime):
        value = datetime.fromisoformat(str(value))
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
