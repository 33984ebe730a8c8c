"""Discovery metrics against matbench-discovery's own and scikit-learn, on published predictions."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from cloud_core.evaluation.discovery import (
    FULL,
    MOST_STABLE,
    UNIQUE_PROTOTYPES,
    DiscoveryError,
    align,
    discovery_metrics,
    formation_energy_errors,
    hull_distance,
    subset_metrics,
)

ORACLES = Path(sys.prefix) / "oracles"
MODELS = {
    "megnet": ("megnet-wbm-IS2RE.csv.gz", 0.128),
    "chgnet": ("chgnet-0.3.0-wbm-IS2RE.csv.gz", 0.061),
    "alignn": ("alignn-wbm-IS2RE.csv.gz", 0.091),
}
E_FORM = "e_form_per_atom_mp2020_corrected"
EACH = "e_above_hull_mp2020_corrected_ppd_mp"


@pytest.fixture(scope="module")
def labels(shared: Path) -> pd.DataFrame:
    """The labelled half of WBM; one crystal of each composition, space group and site letters is `unique`."""
    frame = pd.read_csv(shared / "data/wbm/wbm_labels_half.csv.gz").set_index("material_id")
    symmetry = pd.read_csv(
        shared / "data/wbm/symmetry/dft-geo-opt-symprec=1e-2-spglib=2.5.0.csv.gz", index_col=0
    )
    frame = frame.join(symmetry[["spg_num", "wyckoff_symbols"]].astype(str))
    frame["unique_prototype"] = ~frame.duplicated(["formula", "spg_num", "wyckoff_symbols"])
    return frame


@pytest.fixture(scope="module", params=MODELS)
def predicted(request: pytest.FixtureRequest, shared: Path, labels: pd.DataFrame) -> tuple[str, pd.Series]:
    file, _ = MODELS[request.param]
    table = pd.read_csv(shared / "data/wbm/model_preds" / file).set_index("material_id")
    return request.param, table[f"e_form_per_atom_{request.param}"].reindex(labels.index)


@pytest.fixture(scope="module")
def distances(labels: pd.DataFrame, predicted: tuple[str, pd.Series]) -> pd.DataFrame:
    """Rows with a true hull distance (tail-biased, see shared/data/INDEX.md)."""
    frame = labels.assign(prediction=predicted[1]).dropna(subset=[EACH])
    frame["true"] = frame[EACH]
    frame["pred"] = hull_distance(frame[EACH], frame[E_FORM], frame["prediction"])
    return frame


def test_errors_of_published_models(labels: pd.DataFrame, predicted: tuple[str, pd.Series]) -> None:
    name, values = predicted
    error = (values - labels[E_FORM]).abs().mean()
    assert error == pytest.approx(MODELS[name][1], abs=6e-4)


def test_equals_matbench_discovery(distances: pd.DataFrame, tmp_path: Path) -> None:
    if not (ORACLES / "matbench_discovery").is_dir():
        pytest.skip(f"matbench-discovery is not in {ORACLES}: see tests/oracles/requirements.txt")
    # its loader has taken out what is off by more than 5 eV/atom
    off = (distances["prediction"] - distances[E_FORM]).abs() > 5
    complete = distances[~off].dropna(subset=["pred"])
    subsets = {
        FULL: complete,
        UNIQUE_PROTOTYPES: complete[complete["unique_prototype"]],
    }
    assert 20_000 < len(subsets[UNIQUE_PROTOTYPES]) < len(subsets[FULL])
    for name, rows in subsets.items():
        np.savez(tmp_path / f"{name}.npz", each_true=rows["true"], each_pred=rows["pred"])
    script = Path(__file__).parent.parent / "oracles" / "stable_metrics.py"
    process = subprocess.run(
        [sys.executable, str(script), *(str(tmp_path / f"{name}.npz") for name in subsets)],
        env=os.environ | {"PYTHONPATH": str(ORACLES), "MPLCONFIGDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    oracle = json.loads(process.stdout)
    ours = subset_metrics(complete["true"], complete["pred"], complete["unique_prototype"])
    for name in subsets:
        theirs = oracle[str(tmp_path / f"{name}.npz")]
        for key, value in theirs.items():
            assert ours[name].metrics[key] == pytest.approx(value, rel=1e-12, abs=1e-15), (name, key)
        assert set(ours[name].metrics) == {*theirs, "missing", "excluded"}
        assert ours[name].n_rows == len(subsets[name])


def check_against_sklearn(
    true: np.ndarray, pred: np.ndarray, ours: dict[str, float], prevalence: float
) -> None:
    stable, called = true <= 0, pred <= 0  # nan is not stable
    known = ~np.isnan(pred)
    negatives, false_positives, false_negatives, positives = sk.confusion_matrix(
        stable, called, labels=[False, True]
    ).ravel()
    expected = {
        "F1": sk.f1_score(stable, called, zero_division=0),
        "Precision": sk.precision_score(stable, called, zero_division=0),
        "Recall": sk.recall_score(stable, called, zero_division=0),
        "TPR": sk.recall_score(stable, called, zero_division=0),
        "TNR": sk.recall_score(~stable, ~called, zero_division=0),
        "Accuracy": sk.accuracy_score(stable, called),
        "DAF": sk.precision_score(stable, called, zero_division=0) / prevalence,
        "MAE": sk.mean_absolute_error(true[known], pred[known]),
        "RMSE": sk.root_mean_squared_error(true[known], pred[known]),
        "R2": sk.r2_score(true[known], pred[known]),
        "TN": negatives,
        "FP": false_positives,
        "FN": false_negatives,
        "TP": positives,
    }
    for key, value in expected.items():
        assert ours[key] == pytest.approx(value, rel=1e-10), key
    if stable.any():
        assert ours["FNR"] == pytest.approx(1 - ours["TPR"])
    if not stable.all():
        assert ours["FPR"] == pytest.approx(1 - ours["TNR"])


def test_missing_and_failed_predictions_and_most_stable_follow_sklearn(distances: pd.DataFrame) -> None:
    rng = np.random.default_rng(0)
    true, pred = distances["true"].to_numpy(), distances["pred"].to_numpy().copy()
    pred[rng.random(len(pred)) < 0.2] = np.nan
    wild = rng.random(len(pred)) < 0.05
    given = pred + np.where(wild, rng.choice([-20.0, 20.0], len(pred)), 0.0)
    unique = distances["unique_prototype"].to_numpy()
    results = subset_metrics(true, given, unique, n_most_stable=2_000)
    # from here on as if there were no prediction at all where it is off by more than 5 eV/atom
    failed = np.abs(given - true) > 5
    n_missing = int(np.isnan(pred).sum())
    assert (results[FULL].metrics["missing"], results[FULL].metrics["excluded"]) == (n_missing, failed.sum())
    assert failed.sum() >= (wild & ~np.isnan(pred)).sum() > 500
    pred[failed] = np.nan
    check_against_sklearn(true, pred, results[FULL].metrics, (true <= 0).mean())
    prevalence = (true[unique] <= 0).mean()
    check_against_sklearn(true[unique], pred[unique], results[UNIQUE_PROTOTYPES].metrics, prevalence)
    chosen = pd.Series(pred[unique]).nsmallest(2_000).index
    assert results[MOST_STABLE].n_rows == 2_000
    assert results[MOST_STABLE].metrics["missing"] == results[MOST_STABLE].metrics["excluded"] == 0
    check_against_sklearn(
        true[unique][chosen], pred[unique][chosen], results[MOST_STABLE].metrics, prevalence
    )


def test_without_unique_prototype_marks_only_the_full_set_is_named() -> None:
    assert set(subset_metrics([0.1, -0.1], [0.0, 0.2])) == {FULL}


def test_all_missing_is_never_stable() -> None:
    ours = discovery_metrics([-0.1, 0.0, 0.2], [np.nan, np.nan, np.nan])
    assert ours["Recall"] == ours["F1"] == ours["Precision"] == ours["DAF"] == 0.0
    assert ours["TNR"] == 1.0 and ours["missing"] == 3
    assert np.isnan(ours["MAE"]) and np.isnan(ours["R2"])


def leaderboard(true: list[float], predicted: list[float]) -> dict[str, float]:
    """The leaderboard's `max_error_threshold` and `stable_metrics` once more, a crystal at a time."""
    counts = dict.fromkeys(("TP", "FP", "TN", "FN", "missing", "excluded"), 0)
    pairs = []
    for distance, said in zip(true, predicted, strict=True):
        if math.isnan(said):
            counts["missing"] += 1
        elif abs(said - distance) > 5:
            counts["excluded"] += 1
            said = math.nan
        else:
            pairs.append((distance, said))
        right = (distance <= 0) == (said <= 0)  # no prediction is none of a stable crystal
        counts[("T" if right else "F") + ("P" if said <= 0 else "N")] += 1
    tp, fp, tn, fn = (counts[name] for name in ("TP", "FP", "TN", "FN"))
    precision, recall = tp / (tp + fp), tp / (tp + fn)
    mean = sum(a for a, _ in pairs) / len(pairs)
    squares = sum((a - b) ** 2 for a, b in pairs)
    return counts | {
        "Precision": precision,
        "Recall": recall,
        "F1": 2 * precision * recall / (precision + recall),
        "DAF": precision / ((tp + fn) / len(true)),
        "Accuracy": (tp + tn) / len(true),
        "TPR": recall,
        "FPR": fp / (fp + tn),
        "TNR": tn / (fp + tn),
        "FNR": fn / (tp + fn),
        "MAE": sum(abs(a - b) for a, b in pairs) / len(pairs),
        "RMSE": math.sqrt(squares / len(pairs)),
        "R2": 1 - squares / sum((a - mean) ** 2 for a, _ in pairs),
    }


def test_the_published_definition() -> None:
    rng = np.random.default_rng(3)
    true = rng.normal(0.1, 0.2, 400)
    given = true + rng.normal(0, 0.1, 400)
    given[:20], given[20:30], given[30:40] = np.nan, true[20:30] - 5.1, true[30:40] + 40
    given[40] = true[40] - 4.9  # kept, and called stable
    expected = leaderboard(true.tolist(), given.tolist())
    assert (expected["missing"], expected["excluded"]) == (20, 20)
    assert discovery_metrics(true, given) == pytest.approx(expected)
    errors = formation_energy_errors([*(true - 1), np.nan], [*(given - 1), -1.0])
    assert errors == pytest.approx(
        {"rows": 360, "missing": 20, "excluded": 20}
        | {name: expected[name] for name in ("MAE", "RMSE", "R2")}
    )


def test_threshold_and_prevalence() -> None:
    true, pred = [-0.1, 0.04, 0.06, 0.3], [0.0, 0.05, 0.01, 0.2]
    ours = discovery_metrics(true, pred, stability_threshold=0.05, prevalence=0.25)
    assert (ours["TP"], ours["FP"], ours["FN"], ours["TN"]) == (2, 1, 0, 1)
    assert ours["DAF"] == pytest.approx(2 / 3 / 0.25)


@pytest.mark.parametrize(
    ("true", "pred", "message"),
    [
        ([0.1], [0.1, 0.2], "one of each per row"),
        ([], [], "one of each per row"),
        ([0.1, np.nan], [0.1, 0.2], "1 of 2 true hull distances"),
        ([0.1, 0.2], [0.1, np.inf], "infinite"),
    ],
)
def test_refuses(true: list[float], pred: list[float], message: str) -> None:
    with pytest.raises(DiscoveryError, match=message):
        discovery_metrics(true, pred)


def test_align_refuses_unknown_absent_and_double_ids() -> None:
    labels = pd.DataFrame({"x": [1, 2, 3]}, index=["a", "b", "c"])
    ordered = align(pd.Series([3.0, np.nan, 1.0], index=["c", "b", "a"]), labels)
    assert ordered.index.tolist() == ["a", "b", "c"]
    assert ordered.tolist()[0::2] == [1.0, 3.0] and np.isnan(ordered["b"])
    with pytest.raises(DiscoveryError, match="2 rows for 3 labels"):
        align(pd.Series([3.0, 1.0], index=["c", "a"]), labels)
    with pytest.raises(DiscoveryError, match="as d"):
        align(pd.Series(1.0, index=list("abcd")), labels)
    assert len(align(pd.Series(1.0, index=list("abcd")), labels, drop_unknown=True)) == 3
    with pytest.raises(DiscoveryError, match="appear twice"):
        align(pd.Series(1.0, index=list("abca")), labels)
