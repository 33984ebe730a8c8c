"""Children that read and encode: a structure that hangs, crashes or eats memory costs itself alone."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from cloud_core.scope import EncoderSettings, isolation
from cloud_core.scope.encoder import encode_cell
from cloud_core.scope.isolation import Encoded, Refused, encode_many
from cloud_core.structures import Cell, Reason, read
from tests.demo_cut import demo_cifs

SETTINGS = EncoderSettings()
ALL = EncoderSettings(forms=("canonical", "resolved", "official", "full"))


@dataclass(frozen=True)
class Item:
    id: str
    payload: Any
    format: str | None = "cif"


# 4,096 carbon atoms on a grid in a cell of one: real work of seconds for moyo, with much memory, and with the
# interpreter's lock in its hands.
GRID = np.stack(np.meshgrid(*[np.arange(16) / 16] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
SLOW = Item("slow", Cell(np.eye(3) * 60.0, ("C",) * len(GRID), GRID), "cell")
# Two atoms in a tetragonal cell as flat as no crystal: moyo is done with it at once, spglib is not.
CENTRED = np.array([[-0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.5, 0.5, -0.5]]) @ np.diag([2e6, 2e6, 3.0])
SLOW_OFFICIAL = Item("flat", Cell(CENTRED, ("C", "C"), np.array([[0, 0, 0], [0.5, 0.5, 0.5]])), "cell")


@pytest.fixture(scope="module")
def items() -> list[Item]:
    return [Item(name, cif) for name, cif in demo_cifs(200).items()]


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch, project: Path) -> Iterator[None]:
    """New children, in which readers do to marked structures what C libraries have done (see poison/)."""
    isolation._end_all()
    monkeypatch.setenv("PYTHONPATH", str(project / "tests" / "tasks" / "poison"))
    yield
    isolation._end_all()


def marked(items: list[Item], marks: dict[int, str]) -> list[Item]:
    items = list(items)
    for place, mark in marks.items():
        items[place] = Item(f"{mark} {place}", f"{items[place].payload}\n# {mark}\n")
    return items


def with_slow(items: list[Item], *places: int) -> list[Item]:
    items = list(items)
    for place in places:
        items[place] = Item(f"slow{place}", SLOW.payload, "cell")
    return items


def children() -> list[int]:
    """The encoding children of this process; servers of other tests are children too, and are left alone."""
    mine = psutil.Process().children()
    return sorted(p.pid for p in mine if "multiprocessing.spawn" in " ".join(p.cmdline()))


def check(items: list[Item], outcomes: list[Encoded | Refused], refused: dict[str, Reason]) -> dict[str, str]:
    """One outcome a record, in order; what is not refused is what this process makes of it. -> messages"""
    assert [outcome.id for outcome in outcomes] == [item.id for item in items]
    assert {o.id: o.reason for o in outcomes if isinstance(o, Refused)} == refused
    for item, outcome in zip(items, outcomes, strict=True):
        if isinstance(outcome, Encoded):
            assert outcome.scope == encode_cell(read(item.payload, item.format), SETTINGS)
    return {o.id: o.message for o in outcomes if isinstance(o, Refused)}


def test_outcomes_are_those_of_this_process(items: list[Item], tmp_path: Path) -> None:
    from pymatgen.core import Structure

    structure = Structure(4.2 * np.eye(3), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    path = tmp_path / "a.cif"
    path.write_text(items[8].payload)
    mixed = list(items)
    mixed[3] = Item("bad", "data_x\n_cell_length_a 3\n")
    mixed[4] = Item("bytes", items[4].payload.encode())
    mixed[5] = Item("cell", read(items[5].payload, "cif"), "cell")
    mixed[6] = Item("object", structure, None)
    mixed[7] = Item("no path", tmp_path / "no.cif", None)
    mixed[8] = Item("path", path, None)
    mixed[9] = Item("mapping", structure.as_dict(), None)
    mixed[10] = Item("JSON", json.dumps(structure.as_dict()), None)
    mixed[11] = Item("no JSON", {"a": object()}, None)
    mixed[12] = Item("nothing", None, None)
    outcomes = list(encode_many(mixed, ALL, processes=2))
    assert [outcome.id for outcome in outcomes] == [item.id for item in mixed]
    assert {o.id: o.reason for o in outcomes if isinstance(o, Refused)} == {
        "bad": Reason.NO_ATOMS,
        "no path": Reason.FILE_NOT_FOUND,
        "no JSON": Reason.PARSE_ERROR,
        "nothing": Reason.UNKNOWN_FORMAT,
    }
    for item, outcome in zip(mixed, outcomes, strict=True):
        if isinstance(outcome, Encoded):
            assert outcome.scope == encode_cell(read(item.payload, item.format), ALL)
    assert list(encode_many([], SETTINGS)) == []


def test_much_work_costs_one_structure(items: list[Item]) -> None:
    slow = with_slow(items, 0, 50, 199)
    outcomes = list(encode_many(slow, SETTINGS, processes=2, timeout_s=0.5))
    messages = check(slow, outcomes, {f"slow{i}": Reason.TIMEOUT for i in (0, 50, 199)})
    assert "more than 0.5 s of CPU time" in messages["slow50"]


def test_hangs_crashes_and_greed_of_a_reader(items: list[Item], poisoned: None) -> None:
    """The hang is in C code that holds the interpreter's lock."""
    bad = marked(items, {0: "hang", 60: "segfault", 61: "eat memory", 130: "raise", 199: "hang"})
    outcomes = list(encode_many(bad, SETTINGS, timeout_s=1.0, memory_mb=256))
    messages = check(
        bad,
        outcomes,
        {
            "hang 0": Reason.TIMEOUT,
            "segfault 60": Reason.CRASHED,
            "eat memory 61": Reason.OUT_OF_MEMORY,
            "raise 130": Reason.PARSE_ERROR,
            "hang 199": Reason.TIMEOUT,
        },
    )
    assert "SIGSEGV" in messages["segfault 60"]
    assert "unexpected ZeroDivisionError" in messages["raise 130"]


def test_what_sleeps_is_ended_by_the_clock(
    items: list[Item], poisoned: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "_WALL_S", 1.0)
    monkeypatch.setattr(isolation, "_WALL_FACTOR", 1.0)
    sleepy = marked(items[:80], {33: "sleep"})
    messages = check(sleepy, list(encode_many(sleepy, SETTINGS, timeout_s=1.0)), {"sleep 33": Reason.TIMEOUT})
    assert "not done within 2 s" in messages["sleep 33"]


def test_what_a_library_says_last_is_told(items: list[Item], poisoned: None) -> None:
    bad = marked(items[:3], {1: "abort"})
    messages = check(bad, list(encode_many(bad, SETTINGS)), {"abort 1": Reason.CRASHED})
    assert "SIGABRT in a library: lattice: assertion failed" in messages["abort 1"]


def test_memory_is_limited(items: list[Item]) -> None:
    slow = with_slow(items, 20)
    check(slow, list(encode_many(slow, SETTINGS, memory_mb=30)), {"slow20": Reason.OUT_OF_MEMORY})


def test_the_other_forms_are_kept_where_the_official_one_takes_too_long(items: list[Item]) -> None:
    slow = [*items[:30], SLOW_OFFICIAL, *items[30:40]]
    outcomes = list(encode_many(slow, ALL, timeout_s=0.3))
    assert all(isinstance(outcome, Encoded) for outcome in outcomes)
    flat = outcomes[30]
    assert isinstance(flat, Encoded)
    expected = encode_cell(SLOW_OFFICIAL.payload, EncoderSettings(forms=("resolved",)))
    assert expected.resolved is not None
    assert (flat.scope.canonical, flat.scope.resolved) == (expected.canonical, expected.resolved)
    assert (flat.scope.official, flat.scope.full) == (None, None)
    assert flat.scope.flags == (*expected.flags, "official_missing")
    assert "no official form: more than 0.3 s of CPU time" in flat.scope.message
    (alone,) = encode_many([SLOW_OFFICIAL], EncoderSettings(forms=("official",)), timeout_s=0.3)
    assert isinstance(alone, Refused) and alone.reason is Reason.TIMEOUT
    (both,) = encode_many([SLOW], ALL, timeout_s=0.5)
    assert isinstance(both, Refused) and both.reason is Reason.TIMEOUT


def test_a_busy_machine_quarantines_nothing(items: list[Item]) -> None:
    spin = [sys.executable, "-c", "while True: pass"]
    spinning = [subprocess.Popen(spin) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        check(items, list(encode_many(items, SETTINGS, processes=2, timeout_s=1.0)), {})
    finally:
        for process in spinning:
            process.kill()
            process.wait()


@pytest.mark.parametrize("sent", [signal.SIGSTOP, signal.SIGKILL])
def test_a_child_that_somebody_stops_or_kills_costs_nothing(
    items: list[Item], monkeypatch: pytest.MonkeyPatch, sent: signal.Signals
) -> None:
    """It is at work on a structure all the while, which another child then does."""
    # short where it is waited for, and long enough for a busy machine
    monkeypatch.setattr(isolation, "_WALL_S", 6.0 if sent is signal.SIGSTOP else 120.0)
    monkeypatch.setattr(isolation, "_WALL_FACTOR", 0.05)
    list(encode_many(items[:2], SETTINGS))  # a cold child would be met while it loads its libraries
    some = [SLOW, *items[:100]]
    stream = encode_many(iter(some), SETTINGS, timeout_s=60.0)
    threading.Timer(0.5, lambda: [os.kill(pid, sent) for pid in children()]).start()
    outcomes = list(stream)
    assert isinstance(outcomes[0], Encoded)
    check(some[1:], outcomes[1:], {})


def test_a_child_that_does_not_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['moyopy'] = None\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    isolation._end_all()
    try:
        with pytest.raises(RuntimeError, match=r"does not start.*moyopy"):
            list(encode_many([SLOW], SETTINGS))
    finally:
        monkeypatch.undo()
        isolation._end_all()
    check([SLOW], list(encode_many([SLOW], SETTINGS, timeout_s=60)), {})


def test_children_are_kept_between_calls_and_shared(items: list[Item]) -> None:
    list(encode_many(items[:3], SETTINGS))
    before = children()
    list(encode_many(items[:3], SETTINGS))
    found: dict[int, list[Encoded | Refused]] = {}

    def encode(k: int) -> None:
        found[k] = list(encode_many(items[k : k + 40], SETTINGS))

    threads = [threading.Thread(target=encode, args=(k,)) for k in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k in range(5):
        check(items[k : k + 40], found[k], {})
    assert children() == before


def test_an_abandoned_call_leaves_no_work_behind(items: list[Item]) -> None:
    list(encode_many(items[:1], SETTINGS))
    stream = encode_many([items[0], *[SLOW] * 100], SETTINGS, timeout_s=60)
    time.sleep(0.1)
    stream.close()  # type: ignore[attr-defined]
    stream = encode_many([*items, *[SLOW] * 100], SETTINGS, timeout_s=60)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    started = time.monotonic()
    check(items[:5], list(encode_many(items[:5], SETTINGS)), {})
    assert time.monotonic() - started < 30


def test_records_are_taken_as_needed(items: list[Item]) -> None:
    taken = 0

    def endless() -> Iterator[Item]:
        nonlocal taken
        while True:
            taken += 1
            yield items[taken % len(items)] if taken % 2 else Item("nothing", None, None)

    stream = encode_many(endless(), SETTINGS)
    for _ in range(100):
        next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert taken < 5000


# A script without a guard of its main part, whose child is busy for longer than the test lives.
SCRIPT = """
import os, threading, time
from types import SimpleNamespace
import numpy as np
import psutil
from cloud_core.scope import EncoderSettings
from cloud_core.scope.isolation import encode_many
from cloud_core.structures import Cell
grid = np.stack(np.meshgrid(*[np.arange(16) / 16] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
slow = Cell(np.eye(3) * 60.0, ("C",) * len(grid), grid)
quick = Cell(np.eye(3) * 3.0, ("C",), grid[:1])
record = lambda cell: SimpleNamespace(id="a", payload=cell, format="cell")
list(encode_many([record(quick)], EncoderSettings()))
work = lambda: list(encode_many([record(slow)] * 8, EncoderSettings(), timeout_s=5))
threading.Thread(target=work, daemon=True).start()
time.sleep(1)
print(*[child.pid for child in psutil.Process().children()], flush=True)
time.sleep(600)
"""


def test_children_die_with_their_parent(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        assert parent.stdout
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert pids
        parent.kill()
    deadline = time.monotonic() + 30
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_process_with_children_ends_at_once() -> None:
    script = SCRIPT.split("work =")[0]
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert time.monotonic() - started < 30


@pytest.mark.integration
def test_inside_a_daemonic_dask_worker(items: list[Item]) -> None:
    import dask
    from distributed import Client, LocalCluster

    def encode_there(cifs: list[str]) -> tuple[bool, list[str], list[int]]:
        import multiprocessing
        from types import SimpleNamespace

        import psutil

        from cloud_core.scope import EncoderSettings
        from cloud_core.scope.isolation import encode_many

        records = [SimpleNamespace(id=str(i), payload=cif, format="cif") for i, cif in enumerate(cifs)]
        outcomes = list(encode_many(records, EncoderSettings()))
        pids = [child.pid for child in psutil.Process().children()]
        return multiprocessing.current_process().daemon, [o.scope.canonical for o in outcomes], pids

    cifs = [item.payload for item in items[:20]]
    with (
        dask.config.set({"distributed.worker.daemon": True}),
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        daemonic, found, pids = client.submit(encode_there, cifs).result(timeout=60)
    assert daemonic and pids
    assert found == [encode_cell(read(cif, "cif"), SETTINGS).canonical for cif in cifs]
    deadline = time.monotonic() + 30
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="above 0"):
        list(encode_many([SLOW], SETTINGS, processes=0))
