"""Bytes of a file as text: every compression and encoding, damage, and limits."""

import bz2
import gzip
import io
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from cloud_core.structures.errors import Reason, StructureError
from cloud_core.structures.text import decode, decompressed, read_file

TEXT = "data_x\n_cell_length_a 3\n# Å é 中\n" * 500
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_text_comes_back(suffix: str, encoding: str, tmp_path: Path) -> None:
    """Whatever the name says: the first bytes tell the compression."""
    data = TEXT.replace("\n", "\r\n").encode(encoding)
    for name in (f"x.cif.{suffix}", "x.cif"):
        (tmp_path / name).write_bytes(COMPRESS[suffix](data))
        assert read_file(tmp_path / name) == TEXT


@pytest.mark.parametrize("suffix", COMPRESS)
def test_two_streams_in_one_file_are_both_read(suffix: str) -> None:
    data = COMPRESS[suffix](b"first\n") + COMPRESS[suffix](b"second\n")
    assert decompressed(io.BytesIO(data), "x") == b"first\nsecond\n"


@pytest.mark.parametrize("suffix", COMPRESS)
def test_damaged_data_is_refused_wherever_it_is_cut(suffix: str) -> None:
    whole = COMPRESS[suffix](TEXT.encode())
    for end in {*range(10, len(whole) - 1, 7), len(whole) - 1}:
        with pytest.raises(StructureError) as caught:
            decompressed(io.BytesIO(whole[:end]), "x.cif")
        assert caught.value.reason is Reason.UNREADABLE and "x.cif" in str(caught.value), end
    for place in range(10, len(whole), 3):
        damaged = whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :]
        try:
            data = decompressed(io.BytesIO(damaged), "x.cif")
        except StructureError:
            continue
        assert len(data) <= 64_000_000


def test_a_limit_is_told_without_reading_on() -> None:
    class Endless(io.RawIOBase):
        taken = 0

        def read(self, size: int = -1, /) -> bytes:
            self.taken += size
            return b"x" * size

    stream = Endless()
    with pytest.raises(StructureError) as caught:
        decompressed(stream, "endless", limit=1000)  # type: ignore[arg-type]
    assert caught.value.reason is Reason.TOO_LARGE
    assert stream.taken < 1_000_000


def test_encodings_and_line_ends() -> None:
    assert decode(b"a\r\nb\rc\n") == "a\nb\nc\n"
    assert decode("é".encode("latin-1")) == "é"
    assert decode("\ufeffx".encode("utf-16-le")) == decode("\ufeffx".encode("utf-16-be")) == "x"
    assert decode(b"") == ""


def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere", Path("a\0b")):
        with pytest.raises(StructureError) as caught:
            read_file(path)
        assert caught.value.reason is Reason.FILE_NOT_FOUND
