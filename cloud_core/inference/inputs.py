"""What a model is asked about, as SCOPE strings: objects, texts, files, folders, archives and tables."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from cloud_core.scope import EncoderSettings, ScopeError, canonicalise, decode, resolve
from cloud_core.scope.inputs import encode_inputs
from cloud_core.scope.isolation import Refused, encode_many
from cloud_core.structures.cell import Cell
from cloud_core.structures.formats import SUFFIXES


@dataclass(frozen=True)
class TableOf:
    """A table with the names of its columns, as of `sources.tables.TableSpec`."""

    path: str
    columns: Mapping[str, str]


class Asked(NamedTuple):
    """A structure: the place of its input among those given, its name there ("" for a single one), and its
    string, or why there is none."""

    place: int
    name: str
    scope: str | None
    error: str | None


def strings_of(inputs: Iterable[Any], form: str) -> Iterator[Asked]:
    """The string of each structure of each input, in order; inputs are taken as they are needed.

    inputs: what `structures.read` takes; a SCOPE string of the form; and `Path`s of folders, archives and
    tables (CSV, JSON lines, Parquet with a column of structures, or a table that `cloud encode` wrote); a
    `TableOf` whose columns have other names.
    """
    settings = EncoderSettings(forms=(form,))
    for rule, group in groupby(enumerate(inputs), key=lambda each: _rule_of(each[1])):
        if rule is not _structures:
            for place, given in group:
                yield from rule(place, given, form, settings)
            continue
        yield from _structures(group, form, settings)


def _rule_of(given: Any) -> Any:
    if is_scope_string(given):
        return _string
    if isinstance(given, TableOf):
        return _source
    if not isinstance(given, Path) or (given.is_file() and given.suffix.lower() in _STRUCTURES):
        return _structures
    if _is_encoded_table(given):
        return _encoded_table
    return _source if given.is_dir() or _is_collection(given) else _structures


_STRUCTURES = set(SUFFIXES) - {".json", ".jsonl", ".ndjson"}


def _is_encoded_table(path: Path) -> bool:
    if not (path / "_delta_log").is_dir():
        return False
    from deltalake import DeltaTable

    names = {field.name for field in DeltaTable(str(path)).schema().fields}
    return {"structure_id", "status", "canonical"} <= names


def _is_collection(path: Path) -> bool:
    """Whether a file is an archive or a table."""
    from cloud_core.sources.catalogue import parse_spec
    from cloud_core.sources.files import TAR, ZIP

    if not path.is_file():
        return False
    return path.name.lower().endswith((*ZIP, *TAR)) or parse_spec(str(path)).kind == "table"


def _string(place: int, given: str, form: str, settings: EncoderSettings) -> Iterator[Asked]:
    try:
        yield Asked(place, "", checked(given.strip(), form), None)
    except ScopeError as error:
        yield Asked(place, "", None, str(error))


def _structures(group: Iterable[tuple[int, Any]], form: str, settings: EncoderSettings) -> Iterator[Asked]:
    places: list[int] = []

    def payloads() -> Iterator[Any]:
        for place, given in group:
            places.append(place)
            yield given

    for number, name, found in encode_inputs(payloads(), settings):
        if isinstance(found, Refused):
            yield Asked(places[number], name, None, found.message)
        else:
            yield Asked(places[number], name, getattr(found.scope, form), None)


def _source(place: int, given: Path | TableOf, form: str, settings: EncoderSettings) -> Iterator[Asked]:
    from cloud_core.sources.record import SourceError

    try:
        yield from _of_source(place, given, form, settings)
    except SourceError as error:
        yield Asked(place, "", None, str(error))


def _of_source(place: int, given: Path | TableOf, form: str, settings: EncoderSettings) -> Iterator[Asked]:
    from cloud_core.sources.catalogue import open_source

    spec: Any = str(given)
    if isinstance(given, TableOf):
        spec = {"kind": "table", "path": given.path, **given.columns}
    source = open_source(spec)
    records = (record for partition in source.partitions() for record in source.read(partition))
    for refused, group in groupby(records, key=lambda record: record.refusal is not None):
        if refused:
            yield from (Asked(place, record.id, None, record.message) for record in group)
            continue
        for found in encode_many(group, settings):
            if isinstance(found, Refused):
                yield Asked(place, found.id, None, found.message)
            else:
                yield Asked(place, found.id, getattr(found.scope, form), None)


def _encoded_table(place: int, given: Path, form: str, settings: EncoderSettings) -> Iterator[Asked]:
    from cloud_core.lake.schemas import ENCODED
    from cloud_core.lake.table import Table

    for batch in Table.open(str(given)).batches(ENCODED, ["structure_id", form]):
        for name, text in zip(batch["structure_id"].to_pylist(), batch[form].to_pylist(), strict=True):
            error = None if text else f"the table has no {form} string of it; encode it with that form"
            yield Asked(place, name, text, error)


def checked(text: str, form: str) -> str:
    """A string of this form. Raises ScopeError for others."""
    rules = {"canonical": canonicalise, "resolved": resolve}
    rule = rules.get(form)
    if rule is None:
        if decode(text).occupants:
            raise ScopeError(text, 0, f"a resolved string, and the model reads {form} ones")
    elif rule(text) != text:
        raise ScopeError(
            text, 0, f"the model reads {form} strings, and this is none: pass {rule.__name__}(text)"
        )
    return text


def is_scope_string(given: Any) -> bool:
    """Whether an input is meant as a SCOPE string: one line of three fields."""
    return isinstance(given, str) and given.count("|") == 2 and "\n" not in given.strip()


def is_one(given: Any) -> bool:
    """Whether an input is one structure, or file of structures, and no collection of them. A pymatgen
    Structure and ASE's Atoms are collections too, of sites."""
    if isinstance(given, str | bytes | Path | Mapping | Cell | TableOf) or not isinstance(given, Iterable):
        return True
    return hasattr(given, "frac_coords") or hasattr(given, "get_atomic_numbers")
