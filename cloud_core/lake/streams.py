"""Reading a table while another one, or another version, is written."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa


def in_a_thread(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """`batches`, read by a thread of its own: deltalake cannot read while it writes."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        while (batch := pool.submit(next, batches, None).result()) is not None:
            yield batch
