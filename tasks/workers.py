"""A chunk's way through Dask's workers, and what is done where one of them ends on it."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from cloud_core.structures.errors import Reason
from tasks.chunks import Item, encode_packed, outcome_table, pack, refused
from tasks.cluster import LazyCluster

if TYPE_CHECKING:
    from distributed import Client, Future

    from tasks.encoding import EncodingOptions

ISOLATED_ATTEMPTS = 3  # a worker may also end for reasons of its own: a lost node, an operator
# What a library raises on bad input beyond the reasons we know; isolated, it gets its reason code.
UNEXPECTED = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError, MemoryError)


class Workers:
    """Sends items to the workers; used by several threads."""

    def __init__(self, client: "Client | LazyCluster", options: "EncodingOptions") -> None:
        self.started_at: float | None = None  # first submission
        self._client = client
        self._options = options

    def submit(self, items: Sequence[Item], isolated: bool = False) -> "Future":
        options = self._options
        future = self._client.submit(
            encode_packed,
            pack(items),
            options.settings,
            options.timeout_s,
            options.memory_mb,
            isolated,
            pure=False,
        )
        if self.started_at is None:  # told after the call: the first one may have started the cluster
            self.started_at = time.monotonic()
        return future

    def outcome(self, future: "Future", items: Sequence[Item]) -> pa.Table:
        """What became of the items that `future` stands for. If they ended their worker: again, isolated."""
        from distributed import KilledWorker

        try:
            return future.result()
        except (KilledWorker, *UNEXPECTED):
            return self._isolated(items)

    def _isolated(self, items: Sequence[Item]) -> pa.Table:
        """Isolated, and in halves should even that end the worker, until the guilty one stands alone."""
        from distributed import KilledWorker

        for _ in range(ISOLATED_ATTEMPTS):
            try:
                return self.submit(items, isolated=True).result()
            except KilledWorker:
                continue
        if len(items) == 1:
            message = "the worker process ended each time that this structure was tried"
            return outcome_table([refused(items[0], Reason.CRASHED.value, message)], self._options.settings)
        middle = len(items) // 2
        return pa.concat_tables([self._isolated(items[:middle]), self._isolated(items[middle:])])
