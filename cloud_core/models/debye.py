"""The Debye model of a crystal's vibrations: C_v, U, S and F from one temperature θ_D.

P. Debye, Ann. Phys. 344, 789 (1912). Every quantity is an integral over 0 … x = θ/T of t / (e^t − 1), written
here so that it stays finite and smooth from T = 0 K to far above θ, in float32 and under autograd.

All functions take tensors (or numbers) that broadcast with one another:

- `theta`: Debye temperature in K, > 0;
- `temperature`: in K, ≥ 0;
- `n_atoms`: atoms that the result counts: 1.0 gives J per mole of atoms, the number of atoms in a cell or
  formula unit gives J per mole of cells or formula units.

They return the broadcast shape, in float64 for float64 input or plain numbers and in float32 for float32 and
below; nan where `theta` or `temperature` is outside its domain.
"""

from functools import cache

import numpy as np
import torch
from torch import Tensor

from cloud_core.units import GAS_CONSTANT

ORDER = 32
"""Default number of Gauss–Legendre points; docs/debye.md draws the error against it."""

CUTOFF = 48.0
"""Where the integral ends for colder crystals: the rest, e^-48 48^4, is below float64's grain."""

_SERIES_BELOW = 0.5
# t / (e^t − 1) = 1 − t/2 + Σ B_2k t^2k / (2k)!, highest power first
_SERIES = (1 / 47900160, -1 / 1209600, 1 / 30240, -1 / 720, 1 / 12)

Value = Tensor | float


def heat_capacity(theta: Value, temperature: Value, n_atoms: Value = 1.0, order: int = ORDER) -> Tensor:
    """Heat capacity at constant volume, J/(mol K)."""
    reduced = _Reduced(theta, temperature, n_atoms, order)
    # t² e^t / (e^t − 1)² without an exponential that overflows
    return reduced.scale * 3 * reduced.mean(reduced.bose * (reduced.bose + reduced.t))


def internal_energy(
    theta: Value, temperature: Value, n_atoms: Value = 1.0, zero_point: bool = True, order: int = ORDER
) -> Tensor:
    """Vibrational internal energy, J/mol, with or without the zero-point energy 9/8 R θ."""
    reduced = _Reduced(theta, temperature, n_atoms, order)
    thermal = 3 * reduced.temperature * reduced.mean(reduced.bose)
    return reduced.scale * (thermal + reduced.zero_point if zero_point else thermal)


def entropy(theta: Value, temperature: Value, n_atoms: Value = 1.0, order: int = ORDER) -> Tensor:
    """Vibrational entropy, J/(mol K)."""
    reduced = _Reduced(theta, temperature, n_atoms, order)
    return reduced.scale * (4 * reduced.mean(reduced.bose) - 3 * reduced.log_term)


def helmholtz_energy(
    theta: Value, temperature: Value, n_atoms: Value = 1.0, zero_point: bool = True, order: int = ORDER
) -> Tensor:
    """Vibrational Helmholtz energy U − T S, J/mol; `zero_point` as in `internal_energy`."""
    reduced = _Reduced(theta, temperature, n_atoms, order)
    thermal = reduced.temperature * (3 * reduced.log_term - reduced.mean(reduced.bose))
    return reduced.scale * (thermal + reduced.zero_point if zero_point else thermal)


class _Reduced:
    """What the four functions share: the integrand's points for one pair of broadcast θ and T.

    The integral over 0 … x is cut at b = min(x, CUTOFF), and 3/x³ ∫ t² f(t) dt = (b/x)³ ∫ 3u² f(b u) du over
    u = 0 … 1. So the points stay where the integrand is, however cold the crystal, and the T³ and T⁴ laws
    come out of the factor (b/x)³.
    """

    def __init__(self, theta: Value, temperature: Value, n_atoms: Value, order: int) -> None:
        theta, self.temperature, n_atoms = _tensors(theta, temperature, n_atoms)
        self.scale = GAS_CONSTANT * n_atoms
        self.zero_point = 9 / 8 * theta
        inside = (theta > 0) & (self.temperature >= 0)
        # T/θ, not θ/T: finite at 0 K, with a finite derivative
        ratio = torch.where(inside, self.temperature / torch.where(inside, theta, 1.0), torch.nan)
        # one switch for both, for two clamps would each pass the derivative on where x = CUTOFF exactly
        cold = ratio <= 1 / CUTOFF
        upper = 1 / torch.where(cold, 1 / CUTOFF, ratio)
        self._shrink = torch.where(cold, CUTOFF * ratio, 1.0) ** 3  # (b/x)³
        points, self._weights = _gauss_legendre(order, theta.dtype, theta.device)
        self.t = upper.unsqueeze(-1) * points
        """[…, order] integration points"""
        self.bose = _bose(self.t)
        """[…, order] t / (e^t − 1)"""
        self.log_term = torch.log(-torch.expm1(-upper))
        """[…] ln(1 − e^-x), which beyond CUTOFF is nothing beside the integrals"""

    def mean(self, f: Tensor) -> Tensor:
        """[…] 3/x³ ∫ t² f dt over 0 … x, the mean of `f` over the Debye sphere; `f` is [..., order]."""
        # no matrix product: autocast would take it to bfloat16
        return self._shrink * (f * self._weights).sum(-1)


def _tensors(*values: Value) -> list[Tensor]:
    """Broadcast tensors of one floating type on one device."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    floating = [tensor.dtype for tensor in tensors if tensor.is_floating_point()]
    dtype = torch.float64 if not floating or torch.float64 in floating else torch.float32
    device = tensors[0].device if tensors else None
    broadcast = torch.broadcast_tensors(*(torch.as_tensor(v, dtype=dtype, device=device) for v in values))
    return list(broadcast)


def _bose(t: Tensor) -> Tensor:
    """t / (e^t − 1); a series near 0, where the derivative of the quotient would lose its digits."""
    small = t < _SERIES_BELOW
    square = torch.where(small, t, 0.0) ** 2
    series = torch.zeros_like(square)
    for coefficient in _SERIES:
        series = (series + coefficient) * square
    large = torch.where(small, 1.0, t)
    return torch.where(small, 1 - t / 2 + series, large / torch.expm1(large))


@cache
def _points(order: int) -> tuple[np.ndarray, np.ndarray]:
    """[order] Gauss–Legendre points u on 0 … 1 and weights of 3 u² du."""
    x, w = np.polynomial.legendre.leggauss(order)
    u = (x + 1) / 2
    return u, 3 * u**2 * w / 2


def _gauss_legendre(order: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    points, weights = _points(order)
    return torch.tensor(points, dtype=dtype, device=device), torch.tensor(weights, dtype=dtype, device=device)
