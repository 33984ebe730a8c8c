"""Helper processes of `workers`: one process with its pipes, and the pool that keeps idle ones."""

import atexit
import contextlib
import fcntl
import marshal
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

from cloud_core.scope.settings import EncoderSettings
from cloud_core.scope.worker import HEADER, PROGRESS
from cloud_core.structures.errors import Reason

BATCH_BYTES = 1 << 20
GRACE_S = 10.0  # for a helper whose alarm clock did not ring


@dataclass(slots=True)
class Batch:
    """Structures on their way: their places in the input, ids and packed payloads."""

    places: list[int] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    items: list[tuple[Any, str | None]] = field(default_factory=list)

    def split_off(self, index: int) -> "Batch":
        """This batch without one structure."""
        places, ids, items = self.places.copy(), self.ids.copy(), self.items.copy()
        del places[index], ids[index], items[index]
        return Batch(places, ids, items)


class Helper:
    """One helper process with its pipes. `batches` are those it holds, the oldest first."""

    def __init__(self, memory_mb: int) -> None:
        self.memory_mb = memory_mb
        self.batches: deque[tuple[int, Batch]] = deque()
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

    def send(self, batch: Batch, settings: EncoderSettings, timeout_s: float) -> None:
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

    def receive(self) -> Iterator[tuple[Batch, list[tuple[Any, ...]]]]:
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
        return bool(self.batches) and time.monotonic() - self.seen_at > timeout_s + GRACE_S

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
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, BATCH_BYTES)


def _environment() -> dict[str, str]:
    """The environment of a helper: this package importable, one thread, no chatter."""
    import cloud_core

    root = str(Path(cloud_core.__path__[0]).parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    return os.environ | threads | {"PYTHONPATH": os.pathsep.join(paths), "RUST_BACKTRACE": "0"}


class HelperPool:
    """Idle helpers of this process."""

    def __init__(self) -> None:
        self._idle: list[Helper] = []
        self._lock = threading.Lock()
        self._owner = os.getpid()

    def take(self, count: int, memory_mb: int) -> list[Helper]:
        """`count` helpers, idle ones first."""
        helpers: list[Helper] = []
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
        return helpers + [Helper(memory_mb) for _ in range(count - len(helpers))]

    def give_back(self, helpers: list[Helper]) -> None:
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


pool = HelperPool()
atexit.register(pool.close)
