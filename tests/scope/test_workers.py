"""Helper processes: a structure that hangs, crashes or eats memory costs itself alone."""

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
import pandas as pd
import psutil
import pytest

from cloud_core.scope import EncoderSettings, helpers
from cloud_core.scope.encoder import encode_cell
from cloud_core.scope.workers import Encoded, Refused, encode_many
from cloud_core.structures import Cell, Reason, read

SETTINGS = EncoderSettings()


@dataclass(frozen=True)
class Item:
    id: str
    payload: Any
    format: str | None = "cif"


# A grid of carbon atoms, 4,096 in a cell of one: real work of seconds for moyo, with much memory.
GRID = np.stack(np.meshgrid(*[np.arange(16) / 16] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
SLOW = Item("slow", Cell(np.eye(3) * 60.0, ("C",) * len(GRID), GRID), "cell")


@pytest.fixture(scope="module")
def items(shared: Path) -> list[Item]:
    table = pd.read_csv(shared / "data/cdvae/perov_5_val.csv.gz", usecols=["material_id", "cif"], dtype=str)
    return [Item(name, cif) for name, cif in table.head(200).itertuples(index=False)]


def with_slow(items: list[Item], *places: int) -> list[Item]:
    items = list(items)
    for place in places:
        items[place] = Item(f"slow{place}", SLOW.payload, "cell")
    return items


def children() -> list[int]:
    """The helper processes of this one; servers of other tests are children too, and are left alone."""
    mine = psutil.Process().children()
    return sorted(p.pid for p in mine if "cloud_core.scope.worker" in " ".join(p.cmdline()))


def check(items: list[Item], outcomes: list[Encoded | Refused], refused: dict[str, Reason]) -> None:
    """One outcome a record, in order; what is not refused is what this process makes of it."""
    assert [outcome.id for outcome in outcomes] == [item.id for item in items]
    assert {o.id: o.reason for o in outcomes if isinstance(o, Refused)} == refused
    for item, outcome in zip(items, outcomes, strict=True):
        if isinstance(outcome, Encoded):
            assert outcome.scope == encode_cell(read(item.payload, item.format), SETTINGS)


def test_outcomes_are_those_of_this_process(items: list[Item]) -> None:
    mixed = list(items)
    mixed[3] = Item("bad", "data_x\n_cell_length_a 3\n")
    mixed[5] = Item("cell", read(items[5].payload), "cell")
    mixed[7] = Item("path", "no/such/file.cif", None)
    settings = EncoderSettings(forms=("canonical", "official", "full"))
    outcomes = list(encode_many(mixed, settings, processes=2))
    assert [outcome.id for outcome in outcomes] == [item.id for item in mixed]
    refused = {o.id: o.reason for o in outcomes if isinstance(o, Refused)}
    assert refused == {"bad": Reason.NO_ATOMS, "path": Reason.FILE_NOT_FOUND}
    for item, outcome in zip(mixed, outcomes, strict=True):
        if isinstance(outcome, Encoded):
            assert outcome.scope == encode_cell(read(item.payload, item.format), settings)
    assert list(encode_many([], SETTINGS)) == []


def test_a_hang_costs_one_structure(items: list[Item]) -> None:
    slow = with_slow(items, 0, 50, 199)
    outcomes = list(encode_many(slow, SETTINGS, processes=2, timeout_s=0.5))
    check(slow, outcomes, {f"slow{i}": Reason.TIMEOUT for i in (0, 50, 199)})
    assert "0.5 s" in next(o.message for o in outcomes if isinstance(o, Refused))


def test_a_crash_costs_one_structure(items: list[Item]) -> None:
    slow = with_slow(items, 70)
    stream = encode_many(slow, SETTINGS, timeout_s=60)
    first = next(stream)

    def crash() -> None:
        time.sleep(0.7)
        for pid in children():
            os.kill(pid, signal.SIGSEGV)

    thread = threading.Thread(target=crash)
    thread.start()
    outcomes = [first, *stream]
    thread.join()
    check(slow, outcomes, {"slow70": Reason.CRASHED})
    assert "SIGSEGV" in next(o.message for o in outcomes if isinstance(o, Refused))


def test_memory_is_limited(items: list[Item]) -> None:
    slow = with_slow(items, 20)
    check(slow, list(encode_many(slow, SETTINGS, memory_mb=30)), {"slow20": Reason.OUT_OF_MEMORY})


def test_a_helper_that_ignores_the_alarm_is_killed(
    items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watchdog's second line: a stopped process cannot be ended by its own alarm clock."""
    monkeypatch.setattr(helpers, "GRACE_S", 0.5)
    # Cold helpers would load their libraries when they are to be stopped at work.
    list(encode_many(items[:2], SETTINGS))
    slow = with_slow(items[:100], 66)
    stream = encode_many(slow, SETTINGS, timeout_s=5.0)
    first = next(stream)
    time.sleep(0.5)
    for pid in children():
        os.kill(pid, signal.SIGSTOP)
    check(slow, [first, *stream], {"slow66": Reason.TIMEOUT})


def test_helpers_are_kept_between_calls(items: list[Item]) -> None:
    list(encode_many(items[:3], SETTINGS))
    before = children()
    list(encode_many(items[:3], SETTINGS))
    assert children() == before


def test_an_abandoned_call_leaves_no_work_behind(items: list[Item]) -> None:
    stream = encode_many(items, SETTINGS)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    check(items[:5], list(encode_many(items[:5], SETTINGS)), {})


def test_records_are_taken_as_needed(items: list[Item]) -> None:
    taken = 0

    def endless() -> Iterator[Item]:
        nonlocal taken
        while True:
            taken += 1
            yield items[taken % len(items)]

    stream = encode_many(endless(), SETTINGS)
    for _ in range(100):
        next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert taken < 5000


# A parent whose helper is busy for longer than the test lives.
SCRIPT = """
import threading, time
from pathlib import Path
from types import SimpleNamespace
import numpy as np
from cloud_core.scope import EncoderSettings
from cloud_core.scope.workers import encode_many
from cloud_core.structures import Cell
grid = np.stack(np.meshgrid(*[np.arange(16) / 16] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
cell = Cell(np.eye(3) * 60.0, ("C",) * len(grid), grid)
records = [SimpleNamespace(id=str(i), payload=cell, format="cell") for i in range(8)]
work = lambda: list(encode_many(records, EncoderSettings(), timeout_s=5))
threading.Thread(target=work, daemon=True).start()
time.sleep(1.5)
print(*[(task / "children").read_text() for task in Path("/proc/self/task").iterdir()], flush=True)
time.sleep(600)
"""


def test_helpers_die_with_their_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True) as parent:
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
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.integration
def test_inside_a_dask_worker(items: list[Item]) -> None:
    import dask
    from distributed import Client, LocalCluster

    def encode_there(cifs: list[str]) -> tuple[bool, list[str]]:
        import multiprocessing
        from types import SimpleNamespace

        from cloud_core.scope import EncoderSettings
        from cloud_core.scope.workers import encode_many

        records = [SimpleNamespace(id=str(i), payload=cif, format="cif") for i, cif in enumerate(cifs)]
        outcomes = list(encode_many(records, EncoderSettings()))
        return multiprocessing.current_process().daemon, [outcome.scope.canonical for outcome in outcomes]

    cifs = [item.payload for item in items[:20]]
    with (
        dask.config.set({"distributed.worker.daemon": True}),
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        daemonic, found = client.submit(encode_there, cifs).result(timeout=60)
    assert daemonic
    assert found == [encode_cell(read(cif), SETTINGS).canonical for cif in cifs]


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="above 0"):
        list(encode_many([SLOW], SETTINGS, processes=0))
