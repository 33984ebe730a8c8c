"""Benchmark tasks: what is learned, from which file, in which unit, and how rows are split into folds.

MatBench v0.1: Dunn et al., npj Computational Materials 6, 138 (2020). UnconvBench: Wang et al., CrysToGraph,
arXiv 2407.16131; files at figshare 26657428. Files have to be fetched by hand; a folder with them is given.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cloud_core.errors import CloudError
from cloud_core.evaluation.data.dataset import Dataset, from_frame
from cloud_core.evaluation.data.folds import MATBENCH_SEED, N_FOLDS
from cloud_core.files import read_frame
from cloud_core.models.targets import Scaling, Target
from cloud_core.scope.settings import Form

SUFFIXES = (".json.gz", ".json", ".parquet", ".csv.gz", ".csv")


class BenchmarkError(CloudError):
    """A benchmark's files that are missing or not as published; names task, file and remedy."""


@dataclass(frozen=True)
class BenchmarkTask:
    """One task. Rows are named `<prefix>-<number from 1>` in the order of the published file.

    `split`: "kfold" shuffles the row numbers with `fold_seed` into five folds; "stratified" does it by class.
    """

    name: str
    file: str
    """without its suffix"""
    target: str
    unit: str
    n_rows: int
    prefix: str
    kind: Literal["regression", "classification"] = "regression"
    split: Literal["kfold", "stratified"] = "kfold"
    fold_seed: int = MATBENCH_SEED
    scaling: Scaling = "standard"
    structure_column: str = "structure"

    @property
    def metric(self) -> Literal["mae", "roc_auc"]:
        """The metric that ranks models of the task."""
        return "mae" if self.kind == "regression" else "roc_auc"

    def learned(self) -> Target:
        classes = ("False", "True") if self.kind == "classification" else ()
        return Target(self.target, self.unit, self.kind, self.scaling, classes=classes)

    def row_ids(self) -> list[str]:
        """Names of all rows, in order."""
        digits = len(str(self.n_rows))
        return [f"{self.prefix}-{number:0{digits}d}" for number in range(1, self.n_rows + 1)]

    def row_numbers(self, ids: tuple[str, ...]) -> NDArray[np.int64]:
        """From 0, of named rows.

        Raises:
            BenchmarkError: a name that is none of this task's.
        """
        place = {name: index for index, name in enumerate(self.row_ids())}
        unknown = [name for name in ids if name not in place]
        if unknown:
            raise BenchmarkError(
                f"{self.name}: no row '{unknown[0]}'; rows are {self.row_ids()[0]} to {self.row_ids()[-1]}"
            )
        return np.array([place[name] for name in ids], dtype=np.int64)

    def folds(self, data: Dataset) -> list[NDArray[np.int64]]:
        """Test rows of `data` in each fold, as published: by the row's number in the whole set.

        Raises:
            BenchmarkError: stratified folds of a set that is not whole.
        """
        from sklearn.model_selection import KFold, StratifiedKFold

        numbers = self.row_numbers(data.ids)
        every = np.arange(self.n_rows)
        if self.split == "kfold":
            parts = KFold(N_FOLDS, shuffle=True, random_state=self.fold_seed).split(every)
        else:
            if len(data) != self.n_rows:
                raise BenchmarkError(
                    f"{self.name}: folds are drawn from the labels of all {self.n_rows} rows, of which "
                    f"{len(data)} are here; give the whole file"
                )
            labels = np.empty(self.n_rows)
            labels[numbers] = data.labels[:, 0]
            stratified = StratifiedKFold(N_FOLDS, shuffle=True, random_state=self.fold_seed)
            parts = stratified.split(every, labels)
        fold_of = np.empty(self.n_rows, dtype=np.int64)
        for fold, (_, test) in enumerate(parts):
            fold_of[test] = fold
        return [np.flatnonzero(fold_of[numbers] == fold) for fold in range(N_FOLDS)]


def _matbench(name: str, target: str, unit: str, n_rows: int, **rest: Any) -> BenchmarkTask:
    prefix = f"mb-{name.replace('_', '-')}"
    return BenchmarkTask(f"matbench_{name}", f"matbench_{name}", target, unit, n_rows, prefix, **rest)


def _unconvbench(name: str, target: str, unit: str, n_rows: int) -> BenchmarkTask:
    full = f"unconvbench_{name}"
    return BenchmarkTask(full, f"ub_{full}", target, unit, n_rows, full, fold_seed=42)


_METAL: Mapping[str, Any] = {"kind": "classification", "split": "stratified"}

TASKS: dict[str, BenchmarkTask] = {
    task.name: task
    for task in (
        _matbench("jdft2d", "exfoliation_en", "meV/atom", 636),
        _matbench("phonons", "last phdos peak", "cm^-1", 1265),
        _matbench("dielectric", "n", "unitless", 4764),
        _matbench("log_gvrh", "log10(G_VRH)", "log10(GPa)", 10987),
        _matbench("log_kvrh", "log10(K_VRH)", "log10(GPa)", 10987),
        _matbench("perovskites", "e_form", "eV/unit cell", 18928),
        _matbench("mp_gap", "gap pbe", "eV", 106113),
        _matbench("mp_e_form", "e_form", "eV/atom", 132752),
        _matbench("mp_is_metal", "is_metal", "", 106113, **_METAL),
        _unconvbench("supercon", "Tc", "K", 1058),
        _unconvbench("exfoliation", "exfoliation_energy_per_atom", "eV/atom", 4527),
        _unconvbench("2d_gap", "gap", "eV", 3520),
        _unconvbench("2d_e_tot", "etot", "eV", 3520),
        _unconvbench("co2_adsp", "max_co2_adsp", "mol/kg", 13765),
        _unconvbench("qmof", "energy_total", "eV", 5106),
        _unconvbench("defected", "ef", "eV", 530),
        _unconvbench("src_bulk", "ef", "eV", 530),
        _unconvbench("bulk_s", "eform", "eV/atom", 5000),
        _unconvbench("bulk_m", "eform", "eV/atom", 5000),
        _unconvbench("bulk_l", "eform", "eV/atom", 5000),
    )
}
MATBENCH = tuple(name for name in TASKS if name.startswith("matbench_"))
UNCONVBENCH = tuple(name for name in TASKS if name.startswith("unconvbench_"))


def find_file(task: BenchmarkTask, folder: Path) -> Path:
    """The task's file in a folder.

    Raises:
        BenchmarkError: it is not there.
    """
    for suffix in SUFFIXES:
        path = folder / f"{task.file}{suffix}"
        if path.is_file():
            return path
    raise BenchmarkError(
        f"{task.name}: no {task.file} ({', '.join(SUFFIXES)}) in {folder}; fetch it from the benchmark's site"
    )


def load_task(
    task: BenchmarkTask, folder: Path, form: Form = "canonical", processes: int = 1, subset: bool = False
) -> Dataset:
    """The rows of a task from its file as published, or from one with its rows' names in a column `id`.

    A file with a column `scope` has its strings taken; else the structures are encoded.

    Args:
        subset: take a file with fewer rows than the published one. Figures are then of that subset.

    Raises:
        BenchmarkError: the file is missing, has another number of rows, or a row was refused, `subset` apart.
    """
    path = find_file(task, folder)
    frame = read_frame(path)
    if "id" not in frame.columns:
        if len(frame) != task.n_rows:
            raise BenchmarkError(
                f"{path}: {len(frame)} rows, not {task.n_rows}; name the rows of a subset in a column 'id'"
            )
        frame = frame.assign(id=task.row_ids())
    content = (
        {"scope_column": "scope"} if "scope" in frame.columns else {"structure_column": task.structure_column}
    )
    data = from_frame(
        frame,
        str(path),
        [task.learned()],
        **content,
        id_column="id",
        form=form,
        processes=processes,
        official=True,
    )
    if len(data) != task.n_rows and not subset:
        raise BenchmarkError(
            f"{path}: {len(data)} of {task.n_rows} rows can be used ({data.left_out}); set subset: true to "
            "measure on those alone, which is no benchmark result"
        )
    return data
