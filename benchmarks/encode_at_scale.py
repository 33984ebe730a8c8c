"""The encode flow on all WBM structures and on a million rows: throughput, memory, a second run.

    python benchmarks/encode_at_scale.py ../shared/data/wbm/wbm_initial_structures.parquet
    python benchmarks/encode_at_scale.py … --part million

Prints one table. Needs about 15 minutes and 2 GB of disk for each part on two cores.
"""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer

LOOP_ROWS = 2500  # structures of each portion that the plain loop encodes
PORTIONS = 3
CHUNK_ROWS = 4000


def plain_loop(path: str, portion: int) -> tuple[int, float, float]:
    """What a script would do, reading aside: encode cell by cell. Returns rows, seconds, CPU seconds."""
    from cloud_core.scope.encoder import encode_cell
    from cloud_core.scope.settings import EncoderSettings
    from cloud_core.sources.catalogue import open_source
    from cloud_core.structures.errors import StructureError

    source = open_source(path)
    partitions = list(source.partitions())
    partition = partitions[portion * (len(partitions) - 1) // PORTIONS]
    settings = EncoderSettings()
    cells = [record.payload for record in islice(source.read(partition), LOOP_ROWS)]
    for warm in cells[:200]:
        encode_cell(warm, settings)
    started, cpu = time.perf_counter(), time.process_time()
    for cell in cells:
        try:
            encode_cell(cell, settings)
        except StructureError:
            continue
    return len(cells), time.perf_counter() - started, time.process_time() - cpu


def loop_rates(path: str, at_once: int) -> tuple[list[float], float]:
    """Structures per second of `at_once` loops side by side, portion by portion; CPU seconds a structure."""
    rates, rows_done, cpu_used = [], 0, 0.0
    with multiprocessing.get_context("spawn").Pool(at_once) as pool:
        for portion in range(PORTIONS):
            done = pool.starmap(plain_loop, [(path, portion)] * at_once)
            rates.append(sum(rows / seconds for rows, seconds, _ in done))
            rows_done += sum(rows for rows, _, _ in done)
            cpu_used += sum(cpu for _, _, cpu in done)
    return rates, cpu_used / rows_done


class Watch:
    """Peak resident memory, MB, by kind of process: to the first 100,000 rows, and to the end."""

    def __init__(self, process: psutil.Process, table: Path) -> None:
        self.peaks: dict[str, float] = {}
        self.early: dict[str, float] = {}  # while fewer than 100,000 rows were committed
        self.cpu: dict[int, tuple[str, float]] = {}  # seconds by process
        self._process = process
        self._log = table / "_delta_log"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            commits = len(list(self._log.glob("*.json"))) if self._log.is_dir() else 0
            try:
                family = [self._process, *self._process.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            for process in family:
                try:
                    kind, memory = _kind(process, self._process), process.memory_info().rss / 2**20
                    times = process.cpu_times()
                    self.cpu[process.pid] = (kind, times.user + times.system)
                except (psutil.NoSuchProcess, psutil.AccessDenied):
                    continue
                self.peaks[kind] = max(self.peaks.get(kind, 0.0), memory)
                if commits * CHUNK_ROWS <= 100_000:
                    self.early[kind] = max(self.early.get(kind, 0.0), memory)

    def end(self) -> None:
        self._stop.set()
        self._thread.join()


def _kind(process: psutil.Process, root: psutil.Process) -> str:
    if process.pid == root.pid:
        return "flow"
    line = " ".join(process.cmdline())
    if "uvicorn" in line or "prefect" in line:
        return "prefect server"
    if "scheduler" in line:
        return "scheduler"
    if "spawn_main" in line or "dask" in line:
        return "worker"
    return "other"


def run_flow(source: str | dict[str, Any], table: Path) -> tuple[dict[str, Any], Watch, float]:
    """The flow (and Dask scheduler) in a process of its own; its result as JSON, and its memory."""
    config = {
        "source": source,
        "table": str(table),
        "encoding": {"chunk_rows": CHUNK_ROWS},
        "cluster": {"kind": "local", "workers": 2},
    }
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump(config, file)
        file.flush()
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "run", "encode", "--config", file.name, "--json"],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ
            | {
                "OMP_NUM_THREADS": "1",
                "PREFECT_LOGGING_LEVEL": "ERROR",
                "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            },
        )
        watch = Watch(psutil.Process(process.pid), table)
        output, _ = process.communicate()
        watch.end()
    if process.returncode:
        raise SystemExit(f"the flow ended with code {process.returncode}")
    return json.loads(output[output.index("{") :]), watch, time.perf_counter() - started


def throughput(path: str, folder: Path) -> list[tuple[str, str]]:
    before, cpu_before = loop_rates(path, 1)
    result, watch, wall = run_flow(path, folder / "wbm")
    two, _ = loop_rates(path, 2)
    after, cpu_after = loop_rates(path, 1)
    one = before + after
    single = sum(one) / len(one)
    pair = sum(two) / len(two)
    cpu: dict[str, float] = defaultdict(float)
    for kind, seconds in watch.cpu.values():
        cpu[kind] += seconds
    loop_cpu = (cpu_before + cpu_after) / 2 * result["n_records"]
    rate = result["n_records"] / result["seconds_encoding"]
    return [
        ("structures", f"{result['n_records']:,} ({result['n_quarantined']:,} quarantined)"),
        ("one plain loop", f"{single:,.0f}/s ({min(one):,.0f} … {max(one):,.0f})"),
        ("two plain loops side by side", f"{pair:,.0f}/s"),
        ("flow, first submission to last commit", f"{rate:,.0f}/s in {result['seconds_encoding']:.1f} s"),
        ("flow / (2 × one loop)", f"{rate / (2 * single):.1%}"),
        ("flow / two loops side by side", f"{rate / pair:.1%}"),
        ("CPU seconds", ", ".join(f"{kind} {seconds:.0f}" for kind, seconds in sorted(cpu.items()))),
        ("CPU seconds of the plain loop / those of the flow", f"{loop_cpu / sum(cpu.values()):.1%}"),
        ("start of the cluster", f"{result['seconds_starting']:.1f} s"),
        ("the whole command", f"{wall:.1f} s"),
        *memory(watch),
        *again(path, folder / "wbm", result),
    ]


def memory(watch: Watch) -> list[tuple[str, str]]:
    return [
        (f"peak memory, {kind}", f"{watch.early.get(kind, 0):,.0f} MB at 100 k rows, {peak:,.0f} MB ever")
        for kind, peak in sorted(watch.peaks.items())
    ]


def log_cost(table: Path, copy: Path, n_commits: int | None = None) -> tuple[str, str]:
    """Size and times of a table's log, or of its first commits, a row; on a copy, since it commits there."""
    from cloud_core.lake.table import Table

    (copy / "_delta_log").mkdir(parents=True)
    for file in (table / "_delta_log").iterdir():
        if n_commits is None or file.name < f"{n_commits:020d}":
            shutil.copy(file, copy / "_delta_log")
    opened = Table.open(str(copy))
    n_rows, n_files = opened.n_rows_in_files, len(opened.files())

    def least(work: Callable[[], object]) -> float:
        """Microseconds a row, of the best of ten."""
        seconds = []
        for _ in range(10):
            started = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - started)
        return min(seconds) / n_rows * 1e6

    size = sum(file.stat().st_size for file in (copy / "_delta_log").iterdir())
    opening, listing = least(lambda: Table.open(str(copy))), least(lambda: (opened.files(), opened.counts()))
    committing = least(lambda: opened.note({"benchmark": "a commit without rows"})) * n_rows / CHUNK_ROWS
    return (
        f"log at {n_rows:,} rows in {n_files} files, a row",
        f"{size / n_rows:.2f} bytes, opening {opening:.3f} µs, listing files and counts {listing:.3f} µs, "
        f"a commit {committing:.2f} µs",
    )


def again(source: str, table: Path, first: dict[str, Any]) -> list[tuple[str, str]]:
    """A second run over the finished table."""
    second, watch, wall = run_flow(source, table)
    wrote = second["n_encoded"] + second["n_quarantined"]
    return [
        ("second run", f"{second['seconds']:.1f} s, {wall:.1f} s with start-up and imports"),
        ("second run wrote", f"{wrote} rows, version {first['version']} → {second['version']}"),
        ("second run, peak memory of the flow", f"{watch.peaks['flow']:,.0f} MB"),
    ]


def million(path: str, folder: Path, n_rows: int) -> list[tuple[str, str]]:
    repeated = folder / "million.parquet"
    rows = pq.read_table(path)
    with pq.ParquetWriter(repeated, rows.schema) as writer:
        for copy in range(-(-n_rows // rows.num_rows)):
            part = rows.slice(0, min(rows.num_rows, n_rows - copy * rows.num_rows))
            ids = pc.binary_join_element_wise(part["material_id"], f"{copy}", "-")
            place = rows.schema.get_field_index("material_id")
            writer.write_table(part.set_column(place, rows.schema.field(place), ids.cast(pa.string())))
    table = folder / "million"
    first, watch, _ = run_flow(str(repeated), table)
    return [
        ("rows", f"{first['n_records']:,} in {first['seconds']:.0f} s"),
        *memory(watch),
        log_cost(
            table, folder / "log of 100 k", 2 + 100_000 // CHUNK_ROWS
        ),  # the table, the plan, the chunks
        log_cost(table, folder / "log"),
        *again(str(repeated), table, first),
    ]


def main(
    path: Annotated[str, typer.Argument(help="wbm_initial_structures.parquet")],
    part: str = "throughput",
    rows: int = 1_000_000,
    folder: Path | None = None,
) -> None:
    """Measure the encode flow; see the module's text."""
    home = Path(tempfile.mkdtemp(dir=folder))
    os.environ.setdefault("PREFECT_HOME", str(home / "prefect"))
    os.environ.setdefault("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", "true")
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
    try:
        shown = throughput(path, home) if part == "throughput" else million(path, home, rows)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    width = max(len(name) for name, _ in shown)
    for name, value in shown:
        print(f"{name:<{width}}  {value}")


if __name__ == "__main__":
    typer.run(main)
