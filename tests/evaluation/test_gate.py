"""The registry's gate."""

import numpy as np
import pytest

from cloud_core.evaluation.metrics.gate import better_than


def test_a_clearly_better_model_passes_and_names_its_figures() -> None:
    rng = np.random.default_rng(1)
    true = rng.normal(size=200)
    decision = better_than(true, true + rng.normal(scale=0.1, size=200), true.mean())
    assert decision.passed and decision.gain > decision.lower_bound > 0
    assert "passes" in decision.message and "200 test rows" in decision.message


def test_a_model_no_better_than_chance_is_refused() -> None:
    rng = np.random.default_rng(2)
    true = rng.normal(size=40)
    assert not better_than(
        true, np.full(40, true.mean()) + rng.normal(scale=0.05, size=40), true.mean()
    ).passed
    assert not better_than(true, np.full(40, true.mean()), true.mean()).passed


def test_the_false_pass_rate_of_a_useless_model_is_about_its_nominal_five_percent() -> None:
    rng = np.random.default_rng(3)
    passed = 0
    for trial in range(200):
        true = rng.normal(size=80)
        # two predictions of equal worth
        passed += better_than(true, rng.normal(size=80), rng.normal(size=80), seed=trial).passed
    assert passed <= 20


@pytest.mark.parametrize(
    ("true", "model"),
    [([1.0], [1.0]), ([1.0, 2.0], [1.0]), ([1.0, np.nan], [1.0, 2.0]), ([1.0, 2.0], [1.0, np.inf])],
)
def test_rows_that_cannot_be_evaluated_are_an_error(true: list[float], model: list[float]) -> None:
    with pytest.raises(ValueError, match="gate needs"):
        better_than(true, model, 0.0)
