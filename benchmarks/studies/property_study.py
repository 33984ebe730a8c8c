"""Property models side by side on the rows at hand: encoders, where they start from, and baselines.

    OMP_NUM_THREADS=1 python benchmarks/studies/property_study.py --to runs/study --tasks phonons,log_kvrh

Rows are fold 0 of MatBench's tasks as far as their structures are in `../shared/data`; what is done already
is not done again.
"""

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.studies.prepare_study import load
from cloud_core.evaluation.data.catalogue import TASKS
from cloud_core.evaluation.data.dataset import Dataset
from cloud_core.evaluation.data.folds import Split, split_fold
from cloud_core.evaluation.finetuning import write_split
from cloud_core.models.encoder import EncoderConfig
from cloud_core.models.pooling import Geometry
from cloud_core.models.sites_encoder import SitesConfig
from cloud_core.training.fit import run
from cloud_core.training.job import FitJob, FitSettings
from cloud_core.training.optimiser import OptimiserSettings

PASSES = {"phonons": 60_000, "log_kvrh": 60_000, "log_gvrh": 60_000}


@dataclass(frozen=True)
class Candidate:
    """A model to compare."""

    form: str
    encoder: Geometry
    learning_rate: float
    batch_size: int
    averaging: float | None = None


SMALL = EncoderConfig(
    hidden_size=128, layers=3, heads=4, feed_forward=256, positions=128, dropout=0.0, attention_dropout=0.0
)
CANDIDATES = {
    "sites": Candidate("resolved", SitesConfig("sites"), 1.5e-3, 128, 0.99),
    "resolved": Candidate("resolved", SMALL, 1e-3, 64, 0.99),
    "canonical": Candidate("canonical", SMALL, 1e-3, 64, 0.99),
}


def rows_of(shared: Path, to: Path, task: str) -> tuple[Dataset, Split]:
    path = to / f"{task}.parquet"
    if not path.is_file():
        data, note = load(shared, task)
        print(task, note, data.left_out, flush=True)
        tests = TASKS[f"matbench_{task}"].folds(data)
        data.save(path, split_fold(tests[0], data.keys, 0.1, 0))
    return Dataset.load(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--to", type=Path, default=Path("runs/study"))
    parser.add_argument("--tasks", default="phonons")
    parser.add_argument("--models", default="sites")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--averaging", type=float)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--decay", type=float, default=0.02)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--start")
    parser.add_argument("--tag", default="")
    a = parser.parse_args()
    for task in a.tasks.split(","):
        data, split = rows_of(a.shared / "data", a.to, task)
        for name in a.models.split(","):
            c = CANDIDATES[name]
            rows = data if c.form == data.form else replace(data, texts=data.keys, form="canonical")
            examples = a.to / task / f"rows-{name}"
            if not (examples / "test.safetensors").is_file():
                write_split(examples, rows, split, c.encoder)
            for seed in map(int, a.seeds.split(",")):
                folder = a.to / task / f"{name}-{seed}-{a.epochs}{a.tag}"
                optimiser = OptimiserSettings(
                    a.rate or c.learning_rate, weight_decay=a.decay, betas=(0.9, 0.99)
                )
                settings = FitSettings(
                    a.epochs,
                    a.batch or c.batch_size,
                    optimiser,
                    seed=seed,
                    pooling="mean",
                    dropout=a.dropout,
                    averaging=a.averaging or c.averaging,
                )
                start = {"start_from": a.start} if a.start else {"from_scratch": c.encoder}
                job = FitJob(
                    str(folder), str(examples), str(folder / "model"), rows.targets, settings, **start
                )
                began = time.perf_counter(), time.process_time()
                result = run(job)
                predicted = job.predictions("test")[rows.targets[0].name]
                error = np.abs(predicted - rows.labels[split.test, 0]).mean()
                print(
                    f"{task} {name} {a.tag} seed {seed}: MAE {error:.4f}, best epoch {result['best_epoch']}, "
                    f"validation {result['validation_loss']:.4f}, {len(split.train)} rows, "
                    f"{time.perf_counter() - began[0]:.0f} s, CPU {time.process_time() - began[1]:.0f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
