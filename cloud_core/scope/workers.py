"""Many structures, each with a hard limit on time: a hung or crashing C library costs one structure.

Helper processes (`cloud_core.scope.worker`) do the work. They are plain subprocesses, so daemonic processes
such as Dask's workers may have them; they are kept between calls, since loading the symmetry libraries takes
a while, and end with the process that started them. Structures travel in batches, the next one on its way
while the last is worked on; the guilty structure of a batch is named by a counter in shared memory, and its
neighbours are done again by a fresh helper.
"""

import json
import select
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from cloud_core.scope.encoder import Scope
from cloud_core.scope.helpers import BATCH_BYTES, Batch, Helper, pool
from cloud_core.scope.settings import EncoderSettings
from cloud_core.scope.worker import pack_cell
from cloud_core.structures.cell import Cell
from cloud_core.structures.errors import Reason, StructureError

_BATCH = 64
_QUEUED = 2  # batches a helper holds: one in work, one to go on with
_WINDOW = 16  # batches a helper may be ahead of the first unfinished one
_START_ATTEMPTS = 3


class Record(Protocol):
    """What is encoded: an id, a payload and its format."""

    @property
    def id(self) -> str: ...
    @property
    def payload(self) -> Any: ...
    @property
    def format(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Encoded:
    """A structure with its SCOPE."""

    id: str
    scope: Scope


@dataclass(frozen=True, slots=True)
class Refused:
    """A structure that could not be encoded, and why."""

    id: str
    reason: Reason
    message: str


def encode_many(
    records: Iterable[Record],
    settings: EncoderSettings,
    processes: int = 1,
    timeout_s: float = 30.0,
    memory_mb: int | None = None,
) -> Iterator[Encoded | Refused]:
    """The SCOPE of each record, in input order, one outcome a record.

    processes: helpers that work at once. timeout_s: wall time that reading a structure may take, and that
    encoding it may take. memory_mb: MiB that a helper may map beyond its libraries. Records are taken from
    the iterable as they are needed.
    """
    if processes < 1 or timeout_s <= 0:
        raise ValueError(f"processes and timeout_s are above 0, not {processes} and {timeout_s}")
    stream = iter(records)
    first = list(islice(stream, 1))
    if not first:
        return
    helpers = pool.take(processes, memory_mb or 0)
    run = _Run(_chain(first, stream), settings, timeout_s, helpers)
    try:
        yield from run.outcomes()
    finally:
        pool.give_back(run.helpers)


def _chain(first: list[Record], rest: Iterator[Record]) -> Iterator[Record]:
    yield from first
    yield from rest


class _Run:
    """One call of `encode_many`."""

    def __init__(
        self, records: Iterator[Record], settings: EncoderSettings, timeout_s: float, helpers: list[Helper]
    ) -> None:
        self.helpers = helpers
        self._records = enumerate(records)
        self._settings = settings
        self._timeout_s = timeout_s
        self._again: deque[Batch] = deque()
        self._done: dict[int, Encoded | Refused] = {}
        self._next = 0
        self._taken = 0
        self._failed_starts = 0

    def outcomes(self) -> Iterator[Encoded | Refused]:
        poller = _Poller()
        while True:
            self._feed()
            while self._next in self._done:
                yield self._done.pop(self._next)
                self._next += 1
            busy = [helper for helper in self.helpers if helper.batches]
            if not busy:
                return
            for helper in poller.ready(busy):
                helper.write()
                self._collect(helper)
            for helper in self.helpers:
                if helper.is_stuck(self._timeout_s):
                    helper.is_overdue = True
                    helper.process.kill()

    def _feed(self) -> None:
        """Give every helper what it can hold, round by round."""
        for held in range(_QUEUED):
            for helper in self.helpers:
                if len(helper.batches) == held and (batch := self._next_batch()):
                    helper.send(batch, self._settings, self._timeout_s)

    def _next_batch(self) -> Batch | None:
        if self._again:
            return self._again.popleft()
        if self._taken - self._next >= _WINDOW * _BATCH * len(self.helpers):
            return None
        batch = Batch()
        size = 0
        for place, record in self._records:
            self._taken = place + 1
            try:
                payload = _pack(record.payload)
            except StructureError as error:
                self._done[place] = Refused(record.id, error.reason, str(error))
                continue
            size += len(payload) if isinstance(payload, str) else len(payload[2])
            batch.places.append(place)
            batch.ids.append(record.id)
            batch.items.append((payload, record.format))
            if len(batch.places) == _BATCH or size > BATCH_BYTES:
                break
        return batch if batch.places else None

    def _collect(self, helper: Helper) -> None:
        try:
            for batch, answers in helper.receive():
                self._failed_starts = 0
                helper.forget_words()
                for place, name, answer in zip(batch.places, batch.ids, answers, strict=True):
                    self._done[place] = (
                        Refused(name, Reason(answer[0]), answer[1])
                        if len(answer) == 2
                        else Encoded(name, Scope(*answer))
                    )
        except EOFError:
            self._bury(helper)

    def _bury(self, helper: Helper) -> None:
        """Name the structure that ended a helper; have the others done by a new one."""
        guilty = helper.guilty()
        reason, message = helper.verdict(self._timeout_s)
        batches = [batch for _, batch in helper.batches]
        if guilty is not None:
            culprit = batches[0]
            refused = StructureError(reason, message)
            self._done[culprit.places[guilty]] = Refused(culprit.ids[guilty], reason, str(refused))
            batches[0] = culprit.split_off(guilty)
            self._failed_starts = 0
        else:
            self._failed_starts += 1
        self._again.extendleft(batch for batch in reversed(batches) if batch.places)
        helper.stop()
        self.helpers.remove(helper)
        if self._failed_starts >= _START_ATTEMPTS:
            raise RuntimeError(f"the encoder's helper process does not start: {message}")
        self.helpers.append(Helper(helper.memory_mb))


class _Poller:
    """Waits for helpers that have answers, or room for requests."""

    def ready(self, helpers: list[Helper]) -> list[Helper]:
        poll = select.poll()
        owners = {}
        for helper in helpers:
            poll.register(helper.answers, select.POLLIN)
            owners[helper.answers] = helper
            if helper.has_pending:
                poll.register(helper.requests, select.POLLOUT)
                owners[helper.requests] = helper
        return list(dict.fromkeys(owners[descriptor] for descriptor, _ in poll.poll(1000)))


def _pack(payload: Any) -> Any:
    """A payload as text or plain values."""
    if isinstance(payload, str):
        return payload
    if isinstance(payload, Cell):
        return pack_cell(payload)
    if isinstance(payload, bytes):
        return payload.decode("utf-8", errors="replace")
    if isinstance(payload, Path):
        return str(payload)
    if isinstance(payload, Mapping):
        return json.dumps(payload)
    from cloud_core.structures.formats import read

    return pack_cell(read(payload))
