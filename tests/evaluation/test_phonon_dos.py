"""Heat capacity and energy of phonon densities of states against pymatgen and the Debye model."""

import numpy as np
import pytest
from pymatgen.phonon.dos import PhononDos

from cloud_core.evaluation.thermal.phonon_dos import KELVIN_PER_WAVENUMBER, heat_capacity, internal_energy
from cloud_core.models import debye

TERAHERTZ_PER_WAVENUMBER = 0.0299792458
TEMPERATURES = np.array([60.0, 150.0, 300.0, 1000.0])


def test_agrees_with_pymatgen_on_a_fine_axis() -> None:
    axis = np.linspace(0, 700, 7001)
    density = axis**2 * np.exp(-(((axis - 250) / 120) ** 2)) + 3e4 * np.exp(-(((axis - 550) / 20) ** 2))
    oracle = PhononDos(axis * TERAHERTZ_PER_WAVENUMBER, density)
    total = np.trapezoid(density, axis * TERAHERTZ_PER_WAVENUMBER)
    for temperature, cv, energy in zip(
        TEMPERATURES,
        heat_capacity(axis, density, TEMPERATURES),
        internal_energy(axis, density, TEMPERATURES),
        strict=True,
    ):
        # pymatgen does not normalise: its values are per mode of the density's integral
        assert cv == pytest.approx(3 * oracle.cv(temperature) / total, rel=1e-4)
        assert energy == pytest.approx(3 * oracle.internal_energy(temperature) / total, rel=1e-4)


def test_quadratic_density_is_the_debye_model() -> None:
    theta = 400.0
    axis = np.linspace(0, theta / KELVIN_PER_WAVENUMBER, 4001)
    temperatures = np.array([5.0, 20.0, 100.0, 300.0, 2000.0])
    for zero_point in (True, False):
        expected = debye.internal_energy(theta, np_tensor(temperatures), zero_point=zero_point).numpy()
        ours = internal_energy(axis, axis**2, temperatures, zero_point=zero_point)
        assert np.allclose(ours, expected, rtol=1e-4)
    assert np.allclose(
        heat_capacity(axis, axis**2, temperatures),
        debye.heat_capacity(theta, np_tensor(temperatures)).numpy(),
        rtol=1e-4,
    )


def np_tensor(values: np.ndarray) -> "object":
    import torch

    return torch.from_numpy(values)


def test_scale_of_the_density_does_not_matter_and_many_crystals_at_once() -> None:
    axis = np.arange(0, 1001, 20.0)
    density = np.random.default_rng(0).random((3, 51))
    values = heat_capacity(axis, density, TEMPERATURES)
    assert values.shape == (3, 4)
    assert np.allclose(values, heat_capacity(axis, 7 * density, TEMPERATURES))
    assert np.allclose(values[1], heat_capacity(axis, density[1], TEMPERATURES))
    assert (np.diff(values, axis=1) > 0).all() and (values < 3 * debye.GAS_CONSTANT).all()


@pytest.mark.parametrize(
    ("axis", "density", "temperatures", "message"),
    [
        ([0, 20, 10], [1, 1, 1], [300.0], "ascend"),
        ([0, 10, 20], [1, 1], [300.0], "2 densities for 3"),
        ([0, 10, 20], [1, -1, 1], [300.0], "nowhere negative"),
        ([0, 10, 20], [0, 0, 0], [300.0], "somewhere positive"),
        ([0, 10, 20], [1, 1, 1], [0.0], "above 0 K"),
    ],
)
def test_refuses(axis: list[float], density: list[float], temperatures: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        heat_capacity(axis, density, temperatures)
