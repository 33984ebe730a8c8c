"""Property models side by side on fold 0 of MatBench's tasks: sites and strings, new and from energies.

    OMP_NUM_THREADS=1 python benchmarks/studies/property_study.py --to runs/study
    OMP_NUM_THREADS=1 python benchmarks/studies/property_study.py --to runs/study --table

Rows are those whose structure is in `../shared/data`; splits are by whole crystals, and validation rows are
cut from the training part. *From energies*: fitted first to formation energies and band gaps of the Materials
Project files, without any crystal of an evaluated test fold (by canonical string, and by composition with
space group). What is done is not done again; `--table` prints what is there.
"""

import argparse
import json
import time
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.studies.prepare_study import all_structures, labels_of, load
from cloud_core.evaluation.baselines import BASELINES
from cloud_core.evaluation.data.catalogue import TASKS
from cloud_core.evaluation.data.dataset import Dataset, from_frame
from cloud_core.evaluation.data.folds import Split, split_by_group, split_fold
from cloud_core.evaluation.finetuning import write_split
from cloud_core.evaluation.report import training_rows
from cloud_core.files import write_json
from cloud_core.models.encoder import EncoderConfig
from cloud_core.models.heads import Target
from cloud_core.models.pooling import Geometry
from cloud_core.models.sites_encoder import SitesConfig
from cloud_core.scope import decode
from cloud_core.training.fit import run
from cloud_core.training.job import FitJob, FitSettings
from cloud_core.training.optimiser import OptimiserSettings

FOLD = 0
EVALUATED = ("phonons", "log_kvrh", "log_gvrh", "dielectric", "perovskites", "mp_gap", "mp_e_form")
STRING = EncoderConfig(
    hidden_size=128, layers=3, heads=4, feed_forward=256, positions=128, dropout=0.0, attention_dropout=0.0
)


@dataclass(frozen=True)
class Candidate:
    """A model: what it reads, and where it begins."""

    form: str
    encoder: Geometry
    from_energies: bool = False


CANDIDATES = {
    "sites": Candidate("resolved", SitesConfig("sites")),
    "sites, from energies": Candidate("resolved", SitesConfig("sites"), from_energies=True),
    "resolved string": Candidate("resolved", STRING),
    "canonical string": Candidate("canonical", STRING),
}


def settings_of(rows: int, seed: int, from_energies: bool) -> FitSettings:
    """By the size of the training part, the same for all tasks and encoders."""
    many = rows > 8000
    rate = 7e-4 if from_energies else 1.5e-3
    return FitSettings(
        epochs=25 if many else 40 if from_energies else 60,
        batch_size=128 if many else 32,
        optimiser=OptimiserSettings(learning_rate=rate, weight_decay=0.02, betas=(0.9, 0.99)),
        averaging=0.999 if many else 0.99,
        dropout=0.0 if many else 0.1,
        pooling="mean",
        seed=seed,
    )


def rows_of(shared: Path, to: Path, task: str) -> tuple[Dataset, Split]:
    """The rows of a task with resolved strings, split; encoded once."""
    path = to / f"{task}.parquet"
    if path.is_file():
        return Dataset.load(path)
    if task == "dielectric":
        data = dielectric(shared)
        split = split_by_group(data.keys, 0.2, 0.08, 0)
    elif task == "perovskites":
        data, fold = perovskites(shared)
        split = split_fold(np.flatnonzero(fold == FOLD), data.keys, 0.1, 0)
    else:
        data, _ = load(shared, task)
        split = split_fold(TASKS[f"matbench_{task}"].folds(data)[FOLD], data.keys, 0.1, 0)
    data.save(path, split)
    return data, split


def from_structures(task: str, frame: pd.DataFrame, targets: Iterable[Target] | None = None) -> Dataset:
    targets = list(targets or [TASKS[f"matbench_{task}"].learned()])
    return from_frame(
        frame, task, targets, structure_column="structure", id_column="id", form="resolved", processes=2
    )


def dielectric(shared: Path) -> Dataset:
    """The strings of fold 0's training part that are linked to a structure."""
    known = pd.read_parquet(shared.parent / "reference" / "published_dielectric.parquet")
    labels = pd.read_csv(shared / "cloud_example" / "finetune_dielectric_train_and_val.csv")
    frame = known.merge(labels, left_on="published", right_on="scope").drop_duplicates("material_id")
    frame = frame.rename(columns={"material_id": "id", "structure_json": "structure"})
    return from_structures("dielectric", frame)


def perovskites(shared: Path) -> tuple[Dataset, NDArray[np.int64]]:
    """The rows linked by label, and the official fold of each."""
    links = pd.read_csv(shared / "matbench" / "perovskites_jarvis_links.csv.gz", dtype={"jarvis_id": str})
    with zipfile.ZipFile(shared / "jarvis_leaderboard" / "perov5_heat_ref.json.zip") as archive:
        parts = json.loads(archive.read(archive.namelist()[0]))
    texts = {name: text.replace("\\n", "\n") for part in parts.values() for name, text in part.items()}
    frame = pd.DataFrame({"id": links["mbid"], "structure": [texts[name] for name in links["jarvis_id"]]})
    target = TASKS["matbench_perovskites"].target
    frame[target] = labels_of(shared, "perovskites")[links["mbid"]].to_numpy()
    data = from_structures("perovskites", frame)
    folds = dict(zip(links["mbid"], links["test_fold"], strict=True))
    return data, np.array([folds[name] for name in data.ids])


def energies(shared: Path, to: Path, tests: Iterable[tuple[Dataset, Split]]) -> tuple[Dataset, Split]:
    """Formation energies and gaps of the Materials Project files, without the crystals of the test folds."""
    path = to / "energies.parquet"
    if path.is_file():
        return Dataset.load(path)
    labels = pd.read_csv(shared / "crysxpp" / "mp_labels_joined.csv.gz")
    structures = all_structures(shared)
    frame = labels.rename(columns={"material_id": "id"})[["id", "formation_energy_per_atom", "band_gap"]]
    frame["structure"] = [structures["crysxpp", str(name)] for name in frame["id"]]
    targets = [Target("formation_energy_per_atom", "eV/atom"), Target("band_gap", "eV")]
    data = from_structures("energies", frame.drop_duplicates("id"), targets)
    keys: set[str] = set()
    formulas: set[Any] = set()
    for rows, split in tests:
        keys |= {rows.keys[i] for i in split.test}
        formulas |= {formula(rows.keys[i]) for i in split.test}
    kept = np.array(
        [i for i, key in enumerate(data.keys) if key not in keys and formula(key) not in formulas]
    )
    few = Dataset(
        *(tuple(column[i] for i in kept) for column in (data.ids, data.texts, data.keys)),
        data.labels[kept],
        data.targets,
        data.form,
    )
    split = split_by_group(few.keys, 0.02, 0.04, 0)
    few.save(path, split)
    return few, split


def formula(key: str) -> Any:
    parts = decode(key)
    return parts.space_group, parts.elements, parts.fractions


def fitted(
    to: Path, name: str, data: Dataset, split: Split, candidate: Candidate, seed: int, start: Path | None
) -> tuple[FitJob, float]:
    """A finished job, and the CPU seconds that it took."""
    folder = to / "fits" / data_name(data) / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
    rows = data if candidate.form == "resolved" else replace(data, texts=data.keys, form="canonical")
    examples = folder.parent / f"rows-{candidate.form}-{type(candidate.encoder).__name__}"
    if not (examples / "test.safetensors").is_file():
        write_split(examples, rows, split, candidate.encoder)
    begin: dict[str, Any] = (
        {"from_scratch": candidate.encoder} if start is None else {"start_from": str(start)}
    )
    job = FitJob(
        str(folder), str(examples), str(folder / "model"), data.targets,
        settings_of(len(split.train), seed, candidate.from_energies), **begin,
    )  # fmt: skip
    if job.result() is None:
        began = time.process_time()
        run(job)
        write_json(folder / "seconds.json", time.process_time() - began)
    return job, float(json.loads((folder / "seconds.json").read_text()))


def data_name(data: Dataset) -> str:
    return "-".join(target.name.replace(" ", "_").replace("/", "_") for target in data.targets)[:60]


def baseline(to: Path, name: str, data: Dataset, split: Split, parts: tuple[str, str]) -> NDArray[np.float64]:
    """Predictions of a baseline for a part of the split, learnt from "train" or from "known"."""
    learnt, asked = parts
    path = to / "baselines" / data_name(data) / f"{name.replace(' ', '-')}-{learnt}-{asked}.npy"
    if not path.is_file():
        rows = split.train if learnt == "train" else training_rows(split)
        wanted = getattr(split, asked)
        found = BASELINES[name](data.take_texts(rows), data.labels[rows, 0], data.take_texts(wanted), None, 0)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, found)
    return np.asarray(np.load(path))


def interval(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> tuple[float, float]:
    """95 % of the difference of the mean errors, rows drawn again together."""
    draws = np.random.default_rng(0).integers(0, len(ours), (2000, len(ours)))
    low, high = np.quantile((ours - theirs)[draws].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def line(to: Path, task: str, data: Dataset, split: Split, seeds: list[int]) -> dict[str, Any]:
    """A row of the table: mean absolute errors on the test rows."""
    true, target = data.labels[split.test, 0], data.targets[0]
    errors = {name: np.abs(baseline(to, name, data, split, ("known", "test")) - true) for name in BASELINES}
    row: dict[str, Any] = {"task": f"{task} ({len(data):,})", "unit": target.unit}
    row |= {name: f"{each.mean():.4g}" for name, each in errors.items()}
    for name, candidate in CANDIDATES.items():
        folder = to / "fits" / data_name(data)
        slug = name.replace(", ", "-").replace(" ", "-")
        done = [seed for seed in seeds if (folder / f"{slug}-{seed}" / "result.json").is_file()]
        if not done:
            continue
        jobs = [fitted(to, name, data, split, candidate, seed, None)[0] for seed in done]
        single = [np.abs(job.predictions("test")[target.name] - true).mean() for job in jobs]
        together = np.mean([job.predictions("test")[target.name] for job in jobs], axis=0)
        row[name] = f"{np.mean(single):.4g}" + (f" ± {np.std(single):.2g}" if len(single) > 1 else "")
        if name.startswith("sites"):
            row[f"{name}: {len(done)} seeds"] = f"{np.abs(together - true).mean():.4g}"
            low, high = interval(np.abs(together - true), errors["boosting"])
            row[f"{name}: less boosting"] = f"{low:.3g} … {high:.3g}"
            held = np.mean([job.predictions("validation")[target.name] for job in jobs], axis=0)
            boosted = baseline(to, "boosting", data, split, ("train", "validation"))
            known = data.labels[split.validation, 0]
            shares = np.linspace(0, 1, 21)
            loss = [np.abs(share * held + (1 - share) * boosted - known).mean() for share in shares]
            share = shares[int(np.argmin(loss))]
            stack = share * together + (1 - share) * baseline(to, "boosting", data, split, ("train", "test"))
            row[f"{name}: stack"] = f"{np.abs(stack - true).mean():.4g} ({share:.2f})"
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--to", type=Path, default=Path("runs/study"))
    parser.add_argument("--tasks", default=",".join(EVALUATED))
    parser.add_argument("--models", default="sites;sites, from energies")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--table", action="store_true", help="print the table of what is done, and end")
    arguments = parser.parse_args()
    shared, to = arguments.shared / "data", arguments.to
    to.mkdir(parents=True, exist_ok=True)
    rows = {task: rows_of(shared, to, task) for task in EVALUATED}
    tasks, seeds = arguments.tasks.split(","), [int(seed) for seed in arguments.seeds.split(",")]
    if arguments.table:
        table = pd.DataFrame([line(to, task, *rows[task], seeds) for task in tasks])
        print(table.fillna("").to_markdown(index=False))
        return
    for name in arguments.models.split(";"):
        candidate = CANDIDATES[name]
        start = None
        if candidate.from_energies:
            known = energies(shared, to, rows.values())
            job, seconds = fitted(to, "start", *known, replace(candidate, from_energies=False), 0, None)
            start = Path(job.model)
            print(f"energies: {len(known[0])} rows, {seconds:.0f} s of CPU, {job.result()}", flush=True)
        for seed in seeds:
            for task in tasks:
                if candidate.from_energies and task in ("mp_e_form", "mp_gap"):
                    continue  # what was learnt from holds these very labels
                data, split = rows[task]
                job, seconds = fitted(to, name, data, split, candidate, seed, start)
                true = data.labels[split.test, 0]
                error = np.abs(job.predictions("test")[data.targets[0].name] - true).mean()
                print(f"{task}, {name}, seed {seed}: {error:.4g}, {seconds:.0f} s of CPU", flush=True)


if __name__ == "__main__":
    main()
