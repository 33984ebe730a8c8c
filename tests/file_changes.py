"""How often one plain CIF changes file on its way: `python tests/file_changes.py [--list]`.

Counts two successive calls of functions of this project that stand in different files, from the read of the
record to its committed row, when everything is warm. Dask's worker and the encoder's child are called in this
process, so that `sys.setprofile` sees their functions too.
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import Future
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from types import FrameType, SimpleNamespace
from typing import Any

import pyarrow as pa

from cloud_core.encoding.engine import Encoding, plan
from cloud_core.encoding.options import EncodingOptions
from cloud_core.encoding.rows import Item, encode_packed, pack
from cloud_core.lake.table import Table
from cloud_core.scope import isolation
from cloud_core.sources.catalogue import open_source

PROJECT = Path(__file__).parent.parent
PACKAGES = tuple(str(PROJECT / name) for name in ("cloud_core", "tasks", "flows"))


class Here:
    """A worker in this process."""

    def __init__(self, options: EncodingOptions) -> None:
        self.options = options

    def submit(self, items: Sequence[Item]) -> Any:
        packed = pack(items)
        settings, timeout_s = self.options.settings, self.options.timeout_s
        outcome: pa.Table = encode_packed(packed, settings, timeout_s, self.options.memory_mb)
        return SimpleNamespace(result=lambda: outcome, cancel=lambda: None)


def submit_here(
    self: Any, batch: Any, settings: Any, timeout_s: float, ended: "SimpleQueue[Any]"
) -> tuple[Any, Any]:
    """In place of the encoder's child process."""
    future: Future[bytes] = Future()
    future.set_result(isolation._encode_batch(1, settings, timeout_s, [item for _, _, item in batch.work]))
    ended.put((self, batch, future))
    return future, SimpleNamespace(active=True)


def calls() -> list[tuple[str, str]]:
    """(file, function) of every call on the way of the second of two structures."""
    isolation._Child.submit = submit_here  # type: ignore[method-assign]
    isolation._progress = [0, 0]
    isolation.os = SimpleNamespace(**vars(os) | {"ftruncate": lambda *_: None})  # type: ignore[assignment]
    made: list[tuple[str, str]] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGES):
            made.append((str(Path(frame.f_code.co_filename).relative_to(PROJECT)), frame.f_code.co_qualname))

    cif = (PROJECT / "flows" / "demo_data" / "held_out.cif").read_text()
    with tempfile.TemporaryDirectory() as folder:
        table = Table.create(f"{folder}/table")
        for number in range(3):
            place = Path(folder, f"cifs-{number}")
            place.mkdir()
            (place / "a.cif").write_text(cif)
            source = open_source({"kind": "files", "path": str(place), "name": f"s{number}"})
            options = EncodingOptions()
            encoding = Encoding(table, Here(options).submit, options)
            shards = plan(source.partitions(), options.shard_rows)
            if number == 2:
                sys.setprofile(note)
            try:
                counts = encoding.encode(encoding.chunks(source, shards[0]))
            finally:
                sys.setprofile(None)
            assert counts.n_encoded == 1, counts
    return made


def main() -> None:
    made = calls()
    changes = sum(before[0] != after[0] for before, after in pairwise(made))
    if "--list" in sys.argv:
        for file, name in made:
            print(f"{file:45} {name}")
    print(f"{len(set(made))} functions, {len(made)} calls, {changes} changes of file")


if __name__ == "__main__":
    main()
