"""Cut the demo's data from the shared files: `python benchmarks/studies/cut_demo_data.py ../shared/data`.

Writes `flows/demo_data/` (1 MB; sources and licences in its NOTICE), the same bytes each time.
"""

import ast
import json
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cloud_core.scope import EncoderSettings, canonicalise
from cloud_core.scope.isolation import Encoded, encode_many

OUT = Path(__file__).parents[2] / "flows" / "demo_data"
N_STRUCTURES = 1000
N_CANDIDATES = 400
SEED = 20250623
HELD_OUT = "mp-22862"  # NaCl: rock salt that the demo predicts and never trains on

LABELS = ["formation_energy_per_atom", "e_above_hull", "band_gap"]


@dataclass(frozen=True)
class Input:
    """What `encode_many` takes."""

    id: str
    payload: str
    format: str


def broken(good: str) -> dict[str, str]:
    """Files that cannot be encoded, each for another reason, made from a good one."""
    head, loop, rows = (
        good.partition("  _atom_site_occupancy\n")
        if "  _atom_site_occupancy\n" in good
        else (good.partition(" _atom_site_occupancy\n"))
    )
    first = rows.splitlines()[0]
    return {
        "broken-truncated": good[: good.index("_cell_angle_beta")],
        "broken-no-atoms": head + loop,
        "broken-not-a-cif": "This file was saved by a browser: 404 Not Found\n",
        "broken-empty": "",
        "broken-two-atoms-on-one-site": good.rstrip("\n") + "\n" + first.replace("0  1  ", "99  1  ") + "\n",
        "broken-zero-volume": good.replace("_cell_angle_gamma", "_cell_angle_gamma  0.0 #", 1),
    }


def resolved_of(shared: Path, texts: list[str]) -> list[str | None]:
    """The resolved string of each crystal whose canonical string is that of just one crystal of the phonon
    files, whose structures are known."""
    columns: dict[str, list[str]] = {
        "ase": pd.read_csv(shared / "phonon" / "phdos_tutorial_data_1521.csv.gz")["structure"].tolist(),
        "pymatgen": pd.read_csv(shared / "automatminer" / "phonon_dielectric_mp.csv.gz")["structure"]
        .dropna()
        .tolist(),
    }
    inputs = [
        Input(f"{name}-{row}", json.dumps(ast.literal_eval(text.replace("nan", "None"))), name)
        for name, column in columns.items()
        for row, text in enumerate(column)
    ]
    known: dict[str, set[str]] = {}
    for found in encode_many(inputs, EncoderSettings(forms=("canonical", "resolved")), 2):
        if isinstance(found, Encoded):
            known.setdefault(str(found.scope.canonical), set()).add(str(found.scope.resolved))
    candidates = [known.get(canonicalise(text), set()) for text in texts]
    return [next(iter(each)) if len(each) == 1 else None for each in candidates]


def cut(shared: Path) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    labels = pd.read_csv(shared / "crysxpp" / "mp_labels_joined.csv.gz")
    cifs = pd.read_parquet(shared / "crysxpp" / "mp_cifs_36737.parquet")
    table = labels.merge(cifs, left_on="cif_path", right_on="path").dropna(subset=LABELS)
    table = table[table["e_above_hull"] < 0.5].drop_duplicates("material_id")
    table["text"] = table["cif"].str.decode("utf-8")
    held_out = table[table["material_id"] == HELD_OUT]
    if len(held_out) != 1:
        raise SystemExit(f"{HELD_OUT} is not in the shared data; choose another crystal to hold out")
    sites = table["text"].str.count("\n") - 26
    pool = table[(sites <= 24) & (table["material_id"] != HELD_OUT) & (table["pretty_formula"] != "NaCl")]
    chosen = pool.sample(N_STRUCTURES, random_state=SEED).sort_values("material_id")
    files = dict(zip(chosen["material_id"], chosen["text"], strict=True)) | broken(chosen["text"].iloc[0])
    with zipfile.ZipFile(OUT / "structures.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, text in sorted(files.items()):
            archive.writestr(
                zipfile.ZipInfo(f"{name}.cif", (2025, 1, 1, 0, 0, 0)), text, zipfile.ZIP_DEFLATED, 9
            )
    chosen[["material_id", *LABELS]].to_csv(OUT / "labels.csv", index=False)
    (OUT / "held_out.cif").write_text(held_out["text"].iloc[0])

    candidates = pd.read_csv(shared / "wbm" / "wbm_labels_half.csv.gz").dropna(
        subset=["e_form_per_atom_mp2020_corrected", "e_above_hull_mp2020_corrected_ppd_mp"]
    )
    candidates = candidates.sample(N_CANDIDATES, random_state=SEED).sort_values("material_id")
    structures = pd.read_parquet(shared / "wbm" / "wbm_initial_structures.parquet")
    structures = structures[structures["material_id"].isin(candidates["material_id"])].sort_values(
        "material_id"
    )
    pq.write_table(
        pa.Table.from_pandas(structures, preserve_index=False), OUT / "candidates.parquet", compression="zstd"
    )
    candidates.drop(columns="e_above_hull_source").to_csv(OUT / "candidate_labels.csv", index=False)

    heat = pd.read_csv(shared / "cloud_example" / "cloud_cv_train_and_val.csv")
    heat["resolved"] = resolved_of(shared, heat["cloud"].tolist())
    heat.to_csv(OUT / "heat_capacity.csv", index=False)
    for path in sorted(OUT.iterdir()):
        print(f"{path.stat().st_size:>9,}  {path.name}")


if __name__ == "__main__":
    cut(Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data"))
