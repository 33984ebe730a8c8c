"""What a challenger has to beat, and on which rows."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from cloud_core.evaluation.metrics.gate import LEAST_ROWS, GateDecision, all_of, decide, gain_bound
from cloud_core.evaluation.promotion import Champion, ComparedRows, gate, seen_in_training, trained_on
from cloud_core.models.geometry import EncoderConfig
from cloud_core.models.heads import PropertyModel
from cloud_core.models.targets import Target
from cloud_core.models.training_keys import TrainingKeys

KEYS = tuple(f"crystal {i}" for i in range(60))
RNG = np.random.default_rng(0)
ERRORS = RNG.uniform(0.0, 1.0, 60)
NONE = np.zeros(60, dtype=bool)


def rows(
    champion: np.ndarray | None = None, seen: np.ndarray = NONE, **references: np.ndarray
) -> ComparedRows:
    def champion_errors(folder: Path) -> np.ndarray:
        assert champion is not None
        return champion

    return ComparedRows("gap", "eV", KEYS, ERRORS, references, seen, champion_errors)


def model(folder: Path, known: TrainingKeys | None) -> Path:
    encoder = EncoderConfig(hidden_size=8, layers=1, heads=1, feed_forward=8)
    PropertyModel(encoder, [Target("gap", "eV")]).save(folder, {})
    if known is not None:
        known.write(folder)
    return folder


def test_every_baseline_has_to_be_beaten_beyond_chance() -> None:
    worse, level = ERRORS + 0.3, ERRORS + RNG.normal(0, 0.5, 60)
    assert gate(rows(mean=worse, boosting=worse), None).passed
    refused = gate(rows(mean=worse, boosting=level), None)
    assert not refused.passed and "is not promoted" in refused.message
    assert " eV on 60 test crystals; beside it mean " in refused.message and "boosting " in refused.message


def test_the_bound_is_that_of_a_paired_test() -> None:
    """Of normal gains the one-sided bound agrees with Student's."""
    gains = RNG.normal(0.2, 1.0, 400)
    interval = ttest_1samp(gains, 0.0, alternative="greater").confidence_interval(0.95)
    assert gain_bound(gains) == pytest.approx(interval.low, abs=0.02)
    assert gain_bound(np.full(5, 0.3)) == 0.3


def test_models_of_equal_worth_pass_in_about_five_percent() -> None:
    passed = sum(
        decide(*(np.abs(pair) if i == 0 else {"other": np.abs(pair)} for i, pair in enumerate(each))).passed
        for each in np.random.default_rng(3).normal(size=(200, 2, 80))
    )
    assert passed <= 20


def test_rows_that_the_start_has_seen_are_left_out_and_counted() -> None:
    other, seen = ERRORS - 0.1, NONE.copy()
    other[:30], seen[:30] = ERRORS[:30] + 5.0, True  # better only where the start knew the label
    assert gate(rows(boosting=other), None).passed
    told = gate(rows(boosting=other, seen=seen), None)
    assert (
        not told.passed and "on 30 test crystals" in told.message and "30 test rows left out" in told.message
    )
    seen[: 60 - LEAST_ROWS + 1] = True
    few = gate(rows(boosting=ERRORS + 1, seen=seen), None)
    assert not few.passed and f"{LEAST_ROWS} are needed" in few.message


def test_a_champion_is_compared_on_rows_new_to_both(tmp_path: Path) -> None:
    baseline, champion = ERRORS + 1.0, ERRORS - 0.05
    champion[:20] = ERRORS[:20] + 3.0
    fresh = Champion("3", model(tmp_path / "fresh", TrainingKeys()))
    assert gate(rows(champion, boosting=baseline), fresh).passed
    trained = Champion("3", model(tmp_path / "trained", TrainingKeys.of({"gap": KEYS[:20]})))
    told = gate(rows(champion, boosting=baseline), trained)
    assert (
        not told.passed
        and "the champion (version 3)" in told.message
        and "on 40 crystals, where" in told.message
    )
    other = Champion("3", model(tmp_path / "other", TrainingKeys.of({"energy": KEYS[:20]})))
    assert gate(rows(champion, boosting=baseline), other).passed
    silent = Champion("3", model(tmp_path / "silent", None))
    told = gate(rows(champion, boosting=baseline), silent)
    assert not told.passed and "does not say what it was trained on" in told.message


def test_rows_of_one_crystal_count_once_and_an_unknown_start_is_not_promoted() -> None:
    """A crystal listed ten times is one observation: what three crystals show is no proof."""
    few = tuple(f"crystal {i % 3}" for i in range(60))
    told = gate(replace(rows(mean=ERRORS + 1.0), keys=few), None)
    assert not told.passed and "3 test crystals to compare on" in told.message
    told = gate(replace(rows(mean=ERRORS + 1.0), seen=None), None)
    assert not told.passed and "does not say what it was trained on" in told.message


def test_what_a_model_has_seen_is_its_own_rows_and_its_starts(tmp_path: Path) -> None:
    start = model(tmp_path / "start", TrainingKeys.of({"energy": ["a", "b"]}))
    known = trained_on({"mine": ["c"]}, start, {"mine": "energy"})
    assert known is not None
    assert known.seen("mine", ["a", "b", "c", "d"]).tolist() == [True, True, True, False]
    assert known.seen("energy", ["a", "c"]).tolist() == [True, False]
    seen = seen_in_training(start, ["mine", "energy"], ["a", "c"])
    assert seen is not None and seen.tolist() == [True, False]
    unknown = seen_in_training(None, ["energy"], ["a"])
    assert unknown is not None and not unknown.any()
    assert seen_in_training(model(tmp_path / "unknown", None), ["energy"], ["a"]) is None
    assert trained_on({"mine": ["c"]}, model(tmp_path / "silent", None), {}) is None


def test_of_several_targets_each_has_to_pass() -> None:
    good, bad = GateDecision(True, "passes"), GateDecision(False, "is not promoted")
    assert all_of({"a": good}) is good
    both = all_of({"a": good, "b": bad})
    assert not both.passed and both.message == "a passes; b is not promoted"


def test_rows_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(ValueError, match="gate needs"):
        decide([1.0, 2.0], {"mean": [1.0]})
    with pytest.raises(ValueError, match="gate needs"):
        decide([1.0, 2.0], {})
