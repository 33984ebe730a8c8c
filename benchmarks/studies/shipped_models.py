"""The models that come with the package, `cloud_core/models/shipped`, and their cards.

python benchmarks/studies/public_labels.py
python benchmarks/studies/shipped_models.py --plan     # with the jobs of property_study.py
python benchmarks/studies/jobs.py runs/study --gpu 8 --cpu 4
python benchmarks/studies/shipped_models.py --finish
"""

import argparse
import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans

from benchmarks.studies.jobs import Planned, write
from benchmarks.studies.property_study import (
    EVALUATED,
    FIRST,
    SEEDS,
    WIDER,
    energies,
    fits,
    interval,
    rows_of,
    settings_of,
    starts,
    strings,
    write_examples,
)
from benchmarks.studies.public_labels import TARGETS
from cloud_core.evaluation.baselines import BASELINES
from cloud_core.evaluation.metrics.uncertainty import scale_of, uncertainty_metrics
from cloud_core.inference.domain import Domain
from cloud_core.inference.engines import NumpyEngine
from cloud_core.inference.predictor import OUTSIDE, Predictor
from cloud_core.models.ensemble import Ensemble
from cloud_core.models.folder import SHIPPED, read_config
from cloud_core.models.geometry import ELEMENTS
from cloud_core.models.heads import PropertyModel
from cloud_core.models.training_keys import TrainingKeys
from cloud_core.training.batches import Batches
from cloud_core.training.job import PARTS, FitJob

FITTED = {
    "band_gap": ("band_gap",),
    "moduli": ("bulk_modulus", "shear_modulus"),
    "highest_phonon_frequency": ("highest_phonon_frequency",),
    "refractive_index": ("refractive_index",),
    "debye_temperature": ("debye_temperature",),
}
"""model -> its quantities; formation energies are those of the encoders that the others start from"""
START_OF = {"debye_temperature": "highest_phonon_frequency"}
"""model -> the one whose encoder it starts from, where that is not the one of formation energies"""


def shipped_fits(to: Path, frame: pd.DataFrame, names: Collection[str] = tuple(FITTED)) -> list[Planned]:
    """Each from a model made before it; from that of the package where none was made here."""
    planned = []
    for seed in SEEDS:
        for name in names:
            start = to / "starts" / f"energies-{seed}" / "model"
            if name in START_OF:
                start = to / "shipped" / f"{START_OF[name]}-0" / "model"
            quantities = FITTED[name]
            parts = parts_of(frame, quantities)
            examples = to / "examples" / f"shipped-{name}"
            labels = frame[list(quantities)].to_numpy(np.float64)
            write_examples(examples, frame["resolved"].tolist(), labels, parts, WIDER)
            folder = to / "shipped" / f"{name}-{seed}"
            job = FitJob(
                str(folder), str(examples), str(folder / "model"), tuple(TARGETS[each] for each in
                quantities),
                settings_of(int((parts == "train").sum()), seed, True, 7e-4),
                start_from=str(start if start.is_dir() else SHIPPED / START_OF.get(name, "formation_energy")),
                metadata={"form": "resolved"},
            )  # fmt: skip
            planned.append(Planned(job, device="gpu" if name == "band_gap" else "cpu", keep_model=True))
    return planned


def finish(to: Path, frame: pd.DataFrame, into: Path = SHIPPED) -> None:
    """The folders of the package, or others below `into`, with σ, domain, training keys and a card each."""
    first = [to / "starts" / f"energies-{seed}" for seed in SEEDS]
    members = {"formation_energy": first} if all(folder.is_dir() for folder in first) else {}
    for name in FITTED:
        folders = [to / "shipped" / f"{name}-{seed}" for seed in SEEDS]
        done = [folder for folder in folders if (folder / "model").is_dir()]
        if name != "band_gap" and done:
            members[name] = [
                min(
                    done,
                    key=lambda folder: json.loads((folder / "result.json").read_text())["validation_loss"],
                )
            ]
    for name, folders in members.items():
        ship(name, folders, to, frame, into)
    if "formation_energy" in members:
        held_out(frame)


def baselines(to: Path, frame: pd.DataFrame, quantity: str) -> dict[str, NDArray[np.float64]]:
    """Predictions `[test rows]` of each baseline fitted to the same rows, made once."""
    part = frame[f"part {quantity}"].to_numpy()
    train, test = np.flatnonzero(part == "train"), np.flatnonzero(np.isin(part, ["test", "test wbm"]))
    texts = frame["resolved"].to_numpy(object)
    labels = frame[quantity].to_numpy(np.float64)
    target = TARGETS[quantity].fitted(labels[train])  # fitted to logarithms where the model is
    found = {}
    for name, baseline in BASELINES.items():
        path = to / "baselines-shipped" / f"{quantity}-{name.replace(' ', '-')}.npy"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            scaled = target.scale(labels[train])
            given = baseline(texts[train].tolist(), scaled, texts[test].tolist(), None)
            np.save(path, target.unscale(given[:, None]))
        found[name] = np.load(path)
    return found


def held_out(frame: pd.DataFrame) -> None:
    """300 of the test rows with labels and predictions, for the test of the package."""
    part = frame["part formation_energy"]
    own = frame[(part == "test") & (frame["source"] != "wbm")].sample(150, random_state=1)
    wbm = frame[part == "test wbm"].sample(150, random_state=1)
    rows = pd.concat([own.assign(source="Materials Project"), wbm.assign(source="WBM")])
    rows = rows[["source", "resolved", "formation_energy"]]
    found = Predictor.load("formation_energy").predict_texts(rows["resolved"].tolist())
    rows["predicted"] = found["formation_energy"]
    rows.round(4).to_csv("tests/inference/held_out.csv", index=False)


def ship(name: str, folders: list[Path], to: Path, frame: pd.DataFrame, into: Path = SHIPPED) -> None:
    models = [PropertyModel.load(folder / "model")[0] for folder in folders]
    quantities = [target.name for target in models[0].targets]
    first = name == "formation_energy"
    examples = to / "examples" / ("energies-sites" if first else f"shipped-{name}")
    if first:
        labels, parts = energies(frame)
    else:
        labels, parts = frame[quantities].to_numpy(np.float64), parts_of(frame, tuple(quantities))
    folder = into / name
    metadata = {
        "form": "resolved",
        "recipe": "benchmarks/studies/shipped_models.py",
        "rows": {part: int((parts == part).sum()) for part in PARTS},
    }
    Ensemble([model.half() for model in models]).save(folder, metadata)
    engine = NumpyEngine(folder, read_config(folder))
    domain = domain_of(engine, Batches.load(examples / "train.safetensors"), 1000 if first else 300)
    domain.save(folder)
    scales = []
    rows = np.flatnonzero(parts == "validation")
    of_wbm = (frame["source"] == "wbm").to_numpy()
    if first:  # as many of WBM as of the Materials Project
        own = rows[~of_wbm[rows]]
        rows = np.sort(
            np.concatenate([own, np.random.default_rng(0).permutation(rows[of_wbm[rows]])[: len(own)]])
        )
    held = engine(Batches.of_sites(frame["resolved"].iloc[rows].tolist()))
    assert held.vectors is not None
    distance = domain.relative(domain.distances(held.vectors))
    for place, quantity in enumerate(quantities):
        known = ~np.isnan(labels[rows, place])
        each = np.stack([member[quantity] for member in held.members])[:, known]
        spread = each.std(axis=0, ddof=1) if len(each) > 1 else np.zeros(known.sum())
        scales.append(scale_of(labels[rows, place][known], each.mean(axis=0), spread, distance[known]))
    Ensemble([model.half() for model in models], scales).save(folder, metadata)
    domain.save(folder)
    seen = {
        quantity: frame["canonical"][np.isin(parts, ("train", "validation")) & ~np.isnan(labels[:, place])]
        for place, quantity in enumerate(quantities)
    }
    TrainingKeys.of(seen).write(folder, "" if first else START_OF.get(name, "formation_energy"))
    (folder / "CARD.md").write_text(card(name, folder, frame, labels, parts, to), encoding="utf-8")


def domain_of(engine: NumpyEngine, rows: Batches, centres: int) -> Domain:
    """Cluster means of up to 20,000 training crystals, distances of 10,000 others where there are so many."""
    order = np.random.default_rng(0).permutation(len(rows))
    fitted, other = order[:20_000], order[20_000:30_000] if len(order) > 25_000 else order
    vectors = engine(rows.take(fitted)).vectors
    assert vectors is not None
    means = MiniBatchKMeans(min(centres, len(fitted) // 3), random_state=0, n_init=1).fit(vectors)
    elements = np.zeros(ELEMENTS, dtype=bool)
    elements[np.unique(rows.ids[:, 0])] = True
    elements[0] = False
    domain = Domain(means.cluster_centers_.astype(np.float32), 1.0, 1.0, elements)
    beside = engine(rows.take(other)).vectors
    assert beside is not None
    distances = domain.distances(beside)
    return replace(domain, median=float(np.median(distances)), radius=float(np.quantile(distances, 0.99)))


def card(
    name: str, folder: Path, frame: pd.DataFrame, labels: NDArray[np.float64], parts: NDArray[Any], to: Path
) -> str:
    """Errors on rows that no training saw, beside the baselines fitted to the same rows."""
    predictor = Predictor.load(folder)
    lines = []
    for place, target in enumerate(predictor.targets):
        quantity = target.name
        part = frame[f"part {quantity}"]
        rows = np.flatnonzero(part.isin(["test", "test wbm"]))
        true = labels[rows, place]
        found = predictor.predict_texts(frame["resolved"].iloc[rows].tolist())
        base = baselines(to, frame, quantity)
        groups = {"all test rows": np.ones(len(rows), dtype=bool)}
        if quantity == FIRST[0]:
            wbm = (frame["source"].iloc[rows] == "wbm").to_numpy()
            systems = (part.iloc[rows] == "test wbm").to_numpy()
            groups = {"Materials Project": ~wbm, "WBM, chemical systems apart": systems}
        for group, chosen in groups.items():
            error = np.abs(found[quantity] - true)[chosen]
            boosted = np.abs(base["boosting"] - true)[chosen]
            low, high = interval(error, boosted)
            told = uncertainty_metrics(
                true[chosen], found[quantity][chosen], found[f"{quantity}_std"][chosen]
            )
            spearman = "–" if np.isnan(told["spearman"]) else f"{told['spearman']:.2f}"
            outside = np.array([reason is not None for reason in found[OUTSIDE]])[chosen]
            beyond = error[outside].mean() if outside.any() else 0.0
            others = " | ".join(f"{np.abs(values - true)[chosen].mean():.4g}" for values in base.values())
            lines.append(
                f"| {quantity}, {target.unit or '1'} | {group} | {chosen.sum():,} | {error.mean():.4g} | "
                f"{np.median(error):.4g} | {others} | {low:.3g} … {high:.3g} | {told['coverage_68']:.0%} | "
                f"{spearman} | {outside.mean():.1%}, {beyond:.3g} |"
            )
    trained = ", ".join(f"{(parts == part).sum():,} {part}" for part in PARTS)
    heads = ["quantity", "rows", "n", "mean absolute error", "median", *BASELINES, "less boosting, 95 %"]
    heads += ["within σ", "Spearman of σ", "out of distribution, their error"]
    return f"""# {name}

{CARD.strip()}

Crystals: {trained}. None of the test rows was trained on, by composition with space group.

| {" | ".join(heads)} |
|{"---|" * len(heads)}
{chr(10).join(lines)}
"""


CARD = """
A sites encoder (4 layers of 160) on resolved SCOPE strings; no lattice parameters or coordinates are read, so
that two structures with one string have one prediction.

Labels: formation energies (PBE and PBE+U, Materials Project corrections of 2020) and PBE band gaps of the
Materials Project, formation energies of WBM's labelled half, moduli (Voigt-Reuss-Hill) of the Materials
Project, MatBench and matcalc, phonon and dielectric data of Petretto and of Petousis; Debye temperatures
are those whose C_v is nearest to that of phonon densities of states, 100 to 1,000 K, or to C_v at 300 K.
Materials Project and WBM are CC BY 4.0; attribution in NOTICE. Held out and the recipe:
benchmarks/studies/public_labels.py. Trained on one H100 and its host in about nine minutes for all models but
that of Debye temperatures, which took a minute of two CPU cores.

It fails where a string says too little: far from equilibrium volume, under strain, in magnetic or
charge order
that the symmetry does not show; band gaps are PBE's, about half of measured ones.
"""


def parts_of(frame: pd.DataFrame, quantities: tuple[str, ...]) -> NDArray[Any]:
    """`[rows]` the part of each row that has one of the labels, "" of the others."""
    columns = [f"part {quantity}" for quantity in quantities]
    parts = frame[columns].replace("", np.nan).bfill(axis=1).iloc[:, 0].fillna("").to_numpy(object)
    parts[parts == "test wbm"] = "test"
    return np.asarray(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--to", type=Path, default=Path("runs/study"))
    parser.add_argument("--labels", type=Path, default=Path("runs/labels/labels.parquet"))
    parser.add_argument("--corpus", type=Path, default=Path("runs/corpus"))
    parser.add_argument("--plan", action="store_true", help="write the jobs")
    parser.add_argument("--only", nargs="*", choices=list(FITTED), help="plan these models alone")
    parser.add_argument("--finish", action="store_true", help="write the package's folders")
    options = parser.parse_args()
    frame = pd.read_parquet(options.labels)
    if options.plan and options.only:
        write(options.to, shipped_fits(options.to, frame, options.only))
    elif options.plan:
        rows = {task: rows_of(options.shared / "data", options.to, task) for task in EVALUATED}
        jobs = [
            *starts(options.to, frame),
            *shipped_fits(options.to, frame),
            *fits(options.to, rows),
            *strings(options.to, frame, options.corpus, rows),
        ]
        write(options.to, jobs)
        print(f"{len(jobs)} jobs in {options.to / 'jobs.json'}")
    if options.finish:
        finish(options.to, frame)


if __name__ == "__main__":
    main()
