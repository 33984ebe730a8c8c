"""Public sets by name, as `sets.yaml` lists them: `matbench:phonons`, `wbm`, `jarvis:dft_3d`, …"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from cloud_core.config import ConfigSection
from cloud_core.sources.download import cache_folder, fetch, tag
from cloud_core.sources.files import FilesSpec
from cloud_core.sources.opening import cursor_of
from cloud_core.sources.record import Partition, Record, Since, Source, SourceError, short_hash
from cloud_core.sources.remote import Politeness, SecretLookup, from_environment
from cloud_core.sources.spec import SourceSpec
from cloud_core.sources.tables import TableSpec


class RemoteFile(ConfigSection):
    """A file of a set; `count` of them where the address has a `{number}`."""

    url: str
    name: str = ""
    sha256: str | None = None
    md5: str | None = None
    count: int | None = None
    moves: bool = False  # the address stays and the file is renewed

    def path(self, folder: Path, url: str) -> Path:
        """Where the file of this address is kept."""
        return folder / (self.name or url.rpartition("/")[2])


class SetEntry(ConfigSection):
    """One set of the catalogue: a `file` that is downloaded, or an `address` that fsspec reads in place."""

    file: RemoteFile | None = None
    address: str = ""
    labels_file: RemoteFile | None = None
    table: dict[str, Any] | None = None
    files: dict[str, Any] | None = None
    rows: int | None = None
    licence: str
    about: str
    reference: str


class SetSpec(SourceSpec):
    """A public set, downloaded once or read from a given file of the same form."""

    kind: Literal["set"] = "set"
    set: str = Field(description="name in the catalogue, e.g. matbench:phonons, wbm, jarvis:dft_3d, cod")
    file: str = Field("", description="a file to read instead of the download (not held to the checksum)")
    labels_file: str = Field(
        "", description="instead of the download of the labels, where a set has them apart"
    )
    politeness: Politeness = Politeness()

    def open(self, secrets: SecretLookup = from_environment) -> "SetSource":
        return SetSource(self)


@dataclass(frozen=True)
class _File:
    path: Path
    url: str  # empty for a given file
    cursor: str


class SetSource:
    """Listing asks nobody (but where a file is renewed under one address): the catalogue says what there
    is, and its checksums are the cursors. Reading downloads what is not in the cache."""

    def __init__(self, spec: SetSpec) -> None:
        self.spec = spec
        self.entry = entry(spec.set)
        self.name = spec.name or spec.set.replace(":", "_")
        self.licence = self.entry.licence
        self._tag = ""
        self._folder = cache_folder("sets", spec.set.replace(":", "_"))
        if spec.labels_file and self.entry.labels_file is None:
            raise SourceError(f"{spec.set}: this set has no file of labels apart; leave `labels_file` out")

    def partitions(self, since: Since = None) -> Iterator[Partition]:
        """One a file; of an address those of its table."""
        if self._in_place:
            yield from self._source(self.entry.address).partitions()
            return
        for number, file in enumerate(self._files()):
            n_rows = self.entry.rows if file.url else None  # a given file may be a part of the set
            yield Partition(file.path.name, file.cursor, n_rows, {"number": number})

    def read(self, partition: Partition) -> Iterator[Record]:
        if self._in_place:
            yield from self._source(self.entry.address).read(partition)
            return
        file = self._files()[partition.at["number"]]
        remote = self.entry.file
        if file.url and remote is not None:
            fetch(file.url, file.path, remote.sha256, remote.md5, self.spec.politeness)
        source = self._source(str(file.path))
        for inner in source.partitions():
            yield from source.read(inner)

    # -- inside

    @property
    def _in_place(self) -> bool:
        return bool(self.entry.address) and not self.spec.file

    def _files(self) -> list["_File"]:
        """The given file, or what the catalogue names: where it is or will be."""
        how = [self.entry.table, self.entry.files, self.entry.licence, self.spec.labels_file]
        if self.spec.file:
            return [_File(Path(self.spec.file), "", short_hash([cursor_of(self.spec.file), how]))]
        remote = self.entry.file
        assert remote is not None
        folder = self._folder
        if remote.moves:
            if not self._tag:
                self._tag = tag(remote.url, self.spec.politeness)
            folder /= short_hash(self._tag)
        found = []
        for number in range(remote.count or 1):
            url = remote.url.format(number=number)
            content = remote.sha256 or remote.md5 or url
            found.append(_File(remote.path(folder, url), url, short_hash([content, self._tag, how])))
        return found

    def _source(self, path: str) -> Source:
        values: dict[str, Any] = {"name": self.name, "licence": self.licence, "path": path}
        if self.entry.table is None:
            return FilesSpec.model_validate(values | (self.entry.files or {})).open()
        table = dict(self.entry.table)
        if "join" in table:
            labels = self._labels()
            if labels is None:  # a given file without its labels
                table = {k: v for k, v in table.items() if k not in ("join", "labels")}
            else:
                table["join"] = table["join"] | {"path": str(labels)}
        return TableSpec.model_validate(values | table).open()

    def _labels(self) -> Path | None:
        if self.spec.labels_file:
            return Path(self.spec.labels_file)
        if self.spec.file or self.entry.labels_file is None:
            return None
        remote = self.entry.labels_file
        return fetch(
            remote.url, remote.path(self._folder, remote.url), remote.sha256, remote.md5, self.spec.politeness
        )


@cache
def catalogue() -> dict[str, SetEntry]:
    """Every set by its name."""
    families = yaml.safe_load((files(__package__) / "sets.yaml").read_text(encoding="utf-8"))
    entries = {}
    for family, values in families.items():
        shared = {key: values[key] for key in ("licence", "about", "reference")}
        for name, one in values["sets"].items():
            entries[f"{family}:{name}".rstrip(":")] = SetEntry.model_validate(shared | one)
    return entries


def entry(name: str) -> SetEntry:
    """The catalogue's entry.

    Raises:
        SourceError: there is none of that name; the message lists those there are.
    """
    if name not in catalogue():
        family = name.partition(":")[0]
        near = [known for known in catalogue() if known.partition(":")[0] == family] or list(catalogue())
        raise SourceError(f"no public set named {name!r}; there are: {', '.join(near)}")
    return catalogue()[name]
