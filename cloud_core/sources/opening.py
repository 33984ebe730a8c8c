"""Opening what a URI names: any fsspec file system, compressed or not, with errors that name the file."""

import codecs
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import IO, Any

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from cloud_core.sources.record import SourceError, short_hash

# What the readers below raise where a compressed file or an archive ends early or is damaged.
DAMAGED = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile)
COMPRESSIONS = (".gz", ".bz2", ".xz")


@contextmanager
def naming(uri: str) -> Iterator[None]:
    """Turn the errors of reading `uri` into a SourceError that says which file and what to do."""
    try:
        yield
    except FileNotFoundError as error:
        raise SourceError(f"{uri}: no such file or folder; check the path") from error
    except PermissionError as error:
        raise SourceError(f"{uri}: no permission to read it; check its owner or the credentials") from error
    except DAMAGED as error:
        raise SourceError(f"{uri}: truncated or damaged ({error}); fetch it again") from error
    except OSError as error:
        raise SourceError(f"{uri}: cannot be read ({error}); check the path and the connection") from error


def locate(uri: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URI (or local path) and the path in it. Credentials come from the environment."""
    try:
        fs, path = url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise SourceError(f"{uri}: not a path or URI that can be opened ({error})") from error
    return fs, path


@contextmanager
def open_bytes(uri: str) -> Iterator["DataStream"]:
    """`uri` as a stream of decompressed bytes (.gz, .bz2, .xz, or a .zip with one member).

    Raises:
        SourceError: the file is missing, unreadable, truncated, or an HTML page stands in its place.
    """
    fs, path = locate(uri)
    with naming(uri), fs.open(path, "rb", compression=compression(path)) as stream:
        yield DataStream(stream, uri)


class DataStream(io.BufferedIOBase):
    """A stream that looks at its first bytes (a server's error page must not pass for data), names the
    file in its errors, and keeps its last bytes (`tail`)."""

    def __init__(self, stream: IO[bytes], uri: str) -> None:
        self._stream = stream
        self._uri = uri
        self._first = True
        self.tail = b""

    def read(self, size: int | None = -1) -> bytes:
        with naming(self._uri):
            data = self._stream.read(-1 if size is None else size)
        if data:
            if self._first:
                self._first = False
                refuse_html(data, self._uri)
            self.tail = data[-512:]
        return data

    read1 = read

    def readable(self) -> bool:
        return True


def refuse_html(head: bytes, uri: str) -> None:
    start = head[:256].lstrip(codecs.BOM_UTF8 + b" \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        raise SourceError(f"{uri}: an HTML page stands where data was expected; check the address")


def file_cursor(info: dict[str, Any]) -> str:
    """What moves when a file's content does: the store's checksum where it has one, else size and time."""
    for key in ("ETag", "etag", "md5Hash", "contentHash", "content_md5"):
        if info.get(key):
            return str(info[key]).strip('"')
    changed = info.get("mtime") or info.get("LastModified") or info.get("last_modified") or ""
    return short_hash([info.get("size"), str(changed)])


def compression(path: str) -> str | None:
    """fsspec's name of a file's compression, by its ending."""
    endings = {"zip": (".zip",), "gzip": (".gz", ".tgz"), "bz2": (".bz2", ".tbz2"), "xz": (".xz", ".txz")}
    lower = path.lower()
    return next((name for name, known in endings.items() if lower.endswith(known)), None)


def bare_name(path: str) -> str:
    """The file name in lower case, without a compression's suffix: `a/POSCAR_1.GZ` -> `poscar_1`."""
    name = PurePosixPath(path).name.lower()
    for suffix in COMPRESSIONS:
        name = name.removesuffix(suffix)
    return name


def whole_lines(text: str) -> str:
    """The text with its last line ended: a single line without an end would be taken for a path, and what
    a source says must never open a file of this machine."""
    return text if "\n" in text else text + "\n"


def decode(data: bytes) -> str:
    """Text of a structure file: UTF-8 or UTF-16 by its mark, else Latin-1 (CIF itself is ASCII; what goes
    beyond it stands in comments and names, which no structure depends on). Line ends become LF."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = data.decode("utf-16", "replace")
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text
