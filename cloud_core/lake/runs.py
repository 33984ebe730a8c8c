"""What a run set out to do and whether it ended, told by the commits themselves.

A run that writes begins with a commit that holds its plan, and ends with one that says so; each chunk's
commit names its partition and its place there. A run without an end was killed, or goes on just now.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from cloud_core.lake.errors import naming
from cloud_core.lake.table import Table

Place = tuple[str, str, str]  # partition, its cursor, the grid of chunks
MAX_LISTED = 2000  # partitions whose keys are written into a plan; of the others, only the number


@dataclass(frozen=True)
class Plan:
    """A run's partitions with their row counts (None: only reading tells), and the size of a chunk."""

    run: str
    source: str
    fingerprint: str
    chunk_rows: int
    partitions: Sequence[tuple[str, str, int | None, int]]  # key, cursor, rows, number of the shard


def begin(table: Table, plan: Plan) -> None:
    values = asdict(plan)
    values["n_partitions"] = len(plan.partitions)
    values["partitions"] = list(plan.partitions)[:MAX_LISTED]
    table.note({"run": plan.run, "plan": json.dumps(values)})


def finish(table: Table, run: str) -> None:
    table.note({"run": run, "finished": "true"})


def pending(table: Table, source: str) -> str | None:
    """The newest run of a source, if it has not ended."""
    with naming(table.uri):
        plan = _unfinished_plans(table.delta.history()).get(source)
    return plan["run"] if plan is not None else None


def _unfinished_plans(history: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Source -> the entry with its newest plan, where that run has not ended; newest first."""
    finished = {entry["run"] for entry in history if entry.get("finished")}
    newest: dict[str, dict[str, Any]] = {}
    for entry in history:
        if "plan" in entry:
            newest.setdefault(json.loads(entry["plan"])["source"], entry)
    return {source: entry for source, entry in newest.items() if entry["run"] not in finished}


def grid(fingerprint: str, chunk_rows: int) -> str:
    """Chunks of two runs are comparable when encoder and size are the same."""
    return f"{fingerprint}/{chunk_rows}"


def unfinished(history: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The newest run that began and did not end: what it has and what it lacks; None if there is none.

    A later run of the same source takes an earlier one's place, a run of another does not. A chunk is told
    by its commit: one in which nothing was new has none, and counts as missing until the run ends.
    `history` is that of the Delta table, newest first.
    """
    began = next(iter(_unfinished_plans(history).values()), None)
    if began is None:
        return None
    commits: dict[Place, set[int]] = defaultdict(set)
    sizes: dict[Place, int] = {}
    for entry in history:  # chunks of earlier attempts count as well
        if "grid" in entry:
            place = (entry["partition"], entry["cursor"], entry["grid"])
            commits[place].add(int(entry["chunk"]))
            if entry["chunks"]:
                sizes[place] = int(entry["chunks"])
    plan = json.loads(began["plan"])
    head = {"run": plan["run"], "source": plan["source"], "began": _when(began)}
    return head | _missing(plan, commits, sizes)


def latest(history: Sequence[dict[str, Any]], n: int) -> list[dict[str, Any]]:
    """The newest `n` versions: when each was made, and by what."""
    return [{"version": entry["version"], "at": _when(entry), "what": _what(entry)} for entry in history[:n]]


def _when(entry: dict[str, Any]) -> str:
    return datetime.fromtimestamp(entry["timestamp"] / 1000, UTC).isoformat(timespec="seconds")


def _what(entry: dict[str, Any]) -> str:
    if "plan" in entry:
        return f"run {entry['run']} began"
    if entry.get("finished"):
        return f"run {entry['run']} ended"
    if "chunk" in entry:
        return f"chunk {entry['chunk']} of {entry['partition']}"
    return str(entry.get("cloud") or entry.get("operation", "")).lower()


def _missing(plan: dict[str, Any], commits: dict[Place, set[int]], sizes: dict[Place, int]) -> dict[str, Any]:
    committed = missing = uncounted = 0
    examples: list[str] = []
    incomplete: set[int] = set()
    own = grid(plan["fingerprint"], plan["chunk_rows"])
    for key, cursor, n_rows, shard in plan["partitions"]:
        done = commits.get((key, cursor, own), set())
        committed += len(done)
        total = sizes.get((key, cursor, own))
        if total is None and n_rows is not None:
            total = -(-n_rows // plan["chunk_rows"])
        lacking = sorted(set(range(total or 0)) - done)
        missing += len(lacking)
        uncounted += total is None
        if lacking or total is None:
            incomplete.add(shard)
        if lacking and len(examples) < 10:
            examples.append(f"{key}: chunks {', '.join(map(str, lacking[:20]))} of {total}")
    shards = {shard for *_, shard in plan["partitions"]}
    return {
        "shards": len(shards),
        "shards_complete": len(shards - incomplete),
        "partitions": plan["n_partitions"],
        "partitions_not_looked_at": plan["n_partitions"] - len(plan["partitions"]),
        "chunks_committed": committed,
        "chunks_missing": missing,
        "partitions_not_counted_yet": uncounted,
        "missing": examples,
    }
