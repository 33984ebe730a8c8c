"""What people look at: bars in the terminal; progress, tables and pictures in the Prefect UI.

Outside a flow run the artifacts are left out and the bars stay.
"""

import base64
import io
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast
from uuid import UUID

from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.context import FlowRunContext, TaskRunContext
from prefect.runtime import flow_run
from tqdm.auto import tqdm

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINE_INTERVAL_S = 30.0  # of lines where the terminal is a file
ARTIFACT_INTERVAL_S = 5.0  # an update is an HTTP request and a database write of the Prefect server


def in_prefect_run() -> bool:
    return FlowRunContext.get() is not None or TaskRunContext.get() is not None


def flow_run_link() -> tuple[str | None, str | None]:
    """Id and UI address of the flow run that this code runs in, else `(None, None)`."""
    if not in_prefect_run():
        return None, None
    identifier = flow_run.get_id()
    return (str(identifier), flow_run.get_flow_run_ui_url()) if identifier else (None, None)


def artifact_key(name: str) -> str:
    """Prefect's keys take lower-case letters, digits and dashes only."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


class Progress:
    """One bar in the terminal (a line now and then in a log) and one progress artifact in the Prefect UI.

    `total` None: not known; the count and the rate are told, and the artifact stands at 0 % until the end.

    >>> with Progress(100, "encode", unit="structures") as progress:
    ...     progress.advance(60, failures=2)
    """

    def __init__(self, total: int | None, description: str, unit: str = "rows") -> None:
        self.total = total
        self.description = description
        self.done = 0
        self._started = time.monotonic()
        self._published = float("-inf")
        self._told = self._started
        self._notes: Mapping[str, Any] = {}
        self._artifact: UUID | None = None
        # disable=None: no bar where the terminal is a file
        self._bar = tqdm(total=total, desc=description, unit=f" {unit}", disable=None, dynamic_ncols=True)

    def __enter__(self) -> Self:
        if in_prefect_run():
            created = create_progress_artifact(
                0.0, key=artifact_key(self.description), description=self._summary()
            )
            self._artifact = cast(UUID, created)  # a coroutine in async callers only
        return self

    def advance(self, n: int = 1, **notes: Any) -> None:
        """Add `n`; `notes` (loss, failures by reason, …) are shown beside the count."""
        self.done += n
        if self.total is not None:
            self.total = max(self.total, self.done)  # a file may hold more than it was taken for
        self._notes = notes or self._notes
        if notes:
            self._bar.set_postfix(notes, refresh=False)
        self._bar.update(n)
        if self._bar.disable and time.monotonic() - self._told >= LINE_INTERVAL_S:
            self._told = time.monotonic()
            print(self._summary(), file=sys.stderr, flush=True)
        if time.monotonic() - self._published >= ARTIFACT_INTERVAL_S:
            self._publish()

    def _summary(self) -> str:
        elapsed = time.monotonic() - self._started
        rate = self.done / elapsed if elapsed > 0 else 0.0
        of, left = "", ""
        if self.total is not None:
            seconds = max(self.total - self.done, 0) / rate if rate > 0 else float("nan")
            of, left = f" of {self.total:,}", f", {seconds:,.0f} s left"
        notes = "".join(f", {key} {value}" for key, value in self._notes.items())
        return f"{self.description}: {self.done:,}{of}, {rate:,.0f}/s{left}{notes}"

    def _publish(self, ended: bool = False) -> None:
        self._published = time.monotonic()
        if self._artifact is not None:
            share = 100.0 * self.done / self.total if self.total else 100.0 * ended
            update_progress_artifact(self._artifact, progress=min(share, 100.0), description=self._summary())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if kind is None or issubclass(kind, Exception):
            self._publish(ended=kind is None)


def secret(name: str) -> str | None:
    """A secret by its environment variable, else by the Prefect Secret block of that name.

    `MP_API_KEY` is the block `mp-api-key`. None where there is neither.
    """
    if value := os.environ.get(name):
        return value
    from prefect.blocks.system import Secret

    try:
        block = cast(Secret[Any], Secret.load(name.lower().replace("_", "-")))
    except ValueError:  # Prefect's word for a block that is not there
        return None
    return str(block.get())


def publish_table(key: str, rows: Sequence[Mapping[str, Any]], description: str | None = None) -> None:
    """A table artifact; `rows` are JSON-able mappings with equal keys."""
    if in_prefect_run():
        create_table_artifact([dict(row) for row in rows], key=artifact_key(key), description=description)


def publish_markdown(key: str, markdown: str, description: str | None = None) -> None:
    if in_prefect_run():
        create_markdown_artifact(markdown, key=artifact_key(key), description=description)


def publish_figure(key: str, figure: "Figure", description: str | None = None) -> None:
    """An image artifact: the picture travels inside the artifact, as a data URI."""
    if in_prefect_run():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=90, bbox_inches="tight")
        encoded = base64.b64encode(buffer.getvalue()).decode()
        create_image_artifact(
            f"data:image/png;base64,{encoded}", key=artifact_key(key), description=description
        )
