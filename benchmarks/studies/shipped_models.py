"""The models that come with the package, `cloud_core/models/shipped`, and their cards.

python benchmarks/studies/public_labels.py
python benchmarks/studies/shipped_models.py --plan     # with the jobs of property_study.py
python benchmarks/studies/jobs.py runs/study --gpu 8 --cpu 4
python benchmarks/studies/shipped_models.py --finish
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.studies.jobs import Planned, write
from benchmarks.studies.property_study import (
    EVALUATED,
    SEEDS,
    WIDER,
    fits,
    rows_of,
    settings_of,
    starts,
    strings,
    write_examples,
)
from benchmarks.studies.public_labels import TARGETS
from cloud_core.training.job import FitJob

FITTED = {
    "band_gap": ("band_gap",),
    "moduli": ("bulk_modulus", "shear_modulus"),
    "highest_phonon_frequency": ("highest_phonon_frequency",),
    "refractive_index": ("refractive_index",),
}
"""model -> its quantities; formation energies are those of the encoders that the others start from"""


def shipped_fits(to: Path, frame: pd.DataFrame) -> list[Planned]:
    planned = []
    for seed in SEEDS:
        for name, quantities in FITTED.items():
            columns = [f"part {quantity}" for quantity in quantities]
            parts = frame[columns].replace("", np.nan).bfill(axis=1).iloc[:, 0].fillna("").to_numpy(object)
            parts[parts == "test wbm"] = "test"
            examples = to / "examples" / f"shipped-{name}"
            labels = frame[list(quantities)].to_numpy(np.float64)
            write_examples(examples, frame["resolved"].tolist(), labels, parts, WIDER)
            folder = to / "shipped" / f"{name}-{seed}"
            job = FitJob(
                str(folder), str(examples), str(folder / "model"), tuple(TARGETS[each] for each in
                quantities),
                settings_of(int((parts == "train").sum()), seed, True, 7e-4),
                start_from=str(to / "starts" / f"energies-{seed}" / "model"), metadata={"form": "resolved"},
            )  # fmt: skip
            planned.append(Planned(job, device="gpu" if name == "band_gap" else "cpu", keep_model=not seed))
    return planned


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--to", type=Path, default=Path("runs/study"))
    parser.add_argument("--labels", type=Path, default=Path("runs/labels/labels.parquet"))
    parser.add_argument("--corpus", type=Path, default=Path("runs/corpus"))
    parser.add_argument("--plan", action="store_true", help="write the jobs")
    options = parser.parse_args()
    frame = pd.read_parquet(options.labels)
    if options.plan:
        rows = {task: rows_of(options.shared / "data", options.to, task) for task in EVALUATED}
        jobs = [
            *starts(options.to, frame),
            *shipped_fits(options.to, frame),
            *fits(options.to, rows),
            *strings(options.to, frame, options.corpus, rows),
        ]
        write(options.to, jobs)
        print(f"{len(jobs)} jobs in {options.to / 'jobs.json'}")


if __name__ == "__main__":
    main()
