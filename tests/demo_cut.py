"""The demo's data, cut down for tests: what needs *some* structures or strings takes these."""

import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

DATA = Path(__file__).parents[1] / "flows" / "demo_data"
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


def demo_cifs(n: int) -> dict[str, str]:
    """Name -> CIF of the `n` shortest files of the Materials Project."""
    with zipfile.ZipFile(DATA / "structures.zip") as archive:
        files = [info for info in archive.infolist() if info.filename.startswith("mp-")]
        files.sort(key=lambda info: (info.file_size, info.filename))
        return {info.filename: archive.read(info).decode() for info in files[:n]}


def demo_strings(n: int) -> list[str]:
    """`n` distinct canonical strings."""
    texts = pd.read_csv(DATA / "heat_capacity.csv")["cloud"].drop_duplicates()
    assert n <= len(texts)
    return texts.tolist()[:n]


def demo_structures(n: int) -> list[dict[str, Any]]:
    """`n` structures of WBM: material_id, formula, n_sites, species, lattice (nine numbers, Å), abc."""
    rows = pq.read_table(DATA / "candidates.parquet").to_pylist()
    assert n <= len(rows)
    return rows[:n]


def pymatgen_dictionary(row: dict[str, Any]) -> dict[str, Any]:
    """A row of `demo_structures` as pymatgen writes a structure."""
    sites = [
        {"species": [{"element": symbol, "occu": 1}], "abc": row["abc"][3 * i : 3 * i + 3], "label": symbol}
        for i, symbol in enumerate(row["species"].split())
    ]
    return {
        "@module": "pymatgen.core.structure",
        "@class": "Structure",
        "lattice": {"matrix": [row["lattice"][i : i + 3] for i in (0, 3, 6)]},
        "sites": sites,
    }
