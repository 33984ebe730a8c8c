"""Wall-clock time from a command to its answer, least of a few runs, beside the import of torch.

    python benchmarks/startup.py [--rounds 5]

Each command is a process of its own, on files that come with the project; tables and runs go to a temporary
folder. No Prefect server is named, so that small work is done in the command's own process.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DATA = Path(__file__).parents[1] / "flows" / "demo_data"
CLOUD = [sys.executable, "-m", "flows.cli"]


def seconds(command: list[str], folder: Path) -> float:
    environment = {key: value for key, value in os.environ.items() if key != "PREFECT_API_URL"}
    environment |= {"CLOUD_RUNS": str(folder / "runs"), "PYTHONPATH": str(Path(__file__).parents[1])}
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in (5, 10):
            (folder / f"cifs-{count}").mkdir()
            for number in range(count):
                shutil.copy(DATA / "held_out.cif", folder / f"cifs-{count}" / f"{number}.cif")
        ten = [str(path) for path in sorted((folder / "cifs-10").iterdir())]
        seconds([*CLOUD, "encode", "cifs-5", "--to", "table"], folder)
        commands = {
            "python -c 'import torch'": [sys.executable, "-c", "import torch"],
            "cloud --version": [*CLOUD, "--version"],
            "cloud --help": [*CLOUD, "--help"],
            "cloud scope, one file": [*CLOUD, "scope", ten[0]],
            "cloud status": [*CLOUD, "status", "table"],
            "cloud predict, ten files, all models of the package": [*CLOUD, "predict", *ten],
            "cloud encode, five files": [*CLOUD, "encode", "cifs-5", "--to", "new"],
            "cloud encode, 1,006 files": [*CLOUD, "encode", str(DATA / "structures.zip"), "--to", "new"],
        }
        print("| command | s |\n|---|---|")
        for title, command in commands.items():
            times = []
            for _ in range(rounds):
                shutil.rmtree(folder / "new", ignore_errors=True)
                times.append(seconds(command, folder))
            print(f"| {title} | {min(times):.2f} |", flush=True)


if __name__ == "__main__":
    main()
