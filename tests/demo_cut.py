"""The demo's data, cut down for tests."""

import zipfile
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from flows.cli.demo import DATA

BROKEN = ("broken-no-atoms.cif", "broken-truncated.cif")


def cut_demo_data(folder: Path, n_structures: int = 30) -> Path:
    """Write `n_structures` good and two broken structures, 12 candidates and 60 C_v rows into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        zipfile.ZipFile(DATA / "structures.zip") as whole,
        zipfile.ZipFile(folder / "structures.zip", "w") as part,
    ):
        good = [name for name in sorted(whole.namelist()) if name.startswith("mp-")]
        for name in [*good[:: len(good) // n_structures][:n_structures], *BROKEN]:
            part.writestr(name, whole.read(name))
    pq.write_table(pq.read_table(DATA / "candidates.parquet").slice(0, 12), folder / "candidates.parquet")
    pd.read_csv(DATA / "candidate_labels.csv").head(12).to_csv(folder / "candidate_labels.csv", index=False)
    pd.read_csv(DATA / "heat_capacity.csv").head(60).to_csv(folder / "heat_capacity.csv", index=False)
    for name in ("labels.csv", "held_out.cif"):
        (folder / name).write_bytes((DATA / name).read_bytes())
    return folder
