"""The child process of `workers`: encodes batches that come in on stdin, answers on stdout.

Run as `python -m cloud_core.scope.worker PROGRESS_FD MEMORY_MB`. A structure that is over its time is ended
by the kernel's alarm clock together with this process, so that a C library that hangs cannot escape it; the
parent reads from the shared progress counter which structure it was.
"""

import marshal
import mmap
import os
import resource
import select
import signal
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np

from cloud_core.scope.encoder import encode_cell
from cloud_core.scope.settings import EncoderSettings
from cloud_core.structures.cell import Cell
from cloud_core.structures.errors import Reason, StructureError
from cloud_core.structures.formats import read, read_quickly

HEADER = struct.Struct("<Q")  # length of the message that follows
PROGRESS = struct.Struct("<QQ")  # batch, index of the structure in it
_PARENT_CHECK_S = 5.0


def pack_cell(cell: Cell) -> tuple[Any, ...]:
    """A cell as plain values, for marshal."""
    occupancies = None if cell.occupancies is None else tuple(dict(o) for o in cell.occupancies)
    arrays = (np.ascontiguousarray(array, dtype=float) for array in (cell.lattice, cell.fractions))
    lattice, fractions = (array.tobytes() for array in arrays)
    return (lattice, cell.species, fractions, occupancies)


def _unpack_cell(values: tuple[Any, ...]) -> Cell:
    lattice, species, fractions, occupancies = values
    return Cell(
        np.frombuffer(lattice).reshape(-1, 3), species, np.frombuffer(fractions).reshape(-1, 3), occupancies
    )


def main() -> None:
    """Serve batches until stdin ends or the parent is gone."""
    progress = mmap.mmap(int(sys.argv[1]), PROGRESS.size)
    parent = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    answers = os.dup(1)
    # What C libraries print goes where the parent looks for last words.
    os.dup2(2, 1)
    _limit_memory(int(sys.argv[2]))
    while _wait_for_request(parent):
        header = _read_exactly(HEADER.size)
        if not header:
            break
        message = marshal.loads(_read_exactly(HEADER.unpack(header)[0]))
        answer = marshal.dumps(_encode_batch(progress, *message))
        _write(answers, HEADER.pack(len(answer)) + answer)


def _wait_for_request(parent: int) -> bool:
    """Wait until stdin can be read; False when the parent is gone."""
    while not select.select([0], [], [], _PARENT_CHECK_S)[0]:
        if os.getppid() != parent:
            return False
    return True


def _read_exactly(length: int) -> bytes:
    """`length` bytes of stdin; empty where it ended before."""
    parts = []
    while length:
        part = os.read(0, min(length, 1 << 20))
        if not part:
            return b""
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _write(descriptor: int, message: bytes) -> None:
    view = memoryview(message)
    while view:
        view = view[os.write(descriptor, view) :]


def _limit_memory(memory_mb: int) -> None:
    """Allow `memory_mb` MiB beyond what this process has mapped with all libraries loaded; 0: no limit."""
    if memory_mb:
        _import_pymatgen()
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + (memory_mb << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _import_pymatgen() -> None:
    import pymatgen.io.cif
    import pymatgen.io.vasp  # noqa: F401


def _encode_batch(
    progress: mmap.mmap,
    batch: int,
    settings: tuple[Any, ...],
    timeout_s: float,
    items: list[tuple[Any, str | None]],
) -> list[tuple[Any, ...]]:
    encoder_settings = EncoderSettings(*settings)

    def start(index: int) -> None:
        PROGRESS.pack_into(progress, 0, batch, index)
        signal.setitimer(signal.ITIMER_REAL, timeout_s)

    # Plain ones are read ahead: code that has just run is still in the processor's caches.
    cells = []
    for index, (payload, format) in enumerate(items):
        start(index)
        cells.append(_unpack_cell(payload) if type(payload) is tuple else read_quickly(payload, format))
    answers = []
    for index, (cell, item) in enumerate(zip(cells, items, strict=True)):
        start(index)
        answers.append(_encode(cell, *item, encoder_settings, timeout_s))
    signal.setitimer(signal.ITIMER_REAL, 0)
    return answers


def _encode(
    cell: Cell | None, payload: Any, format: str | None, settings: EncoderSettings, timeout_s: float
) -> tuple[Any, ...]:
    """The fields of the structure's Scope, or reason and message. cell: None where it is still to be read."""
    try:
        if cell is None:
            if "pymatgen.io.vasp" not in sys.modules:
                # The slow readers take seconds to load: not this structure's time.
                signal.setitimer(signal.ITIMER_REAL, 0)
                _import_pymatgen()
                signal.setitimer(signal.ITIMER_REAL, timeout_s)
            cell = read(payload, format)
        scope = encode_cell(cell, settings)
    except StructureError as error:
        return (error.reason.value, str(error))
    except MemoryError:
        return (Reason.OUT_OF_MEMORY.value, str(StructureError(Reason.OUT_OF_MEMORY, "out of memory")))
    return tuple(getattr(scope, name) for name in scope.__slots__)


if __name__ == "__main__":
    main()
