"""Shards as Prefect tasks, chunks as Dask tasks."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture

from cloud_core.encoding.engine import Counts, EncodeError, Encoding, Shard, Submit
from cloud_core.encoding.local import ThisProcess
from cloud_core.encoding.memory import many_records
from cloud_core.encoding.options import EncodingOptions
from cloud_core.encoding.replay import Quarantine
from cloud_core.encoding.rows import Item, encode_packed, outcome_table, pack, refused
from cloud_core.sources.record import Source
from cloud_core.structures.errors import Reason
from tasks.cluster import LazyCluster
from tasks.reporting import in_prefect_run

if TYPE_CHECKING:
    from distributed import Client, Future

ATTEMPTS = 3  # a worker ends for reasons of its own: a lost node, an operator, the memory of a large chunk


@contextmanager
def scheduler_errors() -> Iterator[None]:
    """Dask's errors of a scheduler that is gone, as an EncodeError."""
    from distributed.client import ClosedClientError
    from distributed.comm.core import CommClosedError

    try:
        yield
    except (CancelledError, ClosedClientError, CommClosedError) as error:
        raise EncodeError(
            "the Dask scheduler was lost in the midst of the run; what was committed is kept: start a "
            "scheduler and run the same encoding again"
        ) from error


def submit_to(client: LazyCluster, options: EncodingOptions) -> Submit:
    """Where items are encoded: by the cluster's workers, or in this process where there are none."""
    if client.config.kind == "none":
        return ThisProcess(options).submit
    return Workers(client, options).submit


class Workers:
    """Has items encoded by Dask's workers; used by several threads."""

    def __init__(self, client: "Client | LazyCluster", options: EncodingOptions) -> None:
        self._client = client
        self.options = options

    def submit(self, items: Sequence[Item]) -> "Submitted":
        return Submitted(self, items)

    def send(self, items: Sequence[Item]) -> "Future[Any]":
        options = self.options
        with scheduler_errors():
            return self._client.submit(
                encode_packed, pack(items), options.settings, options.timeout_s, options.memory_mb, pure=False
            )


class Submitted:
    """Items on their way through a worker."""

    def __init__(self, workers: Workers, items: Sequence[Item]) -> None:
        self._workers = workers
        self._items = items
        self._future = workers.send(items)

    def result(self) -> pa.Table:
        """What became of the items; sent again where their worker ended, in halves should that happen each
        time, until the offending one stands alone."""
        from distributed import KilledWorker

        for attempt in range(ATTEMPTS):
            with suppress(KilledWorker), scheduler_errors():
                return (self._workers.send(self._items) if attempt else self._future).result()
        if len(self._items) == 1:
            message = "the worker process ended each time that this structure was tried"
            row = refused(self._items[0], Reason.CRASHED.value, message)
            return outcome_table([row], self._workers.options.settings)
        middle = len(self._items) // 2
        halves = self._items[:middle], self._items[middle:]
        return pa.concat_tables([self._workers.submit(half).result() for half in halves])

    def cancel(self) -> None:
        from distributed.client import ClosedClientError
        from distributed.comm.core import CommClosedError

        # Where the client is gone the work is as well, and the error on its way says why.
        with suppress(ClosedClientError, CommClosedError):
            self._future.cancel()


@task(name="encode shard", task_run_name="shard {shard.number}", cache_policy=NO_CACHE, persist_result=False)
def encode_shard(encoding: Encoding, source: Source, shard: Shard) -> Counts:
    return encoding.encode(encoding.chunks(source, shard))


@task(name="encode quarantine", cache_policy=NO_CACHE, persist_result=False)
def encode_quarantine(encoding: Encoding, quarantine: Quarantine) -> Counts:
    with many_records():
        return encoding.encode(quarantine.chunks(encoding))


def encode_shards(encoding: Encoding, source: Source, shards: Sequence[Shard], at_once: int = 2) -> Counts:
    """Each shard as a Prefect task, `at_once` of them submitted at a time; outside a flow one by one."""
    total = Counts()
    if not in_prefect_run():
        with many_records():
            return sum((encode_shard.fn(encoding, source, shard) for shard in shards), total)
    running: deque[PrefectFuture[Counts]] = deque()
    waiting = deque(shards)
    failure: Any = None
    with many_records():
        while waiting or running:
            while waiting and len(running) < at_once and failure is None:
                running.append(encode_shard.submit(encoding, source, waiting.popleft()))
            if not running:
                break
            result = running.popleft().result(raise_on_failure=False)
            if isinstance(result, BaseException):
                failure = failure or result
            else:
                total += result
    if failure is not None:
        raise failure
    return total
