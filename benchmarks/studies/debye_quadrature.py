"""Error of the Debye heat capacity against the order of the quadrature.

    python benchmarks/studies/debye_quadrature.py

The published form puts its Gauss–Legendre points on 0 … θ/T; ours ends where the integrand does. Prints the
largest relative error over θ/T and draws it (docs/figures/debye_quadrature.png).
"""

from pathlib import Path

import mpmath
import numpy as np
import torch
from matplotlib.figure import Figure

from cloud_core.models.debye import GAS_CONSTANT, heat_capacity

ORDERS = (8, 12, 16, 20, 24, 32, 48)
RATIOS = np.logspace(-6, 6, 241)  # θ/T
THETA = 300.0


def exact(ratio: float) -> float:
    """C_v per mole of atoms with 30 digits."""
    with mpmath.workdps(30):
        x = mpmath.mpf(ratio)
        knots = [0, *(p for p in (1, 5, 20, 50, 100) if p < x), min(x, mpmath.mpf(200))]
        integral = mpmath.quad(lambda t: t**4 * mpmath.exp(t) / mpmath.expm1(t) ** 2, knots)
        return float(9 * GAS_CONSTANT * integral / x**3)


def uncut(order: int) -> np.ndarray:
    """The same integral with all points spread over 0 … θ/T, in float64."""
    nodes, weights = np.polynomial.legendre.leggauss(order)
    t = RATIOS[:, None] * (nodes + 1) / 2
    half = np.minimum(t / 2, 300.0)
    integrand = t**2 * (half / np.sinh(half)) ** 2
    return 9 * GAS_CONSTANT / RATIOS**3 * (integrand @ weights) * RATIOS / 2


def main() -> None:
    reference = np.array([exact(ratio) for ratio in RATIOS])
    temperature = torch.from_numpy(THETA / RATIOS)
    figure = Figure(figsize=(9.2, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    print(
        f"{'order':>5} {'points on 0 … θ/T':>20} {'> 1e-8 from θ/T':>16} {'> 1 % from θ/T':>15} "
        f"{'cut (float64)':>15} {'float32':>10}"
    )
    for number, order in enumerate(ORDERS):
        published = np.abs(uncut(order) / reference - 1)
        ours = np.abs(heat_capacity(THETA, temperature, order=order).numpy() / reference - 1)
        single = heat_capacity(torch.tensor(THETA), temperature.float(), order=order).double().numpy()
        first = [float(RATIOS[published > limit].min()) for limit in (1e-8, 1e-2)]
        print(f"{order:>5} {published.max():>20.1e} {first[0]:>16.3g} {first[1]:>15.3g} "
              f"{ours.max():>15.1e} {np.abs(single / reference - 1).max():>10.1e}")  # fmt: skip
        left.loglog(RATIOS, published.clip(1e-16), color=f"C{number}", label=f"{order} points")
        right.loglog(RATIOS, ours.clip(1e-16), color=f"C{number}")
    left.set(xlabel="θ / T", ylabel="relative error of $C_v$", title="points on 0 … θ/T (published: 20)")
    right.set(xlabel="θ / T", title="points on 0 … min(θ/T, 48) (ours: 32)")
    for axes in (left, right):
        axes.axhline(1e-8, color="grey", linewidth=0.8, linestyle="--")
    left.legend(fontsize="small")
    path = Path(__file__).parents[2] / "docs" / "figures" / "debye_quadrature.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    print(path.relative_to(Path(__file__).parents[2]))


if __name__ == "__main__":
    main()
