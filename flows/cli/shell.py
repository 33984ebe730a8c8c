"""What commands on the shell share: a Prefect server, results in words, one line for a mistake.

Heavy imports wait until a command needs them.
"""

import json
import os
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import to_jsonable_python

from cloud_core.errors import CloudError

if TYPE_CHECKING:
    from cloud_core.lake.storage import Storage

QUARANTINE_EXAMPLES = 3  # of each reason


def embedded_prefect_home() -> Path:
    return Path(os.environ.get("CLOUD_RUNS", "runs")).absolute() / "prefect"


def has_prefect_server() -> bool:
    """Whether the user's environment or active Prefect profile names a server."""
    if "PREFECT_API_URL" in os.environ:
        return True
    home = Path(os.environ.get("PREFECT_HOME", Path.home() / ".prefect"))
    profiles = home / "profiles.toml"
    if not profiles.is_file():
        return False
    settings = tomllib.loads(profiles.read_text(encoding="utf-8"))
    active = os.environ.get("PREFECT_PROFILE", settings.get("active", ""))
    return "PREFECT_API_URL" in settings.get("profiles", {}).get(active, {})


def use_embedded_prefect() -> None:
    """Without a Prefect server of the user's own, a temporary one; its records stay for `cloud ui`."""
    if has_prefect_server():
        return
    defaults = {
        "PREFECT_HOME": str(embedded_prefect_home()),
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        # Prefect's own 20 s are too short for a busy laptop
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # the terminal shows bars and one line for a mistake; the whole log is in the UI
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    }
    for key, value in defaults.items():
        os.environ.setdefault(key, value)
    # the temporary server does not make its folder, and is started over and over where it is missing
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)


def fail_in_one_line(command: Callable[[], Any]) -> None:
    """Run a command; what its user can correct becomes one line on stderr and exit code 1.

    `CLOUD_TRACEBACK=1` shows the trace; faults of the program show it always.
    """
    try:
        command()
    except (CloudError, OSError, RuntimeError) as error:
        out_of_reach = "Failed to reach API" in str(error)  # Prefect has no type for it
        if os.environ.get("CLOUD_TRACEBACK") or (isinstance(error, RuntimeError) and not out_of_reach):
            raise
        text = " ".join(str(error).split()) or type(error).__name__
        if out_of_reach:
            text += " (Prefect's server): start it, or `unset PREFECT_API_URL` for a temporary one"
        print(f"cloud: {text}", file=sys.stderr)
        sys.exit(1)


# -- results


def plain(value: Any) -> Any:
    """Results (dataclasses, pydantic models, paths, NumPy's numbers) as what JSON knows."""
    return to_jsonable_python(value, fallback=lambda number: number.item())


def show(result: Any, as_json: bool) -> None:
    """A result as one JSON document, or for people: a line a value, rows as a table."""
    values = plain(result)
    print(json.dumps(values) if as_json else "\n".join(lines(values)))


def lines(values: Any, indent: str = "") -> Iterator[str]:
    if isinstance(values, list):
        yield from (f"{indent}{line}" for line in aligned(values))
        return
    for key, value in values.items():
        if value and (isinstance(value, dict) or is_rows(value)):
            yield f"{indent}{key}:"
            yield from lines(value, indent + "  ")
        else:
            yield f"{indent}{key}: {cell(value)}"


def is_rows(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(row, dict) for row in value)


def cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(map(cell, value)) or "-"
    return json.dumps(value) if isinstance(value, dict) else str(value)


def aligned(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows below their column names; columns without any value are left out."""
    names = list(dict.fromkeys(name for row in rows for name, value in row.items() if value is not None))
    texts = [names, *([cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(text[i]) for text in texts) for i in range(len(names))]
    return ["  ".join(map(str.ljust, text, widths)).rstrip() for text in texts]


def show_quarantine(uri: str, storage: "Storage | None" = None) -> None:
    """Of each reason the first structures in a table's quarantine, and what each one's message says."""
    from cloud_core.lake.status import quarantine_report
    from cloud_core.lake.table import Table

    for row in quarantine_report(Table.open(uri, storage), QUARANTINE_EXAMPLES):
        left = row["structures"] - QUARANTINE_EXAMPLES
        print(f"{row['reason']}, {row['structures']:,} in quarantine:")
        print(*(f"  {example}" for example in row["examples"].splitlines()), sep="\n")
        if left > 0:
            print(f"  … and {left:,} more: cloud status {uri} --quarantine FILE.csv writes all")
