"""Discovery metrics of published models on the labelled part of WBM.

    python benchmarks/discovery.py ../shared/data/wbm

True hull distances are at hand for 26,278 crystals, recovered from published figures: tails are
over-represented, so that nothing here compares with the leaderboard. Unique prototypes are the first of each
formula, space group and site letters.
"""

import argparse
from pathlib import Path

import pandas as pd

from cloud_core.evaluation.discovery import align, hull_distance, subset_metrics
from cloud_core.evaluation.wbm import FORMATION_ENERGY, HULL_DISTANCE, ID, prediction_column, read_table

MODELS = {
    "megnet": "megnet-wbm-IS2RE.csv.gz",
    "chgnet": "chgnet-0.3.0-wbm-IS2RE.csv.gz",
    "alignn": "alignn-wbm-IS2RE.csv.gz",
}
SHOWN = ("F1", "DAF", "Precision", "Recall", "Accuracy", "MAE", "RMSE", "R2")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    labels = read_table(folder / "wbm_labels_half.csv.gz").set_index(ID)
    symmetry = pd.read_csv(folder / "symmetry/dft-geo-opt-symprec=1e-2-spglib=2.5.0.csv.gz", index_col=0)
    labels = labels.join(symmetry[["spg_num", "wyckoff_symbols"]].astype(str))
    labels["unique"] = ~labels.duplicated(["formula", "spg_num", "wyckoff_symbols"])
    print("| model | subset | rows | " + " | ".join(SHOWN) + " | MAE of 128,191 formation energies |")
    print("|---|---|---|" + "---|" * (len(SHOWN) + 1))
    for name, file in MODELS.items():
        table = read_table(folder / "model_preds" / file).set_index(ID)[prediction_column(name)]
        predicted = align(table, labels, drop_unknown=True)
        error = (predicted - labels[FORMATION_ENERGY]).abs().mean()
        rows = labels.assign(predicted=predicted).dropna(subset=[HULL_DISTANCE])
        each = hull_distance(rows[HULL_DISTANCE], rows[FORMATION_ENERGY], rows["predicted"])
        for result in subset_metrics(rows[HULL_DISTANCE], each, rows["unique"]).values():
            values = " | ".join(f"{result.metrics[key]:.3f}" for key in SHOWN)
            print(f"| {name} | {result.subset} | {result.n_rows:,} | {values} | {error:.4f} eV/atom |")


if __name__ == "__main__":
    main()
