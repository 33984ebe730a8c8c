"""Debye functions against mpmath's quadrature, their identities and their behaviour at the ends."""

import math
from functools import cache

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cloud_core.models.debye import (
    CUTOFF,
    GAS_CONSTANT,
    entropy,
    heat_capacity,
    helmholtz_energy,
    internal_energy,
)

RATIOS = np.logspace(-6, 6, 61)  # θ/T
TEMPERATURE = 300.0
FUNCTIONS = {
    "C_v": heat_capacity,
    "U": internal_energy,
    "U thermal": lambda theta, t: internal_energy(theta, t, zero_point=False),
    "S": entropy,
    "F": helmholtz_energy,
    "F thermal": lambda theta, t: helmholtz_energy(theta, t, zero_point=False),
}


@cache
def exact(theta: float) -> dict[str, mpmath.mpf]:
    """The six quantities at 300 K by adaptive quadrature with 30 digits."""
    with mpmath.workdps(30):
        t = mpmath.mpf(TEMPERATURE)
        x = mpmath.mpf(theta) / t
        gas = mpmath.mpf("8.31446261815324")
        knots = [0, *(p for p in (1, 5, 20, 50, 100) if p < x), min(x, mpmath.mpf(200))]
        energy = 9 * gas * t * mpmath.quad(lambda u: u**3 / mpmath.expm1(u), knots) / x**3
        heat = 9 * gas * mpmath.quad(lambda u: u**4 * mpmath.exp(u) / mpmath.expm1(u) ** 2, knots) / x**3
        free = 3 * gas * t * mpmath.log(-mpmath.expm1(-x)) - energy / 3
        zero = 9 * gas * x * t / 8
        return {
            "C_v": heat,
            "U": energy + zero,
            "U thermal": energy,
            "S": (energy - free) / t,
            "F": free + zero,
            "F thermal": free,
        }


@pytest.mark.parametrize("quantity", FUNCTIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-5)])
def test_agrees_with_mpmath(quantity: str, dtype: torch.dtype, tolerance: float) -> None:
    theta = torch.tensor(RATIOS * TEMPERATURE, dtype=dtype)
    values = FUNCTIONS[quantity](theta, torch.tensor(TEMPERATURE, dtype=dtype))
    assert values.dtype is dtype
    for t, value in zip(theta.tolist(), values.tolist(), strict=True):
        reference = exact(t)[quantity]
        scale = abs(reference)
        if quantity.startswith("F"):  # crosses zero
            scale = max(scale, GAS_CONSTANT * TEMPERATURE)
        assert abs(value - reference) <= tolerance * scale, f"θ/T = {t / TEMPERATURE:g}"


def test_default_order_has_digits_to_spare() -> None:
    theta = torch.tensor(RATIOS * TEMPERATURE, dtype=torch.float64)
    for quantity, function in FUNCTIONS.items():
        reference = np.array([float(exact(t)[quantity]) for t in theta.tolist()])
        error = np.abs(function(theta, TEMPERATURE).numpy() - reference)
        floor = GAS_CONSTANT * TEMPERATURE if quantity.startswith("F") else 0.0
        assert (error / np.maximum(np.abs(reference), floor)).max() < 1e-11, quantity


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("quantity", FUNCTIONS)
def test_finite_with_finite_derivatives_everywhere(quantity: str, dtype: torch.dtype) -> None:
    temperatures = [0.0, 1e-38, 1e-30, 1e-10, 1e-3, 0.1, 1.0, 10.0, 300.0, 1e3, 1e6, 1e8]
    theta, temperature = torch.meshgrid(
        torch.logspace(-3, 6, 40, dtype=dtype), torch.tensor(temperatures, dtype=dtype), indexing="ij"
    )
    theta = theta.clone().requires_grad_()
    temperature = temperature.clone().requires_grad_()
    value = FUNCTIONS[quantity](theta, temperature)
    first = torch.autograd.grad(value.sum(), (theta, temperature), create_graph=True)
    second = torch.autograd.grad(sum(g.sum() for g in first), (theta, temperature))
    for tensor in (value, *first, *second):
        assert torch.isfinite(tensor).all()


@settings(max_examples=200, deadline=None)
@example(theta=1.0, ratio=CUTOFF)  # where the two forms of the integral meet
@given(theta=st.floats(1e-3, 1e6), ratio=st.floats(1e-6, 1e6))
def test_identities_by_autograd(theta: float, ratio: float) -> None:
    temperature = torch.tensor(theta / ratio, dtype=torch.float64, requires_grad=True)
    energy = internal_energy(theta, temperature, 3.0)
    free = helmholtz_energy(theta, temperature, 3.0)
    s = entropy(theta, temperature, 3.0)
    (du,) = torch.autograd.grad(energy, temperature, retain_graph=True)
    (df,) = torch.autograd.grad(free, temperature)
    assert math.isclose(du.item(), heat_capacity(theta, temperature, 3.0).item(), rel_tol=1e-9)
    assert math.isclose(-df.item(), s.item(), rel_tol=1e-9)
    scale = max(abs(energy.item()), abs(s.item() * temperature.item()))
    assert math.isclose(free.item(), (energy - temperature * s).item(), abs_tol=1e-13 * scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_derivative_by_theta_keeps_its_digits_at_high_temperature(dtype: torch.dtype) -> None:
    theta = torch.tensor([3.0, 10.0, 100.0], dtype=dtype, requires_grad=True)
    temperature = 1000.0
    (slope,) = torch.autograd.grad(heat_capacity(theta, temperature).sum(), theta)
    # C_v = 3R (1 − x²/20 + x⁴/560 − …)
    x = theta.detach().double() / temperature
    expected = 3 * GAS_CONSTANT * (-x / 10 + x**3 / 140) / temperature
    assert torch.allclose(slope.double(), expected, rtol=1e-6 if dtype is torch.float64 else 1e-4, atol=0)


def test_high_temperature_limit_is_dulong_petit() -> None:
    assert heat_capacity(300.0, 1e6, 8.0).item() == pytest.approx(24 * GAS_CONSTANT, rel=1e-8)
    assert internal_energy(300.0, 1e8, zero_point=False).item() == pytest.approx(
        3 * GAS_CONSTANT * 1e8, rel=1e-5
    )


def test_low_temperature_limit_is_cubic() -> None:
    temperature = torch.logspace(-12, 0, 25, dtype=torch.float64)
    expected = 12 * math.pi**4 / 5 * GAS_CONSTANT * (temperature / 400.0) ** 3
    assert torch.allclose(heat_capacity(400.0, temperature), expected, rtol=1e-11, atol=0)
    assert torch.allclose(entropy(400.0, temperature), expected / 3, rtol=1e-11, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_absolute_zero(dtype: torch.dtype) -> None:
    theta = torch.tensor([100.0, 2000.0], dtype=dtype)
    assert heat_capacity(theta, 0.0).tolist() == [0.0, 0.0]
    assert entropy(theta, 0.0).tolist() == [0.0, 0.0]
    assert internal_energy(theta, 0.0, zero_point=False).tolist() == [0.0, 0.0]
    zero_point = 9 / 8 * GAS_CONSTANT * theta
    assert torch.allclose(internal_energy(theta, 0.0), zero_point)
    assert torch.allclose(helmholtz_energy(theta, 0.0), zero_point)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_monotonic_and_without_a_cliff(dtype: torch.dtype) -> None:
    temperature = torch.linspace(0, 2000, 50_001, dtype=dtype)
    grain = 4 * torch.finfo(dtype).eps
    for function in (heat_capacity, entropy, lambda theta, t: internal_energy(theta, t, zero_point=False)):
        values = function(torch.tensor(450.0, dtype=dtype), temperature)
        steps = values.diff()
        assert (steps >= -grain * values[1:].abs()).all()
        assert steps.max() < 4e-4 * values.max()


def test_broadcasts_and_scales_with_atoms() -> None:
    theta = torch.tensor([[200.0], [400.0]])
    temperature = torch.tensor([100.0, 200.0, 300.0])
    n_atoms = torch.tensor([[2], [5]])
    values = heat_capacity(theta, temperature, n_atoms)
    assert values.shape == (2, 3) and values.dtype is torch.float32
    assert torch.allclose(values, heat_capacity(theta, temperature) * n_atoms)


def test_half_precision_is_computed_in_float32() -> None:
    value = heat_capacity(torch.tensor(400.0, dtype=torch.bfloat16), 300.0)
    assert value.dtype is torch.float32
    assert value.item() == pytest.approx(float(exact(400.0)["C_v"]), rel=1e-5)


def test_autocast_takes_no_digits() -> None:
    theta = torch.tensor([150.0, 400.0, 2000.0])
    for function in FUNCTIONS.values():
        expected = function(theta, torch.tensor(300.0))
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(function(theta, torch.tensor(300.0)), expected)


@pytest.mark.parametrize(("theta", "temperature"), [(0.0, 300.0), (-5.0, 300.0), (300.0, -1.0)])
def test_outside_the_domain_is_nan(theta: float, temperature: float) -> None:
    for function in (heat_capacity, internal_energy, entropy, helmholtz_energy):
        assert math.isnan(function(theta, temperature).item())
