"""A formation-energy model of the Materials Project, and what it makes of all 256,963 WBM structures.

    python benchmarks/studies/wbm_study.py                                # the tables alone: minutes
    python benchmarks/studies/wbm_study.py --encoder runs/models/cloud-small  # finetune, screen, print

The real flows one after the other, all of whose work is kept under runs/ and not done again: run it once more
after a kill. Nothing is trained or chosen by a label of WBM. `--limit 5000` cuts every input, to try it out.

Labels of the Materials Project: the larger file (crysxpp) holds energies before the corrections of 2020, the
two smaller ones and WBM those after. 3,940 crystals have both; the difference is linear in composition (the
corrections are energies for an element), and what a robust fit of it gives is added to the larger file's.
A crystal that is in several files counts once, by canonical string, newer labels first.
"""

import argparse
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from discovery import NOTE, labelled, published, table

from cloud_core.evaluation.baselines import BASELINES
from cloud_core.evaluation.screening.wbm import ID, N_WBM, prediction_column
from cloud_core.files import read_frame
from cloud_core.lake.table import Table
from cloud_core.scope.features import composition_of
from flows.cli.shell import use_embedded_prefect

LABEL = "formation_energy_per_atom"
OLD = "crysxpp"
HIGHEST = 5.0  # eV/atom: Matbench Discovery takes what is beyond for failed calculations
BASELINES_SHOWN = ("mean", "composition random forest")
MODEL = "CLOUD"


def sources(data: Path, folder: Path, limit: int | None) -> dict[str, dict[str, Any]]:
    """Name -> specification of a source; those of the Materials Project have labels, wbm has none."""
    labels = {LABEL: {"unit": "eV/atom"}}
    crysxpp = data / "crysxpp/mp_labels_joined.csv.gz"
    found: dict[str, dict[str, Any]] = {
        OLD: {
            "path": data / "crysxpp/mp_cifs_36737.parquet",
            "id": "material_id",
            "join": {"path": str(crysxpp), "on": "path", "key": "cif_path"},
        },
        "mp_20": {"path": data / "mp_cif_csv/mp_20_biternary_val.csv.gz", "id": "material_id"},
        "mpts_52": {"path": data / "mp_cif_csv/mpts_52_val.csv.gz", "id": "material_id"},
    }
    found = {name: {"structure": "cif", "labels": labels, **spec} for name, spec in found.items()}
    found["wbm"] = {"path": data / "wbm/wbm_initial_structures.parquet"}
    for name, spec in found.items():
        path = spec["path"] if limit is None else cut(spec["path"], folder / f"{name}.parquet", limit)
        spec |= {"kind": "table", "name": name, "path": str(path), "licence": "CC-BY-4.0"}
    return found


def cut(path: Path, to: Path, limit: int) -> Path:
    """The first rows of a table as Parquet; not written again, for a new file would be a new source."""
    if not to.exists():
        to.parent.mkdir(parents=True, exist_ok=True)
        frame = read_frame(path) if path.suffix != ".parquet" else pq.read_table(path).slice(0, limit)
        (frame.head(limit) if isinstance(frame, pd.DataFrame) else frame.to_pandas()).to_parquet(to)
    return to


def encode_all(specs: dict[str, dict[str, Any]], folder: Path) -> None:
    """Into two tables: `materials-project` and `wbm`."""
    from flows.encode import EncodeConfig, encode

    for name, spec in specs.items():
        uri = str(folder / ("wbm" if name == "wbm" else "materials-project"))
        result = encode(EncodeConfig.model_validate({"source": spec, "table": uri}))
        print(
            f"{name}: {result.n_records:,} structures, {result.n_encoded:,} encoded, {result.n_quarantined} "
            f"quarantined, {result.n_skipped:,} there already; {result.seconds:.0f} s",
            flush=True,
        )


def training_rows(folder: Path) -> Path:
    """One row a canonical string: id, scope, formation energy by the corrections of 2020, eV/atom."""
    path = folder / "training.parquet"
    if path.exists():
        return path
    columns = ["structure_id", "source", "canonical", "labels"]
    frame = Table.open(str(folder / "materials-project")).scope(columns).to_pandas()
    frame[LABEL] = [dict(labels).get(LABEL, np.nan) for labels in frame["labels"]]
    frame = frame[frame[LABEL].abs() <= HIGHEST].sort_values("structure_id", ignore_index=True)
    native = frame["structure_id"].str.partition(":")[2]
    old = (frame["source"] == OLD).to_numpy()
    newer = frame[~old].groupby(native[~old])[LABEL].first()
    difference = native.map(newer).to_numpy(dtype=float) - frame[LABEL].to_numpy()
    both = old & ~np.isnan(difference)
    features = composition_of(frame["canonical"].tolist())
    shift = features @ robust_fit(features[both], difference[both])
    left = np.abs(difference - shift)[both]
    print(
        f"{both.sum():,} crystals with an old and a new label: mean difference "
        f"{np.abs(difference[both]).mean():.4f} eV/atom, after the fit {left.mean():.4f} "
        f"(median {np.median(left):.4f})"
    )
    frame.loc[old, LABEL] += shift[old]
    rows = pd.concat([frame[~old], frame[old]]).drop_duplicates("canonical")
    known = set(Table.open(str(folder / "wbm")).scope(["canonical"])["canonical"].to_pylist())
    print(
        f"{len(frame):,} labelled structures of the Materials Project, {len(rows):,} distinct strings, "
        f"{rows['canonical'].isin(known).sum()} of them those of a WBM structure too"
    )
    rows = rows.rename(columns={"structure_id": "id", "canonical": "scope"})[["id", "scope", LABEL]]
    partial = path.with_suffix(".partial")
    rows.sort_values("id").to_parquet(partial, index=False)
    partial.replace(path)
    return path


def robust_fit(features: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Coefficients [m] of a linear fit of `values` [n] by `features` [n, m] with the least absolute error."""
    weights = np.ones(len(values))
    for _ in range(30):  # iteratively reweighted least squares
        weighted = features * weights[:, None]
        normal = weighted.T @ features + 1e-3 * np.eye(features.shape[1])
        found = np.linalg.solve(normal, weighted.T @ values)
        weights = 1 / np.maximum(np.abs(values - features @ found), 1e-3)
    return found


def wbm_labels(data: Path, folder: Path) -> tuple[Path, pd.DataFrame]:
    """The labels at hand of the structures in the table, as a file too."""
    labels = labelled(data / "wbm")
    ids = Table.open(str(folder / "wbm")).rows(columns=["structure_id"])["structure_id"].to_pandas()
    labels = labels[labels.index.isin(ids.str.partition(":")[2])]
    path = folder / "labels.parquet"
    labels.reset_index().to_parquet(path, index=False)
    return path, labels


def baselines(folder: Path, training: Path, test_ids: set[str]) -> dict[str, pd.Series]:
    """Formation energies of all WBM strings by what knows no symmetry, fitted to the model's own rows."""
    path = folder / "baselines.parquet"
    if not path.exists():
        rows = pd.read_parquet(training)
        rows = rows[~rows["id"].isin(test_ids)]
        wbm = Table.open(str(folder / "wbm")).rows(columns=["structure_id", "canonical"]).to_pandas()
        wbm.index = pd.Index(wbm["structure_id"].str.partition(":")[2], name=ID)
        encoded = wbm["canonical"].dropna()
        found = pd.DataFrame(index=wbm.index)
        for name in BASELINES_SHOWN:
            given = (rows["scope"].tolist(), rows[LABEL].to_numpy(), encoded.tolist())
            found[name] = pd.Series(BASELINES[name](*given, None, 0), encoded.index)
        found.to_parquet(path)
    found = pd.read_parquet(path)
    return {name: found[name] for name in found}


def facts(n_rows: int) -> dict[str, Any]:
    """Of the model, for the leaderboard's YAML; the flow writes on top what a submission would still lack."""
    return {
        "model_name": MODEL,
        "model_type": "Transformer",
        "targets": "E",
        "train_task": "RS2RE",
        "test_task": "IS2RE",
        "openness": "OSOD",
        "trained_for_benchmark": True,
        "training_set": ["MP 2022"],
        "requirements": {"torch": version("torch")},
        "notes": {"Training": f"{n_rows:,} distinct SCOPE strings of the Materials Project"},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--encoder", help="model folder, models:/… or runs:/…; without it: the tables alone")
    parser.add_argument("--limit", type=int, help="rows of each input")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=5e-4, help="peak learning rate of the last layer")
    parser.add_argument("--seeds", type=int, default=1, help="several: an ensemble, with uncertainty")
    parser.add_argument("--pooling", choices=("mean", "first"), default="mean")
    parser.add_argument("--dropout", type=float, default=0.1, help="while fitting")
    parser.add_argument("--precision", choices=("bfloat16", "float32"), default="bfloat16")
    options = parser.parse_args()
    use_embedded_prefect()
    from flows.finetune import FinetuneConfig, finetune
    from flows.screen import ScreenConfig, screen
    from tasks.tracking import runs_folder

    data = options.shared / "data"
    name = "wbm-study" if options.limit is None else f"wbm-study-{options.limit}"
    folder = runs_folder() / name
    encode_all(sources(data, folder, options.limit), folder)
    training = training_rows(folder)
    path, labels = wbm_labels(data, folder)
    if options.encoder is None:
        return
    optimiser = {"learning_rate": options.rate, "warmup": 0.1, "layer_decay": 0.9}
    fitted = finetune(
        FinetuneConfig.model_validate(
            {
                "name": name,
                "file": training,
                "scope_column": "scope",
                "id_column": "id",
                "targets": [{"label": LABEL, "unit": "eV/atom"}],
                "encoder": options.encoder,
                "pooling": options.pooling,
                "dropout": options.dropout,
                "test_fraction": 0.05,
                "validation_fraction": 0.05,
                "fit": {
                    "epochs": options.epochs,
                    "batch_size": options.batch,
                    "precision": options.precision,
                    "optimiser": optimiser,
                },
                "seeds": range(options.seeds),
                "baselines": BASELINES_SHOWN,
                "scratch_baseline": False,  # it would take as long again
            }
        )
    )
    rows = fitted.rows
    print(f"\n{rows['train']:,} + {rows['validation']:,} rows trained on; MAE of {rows['test']:,} test rows:")
    for row in fitted.comparison:
        print(f"  {row['model']}: {row['mae']:.4f} eV/atom, MAE/MAD {row['mae_over_mad']:.3f}", flush=True)
    n_expected = options.limit or N_WBM
    screened = screen(
        ScreenConfig.model_validate(
            {
                "name": name,
                "model": fitted.model_folder,
                "table": str(folder / "wbm"),
                "labels": {
                    "path": str(path),
                    "expected_rows": len(labels),
                    "partial": True,
                    "note": NOTE,
                },
                "known": {"table": str(folder / "materials-project")},
                "shortlist": 1000,
                "precision": options.precision,
                "submission": {
                    "model_key": "cloud",
                    "expected_rows": n_expected,
                    "facts": facts(sum(rows.values())),
                },
            }
        )
    )
    print(
        f"{screened.n_predicted:,} of {screened.n_candidates:,} candidates predicted "
        f"({screened.n_shards_there} of {screened.n_shards} shards were there); {screened.folder}"
    )
    submission = read_frame(screened.submission[0]).set_index(ID)[prediction_column("cloud")]
    tested = set(pd.read_csv(fitted.predictions, usecols=["id"])["id"])
    models = {MODEL: submission} | baselines(folder, training, tested) | published(data / "wbm")
    print(f"{NOTE}\n")
    for line in table(labels, models):
        print(line)
    for subset, metrics in screened.metrics.items():  # the flow's own, which the table repeats
        print(f"flow, {subset}: F1 {metrics['F1']:.3f}, DAF {metrics['DAF']:.3f}, MAE {metrics['MAE']:.3f}")
    print(f"flow, formation energies: {screened.formation_energy}")


if __name__ == "__main__":
    main()
