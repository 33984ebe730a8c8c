"""Discovery metrics of published models on the labelled part of WBM.

    python benchmarks/studies/discovery.py ../shared/data/wbm

True hull distances are at hand for 26,278 crystals, recovered from published figures: tails are
over-represented, so that nothing here compares with the leaderboard. Unique prototypes are the first of each
formula, space group and site letters.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from cloud_core.evaluation.discovery import align, formation_energy_errors, hull_distance, subset_metrics
from cloud_core.evaluation.screening.wbm import (
    FORMATION_ENERGY,
    HULL_DISTANCE,
    ID,
    UNIQUE,
    prediction_column,
)
from cloud_core.files import read_frame

NOTE = "hull distances recovered from published figures, tails over-represented: no leaderboard figures"
MODELS = {
    "megnet": "megnet-wbm-IS2RE.csv.gz",
    "chgnet": "chgnet-0.3.0-wbm-IS2RE.csv.gz",
    "alignn": "alignn-wbm-IS2RE.csv.gz",
}
SHOWN = ("F1", "DAF", "Precision", "Recall", "Accuracy", "MAE", "RMSE", "R2")


def labelled(folder: Path) -> pd.DataFrame:
    """The labels at hand, by id, with a mark of unique prototypes, under the published names of columns."""
    labels = read_frame(folder / "wbm_labels_half.csv.gz").set_index(ID)
    symmetry = pd.read_csv(folder / "symmetry/dft-geo-opt-symprec=1e-2-spglib=2.5.0.csv.gz", index_col=0)
    labels = labels.join(symmetry[["spg_num", "wyckoff_symbols"]].astype(str))
    labels[UNIQUE] = ~labels.duplicated(["formula", "spg_num", "wyckoff_symbols"])
    return labels


def published(folder: Path) -> dict[str, pd.Series]:
    """Formation energies of all WBM crystals by published models, eV/atom, by id."""
    return {
        name: read_frame(folder / "model_preds" / file).set_index(ID)[prediction_column(name)]
        for name, file in MODELS.items()
    }


def table(labels: pd.DataFrame, models: dict[str, pd.Series]) -> Iterator[str]:
    """Lines of a Markdown table, three subsets a model; `models` give formation energies by id."""
    n_rows = f"{labels[FORMATION_ENERGY].notna().sum():,}"
    yield f"| model | subset | rows | {' | '.join(SHOWN)} | MAE of {n_rows} formation energies |"
    yield "|---|---|---|" + "---|" * (len(SHOWN) + 1)
    for name, values in models.items():
        predicted = align(values, labels, drop_unknown=True)
        error = formation_energy_errors(labels[FORMATION_ENERGY], predicted)["MAE"]
        rows = labels.assign(predicted=predicted).dropna(subset=[HULL_DISTANCE])
        each = hull_distance(rows[HULL_DISTANCE], rows[FORMATION_ENERGY], rows["predicted"])
        for result in subset_metrics(rows[HULL_DISTANCE], each, rows[UNIQUE]).values():
            shown = " | ".join(f"{result.metrics[key]:.3f}" for key in SHOWN)
            yield f"| {name} | {result.subset} | {result.n_rows:,} | {shown} | {error:.4f} eV/atom |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    for line in table(labelled(folder), published(folder)):
        print(line)


if __name__ == "__main__":
    main()
