"""A process that handles millions of records: what Python and the C library need to be told."""

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
_LARGE_BLOCK = 2**20  # bytes


@contextmanager
def many_records() -> Iterator[None]:
    """While records pass by the million: memory stays flat, and garbage is looked for among them alone.

    Left to itself, glibc takes larger and larger blocks from its heap, where they leave holes: a million
    rows cost 200 MB. Arrow's own allocator keeps for itself what each thread's deepest read took. And of
    the time to read a record, half went into walks through all that is imported.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):  # other C libraries have none
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)
    pool = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        pa.set_memory_pool(pool)
