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

ATTEMPTS = 3  # a worker ends for reasons of its own: a lost node, an operator, the memory of a large chunk


class Workers:
    """Sends items to the workers; used by several threads."""

    def __init__(self, client: "Client | LazyCluster", options: "EncodingOptions") -> None:
        self.started_at: float | None = None  # first submission
        self._client = client
        self._options = options

    def submit(self, items: Sequence[Item]) -> "Future":
        options = self._options
        future = self._client.submit(
            encode_packed, pack(items), options.settings, options.timeout_s, options.memory_mb, pure=False
        )
        if self.started_at is None:  # told after the call: the first one may have started the cluster
            self.started_at = time.monotonic()
        return future

    def outcome(self, future: "Future", items: Sequence[Item]) -> pa.Table:
        """What became of the items that `future` stands for; sent again where their worker ended, in halves
        should that happen each time, until the guilty one stands alone."""
        from distributed import KilledWorker

        for attempt in range(ATTEMPTS):
            try:
                return (self.submit(items) if attempt else future).result()
            except KilledWorker:
                continue
        if len(items) == 1:
            message = "the worker process ended each time that this structure was tried"
            return outcome_table([refused(items[0], Reason.CRASHED.value, message)], self._options.settings)
        middle = len(items) // 2
        halves = items[:middle], items[middle:]
        return pa.concat_tables([self.outcome(self.submit(half), half) for half in halves])
