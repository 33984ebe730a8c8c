"""Heat capacity and internal energy from phonon densities of states, in the harmonic approximation.

A. A. Maradudin et al., Theory of Lattice Dynamics in the Harmonic Approximation (1963): each mode of
frequency ν is an oscillator; with x = hν / kT its heat capacity is k (x/2)² / sinh²(x/2), its energy
hν (1/2 + 1/(e^x − 1)).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cloud_core.units import GAS_CONSTANT, KELVIN_PER_WAVENUMBER

_REFINEMENT = 16  # points per interval of the density, which is linear in between

FloatArray = NDArray[np.float64]


def heat_capacity(wavenumbers: ArrayLike, density: ArrayLike, temperatures: ArrayLike) -> FloatArray:
    """C_v per mole of atoms, J/(mol K).

    Args:
        wavenumbers: [M] cm⁻¹, ascending from 0 or above.
        density: [..., M] density of states in any unit: it is normalised to three modes an atom.
        temperatures: [K] in K, > 0.

    Returns:
        [..., K]

    Raises:
        ValueError: the axis does not ascend, a density is negative or nowhere positive, or T ≤ 0.
    """
    x, weights = _modes(wavenumbers, density, temperatures)
    half = np.minimum(x / 2, 300.0)  # sinh² would overflow; such modes are frozen
    return 3 * GAS_CONSTANT * (weights @ _ratio(half) ** 2)


def internal_energy(
    wavenumbers: ArrayLike, density: ArrayLike, temperatures: ArrayLike, zero_point: bool = True
) -> FloatArray:
    """Vibrational U per mole of atoms, J/mol; arguments as `heat_capacity`."""
    x, weights = _modes(wavenumbers, density, temperatures)
    t = np.asarray(temperatures, dtype=float)
    # x/2 + x/(e^x − 1) = (x/2) coth(x/2)
    half = np.minimum(x / 2, 300.0)
    occupation = np.exp(-half) * _ratio(half)
    mean = occupation + x / 2 if zero_point else occupation
    return 3 * GAS_CONSTANT * t * (weights @ mean)


def _ratio(half: FloatArray) -> FloatArray:
    """h / sinh h, 1 at 0."""
    safe = np.where(half > 0, half, 1.0)
    return np.where(half > 0, safe / np.sinh(safe), 1.0)


def _modes(
    wavenumbers: ArrayLike, density: ArrayLike, temperatures: ArrayLike
) -> tuple[FloatArray, FloatArray]:
    """(x = hν/kT [M', K], weights [..., M'] that sum to one), on a finer axis than the density's."""
    axis = np.asarray(wavenumbers, dtype=float)
    values = np.asarray(density, dtype=float)
    t = np.asarray(temperatures, dtype=float)
    if axis.ndim != 1 or len(axis) < 2 or (np.diff(axis) <= 0).any() or axis[0] < 0:
        raise ValueError("the axis of a density of states must ascend from 0 cm⁻¹ or above")
    if values.shape[-1] != len(axis):
        raise ValueError(f"{values.shape[-1]} densities for {len(axis)} wavenumbers")
    if not np.isfinite(values).all() or (values < 0).any() or (values.max(axis=-1) <= 0).any():
        raise ValueError("a density of states must be finite, nowhere negative and somewhere positive")
    if t.ndim != 1 or (t <= 0).any():
        raise ValueError("temperatures must be a list of values above 0 K")
    position = np.linspace(0, len(axis) - 1, (len(axis) - 1) * _REFINEMENT + 1)
    fine = np.interp(position, np.arange(len(axis)), axis)
    lower = np.minimum(position.astype(int), len(axis) - 2)
    share = position - lower
    dense = values[..., lower] * (1 - share) + values[..., lower + 1] * share
    spacing = np.gradient(fine)
    spacing[[0, -1]] /= 2
    weights = dense * spacing
    weights /= weights.sum(axis=-1, keepdims=True)
    return fine[:, None] * KELVIN_PER_WAVENUMBER / t, weights
