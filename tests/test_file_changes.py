"""A structure's way from its file to its row leads through few files, each called once."""

import subprocess
import sys
from pathlib import Path

MOST = 35


def test_a_plain_cif_changes_file_rarely() -> None:
    script = Path(__file__).parent / "file_changes.py"
    root = script.parent.parent
    told = subprocess.run(
        [sys.executable, str(script)], cwd=root, env={"PYTHONPATH": str(root)}, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
    changes = int(told.stdout.split(", ")[2].split()[0])
    assert changes <= MOST, f"{told.stdout}: `python tests/file_changes.py --list` shows them"
