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
from typing import IO, Any

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from cloud_core.sources.record import SourceError, short_hash
from cloud_core.structures.text import decompressing, text_of

# What the readers below raise where a compressed file or an archive ends early or is damaged.
DAMAGED = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile)

_EXTRAS = {"hf": "hub", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "adl": "azure"}
_CLIENTS = (
    "httpx",
    "httpx2",
    "requests",
    "aiohttp",
    "huggingface_hub",
    "botocore",
    "gcsfs",
    "azure",
    "adlfs",
)


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
    except Exception as error:  # clients of stores have errors of their own, and each its own kinds
        if type(error).__module__.partition(".")[0] not in _CLIENTS:
            raise
        raise SourceError(
            f"{uri}: cannot be read ({type(error).__name__}: {error}); check the address and the network, or "
            "download the files and name their folder"
        ) from error


def locate(uri: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URI (or local path) and the path in it. Credentials come from the environment."""
    try:
        fs, path = url_to_fs(uri)
    except ImportError as error:
        extra = _EXTRAS.get(uri.partition(":")[0])
        how = f"pip install 'cloud-pipeline[{extra}]'" if extra else "install the package that it names"
        raise SourceError(
            f"{uri}: its client is not installed ({error}); {how}, or name a local copy"
        ) from error
    except ValueError as error:
        raise SourceError(f"{uri}: not a path or URI that can be opened ({error})") from error
    return fs, path


@contextmanager
def open_raw(uri: str, compression: str | None = None) -> Iterator[IO[bytes]]:
    """`uri` as a stream of its bytes as they are. Raises SourceError where they cannot be read."""
    fs, path = locate(uri)
    with naming(uri), fs.open(path, "rb", compression=compression) as stream:
        yield stream


def read_text(uri: str, name: str, limit: int) -> str:
    """The text of the structure file at `uri`, decompressed; `name` stands for it in messages.

    Raises:
        SourceError: it cannot be read, or an HTML page is in its place.
        StructureError: it is damaged, or longer than `limit` bytes.
    """
    with open_raw(uri) as stream:
        text = text_of(stream, name, limit)
    refuse_html(text, uri)
    return text


@contextmanager
def open_bytes(uri: str) -> Iterator["DataStream"]:
    """`uri` as a stream of decompressed bytes (gzip, bzip2, xz or Zstandard by its first bytes, or the first
    member of a .zip).

    Raises:
        SourceError: the file is missing, unreadable, truncated, or an HTML page is in its place.
    """
    with open_raw(uri, "zip" if uri.lower().endswith(".zip") else None) as stream:
        yield DataStream(decompressing(stream)[0], uri)


@contextmanager
def open_text(uri: str) -> Iterator[io.TextIOWrapper]:
    """`uri` as text, line ends as they are: UTF-8 or UTF-16 by its mark; bytes that are neither are taken
    as Latin-1. Raises SourceError as `open_bytes`."""
    with open_bytes(uri) as stream:
        buffered = io.BufferedReader(stream, 1 << 16)
        is_utf16 = buffered.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        encoding, errors = ("utf-16", "replace") if is_utf16 else ("utf-8-sig", "as_latin_1")
        yield io.TextIOWrapper(buffered, encoding=encoding, errors=errors, newline="")


def _as_latin_1(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return error.object[error.start : error.end].decode("latin-1"), error.end


codecs.register_error("as_latin_1", _as_latin_1)


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


def refuse_html(content: str | bytes, uri: str) -> None:
    head = content[:256]
    start = (head if isinstance(head, str) else head.decode("utf-8", "replace")).lstrip("\ufeff \t\r\n")
    if start.lower().startswith(("<!doctype html", "<html")):
        raise SourceError(f"{uri}: an HTML page was found where data was expected; check the address")


def cursor_of(uri: str) -> str:
    """`file_cursor` of the file at a URI. Raises SourceError."""
    fs, path = locate(uri)
    with naming(uri):
        return file_cursor(fs.info(path))


def file_cursor(info: dict[str, Any]) -> str:
    """What moves when a file's content does: the store's checksum where it has one, else size and time."""
    for key in ("ETag", "etag", "md5Hash", "contentHash", "content_md5"):
        if info.get(key):
            return str(info[key]).strip('"')
    changed = info.get("mtime") or info.get("LastModified") or info.get("last_modified") or ""
    return short_hash([info.get("size"), str(changed)])
