"""Metrics, folds, leakage and calibration against oracles nobody here wrote."""

import bz2
import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import laplace
from sklearn import metrics as sk
from sklearn.dummy import DummyRegressor

from cloud_core.evaluation.data.catalogue import MATBENCH, TASKS, UNCONVBENCH, BenchmarkError
from cloud_core.evaluation.data.dataset import Dataset
from cloud_core.evaluation.data.folds import SplitError, split_by_group, split_fold
from cloud_core.evaluation.data.matbench import FoldResult, scores
from cloud_core.evaluation.leakage import leakage, leakage_by_form
from cloud_core.evaluation.metrics.classification import classification_metrics
from cloud_core.evaluation.metrics.regression import mae_over_mad, regression_metrics
from cloud_core.evaluation.metrics.uncertainty import (
    coverage,
    miscalibration_area,
    scale_of,
    uncertainty_metrics,
)
from cloud_core.scope import canonicalise
from cloud_core.scope.tables import space_groups


def labels_of(shared: Path, task: str) -> pd.Series:
    """Published labels by row name, in the published order."""
    columns = json.loads(bz2.decompress((shared / "data/matbench/labels" / f"{task}.json.bz2").read_bytes()))
    return pd.Series(list(columns[TASKS[task].target].values()), list(columns["mbid"].values()))


@pytest.fixture(scope="module")
def official(shared: Path) -> pd.DataFrame:
    return pd.read_csv(shared / "data/matbench/matbench_v0.1_test_folds.csv.gz")


@pytest.mark.parametrize("name", MATBENCH)
def test_folds_are_the_official_ones(name: str, shared: Path, official: pd.DataFrame) -> None:
    task = TASKS[name]
    published = official[official["task"] == name].set_index("mbid")["test_fold"].sort_index()
    assert task.row_ids() == published.index.tolist()
    order = np.random.default_rng(0).permutation(task.n_rows)  # of the rows in a file of one's own
    ids = tuple(np.array(task.row_ids())[order].tolist())
    labels = labels_of(shared, name).to_numpy(float)[order, None]
    data = Dataset(ids, ids, ids, labels, (task.learned(),), "canonical")
    mine = np.empty(task.n_rows, dtype=int)
    for fold, rows in enumerate(task.folds(data)):
        mine[order[rows]] = fold
    assert np.array_equal(mine, published.to_numpy())


def test_catalogue_knows_units_and_sizes(shared: Path) -> None:
    facts = json.loads((shared / "data/matbench/matbench_v0.1_dataset_metadata.json").read_text())
    structure_tasks = {name for name, entry in facts.items() if entry["input_type"] == "structure"}
    assert structure_tasks == set(MATBENCH)
    for name in MATBENCH:
        task, entry = TASKS[name], facts[name]
        assert (task.n_rows, task.target, task.kind) == (
            entry["n_samples"],
            entry["target"],
            entry["task_type"],
        )
        assert task.unit == (entry["unit"] or "")
    assert len(UNCONVBENCH) == 11


def test_a_published_model_scores_as_its_file_says(shared: Path) -> None:
    with gzip.open(shared / "data/matbench/leaderboard_results/cgcnnv2019_results.json.gz") as file:
        published = json.load(file)["tasks"]
    assert set(published) == set(MATBENCH)
    for name in MATBENCH:
        task, labels = TASKS[name], labels_of(shared, name)
        for fold in range(5):
            entry = published[name]["results"][f"fold_{fold}"]
            said = np.array([float(value) for value in entry["data"].values()])
            true = labels[list(entry["data"])].to_numpy(float)
            found = scores(task, FoldResult(tuple(entry["data"]), true, said, {}))
            assert found == pytest.approx(entry["scores"], rel=1e-6), (name, fold)


def test_regression_metrics_equal_sklearn() -> None:
    rng = np.random.default_rng(0)
    train, true = rng.normal(3, 2, 300), rng.normal(3, 2, 100)
    said = true + rng.normal(0, 1, 100)
    dummy = DummyRegressor(strategy="mean").fit(train[:, None], train)
    found = regression_metrics(true, said, float(train.mean()))
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(true, said))
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(true, said))
    assert found["max_error"] == pytest.approx(sk.max_error(true, said))
    assert found["r2"] == pytest.approx(sk.r2_score(true, said))
    other = sk.mean_absolute_error(true, dummy.predict(true[:, None]))
    assert found["mae_over_mad"] == pytest.approx(found["mae"] / other)
    assert "mae_over_mad" not in regression_metrics(true, said)
    assert mae_over_mad([1.0, 3.0], [2.0, 2.0], [1.5, 2.5]) == pytest.approx(2.0)  # a dummy for each row
    assert np.isnan(mae_over_mad([1.0, 1.0], [2.0, 2.0], 1.0))


@pytest.mark.parametrize("said", [[1.0], [1.0, np.nan], [np.inf, 1.0]])
def test_a_missing_prediction_is_no_zero(said: list[float]) -> None:
    with pytest.raises(ValueError, match="predictions"):
        regression_metrics([1.0, 2.0], said)


def test_classification_metrics_equal_sklearn() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 200)
    share = np.clip(labels * 0.4 + rng.uniform(0, 0.8, 200), 0, 1)
    found = classification_metrics(labels, np.stack([1 - share, share], axis=1))
    assert found["roc_auc"] == pytest.approx(sk.roc_auc_score(labels, share))
    assert found["matbench_rocauc"] == pytest.approx(sk.roc_auc_score(labels, share > 0.5))
    assert found["matbench_rocauc"] == pytest.approx(found["balanced_accuracy"]) != found["roc_auc"]
    assert found["f1"] == pytest.approx(sk.f1_score(labels, share > 0.5))
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(labels, share > 0.5))
    three = rng.dirichlet(np.ones(3), 200)
    labels = rng.integers(0, 3, 200)
    found = classification_metrics(labels, three)
    assert found["accuracy"] == pytest.approx((three.argmax(1) == labels).mean())
    assert found["roc_auc"] == pytest.approx(sk.roc_auc_score(labels, three, multi_class="ovr"))


def test_no_roc_auc_where_a_class_has_no_row() -> None:
    for said in ([[0.9, 0.1], [0.6, 0.4]], [[0.9, 0.1, 0.0], [0.6, 0.3, 0.1]]):
        found = classification_metrics([0, 0], said)
        assert np.isnan(found["roc_auc"])
        assert found["accuracy"] == 1.0


def test_splits_keep_a_crystal_on_one_side() -> None:
    keys = [f"crystal {i % 70}" for i in range(200)]
    split = split_by_group(keys, 0.2, 0.1, seed=3)
    assert sorted(np.concatenate(split).tolist()) == list(range(200))
    sides = [{keys[i] for i in rows} for rows in split]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]
    assert len(split.test) == pytest.approx(40, abs=20)
    more = split_by_group([*keys, *(f"new {i}" for i in range(500))], 0.2, 0.1, seed=3)
    for before, after in zip(split, more, strict=True):  # a table that grows keeps its sides
        assert {keys[i] for i in before} == {keys[i] for i in after if i < len(keys)}
    many = split_by_group([f"crystal {i}" for i in range(4000)], 0.2, 0.1, seed=3)
    assert [len(part) for part in many] == pytest.approx([2800, 400, 800], abs=80)
    fold = split_fold(np.arange(0, 200, 5), keys, 0.1, seed=0)
    assert np.array_equal(fold.test, np.arange(0, 200, 5))  # the official part stays, shared strings or not
    assert not {keys[i] for i in fold.train} & {keys[i] for i in fold.validation}
    with pytest.raises(SplitError, match="2 rows of 2 distinct"):
        split_by_group(["a", "b"], 0.2, 0.1, seed=0)


def test_leakage_counts_shared_strings_and_splits_the_error() -> None:
    found = leakage("canonical", ["a", "b", "b"], ["b", "c", "b", "d"], [1.0, 5.0, 3.0, 7.0])
    assert (found.shared_rows, found.shared_strings, found.share) == (2, 1, 0.5)
    assert (found.mae_shared, found.mae_unshared) == (2.0, 6.0)
    assert np.isnan(leakage("canonical", ["a"], ["b"], [1.0]).mae_shared)


def test_leakage_is_counted_in_each_form() -> None:
    generators = space_groups()[62].generators
    swapped = [f"{generators} | 4c 4a | Ca 0.5 O 0.5", f"{generators} | 4b 4c | O 0.5 Ca 0.5", None]
    keys = [canonicalise(text) if text else "another" for text in swapped]
    forms = {"official": swapped, "canonical": keys}
    official, canonical = leakage_by_form(forms, [0], [1, 2], [0.3, 0.5])
    assert (official.form, official.shared_rows, canonical.form, canonical.shared_rows) == (
        "official", 0, "canonical", 1,
    )  # fmt: skip
    assert (canonical.mae_shared, canonical.mae_unshared) == (0.3, 0.5)
    assert leakage("official", [None, "a"], [None, "b"]).shared_rows == 0  # no string is nobody's string


def test_calibration_of_right_and_wrong_deviations() -> None:
    rng = np.random.default_rng(2)
    sigma = rng.uniform(0.5, 2.0, 20_000)
    true = rng.laplace(0, sigma / np.sqrt(2))
    zero = np.zeros_like(true)
    expected, observed = coverage(true, zero, sigma)
    assert np.abs(observed - expected).max() < 0.02
    _, sure = coverage(true, zero, sigma / 3)
    half = laplace.ppf(0.84)  # of the interval that holds 68 % of a Laplace distribution
    one = np.interp(0.68, expected, sure)
    assert one == pytest.approx(laplace.cdf(half / 3) - laplace.cdf(-half / 3), abs=0.02)
    assert miscalibration_area(expected, sure) > 10 * miscalibration_area(expected, observed)


def test_scales_are_those_that_errors_were_drawn_with() -> None:
    rng = np.random.default_rng(3)
    spread = rng.lognormal(0, 0.8, 5_000)
    sigma = np.hypot(2.0 * spread, 0.7)
    true = rng.laplace(0, sigma / np.sqrt(2))
    a, b, _ = scale_of(true, np.zeros_like(true), spread)
    assert a == pytest.approx(2.0, rel=0.06) and b == pytest.approx(0.7, rel=0.2)
    metrics = uncertainty_metrics(true, np.zeros_like(true), np.hypot(a * spread, b))
    assert metrics["nll"] == pytest.approx(-laplace.logpdf(true, scale=sigma / np.sqrt(2)).mean(), abs=0.01)
    assert metrics["nll"] < metrics["nll_constant"] - 0.1
    assert metrics["coverage_68"] == pytest.approx(0.68, abs=0.02)
    assert metrics["coverage_95"] == pytest.approx(0.95, abs=0.01)
    assert metrics["spearman"] > 0.3


def test_a_spread_that_tells_nothing_gives_one_deviation_for_all() -> None:
    rng = np.random.default_rng(4)
    true, spread = rng.laplace(0, 1.0, 500), rng.lognormal(0, 1.0, 500)
    a, b, _ = scale_of(true, np.zeros(500), spread)
    assert a == 0.0 and b == pytest.approx(np.sqrt(2) * np.abs(true).mean())
    assert np.isnan(uncertainty_metrics(true, np.zeros(500), np.full(500, b))["spearman"])
    assert scale_of(true, np.zeros(500), np.zeros(500))[0] == 0.0
    # Members that agree by chance where they are wrong do not make all other deviations large.
    outlier = np.append(rng.laplace(0, 0.1, 300), 5.0)
    close = np.append(np.full(300, 0.05), 1e-4)
    a, b, _ = scale_of(outlier, np.zeros(301), close)
    assert np.hypot(a * 0.05, b) < 0.3
    with pytest.raises(ValueError, match="no row with a finite error"):
        scale_of([np.nan], [0.0], [1.0])


def test_the_distance_to_the_training_crystals_widens_where_it_tells() -> None:
    rng = np.random.default_rng(5)
    distance, spread = rng.lognormal(0, 0.7, 4_000), np.zeros(4_000)
    true = rng.laplace(0, 0.5 * distance**0.8 / np.sqrt(2))
    a, b, p = scale_of(true, np.zeros_like(true), spread, distance)
    assert a == 0.0 and b == pytest.approx(0.5, rel=0.06) and p == pytest.approx(0.8, abs=0.06)
    other = rng.laplace(0, 0.5, 4_000)
    assert scale_of(other, np.zeros_like(other), spread, distance)[2] == 0.0


def test_stratified_folds_need_the_whole_set() -> None:
    task = TASKS["matbench_mp_is_metal"]
    part = Dataset((task.row_ids()[3],), ("x",), ("x",), np.ones((1, 1)), (task.learned(),), "canonical")
    with pytest.raises(BenchmarkError, match="whole file"):
        task.folds(part)
