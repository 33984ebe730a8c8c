"""The pretraining corpus of all structures in ../shared/data, with and without a declared hold-out.

    python benchmarks/studies/corpus.py --shared ../shared --to runs/corpus [--wbm 60000]

Writes `strings.txt` (hold-out left out), `held-out.txt` (its crystals, to test on) and `with-held-out.txt`
(the variant with them in): distinct canonical strings, one a line. No label is read.

Held out, by canonical string: the crystals of fold 0 of every MatBench task, the dielectric test fifth among
them; those with a phonon density of states that are not in the published C_v training part, which contain the
C_v test fifth (its rows are named nowhere); those with a dielectric tensor that are not in the published
training part; the fifths of the published C_v and dielectric training parts that our own studies test on; the
test part of the superconductors. MatBench names most rows by composition and space group alone: every
string of those is held out, too many rather than too few. The other tasks of UnconvBench cannot be matched,
since their files are not here.
"""

import argparse
import ast
import bz2
import gzip
import json
import re
import zipfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from cloud_core.evaluation.data.catalogue import TASKS
from cloud_core.evaluation.data.dataset import from_frame
from cloud_core.evaluation.data.folds import split_by_group
from cloud_core.evaluation.thermal.data import split_table
from cloud_core.scope import EncoderSettings, ScopeError, canonicalise
from cloud_core.scope.isolation import Encoded, encode_many
from cloud_core.scope.kinds import canonical_composition
from cloud_core.scope.tables import ENANTIOMORPHS, space_groups
from cloud_core.sources.catalogue import open_source
from cloud_core.sources.record import Record
from cloud_core.structures.cell import Cell
from flows.debye import DebyeConfig

Rows = Iterator[tuple[str, Any, str]]  # (id, structure, format)


def cif_table(path: str, name: str = "material_id") -> Callable[[Path], Rows]:
    def rows(data: Path) -> Rows:
        frame = pd.read_csv(data / path, usecols=[name, "cif"])
        yield from ((str(i), cif, "cif") for i, cif in zip(frame[name], frame["cif"], strict=True))

    return rows


def materials_project(data: Path) -> Rows:
    cifs = pq.read_table(data / "crysxpp/mp_cifs_36737.parquet").to_pandas().set_index("path")["cif"]
    labels = pd.read_csv(data / "crysxpp/mp_labels_joined.csv.gz", usecols=["material_id", "cif_path"])
    for name, path in zip(labels["material_id"], labels["cif_path"], strict=True):
        yield str(name), bytes(cifs[path]).decode(), "cif"


def metal_organic(data: Path) -> Rows:
    for row in pq.read_table(data / "qmof/qmof_cifs_sample.parquet").to_pylist():
        yield row["path"], bytes(row["cif"]).decode(), "cif"


def wbm(data: Path) -> Rows:
    for batch in pq.ParquetFile(data / "wbm/wbm_initial_structures.parquet").iter_batches(4096):
        for row in batch.to_pylist():
            lattice = np.array(row["lattice"], float).reshape(3, 3)
            positions = np.array(row["abc"], float).reshape(-1, 3)
            yield row["material_id"], Cell(lattice, tuple(row["species"].split()), positions), "cell"


def phonon_densities(data: Path) -> Rows:
    from pymatgen.core.periodic_table import Element

    frame = pd.read_csv(data / "phonon/phdos_tutorial_data_1521.csv.gz", usecols=["mp_id", "structure"])
    for name, text in zip(frame["mp_id"], frame["structure"], strict=True):
        atoms = ast.literal_eval(text)
        lattice = np.array(atoms["cell"], float).reshape(3, 3)
        species = tuple(Element.from_Z(number).symbol for number in atoms["numbers"])
        yield str(name), Cell(lattice, species, np.array(atoms["positions"]) @ np.linalg.inv(lattice)), "cell"


def dielectric_tensors(data: Path) -> Rows:
    frame = pd.read_csv(data / "automatminer/phonon_dielectric_mp.csv.gz", usecols=["mpid", "structure"])
    for name, text in zip(frame["mpid"], frame["structure"], strict=True):
        if isinstance(text, str):  # a few rows have no structure
            yield str(name), json.dumps(ast.literal_eval(text)), "pymatgen"


def phonons(data: Path) -> Rows:
    stored = pd.read_json(data / "matbench/matbench_phonons_structures.json.gz", typ="series", dtype=False)
    for number, row in enumerate(stored["data"], 1):
        yield f"mb-phonons-{number:04d}", json.dumps(row[0]), "pymatgen"


def elastic(data: Path) -> Rows:
    with gzip.open(data / "matcalc/mp-binary-pbe-elasticity-2025.1.json.gz") as file:
        for row in json.load(file):
            yield row["mp_id"], json.dumps(row["structure"]), "pymatgen"


def jarvis(data: Path) -> Rows:
    """Perovskites and superconductors as POSCAR text, its line ends written as two characters."""
    for archive in sorted((data / "jarvis_leaderboard").glob("*.zip")):
        with zipfile.ZipFile(archive) as opened:
            for name in opened.namelist():
                for part, rows in json.loads(opened.read(name)).items():
                    for key, poscar in rows.items():
                        yield f"{name}:{part}:{key}", poscar.replace("\\n", "\n"), "poscar"


def dielectric_constants(data: Path) -> Rows:
    frame = pd.read_csv(data / "matminer/dielectric_constant.csv.gz", skiprows=1, usecols=["idx", "meta"])
    for name, text in zip(frame["idx"], frame["meta"], strict=True):
        yield str(name), ast.literal_eval(text)["poscar"], "poscar"


def archive(path: str) -> Callable[[Path], Rows]:
    """Loose files, read as the pipeline reads them."""

    def rows(data: Path) -> Rows:
        source = open_source(str(data / path))
        for partition in source.partitions():
            for record in source.read(partition):
                if record.refusal is None:
                    yield record.id, record.payload, record.format

    return rows


SOURCES: dict[str, Callable[[Path], Rows]] = {
    "crysxpp": materials_project,
    "mp_20_biternary_val": cif_table("mp_cif_csv/mp_20_biternary_val.csv.gz"),
    "mpts_52_val": cif_table("mp_cif_csv/mpts_52_val.csv.gz"),
    "perov_5_val": cif_table("cdvae/perov_5_val.csv.gz"),
    "carbon_24_val": cif_table("cdvae/carbon_24_val.csv.gz"),
    "phonon_densities": phonon_densities,
    "dielectric_tensors": dielectric_tensors,
    "dielectric_constants": dielectric_constants,
    "phonons": phonons,
    "matcalc": elastic,
    "jarvis": jarvis,
    "qmof": metal_organic,
    "covalent_organic": archive("cif_edge/curated_cofs.tar.xz"),
    "edge_cases": archive("cif_edge/cif_edge_cases.tar.xz"),
    "wbm": wbm,
}


def encoded(name: str, data: Path, cache: Path, limit: int | None = None) -> pd.DataFrame:
    """Canonical and resolved strings of a source by id; kept in `cache`, so that a second start goes on."""
    kept = cache / f"{name}.parquet"
    if not kept.exists():
        structures = SOURCES[name](data)
        records = [
            Record(id=i, payload=structure, format=format, source=name) for i, structure, format in structures
        ][:limit]
        found = encode_many(records, EncoderSettings(forms=("canonical", "resolved")), processes=2)
        rows = [
            (item.id, item.scope.canonical, item.scope.resolved)
            for item in found
            if isinstance(item, Encoded)
        ]
        cache.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows, columns=["id", "canonical", "resolved"]).to_parquet(kept)
        print(f"{name}: {len(rows)} of {len(records)} encoded", flush=True)
    return pd.read_parquet(kept).set_index("id")


def held_out(data: Path, strings: dict[str, pd.Series]) -> set[str]:
    """Canonical strings of the hold-out; see the head of this file."""
    held = linked_tests(data, strings)
    held |= set(strings["phonon_densities"]) - published(data, "cloud_cv_train_and_val.csv")
    held |= set(strings["dielectric_tensors"]) - published(data, "finetune_dielectric_train_and_val.csv")
    of_superconductors = strings["jarvis"].index.str.startswith("dft_3d_Tc_supercon.json:test:")
    return held | set(strings["jarvis"][of_superconductors]) | own_fifths(data)


def linked_tests(data: Path, strings: dict[str, pd.Series]) -> set[str]:
    """Canonical strings of the crystals at hand that are in fold 0 of a MatBench task."""
    folds = pd.read_csv(data / "matbench/matbench_v0.1_test_folds.csv.gz")
    tests = folds[folds["test_fold"] == 0]
    held = set(strings["phonons"].reindex(tests.loc[tests["task"] == "matbench_phonons", "mbid"]).dropna())
    links = pd.read_csv(data / "matbench/matbench_structure_links.csv.gz")
    linked = links.merge(tests, on=["task", "mbid"])
    for source, ids in linked.groupby("source")["source_id"]:
        held |= set(strings[str(source)].reindex(ids.astype(str).unique()).dropna())
    return held


def own_fifths(data: Path) -> set[str]:
    """What debye_study.py and prepare_study.py test on, of the authors' training parts."""
    recipe = DebyeConfig.from_yaml(Path("deployments/configs/debye.yaml"))
    frame = pd.read_csv(data / "cloud_example" / "finetune_dielectric_train_and_val.csv")
    target = TASKS["matbench_dielectric"].learned()
    dielectric = from_frame(frame, "dielectric", [target], scope_column="scope")
    test = split_by_group(dielectric.keys, 0.2, 0.08, 0).test
    return {canonicalise(text) for text in split_table(recipe.data, recipe.split).test.texts} | set(
        dielectric.take_texts(test)
    )


def fold_kinds(data: Path, tasks: Collection[str] | None = None) -> set[tuple[str, str]]:
    """(generators, composition) of the crystals in fold 0 of MatBench tasks, of all unless named, as in
    canonical strings."""
    folds = pd.read_csv(data / "matbench/matbench_v0.1_test_folds.csv.gz")
    tests = set(folds.loc[folds["test_fold"] == 0, "mbid"])
    found = set()
    for path in sorted((data / "matbench/labels").glob("*.json.bz2")):
        if tasks is not None and path.name.partition(".")[0].removeprefix("matbench_") not in tasks:
            continue
        columns = json.loads(bz2.decompress(path.read_bytes()))
        if "spg_num" not in columns:  # of compositions alone: no crystals
            continue
        rows = (columns[name].values() for name in ("mbid", "composition", "spg_num"))
        for name, formula, number in zip(*rows, strict=True):
            if name in tests:
                amounts = {element: float(n) for element, n in re.findall(r"([A-Z][a-z]?)([\d.]+)", formula)}
                total = sum(amounts.values())
                composition = canonical_composition({element: n / total for element, n in amounts.items()})
                found.add((space_groups()[ENANTIOMORPHS.get(number, number)].generators, composition))
    return found


def kind(text: str) -> tuple[str, str]:
    """(generators, composition) of a SCOPE string."""
    generators, _, composition = text.split(" | ")
    return generators, composition


PUBLISHED = (
    "pretrain_cloud_10k.csv",
    "cloud_cv_train_and_val.csv",
    "finetune_dielectric_train_and_val.csv",
)


def published(data: Path, name: str) -> set[str]:
    """Canonical forms of the strings in one of the authors' files; a few are no crystal's (element X)."""
    frame = pd.read_csv(data / "cloud_example" / name)
    found, refused = set(), 0
    for text in frame[frame.columns[0]]:
        try:
            found.add(canonicalise(text))
        except ScopeError:
            refused += 1
    print(f"{name}: {len(found)} distinct strings, {refused} refused", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--to", type=Path, default=Path("runs/corpus"))
    parser.add_argument("--wbm", type=int, help="the first so many WBM structures; default: all 256,963")
    options = parser.parse_args()
    data = options.shared / "data"
    limits = {"wbm": options.wbm}
    strings = {
        name: encoded(name, data, options.to / "encoded", limits.get(name))["canonical"] for name in SOURCES
    }
    everything = {text for series in strings.values() for text in series}
    for part in PUBLISHED:
        everything |= published(data, part)
    kinds = fold_kinds(data)
    held = held_out(data, strings) & everything
    held |= {text for text in everything if kind(text) in kinds}
    for name, texts in (
        ("strings", everything - held),
        ("held-out", held),
        ("with-held-out", everything),
    ):
        (options.to / f"{name}.txt").write_text("\n".join(sorted(texts)) + "\n", encoding="utf-8")
        print(f"{name}: {len(texts)} distinct strings")


if __name__ == "__main__":
    main()
