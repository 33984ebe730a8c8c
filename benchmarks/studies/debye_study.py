"""The Debye model on real labels, beside its control and regressors without physics (docs/results.md).

    python benchmarks/studies/debye_study.py --encoder runs/models/cloud-small

Two runs of the Debye flow with the recipes in deployments/configs/: C_v at 300 K on our own test fifth of
`cloud_cv_train_and_val.csv`, and C_v from 100 to 1,000 K from phonon densities of states, with temperatures
that no model was trained on. Test rows are never trained on; the encoder may have seen their strings,
unlabelled, unless its corpus left them out. About a quarter of an hour on one core for 4 layers of 256.
"""

import argparse
from pathlib import Path
from typing import Any

from flows.cli.shell import use_embedded_prefect

CONFIGS = Path("deployments/configs")


def table(rows: list[dict[str, Any]]) -> None:
    """As Markdown."""
    columns = list(rows[0])
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        cells = [row[c] if c == "model" else f"{row[c]:.3f}" for c in columns]
        print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--encoder", required=True, help="model folder, models:/… or runs:/…")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--rate", type=float, default=5e-4, help="peak learning rate of the last layer")
    parser.add_argument("--pooling", choices=("mean", "first"), default="mean")
    parser.add_argument("--dropout", type=float, default=0.1, help="while fitting")
    parser.add_argument("--precision", choices=("bfloat16", "float32"), default="bfloat16")
    options = parser.parse_args()
    use_embedded_prefect()
    from flows.debye import DebyeConfig, debye
    from flows.phonon_labels import PhononLabelsConfig, phonon_labels
    from tasks.tracking import runs_folder

    def train(name: str, data: dict[str, Any]) -> None:
        recipe = DebyeConfig.from_yaml(CONFIGS / f"{name}.yaml").model_dump()
        recipe |= {"name": f"{name}-study", "encoder": options.encoder, "register_as": None}
        recipe["data"] |= data
        fit = recipe["fit"]
        fit |= {
            "pooling": options.pooling,
            "dropout": options.dropout,
            "epochs": options.epochs,
            "precision": options.precision,
        }
        fit["optimiser"] |= {"learning_rate": options.rate}
        result = debye(DebyeConfig.model_validate(recipe))
        print(
            f"\n{name}: {result.n_train} training, {result.n_validation} validation, {result.n_test} test "
            f"crystals; figures per {recipe['report_per']}, J/(mol K); {result.model_folder}\n"
        )
        table(result.comparison)
        print(f"\n{result.gate}", flush=True)

    data = options.shared / "data"
    train("debye", {"path": str(data / "cloud_example/cloud_cv_train_and_val.csv")})
    labels = PhononLabelsConfig.from_yaml(CONFIGS / "debye_phonon_labels.yaml").model_dump()
    labels["data"] |= {"path": str(data / "phonon/phdos_tutorial_data_1521.csv.gz")}
    labels |= {"to": runs_folder() / "thermal" / "phonon_labels.parquet"}
    counts = phonon_labels(PhononLabelsConfig.model_validate(labels)).counts
    print(f"\nphonon densities of states: {counts.model_dump()}")
    train("debye_temperatures", {"path": str(labels["to"])})


if __name__ == "__main__":
    main()
