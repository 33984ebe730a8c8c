"""Property models side by side on fold 0 of MatBench's tasks: sites and strings, new and pretrained.

    python benchmarks/studies/public_labels.py
    python benchmarks/studies/property_study.py --plan
    python benchmarks/studies/jobs.py runs/study --gpu 8 --cpu 4     # or --cpu 2, for a day
    python benchmarks/studies/property_study.py --table

Rows are those whose structure is in `../shared/data`; splits are by whole crystals, and validation rows are
cut from the training part. *From energies*: fitted first to formation energies and band gaps of the Materials
Project and of WBM, without any crystal of fold 0 of any MatBench task (see public_labels.py). *Masked*:
pretrained on the strings of all structures at hand but those. Folds 1 to 4 of phonons start from
encoders that
have seen energies and gaps of their test crystals, never the label.
"""

import argparse
import json
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import load_file

from benchmarks.studies.corpus import kind
from benchmarks.studies.jobs import Planned, write
from benchmarks.studies.prepare_study import labels_of, load
from benchmarks.studies.public_labels import TARGETS
from cloud_core.evaluation.baselines import BASELINES
from cloud_core.evaluation.data.catalogue import TASKS
from cloud_core.evaluation.data.dataset import Dataset, from_frame
from cloud_core.evaluation.data.folds import Split, split_by_group, split_fold
from cloud_core.evaluation.report import training_rows
from cloud_core.models.geometry import EncoderConfig, Geometry, SitesConfig
from cloud_core.models.targets import Target
from cloud_core.training.batches import Batches
from cloud_core.training.job import LABELS, PARTS, FitJob, FitSettings, PretrainJob, PretrainSettings
from cloud_core.training.masking import Masking
from cloud_core.training.optimiser import OptimiserSettings

FOLD = 0
SEEDS = (0, 1, 2)
EVALUATED = ("phonons", "log_kvrh", "log_gvrh", "dielectric", "perovskites", "mp_gap", "mp_e_form")
LARGE = ("mp_gap", "mp_e_form")
FIRST = ("formation_energy", "band_gap")  # what encoders learn before the tasks
SITES = SitesConfig("sites")
WIDER = SitesConfig("sites", hidden_size=160, layers=4, heads=5, feed_forward=320)
STRING = EncoderConfig(
    hidden_size=128, layers=3, heads=4, feed_forward=256, positions=128, dropout=0.0, attention_dropout=0.0
)
ENCODERS: tuple[tuple[str, str, Geometry], ...] = (
    ("sites", "resolved", SITES),
    ("resolved", "resolved", STRING),
    ("canonical", "canonical", STRING),
)
"""(name, form, geometry) of encoders of equal size"""


def settings_of(rows: int, seed: int, pretrained: bool, rate: float) -> FitSettings:
    """By the size of the training part, the same for all tasks and encoders."""
    many = rows > 8000
    return FitSettings(
        epochs=25 if many else 40 if pretrained else 60,
        batch_size=128 if many else 32,
        optimiser=OptimiserSettings(
            learning_rate=rate if pretrained else 1.5e-3, weight_decay=0.02, betas=(0.9, 0.99)
        ),
        averaging=0.999 if many else 0.99,
        dropout=0.0 if many else 0.1,
        pooling="mean",
        patience=None,
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


def write_examples(
    folder: Path, texts: Sequence[str], labels: NDArray[np.float64], parts: NDArray[Any], encoder: Geometry
) -> Path:
    """Tokenized train, validation and test rows; `parts` `[rows]` says which is where, others are left
    out."""
    for part in PARTS:
        rows = np.flatnonzero(parts == part)
        path = folder / f"{part}.safetensors"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            Batches.of_texts([texts[i] for i in rows], encoder, {LABELS: labels[rows]}).save(path)
    return folder


def energies(frame: pd.DataFrame, wbm: bool = True) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """(labels `[rows, 2]`, parts `[rows]`) of formation energies and gaps; see public_labels.py. Without WBM
    its rows are the test, and all others are trained on but the validation part's and the demo's."""
    names = [f"part {name}" for name in FIRST]
    parts = np.where(frame[names[0]] != "", frame[names[0]], frame[names[1]]).astype(object)
    parts[parts == "test wbm"] = "test"
    if not wbm:
        of_wbm = (frame["source"] == "wbm").to_numpy()
        parts = np.where(
            parts == "validation", np.where(of_wbm, "test", parts), np.where(of_wbm, "test", "train")
        )
        parts[(frame[FIRST[0]].isna()).to_numpy()] = ""
    return frame[list(FIRST)].to_numpy(np.float64), parts


def start_of(
    to: Path, frame: pd.DataFrame, name: str, form: str, encoder: Geometry, seed: int, epochs: int,
    batch: int = 1024, wbm: bool = True,
) -> Planned:  # fmt: skip
    """An encoder fitted to formation energies and gaps."""
    examples = to / "examples" / f"energies-{slug(form, encoder)}{'' if wbm else '-without-wbm'}"
    write_examples(examples, frame[form].tolist(), *energies(frame, wbm), encoder)
    optimiser = OptimiserSettings(learning_rate=2e-3, weight_decay=0.02, betas=(0.9, 0.99))
    settings = FitSettings(
        epochs, batch, optimiser, averaging=0.999, dropout=0.0, pooling="mean", patience=None,
        seed=seed,
    )  # fmt: skip
    folder = to / "starts" / name
    job = FitJob(
        str(folder), str(examples), str(folder / "model"), tuple(TARGETS[name] for name in FIRST), settings,
        from_scratch=encoder, metadata={"form": form},
    )  # fmt: skip
    return Planned(job, keep_model=True)


def starts(to: Path, frame: pd.DataFrame) -> list[Planned]:
    """Encoders of sites that learnt energies and gaps of public labels, or of those without WBM's."""
    return [
        *(start_of(to, frame, f"energies-{seed}", "resolved", WIDER, seed, 50) for seed in SEEDS),
        start_of(to, frame, "energies-sites", "resolved", SITES, 0, 25),
        *(
            start_of(to, frame, f"without-wbm-{seed}", "resolved", WIDER, seed, 60, 512, wbm=False)
            for seed in SEEDS
        ),
    ]


def masked(to: Path, name: str, form: str, encoder: Geometry, frame: pd.DataFrame, corpus: Path) -> Planned:
    """Pretraining on the strings of all structures at hand, but those that are held out of the energies."""
    examples = to / "examples" / f"strings-{slug(form, encoder)}"
    training = examples / "training.safetensors"
    if not training.is_file():
        held = frame[[str(part).startswith("test") for part in energies(frame)[1]]]
        hidden = {kind(text) for text in held["canonical"]}
        strings = pd.concat(
            [pd.read_parquet(path) for path in sorted((corpus / "encoded").glob("*.parquet"))]
        )
        strings = strings.dropna().drop_duplicates(form)
        texts = strings[form][~strings["canonical"].map(kind).isin(hidden)].sort_values().tolist()
        rows = Batches.of_texts(texts, encoder)
        training.parent.mkdir(parents=True, exist_ok=True)
        for part, path in zip(rows.split(0.01), (training, examples / "validation.safetensors"), strict=True):
            part.save(path)
    folder = to / "starts" / f"masked-{name}"
    steps = 8 * len(Batches.load(training)) // 1024
    settings = PretrainSettings(
        encoder=encoder,
        masking=Masking(),
        optimiser=OptimiserSettings(learning_rate=1e-3),
        batch_size=1024,
        precision="float32",
        micro_batch_tokens=65_536,
        log_every=200,
        validate_every=steps,
        checkpoint_every=steps,
    )
    job = PretrainJob(
        str(folder), str(training), str(examples / "validation.safetensors"), str(folder / "model"), steps,
        settings, metadata={"form": form},
    )  # fmt: skip
    return Planned(job, "pretrain", keep_model=True)


def fits(to: Path, rows: dict[str, tuple[Dataset, Split]]) -> list[Planned]:
    """Sites on every task, the most important first. A CPU core is as fast as a GPU on batches of 32."""
    planned: list[Planned] = []

    def add(candidate: str, encoder: Geometry, start: str | None, seed: int, rate: float = 7e-4) -> None:
        for task, (data, split) in rows.items():
            on = "gpu" if task in LARGE and start is not None else "cpu"
            planned.append(
                fit_of(to, task, data, split, candidate, "resolved", encoder, start, seed, on, rate)
            )

    for seed in SEEDS:
        planned += folds(to, *rows["phonons"], seed)
        add("wider sites, from energies", WIDER, f"energies-{seed}", seed)
    for seed in SEEDS:
        add("sites, from energies", SITES, "energies-sites", seed)
    for seed in SEEDS:
        add("sites", SITES, None, seed)
    add("wider sites, from energies, lower rate", WIDER, "energies-0", 0, 3e-4)
    return planned


def folds(to: Path, data: Dataset, _: Split, seed: int) -> list[Planned]:
    """The other folds of phonons."""
    planned = []
    for fold, test in enumerate(TASKS["matbench_phonons"].folds(data)[1:], 1):
        split = split_fold(test, data.keys, 0.1, 0)
        name, start = f"phonons-fold-{fold}", f"energies-{seed}"
        candidate = "wider sites, from energies"
        planned.append(fit_of(to, name, data, split, candidate, "resolved", WIDER, start, seed, "cpu"))
    return planned


def strings(
    to: Path, frame: pd.DataFrame, corpus: Path, rows: dict[str, tuple[Dataset, Split]]
) -> list[Planned]:
    """Encoders of strings beside that of sites, of the same size: new, masked, and from energies."""
    planned = [
        start_of(to, frame, f"energies-{name}", form, encoder, 0, 25) for name, form, encoder in ENCODERS[1:]
    ]
    planned += [masked(to, *each, frame, corpus) for each in ENCODERS]
    small = {task: each for task, each in rows.items() if task not in LARGE}
    large = {task: each for task, each in rows.items() if task in LARGE}
    for seed in SEEDS:
        for some in (small, large):
            for name, form, encoder in ENCODERS:
                for candidate, start in (
                    (f"{name}, masked", f"masked-{name}"),
                    (f"{name}, from energies", f"energies-{name}"),
                    (name, None),
                ):
                    if name != "sites" or start == "masked-sites":
                        for task, (data, split) in some.items():
                            planned.append(
                                fit_of(to, task, data, split, candidate, form, encoder, start, seed)
                            )
    return planned


def fit_of(
    to: Path, task: str, data: Dataset, split: Split, candidate: str, form: str, encoder: Geometry,
    start: str | None, seed: int, device: str = "gpu", rate: float = 7e-4,
) -> Planned:  # fmt: skip
    texts = data.texts if form == "resolved" else data.keys
    parts = np.full(len(data), "", dtype=object)
    for part, chosen in zip(PARTS, split, strict=True):
        parts[chosen] = part
    examples = to / "examples" / f"{task}-{slug(form, encoder)}"
    write_examples(examples, texts, data.labels, parts, encoder)
    folder = to / "fits" / task / f"{candidate.replace(', ', '-').replace(' ', '-')}-{seed}"
    begin: dict[str, Any] = (
        {"from_scratch": encoder} if start is None else {"start_from": str(to / "starts" / start / "model")}
    )
    settings = settings_of(len(split.train), seed, start is not None, rate)
    job = FitJob(
        str(folder),
        str(examples),
        str(folder / "model"),
        data.targets,
        settings,
        metadata={"form": form},
        **begin,
    )
    return Planned(job, device=device)


def slug(form: str, encoder: Geometry) -> str:
    """What an encoder reads: sites of any width are the same."""
    return "sites" if isinstance(encoder, SitesConfig) else form


def baseline(to: Path, task: str, name: str, data: Dataset, split: Split) -> NDArray[np.float64]:
    """Predictions of a baseline for the test rows, learnt from all others."""
    path = to / "baselines" / task / f"{name.replace(' ', '-')}.npy"
    if not path.is_file():
        rows = training_rows(split)
        texts, wanted = data.take_texts(rows), data.take_texts(split.test)
        found = BASELINES[name](texts, data.labels[rows, 0], wanted, None, 0)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, found)
    return np.asarray(np.load(path))


def interval(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> tuple[float, float]:
    """95 % of the difference of the mean errors, rows drawn again together."""
    draws = np.random.default_rng(0).integers(0, len(ours), (2000, len(ours)))
    low, high = np.quantile((ours - theirs)[draws].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def lines(to: Path, task: str, data: Dataset, split: Split) -> list[dict[str, Any]]:
    """A row for each model that is done: mean absolute errors on the test rows."""
    true, target = data.labels[split.test, 0], data.targets[0]
    errors = {name: np.abs(baseline(to, task, name, data, split) - true) for name in BASELINES}
    first = {"task": f"{task} ({len(split.test)} of {len(data)})"}
    found = [first | {"model": name, "error": f"{each.mean():.4g}"} for name, each in errors.items()]
    seeds: dict[str, list[Path]] = {}
    for path in sorted((to / "fits" / task).glob("*/predictions.safetensors")):
        seeds.setdefault(path.parent.name.rpartition("-")[0], []).append(path)
    for name, paths in seeds.items():
        each = np.stack([load_file(path)[f"test.{target.name}"] for path in paths])
        together = np.abs(each.mean(axis=0) - true)
        low, high = interval(together, errors["boosting"])
        found.append(
            first
            | {
                "model": name,
                "error": f"{np.abs(each - true).mean():.4g}",
                "seeds": str(len(paths)),
                "of their mean": f"{together.mean():.4g}",
                "less boosting": f"{low:.3g} … {high:.3g}",
            }
        )
    return found


def plan(to: Path, labels: Path, corpus: Path, rows: dict[str, tuple[Dataset, Split]]) -> list[Planned]:
    frame = pd.read_parquet(labels)
    return [*starts(to, frame), *fits(to, rows), *strings(to, frame, corpus, rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--to", type=Path, default=Path("runs/study"))
    parser.add_argument("--labels", type=Path, default=Path("runs/labels/labels.parquet"))
    parser.add_argument("--corpus", type=Path, default=Path("runs/corpus"))
    parser.add_argument("--plan", action="store_true", help="write the jobs")
    parser.add_argument("--table", action="store_true", help="print what is done")
    options = parser.parse_args()
    options.to.mkdir(parents=True, exist_ok=True)
    rows = {task: rows_of(options.shared / "data", options.to, task) for task in EVALUATED}
    if options.plan:
        jobs = plan(options.to, options.labels, options.corpus, rows)
        write(options.to, jobs)
        print(f"{len(jobs)} jobs in {options.to / 'jobs.json'}")
    if options.table:
        table = pd.DataFrame([row for task in EVALUATED for row in lines(options.to, task, *rows[task])])
        print(table.fillna("").to_markdown(index=False))


if __name__ == "__main__":
    main()
