"""Many structures, each under hard limits: one that hangs, crashes or eats memory costs itself alone.

They are read and encoded in child processes, one for each pool of the library pebble; these are kept between
calls, since loading the symmetry libraries takes a while, and end with the process that started them.
Structures travel in batches, the next one on its way while the last is worked on. A counter in shared memory
names the structure that ended a child; its neighbours are done again by the child that pebble puts in its
place.
"""

import gc
import itertools
import marshal
import multiprocessing
import os
import resource
import signal
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing import connection, spawn
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.util import Finalize
from operator import attrgetter
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Protocol

import orjson
from pebble import ProcessExpired, ProcessPool

from cloud_core.scope.encoder import Scope, encode_cell, without_official
from cloud_core.scope.settings import EncoderSettings
from cloud_core.structures.cell import Cell
from cloud_core.structures.errors import Reason, StructureError
from cloud_core.structures.formats import read, read_quickly

_BATCH, _BATCH_BYTES = 128, 1 << 20
_QUEUED = 2  # batches that a child is given: one in work, one to go on with
_WINDOW = 8  # batches that a child may be ahead of the first unfinished one
_ATTEMPTS = 3  # to start a child
_LOOK_S = 5.0  # without an answer, after which the pools are looked at
# Wall-clock limit of a batch, which a child leaves after `timeout_s` s: that of a structure that sleeps.
_WALL_FACTOR, _WALL_S = 10.0, 60.0
_OUT_OF_MEMORY = ("memory allocation of", "MemoryError", "bad_alloc")  # a library's last lines


class PackedCell(bytes):
    """A Cell as `Cell.to_bytes` made it; a payload that has travelled already."""


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

    processes: children that work at once. timeout_s: CPU time in s that reading a structure may take, and
    that encoding it may take; should it sleep, ten times that and a minute on the clock. memory_mb: MiB that
    a child may map beyond its libraries. Records are taken from the iterable as they are needed.

    Where an official form takes too long, crashes or eats memory, and the canonical one was asked for too,
    that one is kept, with the flag `official_missing`.
    """
    if processes < 1 or timeout_s <= 0:
        raise ValueError(f"processes and timeout_s are above 0, not {processes} and {timeout_s}")
    run = _Run(records, settings, timeout_s, _children(processes, memory_mb or 0))
    try:
        yield from run.outcomes()
    finally:
        run.leave()


# -- in the parent


@dataclass(slots=True)
class _Batch:
    """Structures on their way: place in the input, id and packed payload of each.

    without_official: why the official forms are left out. tries: how often a child was lost on it for no
    reason of its own. offending, words: after the end of a child, the structure that it had in work, and what
    was printed there last.
    """

    work: list[tuple[int, str, bytes]]
    without_official: str = ""
    tries: int = 0
    offending: int | None = None
    words: tuple[str, ...] = ()


class _Run:
    """One call of `encode_many`."""

    def __init__(
        self,
        records: Iterable[Record],
        settings: EncoderSettings,
        timeout_s: float,
        children: Sequence["_Child"],
    ) -> None:
        self._records = enumerate(records)
        self._settings = settings
        self._timeout_s = timeout_s
        self._children = children
        self._again: deque[_Batch] = deque()
        self._held = Counter[_Child]()
        self._futures: dict[Future[Any], ProcessPool] = {}
        self._ended: SimpleQueue[tuple[_Child, _Batch, Future[Any]]] = SimpleQueue()
        self._done: dict[int, Encoded | Refused] = {}
        self._next = self._taken = 0

    def outcomes(self) -> Iterator[Encoded | Refused]:
        while True:
            self._feed()
            if not self._futures and self._next not in self._done:
                return
            while self._next in self._done:
                yield self._done.pop(self._next)
                self._next += 1
            if self._futures:
                self._wait()

    def _wait(self) -> None:
        try:
            child, batch, future = self._ended.get(timeout=_LOOK_S)
        except Empty:
            # A pool that breaks forgets what it is given in that moment.
            for future, pool in self._futures.items():
                if not pool.active and not future.done():
                    future.set_exception(BrokenProcessPool("the pool broke"))
            return
        del self._futures[future]
        self._held[child] -= 1
        self._collect(batch, future)

    def leave(self) -> None:
        """Have nothing done any more."""
        for future in self._futures:
            future.cancel()

    def _feed(self) -> None:
        """Give every child what it can hold, round by round."""
        for held in range(_QUEUED):
            for child in self._children:
                if self._held[child] == held and (batch := self._next_batch()):
                    settings = self._settings
                    if batch.without_official:
                        settings = replace(settings, forms=settings.moyo_forms)
                    future, pool = child.submit(batch, settings, self._timeout_s, self._ended)
                    self._futures[future] = pool
                    self._held[child] += 1

    def _next_batch(self) -> _Batch | None:
        if self._again:
            return self._again.popleft()
        room = self._next + _WINDOW * _BATCH * len(self._children) - self._taken
        batch, size = _Batch([]), 0
        for place, record in islice(self._records, room):
            self._taken = place + 1
            try:
                item = _pack(record.payload, record.format)
            except StructureError as error:
                self._done[place] = Refused(record.id, error.reason, str(error))
                continue
            batch.work.append((place, record.id, item))
            size += len(item)
            if len(batch.work) == _BATCH or size > _BATCH_BYTES:
                break
        return batch if batch.work else None

    def _collect(self, batch: _Batch, future: "Future[Any]") -> None:
        error = future.exception()
        if error is None:
            answers = marshal.loads(future.result())
            for index, answer in enumerate(answers):
                self._record(batch, index, answer)
            rest = batch.work[len(answers) :]
        elif batch.offending is None:
            batch.tries += 1
            if batch.tries == _ATTEMPTS:
                words = "; ".join(batch.words) or str(error)
                raise RuntimeError(f"the encoder's child process does not start: {words}") from error
            self._again.appendleft(batch)
            return
        else:
            self._after_end(batch, batch.offending, error)
            rest = batch.work[: batch.offending] + batch.work[batch.offending + 1 :]
        if rest:
            self._again.append(_Batch(rest, batch.without_official))

    def _after_end(self, batch: _Batch, offending: int, error: BaseException) -> None:
        """What becomes of the structure that a child had in work when it ended."""
        code = error.exitcode if isinstance(error, ProcessExpired) else None
        if code in (None, -signal.SIGKILL) and batch.tries == 0:
            # Over the clock, or killed from outside: the machine's doing perhaps.
            self._again.append(_Batch([batch.work[offending]], batch.without_official, tries=1))
            return
        reason, message = _reason_of_end(code, error, batch.words, self._timeout_s)
        self._record(batch, offending, (reason.value, str(StructureError(reason, message))))

    def _record(self, batch: _Batch, index: int, answer: tuple[Any, ...]) -> None:
        place, name, _ = batch.work[index]
        if len(answer) > 2:
            scope = Scope(*answer)
            if batch.without_official:
                scope = without_official(scope, batch.without_official)
            self._done[place] = Encoded(name, scope)
            return
        reason, message = Reason(answer[0]), answer[1]
        forms, others = self._settings.forms, self._settings.moyo_forms
        has_more = others and len(forms) > len(others) and not batch.without_official
        if has_more and reason in (Reason.TIMEOUT, Reason.OUT_OF_MEMORY, Reason.CRASHED):
            self._again.append(_Batch([batch.work[index]], without_official=message))
        else:
            self._done[place] = Refused(name, reason, message)


def _reason_of_end(
    code: int | None, error: BaseException, words: Sequence[str], timeout_s: float
) -> tuple[Reason, str]:
    """Why a child ended, by its exit code (None: it was ended by the pool) and last lines."""
    if code == -signal.SIGPROF:
        return Reason.TIMEOUT, f"more than {timeout_s:g} s of CPU time"
    if isinstance(error, TimeoutError):
        return Reason.TIMEOUT, f"not done within {_wall(timeout_s):g} s, twice"
    if lost := [line for line in words if any(sign in line for sign in _OUT_OF_MEMORY)]:
        return Reason.OUT_OF_MEMORY, lost[0]
    last = next((line for line in reversed(words) if not line.startswith("note:")), "no last lines")
    if code is not None and code < 0:
        return Reason.CRASHED, f"{signal.Signals(-code).name} in a library: {last}"
    return Reason.CRASHED, f"the encoder ended ({error}, code {code}): {last}"


def _wall(timeout_s: float) -> float:
    return _WALL_FACTOR * timeout_s + _WALL_S


def _pack(payload: Any, format: str | None) -> bytes:
    """A payload for the way to a child; `_unpack` is the way back. Raises StructureError for an object that
    is no structure."""
    if isinstance(payload, Mapping | list):
        try:
            payload = orjson.dumps(payload, option=orjson.OPT_SERIALIZE_NUMPY)
        except TypeError as error:
            text = f"a {type(payload).__name__} that is no JSON: {error}"
            raise StructureError(Reason.PARSE_ERROR, text) from error
    if isinstance(payload, PackedCell):
        return marshal.dumps(("cell", bytes(payload), format))
    if isinstance(payload, Path):
        return marshal.dumps(("path", str(payload), format))
    if isinstance(payload, str | bytes):
        return marshal.dumps(("content", payload, format))
    cell = payload if isinstance(payload, Cell) else read(payload, format)
    return marshal.dumps(("cell", cell.to_bytes(), format))


def _unpack(item: bytes) -> tuple[Any, str | None]:
    kind, payload, format = marshal.loads(item)
    if kind == "cell":
        return Cell.from_bytes(payload), format
    return Path(payload) if kind == "path" else payload, format


class _Process(SpawnProcess):
    """A child that any process may have, also a daemonic one, as Dask's workers may be; it does not import
    the main script of its parent, which need not be written for that."""

    def start(self) -> None:
        prepare = spawn.get_preparation_data

        def prepare_ours(name: str) -> dict[str, Any]:
            data = prepare(name)
            return {key: data[key] for key in data if name != self.name or not key.startswith("init_main")}

        with _STARTING:
            config = multiprocessing.current_process()._config  # type: ignore[attr-defined]
            was_daemonic = config.pop("daemon", False)
            spawn.get_preparation_data = prepare_ours
            self.daemon = True
            try:
                super().start()
            finally:
                spawn.get_preparation_data = prepare
                config["daemon"] = was_daemonic


class _Context(SpawnContext):
    Process = _Process


_STARTING = threading.Lock()
_CONTEXT = _Context()


class _Child:
    """A pool of one child process, with what is known of its work: the batch and the structure in it."""

    def __init__(self, memory_mb: int) -> None:
        self._memory_mb = memory_mb
        self._progress = _CONTEXT.RawArray("q", 2)
        self._words = tempfile.NamedTemporaryFile(prefix="cloud-encode-")  # noqa: SIM115
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._pool = self._new_pool()

    def submit(
        self, batch: _Batch, settings: EncoderSettings, timeout_s: float, ended: "SimpleQueue[Any]"
    ) -> "tuple[Future[Any], ProcessPool]":
        """Have a batch encoded; at its end this child, the batch and the future are put into the queue."""
        items = [item for _, _, item in batch.work]
        with self._lock:
            if not self._pool.active:
                self.end()
                self._pool = self._new_pool()
            pool, number = self._pool, next(self._numbers)
            future = pool.schedule(
                _encode_batch, (number, settings, timeout_s, items), timeout=_wall(timeout_s)
            )

        def look(future: "Future[Any]") -> None:
            # Called before another child is started.
            if not future.cancelled() and future.exception() is not None:
                batch.offending = self._progress[1] if self._progress[0] == number else None
                batch.words = self._last_lines()
            ended.put((self, batch, future))

        future.add_done_callback(look)
        return future, pool

    def end(self) -> None:
        self._pool.stop()
        self._pool.join()

    def _new_pool(self) -> ProcessPool:
        return ProcessPool(
            1,
            initializer=_start,
            initargs=(self._progress, self._words.name, self._memory_mb),
            context=_CONTEXT,
        )

    def _last_lines(self) -> tuple[str, ...]:
        self._words.seek(max(0, self._words.seek(0, os.SEEK_END) - 4000))
        text = self._words.read().decode("utf-8", errors="replace")
        return tuple(line.strip()[:300] for line in text.splitlines() if line.strip())


_kept: dict[int, list[_Child]] = {}  # by memory limit; shared by all calls
_KEEPING = threading.Lock()


def _children(count: int, memory_mb: int) -> list[_Child]:
    with _KEEPING:
        kept = _kept.setdefault(memory_mb, [])
        kept += [_Child(memory_mb) for _ in range(count - len(kept))]
        return kept[:count]


def _end_all() -> None:
    for child in itertools.chain(*_kept.values()):
        child.end()
    _kept.clear()


Finalize(None, _end_all, exitpriority=100)
os.register_at_fork(after_in_child=_kept.clear)  # the children are those of the process that forked


# -- in the child

_progress: Any = None
_AXES = {"a": "alpha", "b": "beta", "c": "gamma"}


def _start(progress: Any, words: str, memory_mb: int) -> None:
    """Load the libraries, set the limits of this process, and watch for the end of the parent."""
    global _progress
    _progress = progress
    # What libraries print goes where the parent looks for last lines.
    descriptor = os.open(words, os.O_WRONLY | os.O_TRUNC | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _load()
    if memory_mb:
        import scipy.spatial  # noqa: F401 (for large cells; to be mapped before the limit)

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + (memory_mb << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    gc.freeze()  # what is loaded stays; the search for garbage need not walk through it again and again


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(0)


def _load() -> None:
    """Read and encode a crystal, so that no structure pays for loading libraries."""
    cell = "".join(f"_cell_length_{axis} 3.3\n_cell_angle_{angle} 90\n" for axis, angle in _AXES.items())
    symmetry = "loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\n-x,-y,-z\n"
    sites = "loop_\n_atom_site_label\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\nPo1 0 0 0\n"
    polonium = read(f"data_x\n{cell}{symmetry}{sites}", "cif")
    encode_cell(polonium, EncoderSettings(forms=("canonical", "official")))


def _encode_batch(number: int, settings: EncoderSettings, timeout_s: float, items: list[bytes]) -> bytes:
    """The fields of each structure's Scope, or reason and message; of fewer than all if time runs on."""
    os.ftruncate(2, 0)  # last lines are of this batch
    until = time.monotonic() + timeout_s

    def attempt(index: int, function: Callable[..., Any], *arguments: Any) -> Any:
        _progress[1] = index
        _progress[0] = number
        signal.setitimer(signal.ITIMER_PROF, timeout_s)
        try:
            return function(*arguments)
        except StructureError as error:
            return error.reason.value, str(error)
        except MemoryError:
            refusal = StructureError(Reason.OUT_OF_MEMORY, "out of memory")
        except Exception as error:  # noqa: BLE001 (a library's; whatever it is, it costs this structure alone)
            refusal = StructureError(Reason.PARSE_ERROR, f"unexpected {type(error).__name__}: {error}")
        return refusal.reason.value, str(refusal)

    # Plain ones are read ahead: code that has just run is still in the processor's caches.
    cells = [
        attempt(index, lambda item: read_quickly(*_unpack(item)), item) for index, item in enumerate(items)
    ]
    answers = []
    for index, (cell, item) in enumerate(zip(cells, items, strict=True)):
        if cell is None:
            cell = attempt(index, lambda item: read(*_unpack(item)), item)
        answers.append(attempt(index, _fields, cell, settings) if isinstance(cell, Cell) else cell)
        if time.monotonic() > until:
            break
    signal.setitimer(signal.ITIMER_PROF, 0)
    return marshal.dumps(answers)  # at a third of the cost of pickling them


_fields_of = attrgetter(*Scope.__slots__)


def _fields(cell: Cell, settings: EncoderSettings) -> Any:
    return _fields_of(encode_cell(cell, settings))
