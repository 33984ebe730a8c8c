"""Many structures, each with a hard limit on time: a hung or crashing C library costs one structure.

Helper processes (`cloud_core.scope.worker`) do the work. They are plain subprocesses, so daemonic processes
such as Dask's workers may have them; they are kept between calls, since loading the symmetry libraries takes
a while, and end with the process that started them. Structures travel in batches, the next one on its way
while the last is worked on; the guilty structure of a batch is named by a counter in shared memory, and its
neighbours are done again by a fresh helper.
"""

import atexit
import contextlib
import fcntl
import json
import marshal
import mmap
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from cloud_core.scope.encoder import Scope
from cloud_core.scope.settings import EncoderSettings
from cloud_core.scope.worker import HEADER, PROGRESS, pack_cell
from cloud_core.structures.cell import Cell
from cloud_core.structures.errors import Reason, StructureError

_BATCH = 64
_BATCH_BYTES = 1 << 20
_QUEUED = 2  # batches a helper holds: one in work, one to go on with
_WINDOW = 16  # batches a helper may be ahead of the first unfinished one
_GRACE_S = 10.0  # for a helper whose alarm clock did not ring
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

    processes: helpers that work at once. timeout_s: wall time a structure may take, reading and symmetry.
    memory_mb: MiB that a helper may map beyond its libraries. Records are taken from the iterable as
    they are needed.
    """
    if processes < 1 or timeout_s <= 0:
        raise ValueError(f"processes and timeout_s are above 0, not {processes} and {timeout_s}")
    stream = iter(records)
    first = list(islice(stream, 1))
    if not first:
        return
    helpers = _pool.take(processes, memory_mb or 0)
    run = _Run(_chain(first, stream), settings, timeout_s, helpers)
    try:
        yield from run.outcomes()
    finally:
        _pool.give_back(run.helpers)


def _chain(first: list[Record], rest: Iterator[Record]) -> Iterator[Record]:
    yield from first
    yield from rest


@dataclass(slots=True)
class _Batch:
    """Structures on their way: their places in the input, ids and packed payloads."""

    places: list[int] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    items: list[tuple[Any, str | None]] = field(default_factory=list)

    def split_off(self, index: int) -> "_Batch":
        """This batch without one structure."""
        places, ids, items = self.places.copy(), self.ids.copy(), self.items.copy()
        del places[index], ids[index], items[index]
        return _Batch(places, ids, items)


class _Helper:
    """One helper process with its pipes. `batches` are those it holds, the oldest first."""

    def __init__(self, memory_mb: int) -> None:
        self.memory_mb = memory_mb
        self.batches: deque[tuple[int, _Batch]] = deque()
        self.is_overdue = False
        self._pending = memoryview(b"")
        self._received = bytearray()
        self._sent = 0
        self._last_words = tempfile.TemporaryFile()  # noqa: SIM115
        with tempfile.TemporaryFile() as shared:
            shared.truncate(PROGRESS.size)
            self._progress = mmap.mmap(shared.fileno(), PROGRESS.size)
            os.set_inheritable(shared.fileno(), True)
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cloud_core.scope.worker", str(shared.fileno()), str(memory_mb)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._last_words,
                pass_fds=(shared.fileno(),),
                env=_environment(),
                bufsize=0,
            )
        assert self.process.stdin and self.process.stdout
        self.requests = self.process.stdin.fileno()
        self.answers = self.process.stdout.fileno()
        for pipe in (self.requests, self.answers):
            _widen(pipe)
        os.set_blocking(self.requests, False)
        os.set_blocking(self.answers, False)
        self.seen = (0, 0)
        self.seen_at = time.monotonic()

    @property
    def has_pending(self) -> bool:
        return bool(self._pending)

    def send(self, batch: _Batch, settings: EncoderSettings, timeout_s: float) -> None:
        self._sent += 1
        self.batches.append((self._sent, batch))
        if len(self.batches) == 1:
            self.seen_at = time.monotonic()
        message = marshal.dumps((self._sent, astuple(settings), timeout_s, batch.items))
        self._pending = memoryview(b"".join((self._pending, HEADER.pack(len(message)), message)))
        self.write()

    def write(self) -> None:
        """Send what the pipe takes."""
        while self._pending:
            try:
                self._pending = self._pending[os.write(self.requests, self._pending) :]
            except BlockingIOError:
                return
            except BrokenPipeError:
                self._pending = memoryview(b"")

    def receive(self) -> Iterator[tuple[_Batch, list[tuple[Any, ...]]]]:
        """Batches that came back with their answers. Raises EOFError when the process has ended."""
        try:
            part = os.read(self.answers, 1 << 20)
        except BlockingIOError:
            return
        if not part:
            raise EOFError
        self._received += part
        while len(self._received) >= HEADER.size:
            end = HEADER.size + HEADER.unpack_from(self._received)[0]
            if len(self._received) < end:
                return
            answers = marshal.loads(memoryview(self._received)[HEADER.size : end])
            del self._received[:end]
            self.seen_at = time.monotonic()
            yield self.batches.popleft()[1], answers

    def is_stuck(self, timeout_s: float) -> bool:
        """Whether the structure in work is over its time and the alarm clock did not ring."""
        seen = PROGRESS.unpack_from(self._progress)
        if seen != self.seen:
            self.seen, self.seen_at = seen, time.monotonic()
        return bool(self.batches) and time.monotonic() - self.seen_at > timeout_s + _GRACE_S

    def guilty(self) -> int | None:
        """After the end: which structure of the oldest batch was in work; None where none was."""
        number, index = PROGRESS.unpack_from(self._progress)
        return index if self.batches and self.batches[0][0] == number else None

    def verdict(self, timeout_s: float) -> tuple[Reason, str]:
        """After the end: what happened to the structure in work."""
        code = self.process.wait()
        if code == -signal.SIGALRM or self.is_overdue:
            return Reason.TIMEOUT, f"not done within {timeout_s:g} s"
        lines = self._last_lines()
        if lost := [line for line in lines if "memory allocation of" in line or "MemoryError" in line]:
            return Reason.OUT_OF_MEMORY, f"more than {self.memory_mb} MiB: {lost[0]}"
        words = next((line for line in reversed(lines) if not line.startswith("note:")), "no last words")
        if code < 0:
            return Reason.CRASHED, f"{signal.Signals(-code).name} in a library: {words}"
        return Reason.CRASHED, f"the encoder ended with code {code}: {words}"

    def _last_lines(self) -> list[str]:
        """The last lines that the process or a library of it printed."""
        self._last_words.seek(max(0, self._last_words.seek(0, os.SEEK_END) - 4000))
        text = self._last_words.read().decode("utf-8", errors="replace")
        return [line.strip()[:300] for line in text.splitlines() if line.strip()]

    def forget_words(self) -> None:
        self._last_words.truncate(0)

    def stop(self) -> None:
        """End the process and let go of its pipes."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self._last_words):
            assert pipe
            pipe.close()
        self._progress.close()


def _widen(pipe: int) -> None:
    """Let a pipe hold a whole batch, where the system allows, so that a helper need not wait for it."""
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(PermissionError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _BATCH_BYTES)


def _environment() -> dict[str, str]:
    """The environment of a helper: this package importable, one thread, no chatter."""
    import cloud_core

    root = str(Path(cloud_core.__path__[0]).parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    return os.environ | threads | {"PYTHONPATH": os.pathsep.join(paths), "RUST_BACKTRACE": "0"}


class _Run:
    """One call of `encode_many`."""

    def __init__(
        self, records: Iterator[Record], settings: EncoderSettings, timeout_s: float, helpers: list[_Helper]
    ) -> None:
        self.helpers = helpers
        self._records = enumerate(records)
        self._settings = settings
        self._timeout_s = timeout_s
        self._again: deque[_Batch] = deque()
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

    def _next_batch(self) -> _Batch | None:
        if self._again:
            return self._again.popleft()
        if self._taken - self._next >= _WINDOW * _BATCH * len(self.helpers):
            return None
        batch = _Batch()
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
            if len(batch.places) == _BATCH or size > _BATCH_BYTES:
                break
        return batch if batch.places else None

    def _collect(self, helper: _Helper) -> None:
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

    def _bury(self, helper: _Helper) -> None:
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
        self.helpers.append(_Helper(helper.memory_mb))


class _Poller:
    """Waits for helpers that have answers, or room for requests."""

    def ready(self, helpers: list[_Helper]) -> list[_Helper]:
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


class _Pool:
    """Idle helpers of this process."""

    def __init__(self) -> None:
        self._idle: list[_Helper] = []
        self._lock = threading.Lock()
        self._owner = os.getpid()

    def take(self, count: int, memory_mb: int) -> list[_Helper]:
        """`count` helpers, idle ones first."""
        helpers: list[_Helper] = []
        with self._lock:
            if self._owner != os.getpid():
                # A fork: the helpers are the parent's.
                self._idle, self._owner = [], os.getpid()
            for helper in list(self._idle):
                if len(helpers) < count and helper.memory_mb == memory_mb:
                    self._idle.remove(helper)
                    if helper.process.poll() is None:
                        helpers.append(helper)
                    else:
                        helper.stop()
        return helpers + [_Helper(memory_mb) for _ in range(count - len(helpers))]

    def give_back(self, helpers: list[_Helper]) -> None:
        """Keep helpers that are idle; end those still at work for a caller who has left."""
        for helper in helpers:
            if helper.batches:
                helper.stop()
            else:
                with self._lock:
                    self._idle.append(helper)

    def close(self) -> None:
        """End all idle helpers."""
        with self._lock:
            idle, self._idle = self._idle, []
        if self._owner == os.getpid():
            for helper in idle:
                helper.stop()


_pool = _Pool()
atexit.register(_pool.close)
