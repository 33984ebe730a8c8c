"""Bytes of a structure file as text: compressed or not, in any encoding, and never more than a limit."""

import bz2
import codecs
import gzip
import io
import lzma
import os
import zlib
from pathlib import Path
from typing import IO, Any

from cloud_core.structures.errors import Reason, StructureError

MAX_BYTES = 64_000_000  # of one record, decompressed; more is no crystal structure
# First bytes; those of bzip2 are followed by a digit, and by a block or the end.
_MAGIC = {b"\x1f\x8b\x08": "gzip", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_MAGIC |= {b"BZh%d%b" % (n, mark): "bz2" for n in range(1, 10) for mark in (b"1AY&SY", b"\x17rE8P\x90")}


def read_file(path: Path) -> str:
    """The text of a file, decompressed where it is compressed.

    Raises StructureError where it cannot be read, is damaged, or holds more than `MAX_BYTES`.
    """
    try:
        with path.open("rb") as stream:
            return text_of(stream, str(path))
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise StructureError(Reason.FILE_NOT_FOUND, f"{path}: {reason}") from error
    except ValueError as error:
        if isinstance(error, StructureError):
            raise
        raise StructureError(Reason.FILE_NOT_FOUND, f"{str(path)!r}: {error}") from error


def text_of(stream: IO[bytes], name: str, limit: int = MAX_BYTES) -> str:
    """The text of a stream; see `decompressed` and `decode`."""
    return decode(decompressed(stream, name, limit))


def decompressed(stream: IO[bytes], name: str, limit: int = MAX_BYTES) -> bytes:
    """The content of a stream; gzip, bzip2, xz and Zstandard are recognised by their first bytes.

    Raises StructureError where it is damaged, or longer than the limit (which is told without reading on).
    """
    opened, kind = decompressing(stream)
    try:
        data = opened.read(limit + 1)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise _damaged(name, kind, error) from error
    except OSError as error:
        if kind is None:
            raise
        raise _damaged(name, kind, error) from error
    if len(data) > limit:
        raise StructureError(Reason.TOO_LARGE, f"{name}: more than {limit} bytes")
    return data


def _damaged(name: str, kind: str | None, error: Exception) -> StructureError:
    return StructureError(Reason.UNREADABLE, f"{name}: truncated or damaged ({kind or 'data'}: {error})")


def decompressing(stream: IO[bytes]) -> tuple[IO[bytes], str | None]:
    """(stream of the decompressed bytes, compression) of a stream; None for one that is not compressed.

    Reading it raises EOFError, zlib.error, lzma.LZMAError or OSError on damaged data.
    """
    head = stream.read(10)
    whole = io.BufferedReader(_Chained(head, stream), 1 << 16)
    kind = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)
    return _opened(whole, kind), kind


class _Chained(io.RawIOBase):
    """A stream whose first bytes were read already."""

    def __init__(self, head: bytes, rest: IO[bytes]) -> None:
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        part = self._head[: len(buffer)] if self._head else self._rest.read(len(buffer))
        self._head = self._head[len(part) :]
        buffer[: len(part)] = part
        return len(part)


def _opened(stream: Any, kind: str | None) -> Any:
    if kind == "gzip":
        return gzip.GzipFile(fileobj=stream)
    if kind == "bz2":
        return bz2.BZ2File(stream)
    if kind == "xz":
        return lzma.LZMAFile(stream)
    if kind == "zstd":
        return io.BufferedReader(_Zstandard(stream), 1 << 16)
    return stream


class _Zstandard(io.RawIOBase):
    """Frames of Zstandard; their library takes a stream that was cut for one that ended."""

    _STEP = 512  # bytes taken at once: four can stand for 128 kB of one letter

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._frame: Any = None
        self._input = b""
        self._output = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        while not self._output:
            self._input = self._input or self._stream.read(self._STEP)
            if not self._input:
                if self._frame is not None:
                    raise EOFError("it ends before its end")
                return 0
            self._decompress()
        part = self._output[: len(buffer)]
        self._output = self._output[len(part) :]
        buffer[: len(part)] = part
        return len(part)

    def _decompress(self) -> None:
        import zstandard

        self._frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
        try:
            self._output = self._frame.decompress(self._input)
        except zstandard.ZstdError as error:
            raise EOFError(str(error)) from error
        self._input = b""
        if self._frame.eof:
            self._input, self._frame = self._frame.unused_data, None


def decode(data: bytes) -> str:
    """Text of a structure file, as `plain_text` leaves it: UTF-8 or UTF-16, told by its mark or zeros, else
    Latin-1 (what goes beyond ASCII is in comments and names, which no structure depends on)."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return plain_text(data.decode("utf-16", "replace"))
    first, second = data[:64:2], data[1:64:2]
    if second and not any(second) and all(first):
        return plain_text(data.decode("utf-16-le", "replace"))
    if second and not any(first) and all(second):
        return plain_text(data.decode("utf-16-be", "replace"))
    try:
        return plain_text(data.decode("utf-8"))
    except UnicodeDecodeError:
        return plain_text(data.decode("latin-1"))


def plain_text(text: str) -> str:
    """A text without the byte order mark, line ends as LF."""
    text = text.removeprefix("\ufeff")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def check_size(text: str | bytes) -> None:
    """Raise StructureError for a text above `MAX_BYTES`."""
    if len(text) > MAX_BYTES:
        raise StructureError(Reason.TOO_LARGE, f"a text of more than {MAX_BYTES} bytes")
