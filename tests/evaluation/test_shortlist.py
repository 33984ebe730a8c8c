"""Ranking, novelty, duplicates; the hull against pymatgen's; WBM's files and the leaderboard's."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition

from cloud_core.evaluation.discovery import DiscoveryError, subset_metrics
from cloud_core.evaluation.screening.hull import Hull
from cloud_core.evaluation.screening.lift import lifts
from cloud_core.evaluation.screening.shortlist import ShortlistError, Window, eligible, mark_known, rank
from cloud_core.evaluation.screening.wbm import (
    FORMATION_ENERGY,
    HULL_DISTANCE,
    REQUIRED_FACTS,
    read_labels,
    submission_metadata,
    write_submission,
)
from cloud_core.files import FrameError
from cloud_core.scope.formulas import reduced_formula


def candidates() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": ["a", "b", "c", "d", "e"],
            "key": ["k1", "k2", "k1", None, "k3"],
            "formula": ["NaCl", "KCl", "NaCl", None, "KCl"],
            "canonical": ["c1", "c2", "c1", None, "c3"],
            "hull_distance": [0.3, -0.1, 0.1, np.nan, 0.0],
            "hull_distance_std": [0.1, 0.3, 0.0, np.nan, 0.05],
            "gap": [1.0, 2.0, 3.0, np.nan, 1.4],
            "gap_std": [0.5, 0.1, 0.2, np.nan, 0.01],
        }
    )


def test_ranked_by_hull_distance_without_double_and_known_ones() -> None:
    ranked = mark_known(rank(candidates(), "hull_distance"), {"KCl"}, {"c2"})
    assert ranked["id"].tolist() == ["b", "e", "c", "a", "d"]
    assert ranked["rank"].tolist()[:4] == [1, 2, 3, 4] and ranked["rank"].isna().tolist()[4]
    assert ranked["known_crystal"].tolist()[:4] == [True, False, False, False]
    assert ranked["known_formula"].tolist()[:4] == [True, True, False, False]
    assert ranked["known_formula"].isna()[4] and ranked["known_crystal"].isna()[4]
    assert ranked["duplicate_of"].tolist() == [None, None, None, "c", None]
    found = {
        (): (["b", "e", "c"], {"without a score": 1, "duplicate": 1}),
        ("crystals",): (["e", "c"], {"without a score": 1, "known crystal": 1, "duplicate": 1}),
        ("formulas",): (["c"], {"without a score": 1, "known formula": 2, "duplicate": 1}),
        ("formulas", "crystals"): (
            ["c"],
            {"without a score": 1, "known crystal": 1, "known formula": 1, "duplicate": 1},
        ),
    }
    for drop, (left, dropped) in found.items():
        pool, counts = eligible(ranked, drop)  # type: ignore[arg-type]
        assert (pool["id"].tolist(), counts) == (left, dropped)
        assert len(pool) + sum(counts.values()) == len(ranked)


def test_ranked_by_mean_plus_k_standard_deviations() -> None:
    ranked = rank(candidates(), "hull_distance", k=1.0)
    assert ranked["id"].tolist() == ["e", "c", "b", "a", "d"]
    assert ranked["score"].tolist()[:4] == pytest.approx([0.05, 0.1, 0.2, 0.4])
    with pytest.raises(ShortlistError, match="k is 1, and the model gives no standard deviation"):
        rank(candidates().drop(columns="hull_distance_std"), "hull_distance", k=1.0)


def test_reduced_formulas_equal_pymatgens(shared: Path) -> None:
    texts = pd.read_csv(shared / "data/wbm/wbm_labels_half.csv.gz")["formula"].head(2_000)
    for text in texts:
        amounts = Composition(text).get_el_amt_dict()
        found = reduced_formula(amounts)
        assert Composition(found) == Composition(text).reduced_composition
        total = sum(amounts.values())
        rounded = {element: round(n / total, 2) for element, n in amounts.items()}
        assert reduced_formula(rounded, rounded=True) == found  # as a SCOPE string tells it
    assert reduced_formula({"Cl": 4, "Na": 4}) == "NaCl"
    assert reduced_formula({"O": 16.0, "P": 4.0, "Fe": 4.0, "Li": 4.0}) == "LiFePO4"
    assert reduced_formula({"Al": 4 / 3, "Fe": 8 / 3}) == "AlFe2"
    assert reduced_formula({"Ga": 1.2345, "Al": 0.7655}) == "Al0.383Ga0.617"


def test_lift_over_chance_and_over_another_ranking() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(0.1, 0.2, 3_000)
    stable = true <= 0
    good, poor = true + rng.normal(0, 0.1, 3_000), true + rng.normal(0, 0.4, 3_000)
    poor[:100] = np.nan  # last
    over_chance, over_poor = lifts(stable, good, {"poor": poor}, 300)
    assert (over_chance.against, over_poor.against) == ("random", "poor")
    best = stable[np.argsort(good)[:300]].mean()
    assert over_chance.precision == over_poor.precision == pytest.approx(best)
    assert over_chance.lift == pytest.approx(best / stable.mean())
    assert over_poor.lift == pytest.approx(best / stable[np.argsort(poor)[:300]].mean())
    for each in (over_chance, over_poor):
        assert 1 < each.low < each.lift < each.high
    # the interval is that of drawing the rows anew, ranking them and taking the first
    drawn = [rng.integers(0, 3_000, 3_000) for _ in range(1000)]
    again = [stable[rows][np.argsort(good[rows])[:300]].mean() / stable[rows].mean() for rows in drawn]
    assert np.quantile(again, [0.025, 0.975]) == pytest.approx([over_chance.low, over_chance.high], abs=0.06)
    # and it holds what it says: of two rankings that are equally good it seldom excludes 1
    excluded = 0
    for seed in range(40):
        one, other = (true + rng.normal(0, 0.3, 3_000) for _ in range(2))
        (_, each) = lifts(stable, one, {"other": other}, 300, resamples=200, seed=seed)
        excluded += not each.low <= 1 <= each.high
    assert excluded <= 8


def test_lift_where_there_is_nothing_to_choose_or_to_find() -> None:
    assert lifts([True, False], [0.0, 1.0], {}, 2) == []
    chance, other = lifts([False] * 10, np.arange(10.0), {"other": np.arange(10.0)}, 3, resamples=50)
    assert np.isnan(chance.lift) and np.isnan(other.lift) and other.low == other.high == 1
    stable = np.arange(10) < 3
    chance, other = lifts(stable, np.arange(10.0), {"other": -np.arange(10.0)}, 3, resamples=50)
    assert chance.lift == pytest.approx(10 / 3) and other.lift == np.inf


def test_ranked_by_target_window_then_uncertainty() -> None:
    ranked = rank(candidates(), {"gap": Window(1.0, 1.5)})
    assert ranked["id"].tolist() == ["e", "a", "b", "c", "d"]
    both = rank(candidates(), {"gap": Window(1.0, 1.5), "hull_distance": Window(high=0.05)})
    assert both["id"].tolist()[0] == "e" and both["score"].tolist()[0] == 0.0


def test_ranking_does_not_depend_on_the_order_of_rows() -> None:
    table = candidates().assign(hull_distance=0.1)
    first = rank(table, "hull_distance")["id"].tolist()
    assert rank(table.iloc[::-1], "hull_distance")["id"].tolist() == first


def test_refuses_what_cannot_be_ranked() -> None:
    with pytest.raises(ShortlistError, match="no column band_gap"):
        rank(candidates(), "band_gap")
    with pytest.raises(ShortlistError, match="holds nothing"):
        Window(2, 1)
    with pytest.raises(ShortlistError, match="no known crystals to compare with; name a table"):
        eligible(mark_known(rank(candidates(), "gap"), {"NaCl"}, ()), ("crystals",))


def test_hull_agrees_with_pymatgen(shared: Path) -> None:
    table = pd.read_csv(shared / "data/crysxpp/mp_labels_joined.csv.gz").dropna(
        subset=["pretty_formula", "formation_energy_per_atom"]
    )
    elements = {"Li", "Fe", "P", "O", "Mn"}
    inside = table[[set(Composition(f).as_dict()) <= elements for f in table["pretty_formula"]]]
    compositions = [Composition(f) for f in inside["pretty_formula"]]
    energies = inside["formation_energy_per_atom"].tolist()
    assert len(inside) > 50
    entries = [PDEntry(c, e * c.num_atoms) for c, e in zip(compositions, energies, strict=True)]
    diagram = PhaseDiagram([*entries, *(PDEntry(Composition(e), 0.0) for e in elements)])
    hull = Hull([c.as_dict() for c in compositions], energies)
    for entry, composition, energy in zip(entries, compositions, energies, strict=True):
        expected = diagram.get_e_above_hull(entry, allow_negative=True)
        assert hull.distance(composition.as_dict(), energy) == pytest.approx(expected, abs=2e-5)
    assert hull.energy({"Kr": 1.0, "Xe": 2.0}) == 0.0  # nothing known there: the elements


def test_hull_refuses() -> None:
    with pytest.raises(ValueError, match="not a composition"):
        Hull([{}], [0.0])
    with pytest.raises(ValueError, match="one finite formation energy"):
        Hull([{"Na": 1}], [np.nan])


@pytest.fixture
def summary(tmp_path: Path) -> Path:
    """A file of the published schema (the columns that matter)."""
    path = tmp_path / "wbm-summary.csv.gz"
    pd.DataFrame(
        {
            "material_id": ["wbm-1-1", "wbm-1-2", "wbm-1-3"],
            "formula": ["Ac6 U2", "Ac1 Th3", "Ac1 U3"],
            "n_sites": [8, 4, 4],
            FORMATION_ENERGY: [0.52, 0.1, 0.77],
            HULL_DISTANCE: [0.5, -0.1, 0.7],
            "unique_prototype": [True, True, False],
        }
    ).to_csv(path, index=False)
    return path


def test_reads_the_published_summary(summary: Path) -> None:
    labels = read_labels(summary, expected_rows=3)
    assert labels.loc["wbm-1-2"].tolist() == [0.1, -0.1, True]
    with pytest.raises(DiscoveryError, match="3 rows where 256,963 belong"):
        read_labels(summary, expected_rows=256_963)
    with pytest.raises(DiscoveryError, match="no column 'energy'"):
        read_labels(summary, formation_energy="energy")
    with pytest.raises(FrameError, match="no such file"):
        read_labels(summary.with_name("other.csv"))


def test_submission_file_and_metadata(tmp_path: Path) -> None:
    predictions = pd.Series([0.12345, np.nan, -0.5], index=["wbm-1-1", "wbm-1-2", "wbm-1-3"])
    path = write_submission(tmp_path / "cloud-wbm-IS2RE.csv.gz", predictions, "cloud", expected_rows=3)
    back = pd.read_csv(path)
    assert back.columns.tolist() == ["material_id", "e_form_per_atom_cloud"]
    assert back["e_form_per_atom_cloud"].tolist()[0::2] == [0.1234, -0.5]  # numpy rounds half to even
    assert back["e_form_per_atom_cloud"].isna().tolist() == [False, True, False]
    first = path.read_bytes()
    write_submission(path, predictions, "cloud", expected_rows=3)
    assert path.read_bytes() == first
    with pytest.raises(DiscoveryError, match="3 predictions where the leaderboard takes 256,963"):
        write_submission(path, predictions, "cloud")
    with pytest.raises(DiscoveryError, match=r"takes a \.csv\.gz"):
        write_submission(tmp_path / "x.csv", predictions, "cloud", expected_rows=3)

    results = subset_metrics([-0.1, 0.2, 0.3], [0.0, np.nan, 0.1], [True, True, False])
    document = yaml.safe_load(submission_metadata({"model_name": "CLOUD"}, "cloud", path.name, results))
    discovery = document["metrics"]["discovery"]
    assert discovery["pred_col"] == "e_form_per_atom_cloud"
    assert set(discovery) == {
        "pred_file", "pred_col", "full_test_set", "unique_prototypes", "most_stable_10k",
    }  # fmt: skip
    # what the leaderboard's schema requires of each subset
    assert set(discovery["full_test_set"]) == {
        "F1", "DAF", "Precision", "Recall", "Accuracy", "TPR", "FPR", "TNR", "FNR",
        "TP", "FP", "TN", "FN", "MAE", "RMSE", "R2", "missing_preds",
    }  # fmt: skip
    assert discovery["full_test_set"]["missing_preds"] == 1
    text = submission_metadata(dict.fromkeys(REQUIRED_FACTS, "x"), "cloud", path.name, results)
    assert text.startswith("# still to be filled in: metrics.discovery.pred_file_url\n")
    url = "https://example.org/cloud.csv.gz"
    text = submission_metadata({"model_name": "CLOUD"}, "cloud", path.name, results, url)
    assert text.startswith("# still to be filled in: model_version, model_type")
    assert yaml.safe_load(text)["metrics"]["discovery"]["pred_file_url"] == url
    assert submission_metadata(dict.fromkeys(REQUIRED_FACTS, "x"), "c", "f", results, url)[0] != "#"
