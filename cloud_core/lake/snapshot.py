"""A pinned version of a table, as the plain list of files that a training run reads."""

from dataclasses import dataclass
from typing import Self

from cloud_core.lake.errors import LakeError
from cloud_core.lake.pins import pin as pin_version
from cloud_core.lake.schemas import ENCODED
from cloud_core.lake.storage import Storage
from cloud_core.lake.table import Table


@dataclass(frozen=True)
class Snapshot:
    """The encoded structures of one version: every row of every file is current."""

    uri: str
    version: int
    n_rows: int
    files: tuple[str, ...]

    @classmethod
    def of(
        cls,
        table: Table | str,
        version: int | None = None,
        pin: str | None = None,
        storage: Storage | None = None,
    ) -> Self:
        """The newest version, or a named one; `pin` keeps it from `vacuum` under that name.

        While an update runs (or lies unfinished) the newest version holds superseded rows beside those that
        replace them; the snapshot is then the last version before it.

        Raises:
            LakeError: no such version, or it lies inside an update.
        """
        uri = table if isinstance(table, str) else table.uri
        storage = storage or (table.storage if isinstance(table, Table) else None)
        opened = Table.open(uri, storage, version)
        if version is not None and not opened.is_purged:
            raise LakeError(
                f"{uri}: version {version} lies inside an update (some rows replace others); take "
                f"{_last_purged(uri, version, storage)}, or `cloud compact` the table and take the newest"
            )
        if not opened.is_purged:
            opened = Table.open(uri, storage, _last_purged(uri, opened.version, storage))
        if pin is not None:
            pin_version(uri, pin, opened.version, storage)
        files = opened.files(ENCODED)
        return cls(uri, opened.version, opened.counts()[ENCODED], tuple(files))


def _last_purged(uri: str, version: int, storage: Storage | None) -> int:
    for earlier in range(version - 1, -1, -1):
        if Table.open(uri, storage, earlier).is_purged:
            return earlier
    raise LakeError(f"{uri}: no version before {version} is free of replaced rows; `cloud compact` the table")
