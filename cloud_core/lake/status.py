"""What is in a table, for people."""

from collections import Counter, defaultdict
from typing import Any

from cloud_core.lake.errors import naming
from cloud_core.lake.pins import pins
from cloud_core.lake.rows import add_counts
from cloud_core.lake.runs import latest, unfinished
from cloud_core.lake.schemas import ENCODED, QUARANTINED
from cloud_core.lake.storage import Storage
from cloud_core.lake.table import Table

EXAMPLES = 10
LATEST = 10  # versions that are told one by one


def status(uri: str, version: int | None = None, storage: Storage | None = None) -> dict[str, Any]:
    """Rows, by status and by version of the encoder, files, versions, quarantine by reason, pins, and what an
    unfinished run lacks.

    Args:
        version: a past version; default: the newest.

    Raises:
        LakeError: there is no table, or no such version.
    """
    table = Table.open(uri, storage, version)
    reasons: Counter[str] = Counter()
    versions: Counter[int] = Counter()
    for kind in (ENCODED, QUARANTINED):
        for batch in table.batches(kind, ["reason", "encoder_version"]):
            add_counts(versions, batch["encoder_version"].fill_null(1))
            add_counts(reasons, batch["reason"].drop_null())
    with naming(uri):
        history = table.delta.history()  # newest first
    return {
        "table": uri,
        "version": table.version,
        "versions": {"oldest_in_log": history[-1]["version"], "latest": latest(history, LATEST)},
        "rows": table.counts(),
        "files": len(table.files()),
        "purged": table.is_purged,
        "encoder_versions": {str(version): n for version, n in sorted(versions.items())},
        "quarantine": dict(sorted(reasons.items())),
        "unfinished": unfinished(history) if version is None else None,
        "pins": pins(uri, table.storage),
    }


def quarantine_report(table: Table, examples: int = EXAMPLES) -> list[dict[str, Any]]:
    """A row a reason: how many, and the first ids with their messages."""
    counts: Counter[str] = Counter()
    shown: dict[str, list[str]] = defaultdict(list)
    for batch in table.batches(QUARANTINED, ["structure_id", "reason", "message"]):
        for row in batch.to_pylist():
            counts[row["reason"]] += 1
            if len(shown[row["reason"]]) < examples:
                shown[row["reason"]].append(f"{row['structure_id']}: {(row['message'] or '')[:200]}")
    return [
        {"reason": reason, "structures": n, "examples": "\n".join(shown[reason])}
        for reason, n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]
