"""The files of a table, and their formats: one file, a folder, a glob, or a Delta table."""

from pathlib import PurePosixPath
from typing import Literal, NamedTuple

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from cloud_core.sources.opening import file_cursor, locate, naming
from cloud_core.sources.record import SourceError
from cloud_core.structures.formats import COMPRESSIONS

TableFormat = Literal["csv", "jsonl", "json", "parquet"]
_SUFFIXES: dict[str, TableFormat] = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
}


def table_format(path: str, given: TableFormat | None = None) -> TableFormat:
    """Format of a table by its name.

    Raises:
        ValueError: the name tells none.
    """
    if found := given or format_by_name(path):
        return found
    raise SourceError(f"{path}: not the name of a table ({', '.join(_SUFFIXES)}); name its `format`")


def format_by_name(path: str) -> TableFormat | None:
    """The format that the name of a table tells, compressed or not; None for any other name."""
    name = path.lower()
    for suffix in (*COMPRESSIONS, ".zip"):
        name = name.removesuffix(suffix)
    return _SUFFIXES.get(PurePosixPath(name).suffix)


class Shard(NamedTuple):
    """A file of a table. `key`: its name below the folder, "" where the table is this file alone; then there
    is no `cursor`. `n_rows` where it is known without opening it."""

    key: str
    uri: str
    cursor: str = ""
    n_rows: int | None = None


def shards_of(path: str, format: TableFormat | None = None) -> list[Shard]:
    """The files of a table: itself, those of a folder or a glob, or the current ones of a Delta table.

    Raises:
        SourceError: there are none, or they are of several formats.
    """
    fs, plain = locate(path)
    is_glob = any(c in plain for c in "*?[")
    with naming(path):
        if not is_glob and not fs.isdir(plain):
            return [Shard("", path)]
        if not is_glob and fs.exists(f"{plain.rstrip('/')}/_delta_log"):
            return _delta_files(path)
        infos = fs.glob(plain, detail=True) if is_glob else fs.find(plain, detail=True)
    names = sorted(infos)
    tables = [name for name in names if format or format_by_name(name)]
    formats = {format or format_by_name(name) for name in tables}
    if "parquet" in formats and not format:  # what stands beside, dataset_info.json for one, is about them
        formats, tables = {"parquet"}, [name for name in tables if format_by_name(name) == "parquet"]
    if len(formats) != 1:
        found = f"files of {' and '.join(sorted(map(str, formats)))}" if formats else "no table"
        raise SourceError(
            f"{path}: {found} here ({', '.join(_SUFFIXES)}); name one format as `format`, or a glob"
        )
    root = PurePosixPath(plain.split("*")[0]).parent if is_glob else PurePosixPath(plain)
    return [Shard(_below(root, name), fs.unstrip_protocol(name), file_cursor(infos[name])) for name in tables]


def _below(root: PurePosixPath, name: str) -> str:
    return str(PurePosixPath(name).relative_to(root)) if PurePosixPath(name).is_relative_to(root) else name


def _delta_files(path: str) -> list[Shard]:
    """Of the newest version. Files of a Delta table do not change: their names are their cursors."""
    from cloud_core.lake.storage import Storage

    try:
        table = DeltaTable(path, storage_options=Storage.from_environment().for_delta(path))
        actions = table.get_add_actions(flatten=True)
        uris = {uri.rpartition("/")[2]: uri for uri in table.file_uris()}
    except (DeltaError, OSError) as error:
        raise SourceError(
            f"{path}: a Delta table that cannot be read ({error}); check it, or export it"
        ) from error
    found = zip(actions["path"].to_pylist(), actions["num_records"].to_pylist(), strict=True)
    shards = [Shard(name, uris[name.rpartition("/")[2]], name, n) for name, n in sorted(found)]
    if not shards:
        raise SourceError(f"{path}: a Delta table without rows")
    return shards
