"""Scaling laws recovered from points that were made with one."""

import itertools

import numpy as np
import pytest

from cloud_core.evaluation.metrics.scaling import PowerLaw, fit_power_law, scaling_plot

TRUE = PowerLaw(0.8, {"parameters": 40.0, "tokens": 300.0}, {"parameters": 0.34, "tokens": 0.28}, 0.0)
GRID = list(itertools.product([1e4, 1e5, 1e6, 1e7], [1e6, 1e7, 1e8, 1e9]))
AXES = {"parameters": [p for p, _ in GRID], "tokens": [t for _, t in GRID], "seed": [1.0] * len(GRID)}


def test_the_law_behind_the_points_is_found() -> None:
    law = fit_power_law(TRUE(AXES), AXES)
    assert law is not None and set(law.exponents) == {"parameters", "tokens"}
    assert law.floor == pytest.approx(0.8, abs=0.02)
    for name, exponent in TRUE.exponents.items():
        assert law.exponents[name] == pytest.approx(exponent, rel=0.05)
        assert law.scales[name] == pytest.approx(TRUE.scales[name], rel=0.3)
    assert law.residual < 1e-3


def test_noise_moves_it_little_and_prediction_less() -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, len(GRID))
    law = fit_power_law(TRUE(AXES) + noise, AXES)
    assert law is not None
    beyond = {"parameters": 1e8, "tokens": 1e10}
    assert float(law(beyond)) == pytest.approx(float(TRUE(beyond)), abs=0.1)
    assert 0.003 < law.residual < 0.02


def test_too_few_points_or_nothing_that_varies_give_no_law() -> None:
    assert fit_power_law([3.0, 2.0], {"parameters": [1.0, 2.0]}) is None
    assert fit_power_law([3.0, 2.0, 2.5], {"parameters": [1.0, 1.0, 1.0]}) is None


def test_the_plot_shows_each_axis_that_varies() -> None:
    law = fit_power_law(TRUE(AXES), AXES)
    figure = scaling_plot(TRUE(AXES), AXES, [f"{p:g}" for p, _ in GRID], law)
    assert [axis.get_xlabel() for axis in figure.axes] == ["parameters", "tokens"]
    assert [len(axis.get_lines()) for axis in figure.axes] == [8, 8]
