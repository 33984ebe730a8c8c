"""What people look at while they wait."""

import pytest

from tasks import reporting
from tasks.reporting import Progress


def test_a_log_gets_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(reporting.time, "monotonic", lambda: now)
    with Progress(100, "fit", unit="epochs") as progress:
        for now in range(1, 71):  # noqa: B007
            progress.advance(1, loss="0.5")
    shown = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fit:")]
    assert shown == [
        "fit: 30 of 100, 1/s, 70 s left, loss 0.5",
        "fit: 60 of 100, 1/s, 40 s left, loss 0.5",
    ]


def test_no_time_is_promised_where_the_total_is_not_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(reporting.time, "monotonic", lambda: now)
    with Progress(None, "read a tar", unit="structures") as progress:
        for now in range(1, 32):  # noqa: B007
            progress.advance(2)
    assert capsys.readouterr().err.splitlines()[-1] == "read a tar: 60, 2/s"
