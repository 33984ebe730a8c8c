"""Programs that several processes run at once: `python writers.py URI PROGRAM …`."""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from conftest import make_rows

from cloud_core.lake.table import Table


def chunks(uri: str, size: int, n_rows: int, pause_s: float = 0.0) -> int:
    """Claim and append rows 0 … n_rows in chunks of `size`; returns how many commits were made here."""
    table = Table.open(uri)
    written = 0
    for start in range(0, n_rows, size):
        rows = make_rows(start, min(size, n_rows - start))
        claim = table.claim(rows, f"chunk {start} {size}")
        if claim.todo.any():
            time.sleep(pause_s)
            written += table.append_chunk(rows.filter(claim.todo.tolist()), claim.key, claim.revisions)
    return written


def forever(uri: str) -> None:
    """One row a commit, until killed; prints each number once it stands in the table."""
    table = Table.open(uri)
    for number in range(10_000):
        rows = make_rows(number, 1)
        claim = table.claim(rows, f"row {number}")
        if claim.todo.any():
            table.append_chunk(rows, claim.key, claim.revisions)
        print(number, flush=True)


if __name__ == "__main__":
    uri, program, *arguments = sys.argv[1:]
    if program == "chunks":
        print(chunks(uri, int(arguments[0]), int(arguments[1]), float(arguments[2])))
    else:
        forever(uri)
    # Arrow's threads now and then abort a process that ends right after a scan (apache/arrow#34314, #39862).
    sys.stdout.flush()
    os._exit(0)
