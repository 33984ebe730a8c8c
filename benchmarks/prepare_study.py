"""Prepare what benchmarks/gpu_study.py learns from: tokenized splits of the tasks at hand, and baselines.

    python benchmarks/prepare_study.py --shared ../shared --to runs/study [--wbm 60000]

Structures are encoded here, and the baselines that need scikit-learn are run here, so that the study itself
needs no more than torch, numpy and safetensors: a borrowed machine has nothing else. Of MatBench only
phonons is here as a whole; moduli, perovskites, energies and gaps are the rows whose structure is in another
public file (`matbench_structure_links.csv.gz`), and dielectric is fold 0's training part as strings, a fifth
of it kept for the test. No string of a task is in the pretraining corpus.
"""

import argparse
import bz2
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from cloud_core.evaluation.baselines import BASELINES
from cloud_core.evaluation.catalogue import TASKS
from cloud_core.evaluation.dataset import Dataset, from_frame
from cloud_core.evaluation.folds import Split, split_by_group, split_fold
from cloud_core.evaluation.leakage import leakage
from cloud_core.evaluation.report import run_baselines, training_rows
from cloud_core.scope import EncoderSettings, ScopeError, canonicalise
from cloud_core.scope.workers import Encoded, encode_many
from cloud_core.sources.record import Record
from cloud_core.structures.cell import Cell
from cloud_core.training.corpus import Corpus

LINKED = ("log_kvrh", "log_gvrh", "perovskites", "mp_e_form", "mp_gap")
ALL_FOLDS = ("phonons",)


def phonons(shared: Path) -> Dataset:
    """matbench_phonons, whole."""
    folder = shared / "matbench"
    stored = pd.read_json(folder / "matbench_phonons_structures.json.gz", typ="series", dtype=False)
    frame = pd.DataFrame(stored["data"], columns=stored["columns"])
    frame = frame.assign(id=TASKS["matbench_phonons"].row_ids())
    frame[TASKS["matbench_phonons"].target] = labels_of(shared, "phonons").to_numpy()
    return from_task("phonons", frame)


def labels_of(shared: Path, task: str) -> pd.Series:
    """Targets by row name."""
    packed = (shared / "matbench" / "labels" / f"matbench_{task}.json.bz2").read_bytes()
    columns = json.loads(bz2.decompress(packed))
    return pd.Series(list(columns[TASKS[f"matbench_{task}"].target].values()), columns["mbid"].values())


def from_task(task: str, frame: pd.DataFrame) -> Dataset:
    learned = TASKS[f"matbench_{task}"].learned()
    return from_frame(frame, task, [learned], structure_column="structure", id_column="id", processes=2)


def linked(shared: Path, task: str, structures: dict[tuple[str, str], str]) -> Dataset:
    """The rows of a task whose structure is in one of the other files."""
    links = pd.read_csv(shared / "matbench" / "matbench_structure_links.csv.gz")
    links = links[links["task"] == f"matbench_{task}"].drop_duplicates("mbid")
    keys = list(zip(links["source"], links["source_id"].astype(str), strict=True))
    here = [key in structures for key in keys]
    frame = pd.DataFrame(
        {
            "id": links["mbid"][here].to_numpy(),
            "structure": [structures[key] for key, use in zip(keys, here, strict=True) if use],
        }
    )
    frame[TASKS[f"matbench_{task}"].target] = labels_of(shared, task)[frame["id"]].to_numpy()
    return from_task(task, frame.sort_values("id", ignore_index=True))


def all_structures(shared: Path) -> dict[tuple[str, str], str]:
    """(file, id) -> CIF text."""
    found: dict[tuple[str, str], str] = {}
    cifs = pq.read_table(shared / "crysxpp" / "mp_cifs_36737.parquet").to_pandas().set_index("path")["cif"]
    labels = pd.read_csv(shared / "crysxpp" / "mp_labels_joined.csv.gz")
    for name, path in zip(labels["material_id"], labels["cif_path"], strict=True):
        text = cifs[path]
        found["crysxpp", str(name)] = text.decode() if isinstance(text, bytes) else text
    for source, path in (
        ("mp_20_biternary_val", "mp_cif_csv/mp_20_biternary_val.csv.gz"),
        ("mpts_52_val", "mp_cif_csv/mpts_52_val.csv.gz"),
        ("perov_5_val", "cdvae/perov_5_val.csv.gz"),
    ):
        frame = pd.read_csv(shared / path)
        name = "material_id" if "material_id" in frame.columns else frame.columns[0]
        found |= {(source, str(i)): cif for i, cif in zip(frame[name], frame["cif"], strict=True)}
    return found


def dielectric(shared: Path) -> Dataset:
    """Fold 0's training part as the authors published its strings, brought to the canonical form."""
    frame = pd.read_csv(shared / "cloud_example" / "finetune_dielectric_train_and_val.csv")
    return from_frame(frame, "dielectric", [TASKS["matbench_dielectric"].learned()], scope_column="scope")


def wbm_strings(shared: Path, count: int) -> list[str]:
    """Canonical strings of WBM's first structures, which no task has."""
    rows = pq.read_table(shared / "wbm" / "wbm_initial_structures.parquet").slice(0, count).to_pylist()
    records = []
    for row in rows:
        species = tuple(row["species"].split())
        lattice = np.array(row["lattice"], float).reshape(3, 3)
        cell = Cell(lattice, species, np.array(row["abc"], float).reshape(-1, 3))
        records.append(Record(id=row["material_id"], payload=cell, format="cell", source="wbm"))
    found = encode_many(records, EncoderSettings(), processes=2)
    return [item.scope.canonical for item in found if isinstance(item, Encoded)]


def canonical(texts: list[str]) -> set[str]:
    """Canonical strings; what is no SCOPE string (a few published ones hold a placeholder atom) is told."""
    found, refused = set(), 0
    for text in texts:
        try:
            found.add(canonicalise(text))
        except ScopeError:
            refused += 1
    print(f"published strings: {len(found)} canonical ones, {refused} of {len(texts)} refused")
    return found


def write(folder: Path, name: str, fold: int, data: Dataset, split: Split, note: str) -> None:
    """One split: tokenized parts, and study.json with what the study cannot compute itself."""
    here = folder / name / f"fold-{fold}"
    for part, rows in zip(Split._fields, split, strict=True):
        data.examples(rows, 64).save(here / f"{part}.safetensors")
    target = data.targets[0]
    labels = data.labels[split.test, 0]
    baselines = {}
    for baseline in BASELINES:
        predicted = run_baselines(data, split, [baseline])[baseline][target.name]
        baselines[baseline] = float(np.abs(predicted - labels).mean())
    train, test = data.take_texts(training_rows(split)), data.take_texts(split.test)
    known = set(train)
    facts: dict[str, Any] = {
        "task": name,
        "fold": fold,
        "target": target.name,
        "unit": target.unit,
        "rows": [len(rows) for rows in split],
        "note": note,
        "baselines": baselines,
        "shared_strings": leakage("canonical", train, test).shared_rows,
        "shared": [text in known for text in test],
    }
    (here / "study.json").write_text(json.dumps(facts), encoding="utf-8")
    print(f"{name} fold {fold}: {facts['rows']} rows, baselines {baselines}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--to", type=Path, default=Path("runs/study"))
    parser.add_argument("--wbm", type=int, default=60_000, help="WBM structures for the pretraining corpus")
    parser.add_argument("--tasks", default=f"phonons,dielectric,{','.join(LINKED)}")
    arguments = parser.parse_args()
    shared, started = arguments.shared / "data", time.perf_counter()
    names = arguments.tasks.split(",")
    structures = all_structures(shared) if set(names) & set(LINKED) else {}
    strings: set[str] = set()
    for name in names:
        if name == "phonons":
            data, note = phonons(shared), "all rows"
        elif name == "dielectric":
            data, note = dielectric(shared), "fold 0's training part; a fifth of it is the test"
        else:
            data = linked(shared, name, structures)
            note = f"{len(data)} of {TASKS[f'matbench_{name}'].n_rows} rows"
        strings |= set(data.texts)
        if name == "dielectric":
            write(arguments.to, name, 0, data, split_by_group(data.keys, 0.2, 0.08, 0), note)
            continue
        tests = TASKS[f"matbench_{name}"].folds(data)
        for fold in range(5 if name in ALL_FOLDS else 1):
            write(arguments.to, name, fold, data, split_fold(tests[fold], data.keys, 0.1, 0), note)
    published = pd.read_csv(shared / "cloud_example" / "pretrain_cloud_10k.csv")["cloud"].tolist()
    texts = canonical(published) | set(wbm_strings(shared, arguments.wbm))
    corpus = Corpus.from_texts(texts - strings)
    training, validation = corpus.split(0.02)
    training.save(arguments.to / "corpus" / "training.safetensors")
    validation.save(arguments.to / "corpus" / "validation.safetensors")
    print(f"corpus: {len(training)} + {len(validation)} strings; {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
