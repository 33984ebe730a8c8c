"""Structures in files: a folder, a glob, one file, or zip and tar archives, on any fsspec URI."""

import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from operator import itemgetter
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import Field

from cloud_core.files import modified_at
from cloud_core.sources.labels import FileLabels, LabelTable
from cloud_core.sources.opening import (
    DAMAGED,
    file_cursor,
    locate,
    naming,
    open_bytes,
    open_raw,
    read_text,
)
from cloud_core.sources.record import Partition, Record, Refusal, Since, SourceError, short_hash
from cloud_core.sources.remote import SecretLookup, from_environment
from cloud_core.sources.spec import SourceSpec, stem
from cloud_core.structures.errors import Reason, StructureError
from cloud_core.structures.formats import (
    COMPRESSIONS,
    SUFFIXES,
    TextFormat,
    format_of_name,
    split_text,
    stem_of_name,
)
from cloud_core.structures.text import MAX_BYTES, text_of

ZIP = (".zip",)
TAR = (".tar", ".tgz", ".tbz2", ".txz", ".tzst", *(f".tar{suffix}" for suffix in COMPRESSIONS))


_SIDECARS = {
    "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "metadata.json",
    "_metadata.json", "manifest.json", "package.json",
}  # fmt: skip


def is_sidecar(name: str) -> bool:
    """Whether a file tells of the data beside it: a log of Delta, a description of `datasets`, a manifest."""
    parts = PurePosixPath(name).parts
    return "_delta_log" in parts or (bool(parts) and parts[-1].lower() in _SIDECARS)


def holds_structures(name: str) -> bool:
    """Whether a file's name is that of structures or of an archive."""
    return name.lower().endswith((*ZIP, *TAR)) or format_of_name(name) is not None


class FilesSpec(SourceSpec):
    """A folder, a glob, a file or an archive of structure files."""

    kind: Literal["files"] = "files"
    path: str = Field(description="folder, glob, file, or zip or tar archive; a path or an fsspec URI")
    format: TextFormat | None = Field(
        None, description="format of every file; by default told by each name, and other files are left out"
    )
    files_per_partition: Annotated[int, Field(ge=1)] = Field(
        1000, description="files read as one partition; about, since files are dealt out by their names"
    )
    max_bytes: Annotated[int, Field(ge=1)] = Field(
        MAX_BYTES,
        description="a file above this many bytes, decompressed, is refused; each structure above 64 MB is",
    )
    id: Literal["path", "stem"] = Field(
        "path",
        description="ids: the path under the folder (a/b.cif), or the name without its suffix (b)",
    )
    labels: LabelTable | None = Field(None, description="a table beside the files with a row for each")

    def open(self, secrets: SecretLookup = from_environment) -> "FilesSource":
        return FilesSource(self)


class FilesSource:
    """One record a structure; its id is the file's path under the folder (`a/b.cif`, `a/b.cif#block`)."""

    def __init__(self, spec: FilesSpec) -> None:
        self.spec = spec
        self.name = spec.name or stem(spec.path)
        self.licence = spec.licence
        self._passed_over: list[str] = []

    def passed_over(self) -> list[str]:
        """Files that the last `partitions` left out, since their names name no format."""
        return self._passed_over

    def partitions(self, since: Since = None) -> Iterator[Partition]:
        """Files are dealt into partitions by a hash of their names, so that a new file moves one of them.

        Raises:
            SourceError: the path does not exist, or holds nothing that looks like a structure.
        """
        plain: list[tuple[str, str, str]] = []  # (id, uri, cursor)
        times: dict[str, str | None] = {}  # of last change, by URI
        found = False
        self._passed_over = []
        for relative, uri, cursor, changed in self._listing():
            lower = relative.lower()
            if lower.endswith(ZIP):
                found = True
                yield from self._zip_partitions(relative, uri)
            elif lower.endswith(TAR):
                found = True
                yield Partition(
                    relative, self._cursor(cursor), None, {"tar": uri, "prefix": self._prefix(relative)}
                )
            elif self._format(relative) and not is_sidecar(relative):
                plain.append((relative, uri, cursor))
                times[uri] = changed.isoformat() if changed else None
            elif not self._is_labels(uri):
                self._passed_over.append(relative)
        for key, group in _deal(plain, self.spec.files_per_partition, self._id):
            files = [[identifier, uri, times[uri]] for identifier, uri, _ in group]
            cursor = self._cursor(*[f"{identifier}={cursor}" for identifier, _, cursor in group])
            yield Partition(f"files {key}", cursor, len(files), {"files": files})
        if not plain and not found:
            raise SourceError(
                f"{self.spec.path}: nothing here looks like a structure ({', '.join(SUFFIXES)}, "
                "POSCAR*, CONTCAR*, or .zip and .tar archives of them); name the `format` if the files have "
                "other names"
            )

    def read(self, partition: Partition) -> Iterator[Record]:
        at = partition.at
        if "files" in at:
            records = self._read_files(at["files"])
        elif "zip" in at:
            records = self._read_zip(at["zip"], at["prefix"], at["members"])
        else:
            records = self._read_tar(at["tar"], at["prefix"])
        yield from map(FileLabels(self.spec.labels).attach, records) if self.spec.labels else records

    # -- listing

    def _listing(self) -> list[tuple[str, str, str, datetime | None]]:
        """(path under the root, URI, cursor, time of last change) of every file, sorted by path."""
        fs, path = locate(self.spec.path)
        with naming(self.spec.path):
            if any(c in path for c in "*?["):
                root = path[: min(path.index(c) for c in "*?[" if c in path)].rpartition("/")[0]
                infos = fs.glob(path, detail=True)
            elif fs.isdir(path):
                root = path.rstrip("/")
                infos = fs.find(path, detail=True)
            else:
                root = path.rpartition("/")[0]
                infos = {path: fs.info(path)}
        listing = []
        for name, info in infos.items():
            relative = name[len(root) :].lstrip("/")
            if info["type"] == "file" and not any(part.startswith(".") for part in relative.split("/")):
                uri = fs.unstrip_protocol(name)
                listing.append((relative, uri, file_cursor(info), modified_at(info)))
        return sorted(listing, key=itemgetter(0))

    def _zip_partitions(self, relative: str, uri: str) -> Iterator[Partition]:
        with open_raw(uri) as stream, zipfile.ZipFile(stream) as archive:
            members = []
            for info in sorted(archive.infolist(), key=lambda info: info.filename):
                if info.is_dir() or not _is_content(info.filename):
                    continue
                if self._format(info.filename):
                    members.append((info.filename, info.filename, f"{info.CRC}-{info.file_size}"))
                else:
                    self._passed_over.append(f"{relative}/{info.filename}")
        for key, group in _deal(members, self.spec.files_per_partition, self._id):
            at = {"zip": uri, "prefix": self._prefix(relative), "members": [name for name, _, _ in group]}
            cursor = self._cursor(*[f"{name}={cursor}" for name, _, cursor in group])
            yield Partition(f"{relative} {key}", cursor, len(group), at)

    def _prefix(self, relative: str) -> str:
        """What stands before a member's path in ids: the archive's own path where there may be several."""
        return "" if relative == PurePosixPath(self.spec.path).name else f"{relative}/"

    def _is_labels(self, uri: str) -> bool:
        if self.spec.labels is None:
            return False
        fs, path = locate(self.spec.labels.path)
        return fs.unstrip_protocol(path) == uri

    def _format(self, name: str) -> str | None:
        return self.spec.format or format_of_name(name)

    def _cursor(self, *parts: str) -> str:
        labels = [self.spec.labels.cursor()] if self.spec.labels else []
        return short_hash([self.spec.digest(), *labels, *parts])

    # -- reading

    def _read_files(self, files: Iterable[tuple[str, str, str | None]]) -> Iterator[Record]:
        for identifier, uri, changed in files:
            try:
                text = read_text(uri, identifier, self.spec.max_bytes)
            except SourceError as error:
                yield self._refused(identifier, Refusal.UNREADABLE, str(error))
            except StructureError as error:
                yield self._refused(identifier, error.reason, str(error))
            else:
                yield from self._records(
                    identifier, text, datetime.fromisoformat(changed) if changed else None
                )

    def _read_zip(self, uri: str, prefix: str, members: Iterable[str]) -> Iterator[Record]:
        with open_raw(uri) as stream, zipfile.ZipFile(stream) as archive:
            for name in members:
                if not _is_safe(name):
                    yield self._unsafe(prefix, name)
                    continue
                try:
                    with archive.open(name) as member:
                        text = text_of(member, name, self.spec.max_bytes)
                except StructureError as error:
                    yield self._refused(prefix + name, error.reason, f"{uri}: {error}")
                except (*DAMAGED, KeyError, RuntimeError, NotImplementedError) as error:
                    # RuntimeError: the member is encrypted; NotImplementedError: a compression Python lacks
                    yield self._refused(prefix + name, Refusal.UNREADABLE, f"{uri}, member {name}: {error}")
                else:
                    yield from self._records(prefix + name, text)

    def _read_tar(self, uri: str, prefix: str) -> Iterator[Record]:
        with open_bytes(uri) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for info in archive:
                if info.isdir() or not _is_content(info.name) or not self._format(info.name):
                    continue
                if not _is_safe(info.name):
                    yield self._unsafe(prefix, info.name)
                    continue
                member = archive.extractfile(info) if info.isreg() else None
                if member is None:
                    message = f"{uri}, member {info.name}: a link or a device, not a file"
                    yield self._refused(prefix + info.name, Refusal.UNREADABLE, message)
                    continue
                try:
                    with member:
                        text = text_of(member, info.name, self.spec.max_bytes)
                except StructureError as error:
                    yield self._refused(prefix + info.name, error.reason, f"{uri}: {error}")
                else:
                    yield from self._records(prefix + info.name, text)
            # tarfile takes a cut archive for a finished one; a whole one ends with zeros.
            while stream.read(1 << 16):
                pass
            if any(stream.tail):
                raise SourceError(f"{uri}: truncated (no end-of-archive mark); fetch it again")

    def _records(self, identifier: str, text: str, changed: datetime | None = None) -> Iterator[Record]:
        native = self._id(identifier)
        is_empty = True
        try:
            for suffix, payload, format in split_text(text, self._format(identifier) or ""):
                is_empty = False
                if len(payload) > MAX_BYTES:
                    message = f"{identifier}{suffix}: a text of more than {MAX_BYTES} bytes"
                    error = StructureError(Reason.TOO_LARGE, message)
                    yield self._refused(identifier, error.reason, str(error), suffix)
                    continue
                yield Record(native + suffix, payload, format, self.name, self.licence, modified_at=changed)
        except StructureError as error:
            yield self._refused(identifier, error.reason, f"{identifier}: {error}")
        else:
            if is_empty:
                message = f"{identifier}: no structure in it"
                yield self._refused(identifier, Refusal.MISSING_STRUCTURE, message)

    def _unsafe(self, prefix: str, name: str) -> Record:
        return self._refused(
            prefix + name, Refusal.UNSAFE_PATH, f"the member's path leaves the archive: {name}"
        )

    def _refused(self, path: str, refusal: Refusal | Reason, message: str, suffix: str = "") -> Record:
        native = self._id(path) + suffix
        return Record(native, "", "", self.name, self.licence, refusal=refusal, message=message)

    def _id(self, path: str) -> str:
        return path if self.spec.id == "path" else stem_of_name(path)


def _deal(
    items: list[tuple[str, str, str]], per_partition: int, id_of: Callable[[str], str]
) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """Sorted items dealt by a hash of their ids into 2^k groups, k the least that keeps them small.

    By ids, so that two files with one id (of two folders) are read in order, by one reader.
    """
    bits = 0
    while (per_partition << bits) < len(items):
        bits += 1
    groups: dict[int, list[tuple[str, str, str]]] = {}
    for item in items:
        groups.setdefault(zlib.crc32(id_of(item[0]).encode()) & ((1 << bits) - 1), []).append(item)
    for bucket in sorted(groups):
        yield f"{bucket}/{1 << bits}", groups[bucket]


def _is_content(name: str) -> bool:
    """False for what archivers of some systems add (`__MACOSX/…`, `._name`)."""
    parts = PurePosixPath(name).parts
    return "__MACOSX" not in parts and not (parts and parts[-1].startswith("."))


def _is_safe(name: str) -> bool:
    path = PurePosixPath(name.replace("\\", "/"))
    return not path.is_absolute() and ".." not in path.parts and ":" not in path.parts[0]
