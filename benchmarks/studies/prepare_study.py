"""Prepare what gpu_study.py learns from: tokenized splits of the tasks at hand, and baselines.

    python benchmarks/studies/prepare_study.py --shared ../shared --to runs/study \\
        [--corpus runs/corpus/strings.txt]

Structures are encoded here, and the baselines that need scikit-learn are run here, so that the study itself
needs no more than torch, numpy, pyarrow and safetensors: a borrowed machine has nothing else. A split that is
there is not made again.

Of MatBench only phonons is here as a whole. Moduli, perovskites, energies and gaps are the rows whose
structure is in another public file (`matbench_structure_links.csv.gz`), with the official fold 0 of them;
dielectric is fold 0's training part as strings, a fifth of it kept for the test. Of jdft2d there is no
structure, but the composition and the space group of every row: strings with [MASK] for the Wyckoff symbols.

With `--corpus` (strings, one a line) what to pretrain on is prepared too: none of the test strings is in it.
"""

import argparse
import bz2
import json
import time
from dataclasses import replace
from pathlib import Path
from string import ascii_letters
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from cloud_core.evaluation.baselines import BASELINES
from cloud_core.evaluation.data.catalogue import TASKS
from cloud_core.evaluation.data.dataset import Dataset, from_frame
from cloud_core.evaluation.data.folds import Split, split_by_group, split_fold
from cloud_core.evaluation.report import run_baselines, training_rows
from cloud_core.files import write_json
from cloud_core.scope.grammar import join
from cloud_core.scope.tables import space_groups
from cloud_core.scope.tokenizer import WYCKOFF, Tokenizer
from cloud_core.training.batches import Batches

LINKED = ("log_kvrh", "log_gvrh", "perovskites", "mp_e_form", "mp_gap")
WHOLE = ("phonons", "jdft2d")  # all rows, all five folds


def published_columns(shared: Path, task: str) -> dict[str, dict[str, Any]]:
    """What MatBench publishes beside the structures: column -> row number -> value."""
    packed = (shared / "matbench" / "labels" / f"matbench_{task}.json.bz2").read_bytes()
    return dict(json.loads(bz2.decompress(packed)))


def labels_of(shared: Path, task: str) -> pd.Series:
    """Targets by row name."""
    columns = published_columns(shared, task)
    values = list(columns[TASKS[f"matbench_{task}"].target].values())
    return pd.Series(values, list(columns["mbid"].values()))


def from_task(task: str, frame: pd.DataFrame) -> Dataset:
    learned = TASKS[f"matbench_{task}"].learned()
    return from_frame(
        frame, task, [learned], structure_column="structure", id_column="id", form="resolved", processes=2
    )


def phonons(shared: Path) -> Dataset:
    """matbench_phonons, whole."""
    folder = shared / "matbench"
    stored = pd.read_json(folder / "matbench_phonons_structures.json.gz", typ="series", dtype=False)
    frame = pd.DataFrame(stored["data"], columns=stored["columns"])
    frame = frame.assign(id=TASKS["matbench_phonons"].row_ids())
    frame[TASKS["matbench_phonons"].target] = labels_of(shared, "phonons").to_numpy()
    return from_task("phonons", frame)


def jdft2d(shared: Path) -> Dataset:
    """All rows of matbench_jdft2d as far as they are known: composition and space group, beside the labels.

    No structure is at hand. The Wyckoff part holds the general position, which `write` hides.
    """
    columns = published_columns(shared, "jdft2d")
    target = TASKS["matbench_jdft2d"].target
    names = ("mbid", "composition", "spg_num", target)
    rows = zip(*(columns[name].values() for name in names), strict=True)
    frame = pd.DataFrame(
        [(name, unknown_sites(cell, int(group)), label) for name, cell, group, label in rows],
        columns=["id", "scope", target],
    )
    return from_frame(
        frame, "jdft2d", [TASKS["matbench_jdft2d"].learned()], scope_column="scope", id_column="id"
    )


def unknown_sites(cell: str, space_group: int) -> str:
    """The SCOPE string of a cell ("Hf2 Si2 Te2") with all of its atoms on the general position."""
    counts = {word.rstrip("0123456789"): int(word.lstrip(ascii_letters)) for word in cell.split()}
    total = sum(counts.values())
    fractions = " ".join(f"{element} {float(np.round(n / total, 2))}" for element, n in counts.items())
    symbols = space_groups()[space_group].symbols.values()
    return join(space_group, max(symbols, key=lambda symbol: int(symbol[:-1])), fractions)


def hide_wyckoff(examples: Batches) -> Batches:
    """The same rows with [MASK] for every Wyckoff symbol, as the encoder knows what it is not told."""
    tokenizer = Tokenizer()
    hidden = tokenizer.field_of(examples.ids) == WYCKOFF
    return replace(examples, ids=np.where(hidden, np.uint16(tokenizer.mask_id), examples.ids))


def dielectric(shared: Path) -> Dataset:
    """Fold 0's training part as the authors published its strings, brought to the canonical form."""
    frame = pd.read_csv(shared / "cloud_example" / "finetune_dielectric_train_and_val.csv")
    return from_frame(frame, "dielectric", [TASKS["matbench_dielectric"].learned()], scope_column="scope")


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


def load(shared: Path, name: str) -> tuple[Dataset, str]:
    """The rows of a task at hand, and what they are of the published ones."""
    rows = TASKS[f"matbench_{name}"].n_rows
    if name == "phonons":
        return phonons(shared), f"all {rows} rows"
    if name == "jdft2d":
        return jdft2d(shared), f"all {rows} rows, Wyckoff symbols unknown"
    if name == "dielectric":
        data = dielectric(shared)
        return data, f"{len(data)} of {rows} rows: fold 0's training part, a fifth of it the test"
    data = linked(shared, name, all_structures(shared))
    return data, f"{len(data)} of {rows} rows"


def write(here: Path, name: str, fold: int, data: Dataset, split: Split, note: str) -> None:
    """One split: tokenized parts, and study.json with what the study cannot compute itself."""
    for part, rows in zip(Split._fields, split, strict=True):
        examples = data.examples(rows, 64)
        (hide_wyckoff(examples) if name == "jdft2d" else examples).save(here / f"{part}.safetensors")
    target = data.targets[0]
    labels = data.labels[split.test, 0]
    baselines = {}
    for baseline in BASELINES:
        predicted = run_baselines(data, split, [baseline])[baseline][target.name]
        baselines[baseline] = float(np.abs(predicted - labels).mean())
    test, known = data.take_texts(split.test), set(data.take_texts(training_rows(split)))
    facts: dict[str, Any] = {
        "task": name,
        "fold": fold,
        "target": target.name,
        "unit": target.unit,
        "rows": [len(rows) for rows in split],
        "note": note,
        "baselines": baselines,
        "test": [] if name == "jdft2d" else test,  # strings with hidden words are nobody's
        "shared": [text in known for text in test],
    }
    write_json(here / "study.json", facts)
    print(f"{name} fold {fold}: {facts['rows']} rows, baselines {baselines}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--to", type=Path, default=Path("runs/study"))
    parser.add_argument("--corpus", type=Path, help="strings to pretrain on, of benchmarks/studies/corpus.py")
    parser.add_argument("--tasks", default=",".join((*WHOLE, "dielectric", *LINKED)))
    arguments = parser.parse_args()
    shared, started = arguments.shared / "data", time.perf_counter()
    for name in arguments.tasks.split(","):
        places = [arguments.to / name / f"fold-{fold}" for fold in range(5 if name in WHOLE else 1)]
        if all((place / "study.json").is_file() for place in places):
            continue
        data, note = load(shared, name)
        for fold, place in enumerate(places):
            if name == "dielectric":
                split = split_by_group(data.keys, 0.2, 0.08, 0)
            else:
                tests = TASKS[f"matbench_{name}"].folds(data)
                split = split_fold(tests[fold], data.keys, 0.1, 0)
            write(place, name, fold, data, split, note)
    if arguments.corpus is not None:
        texts = set(arguments.corpus.read_text(encoding="utf-8").splitlines())
        for facts in arguments.to.glob("*/fold-*/study.json"):
            texts -= set(json.loads(facts.read_text(encoding="utf-8"))["test"])
        training, validation = Batches.distinct(texts).split(0.02)
        training.save(arguments.to / "corpus" / "training.safetensors")
        validation.save(arguments.to / "corpus" / "validation.safetensors")
        print(f"corpus: {len(training)} + {len(validation)} strings")
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
