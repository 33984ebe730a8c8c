"""Encoding without a cluster, for some thousands of structures."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pyarrow as pa

from cloud_core.encoding.options import EncodingOptions
from cloud_core.encoding.rows import Item, encode_chunk

MOST = 5000
"""structures, above which starting workers pays"""


class ThisProcess:
    """Has portions encoded one after another, each structure under its limits in a child of this process."""

    def __init__(self, options: EncodingOptions) -> None:
        self._options = options
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encode")

    def submit(self, items: Sequence[Item]) -> "Future[pa.Table]":
        options = self._options
        return self._thread.submit(
            encode_chunk, items, options.settings, options.timeout_s, options.memory_mb
        )
