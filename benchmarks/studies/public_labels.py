"""All public labels at hand, one row a crystal, and which rows no training may see.

    python benchmarks/studies/public_labels.py --shared ../shared --to runs/labels

Writes `labels.parquet`: `resolved` (the crystal), `canonical`, `source` (of its first label), a column
for each quantity of `TARGETS`, empty where no label is known, and `part <quantity>`. A crystal with
several labels
of a quantity has their median, energies with the corrections of 2020 first.

Labels: formation energies (eV/atom, PBE and PBE+U with the corrections of 2020) of the Materials Project and
of WBM's labelled half; band gaps (eV, PBE) of the Materials Project; moduli (GPa, Voigt-Reuss-Hill averages)
of the Materials Project, MatBench and matcalc; the highest peak of the phonon density of states (1/cm) and
refractive indices of MatBench and of the tables of Petretto and of Petousis; Debye temperatures (K) whose C_v
is nearest to that of the phonon densities of states from 100 to 1,000 K, and for other crystals to C_v at
300 K in the example data of CLOUD. The larger file of the Materials
Project holds energies before those corrections, which are linear in composition: what a robust fit gives on
the crystals with both is added to them.

Held out (part `test`), by composition with space group, which the resolved string implies: from all labels
the crystals of the demo, and `test wbm`, about 10,000 crystals of WBM by whole chemical systems, from
energies
and gaps, which the encoders learn first, fold 0 of every MatBench task, and all crystals of those systems
(`left out`); from the other quantities fold 0 of the tasks with that quantity. `validation` are whole
compositions.
"""

import argparse
import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from sklearn.linear_model import QuantileRegressor

from benchmarks.studies.corpus import SOURCES, encoded, fold_kinds, kind, linked_tests, own_fifths
from benchmarks.studies.cut_demo_data import HELD_OUT
from benchmarks.studies.prepare_study import labels_of
from cloud_core.evaluation.thermal.data import ThermalData, read_thermal
from cloud_core.evaluation.thermal.phonon_labels import PhononData, PhononLabels, label_phonons
from cloud_core.models.debye_model import HIGHEST, LOWEST
from cloud_core.models.targets import Target
from cloud_core.scope import canonicalise
from cloud_core.scope.features import composition_of

TARGETS = {
    "formation_energy": Target("formation_energy", "eV/atom"),
    "band_gap": Target("band_gap", "eV"),
    "bulk_modulus": Target("bulk_modulus", "GPa", scaling="log"),
    "shear_modulus": Target("shear_modulus", "GPa", scaling="log"),
    "highest_phonon_frequency": Target("highest_phonon_frequency", "1/cm"),
    "refractive_index": Target("refractive_index", "", scaling="log"),
    "debye_temperature": Target("debye_temperature", "K", scaling="log"),
}
ENERGY = "formation_energy"
OLD = "crysxpp"
NEW = ("mp_20_biternary_val", "mpts_52_val")
WBM_HELD = 10_000
VALIDATION = 0.033
LARGER_VALIDATION = 0.1  # of the quantities with few labels
TASKS_OF = {  # MatBench's, of the quantities that no encoder learns first
    "bulk_modulus": ("log_kvrh", "log_gvrh"),
    "shear_modulus": ("log_kvrh", "log_gvrh"),
    "highest_phonon_frequency": ("phonons",),
    "refractive_index": ("dielectric",),
    "debye_temperature": ("phonons",),
}
DEMO = Path("flows/demo_data")


def labels(data: Path) -> pd.DataFrame:
    """`source`, `id`, `quantity`, `value`: every label as published."""
    found: list[pd.DataFrame] = []

    def add(source: str, ids: pd.Series, quantity: str, values: pd.Series) -> None:
        frame = pd.DataFrame({"id": ids.astype(str).to_numpy(), "value": pd.to_numeric(values).to_numpy()})
        found.append(frame.assign(source=source, quantity=quantity))

    old = pd.read_csv(data / "crysxpp/mp_labels_joined.csv.gz")
    new = pd.read_csv(data / "mp_cif_csv/mp_20_biternary_val.csv.gz")
    time = pd.read_csv(
        data / "mp_cif_csv/mpts_52_val.csv.gz", usecols=["material_id", "formation_energy_per_atom"]
    )
    for source, frame in ((OLD, old), ("mp_20_biternary_val", new), ("mpts_52_val", time)):
        add(source, frame["material_id"], ENERGY, frame["formation_energy_per_atom"])
        if "band_gap" in frame:
            add(source, frame["material_id"], "band_gap", frame["band_gap"])
    add(OLD, old["material_id"], "bulk_modulus", old["elasticity.K_VRH"])
    add(OLD, old["material_id"], "shear_modulus", old["elasticity.G_VRH"])
    wbm = pd.read_csv(data / "wbm/wbm_labels_half.csv.gz")
    add("wbm", wbm["material_id"], ENERGY, wbm["e_form_per_atom_mp2020_corrected"])
    elastic = pd.read_json(data / "matcalc/mp-binary-pbe-elasticity-2025.1.json.gz")
    for quantity in ("bulk_modulus", "shear_modulus"):
        add("matcalc", elastic["mp_id"], quantity, elastic[f"{quantity}_vrh"])
    tensors = pd.read_csv(data / "automatminer/phonon_dielectric_mp.csv.gz")
    add("dielectric_tensors", tensors["mpid"], "highest_phonon_frequency", tensors["last phdos peak"])
    epsilon = pd.to_numeric(tensors["eps_electronic"])
    add("dielectric_tensors", tensors["mpid"], "refractive_index", np.sqrt(epsilon.where(epsilon > 0)))
    constants = pd.read_csv(data / "matminer/dielectric_constant.csv.gz", skiprows=1, usecols=["idx", "n"])
    add("dielectric_constants", constants["idx"], "refractive_index", constants["n"])
    phonons = labels_of(data, "phonons")
    add("phonons", pd.Series(phonons.index), "highest_phonon_frequency", phonons)
    links = pd.read_csv(data / "matbench/matbench_structure_links.csv.gz")
    for task, quantity in (("log_kvrh", "bulk_modulus"), ("log_gvrh", "shear_modulus")):
        here = links[links["task"] == f"matbench_{task}"].drop_duplicates("mbid")
        values = 10 ** labels_of(data, task)[here["mbid"]].to_numpy()
        for source, rows in here.assign(value=values).groupby("source"):
            add(str(source), rows["source_id"], quantity, rows["value"])
    frame = pd.concat(found).dropna()
    positive = frame["quantity"].isin([name for name, target in TARGETS.items() if target.scaling == "log"])
    beyond = (frame["quantity"] == ENERGY) & (frame["value"].abs() > 6)  # failed calculations
    return frame[~(positive & (frame["value"] <= 0)) & ~beyond]


def debye_temperatures(data: Path, to: Path) -> pd.DataFrame:
    """`resolved`, `canonical`, `source`, `quantity`, `value`, of curves where there are any."""
    one = ThermalData(path=str(DEMO / "heat_capacity.csv"), scope="resolved", form="resolved")
    curves = to / "phonon_labels.parquet"
    if not curves.is_file():
        densities = PhononData(path=str(data / "phonon/phdos_tutorial_data_1521.csv.gz"))
        recipe = PhononLabels(temperatures="100:1000:50")
        known = one.model_copy(update={"form": "canonical", "scope": "cloud"})
        print(label_phonons(densities, known, recipe, str(curves)))
    many = ThermalData(
        path=str(curves), scope="resolved", form="resolved", value="heat_capacity", basis="atom",
        temperature="temperature", id="id",
    )  # fmt: skip
    found = []
    for source, each in (("phonon_densities", read_thermal(many)), ("heat_capacity", read_thermal(one))):
        theta = each.best_theta(LOWEST, HIGHEST)
        found.append(pd.DataFrame({"resolved": each.texts, "source": source, "value": theta}))
    frame = pd.concat(found)
    better = set(found[0]["resolved"])
    frame = frame[(frame["source"] == "phonon_densities") | ~frame["resolved"].isin(better)]
    texts = [canonicalise(text) for text in frame["resolved"]]
    return frame.assign(canonical=texts, quantity="debye_temperature")


def corrected(frame: pd.DataFrame) -> pd.DataFrame:
    """Labels with the energies of the older file brought to the corrections of 2020."""
    energies = frame[frame["quantity"] == ENERGY]
    before = energies[energies["source"] == OLD].groupby("canonical")["value"].median()
    after = energies[energies["source"].isin(NEW)].groupby("canonical")["value"].median()
    both = pd.DataFrame({"before": before, "after": after}).dropna()
    difference = both["after"] - both["before"]
    fit = QuantileRegressor(alpha=0.0, fit_intercept=False)
    fit.fit(composition_of(both.index.tolist()), difference)
    left = np.abs(difference - fit.predict(composition_of(both.index.tolist())))
    print(
        f"{len(both)} crystals with energies before and after the corrections of 2020: they differ by "
        f"{difference.abs().mean():.4f} eV/atom, by {left.mean():.4f} when fitted"
    )
    rows = (frame["quantity"] == ENERGY) & (frame["source"] == OLD)
    shift = fit.predict(composition_of(frame.loc[rows, "canonical"].tolist()))
    return frame.assign(
        value=frame["value"].where(~rows, frame["value"] + pd.Series(shift, frame.index[rows]))
    )


def draw(text: str) -> float:
    """A number from 0 up to 1, by the text alone."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest()) / 2**48


def chemical_system(text: str) -> str:
    return "-".join(sorted(text.rpartition(" | ")[2].split()[::2]))


def demo_crystals(data: Path, strings: dict[str, pd.DataFrame]) -> set[str]:
    """Canonical strings of the demo's structures and candidates, and of the test rows of its Debye model."""
    structures = pd.read_csv(DEMO / "labels.csv")["material_id"].tolist()
    candidates = pq.read_table(DEMO / "candidates.parquet", columns=["material_id"])[
        "material_id"
    ].to_pylist()
    found = set(strings[OLD]["canonical"].reindex([*structures, HELD_OUT]).dropna())
    return found | set(strings["wbm"]["canonical"].reindex(candidates).dropna()) | own_fifths(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--to", type=Path, default=Path("runs/labels"))
    parser.add_argument("--corpus", type=Path, default=Path("runs/corpus"), help="what corpus.py wrote")
    options = parser.parse_args()
    data = options.shared / "data"
    strings = {name: encoded(name, data, options.corpus / "encoded") for name in SOURCES}
    known = pd.concat([frame.assign(source=name) for name, frame in strings.items()]).reset_index()
    options.to.mkdir(parents=True, exist_ok=True)
    frame = labels(data).merge(known.drop_duplicates(["source", "id"]), on=["source", "id"])
    frame = pd.concat([corrected(frame), debye_temperatures(data, options.to)], ignore_index=True)
    old = frame["source"] == OLD
    newer = set(frame.loc[(frame["quantity"] == ENERGY) & ~old, "resolved"])
    frame = frame[~(old & (frame["quantity"] == ENERGY) & frame["resolved"].isin(newer))]
    rows = frame.pivot_table(index="resolved", columns="quantity", values="value", aggfunc="median")
    rows = rows[list(TARGETS)].join(frame.groupby("resolved")[["canonical", "source"]].first())
    tests = {name: each["canonical"] for name, each in strings.items()}
    demo = {kind(text) for text in demo_crystals(data, strings)}
    every = fold_kinds(data) | {kind(text) for text in linked_tests(data, tests)} | demo
    systems = rows["canonical"].map(chemical_system)
    of_wbm = rows["source"] == "wbm"
    test_wbm = of_wbm & (systems.map(draw) < WBM_HELD / of_wbm.sum())
    # No crystal of these systems from anywhere: its energy would say much of its neighbours'.
    beside = systems.isin(set(systems[test_wbm])) & ~test_wbm
    kinds = rows["canonical"].map(kind)
    place = kinds.map(lambda each: draw(each[1]))
    for quantity in TARGETS:
        first = quantity not in TASKS_OF
        test = kinds.isin(every if first else fold_kinds(data, TASKS_OF[quantity]) | demo)
        part = np.select(
            [test_wbm, test, beside & first, place < (VALIDATION if first else LARGER_VALIDATION)],
            ["test wbm", "test", "left out", "validation"],
            "train",
        )
        rows[f"part {quantity}"] = np.where(rows[quantity].notna(), part, "")
        counts = rows.groupby([f"part {quantity}", of_wbm.rename("wbm")])[quantity].count()
        print(quantity, {f"{name}{' (WBM)' * wbm}": n for (name, wbm), n in counts.items() if n})
    rows.reset_index().to_parquet(options.to / "labels.parquet", index=False)


if __name__ == "__main__":
    main()
