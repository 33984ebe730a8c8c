"""Scaling laws: how the loss falls with parameters, data and budget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class PowerLaw:
    """loss = floor + Σ over axes of scale · x^(-exponent) (Hoffmann et al., arXiv 2203.15556, approach 3)."""

    floor: float
    scales: dict[str, float]
    exponents: dict[str, float]
    residual: float  # root mean square, nats

    def __call__(self, axes: Mapping[str, Any]) -> Any:
        """Loss at values (numbers or arrays) of every axis."""
        powers = {name: np.asarray(axes[name], float) ** -self.exponents[name] for name in self.scales}
        return self.floor + sum(scale * powers[name] for name, scale in self.scales.items())

    def __str__(self) -> str:
        terms = [f"{scale:.3g} {name}^-{self.exponents[name]:.3f}" for name, scale in self.scales.items()]
        return " + ".join([f"{self.floor:.3f}", *terms])


def fit_power_law(loss: Sequence[float], axes: Mapping[str, Sequence[float]]) -> PowerLaw | None:
    """Fit by least squares, robust to an outlier, from many starts; axes that do not vary are left out.

    Returns:
        None where nothing varies, or where there are fewer points than the law has constants.
    """
    from scipy.optimize import least_squares

    target = np.asarray(loss, float)
    varying = {name: np.asarray(x, float) for name, x in axes.items() if len(set(x)) > 1}
    if not varying or len(target) < 2 * len(varying) + 1:
        return None
    # In units of each axis's mean, so that all constants are of order one.
    units = {name: float(np.exp(np.log(x).mean())) for name, x in varying.items()}
    logs = np.stack([np.log(x / units[name]) for name, x in varying.items()])  # [axes, points]
    n = len(varying)

    def predicted(constants: np.ndarray) -> np.ndarray:
        amplitudes, exponents = np.exp(constants[1 : 1 + n]), constants[1 + n :]
        return constants[0] + (amplitudes[:, None] * np.exp(-exponents[:, None] * logs)).sum(0)

    lower = np.concatenate([[0.0], np.full(n, -12.0), np.zeros(n)])
    upper = np.concatenate([[target.min()], np.full(n, 5.0), np.full(n, 4.0)])
    fits = [
        least_squares(
            lambda c: predicted(c) - target,
            np.concatenate(
                [[share * target.min()], np.full(n, np.log(max(np.ptp(target), 1e-3))), np.full(n, e)]
            ),
            bounds=(lower, upper + 1e-9),
            loss="soft_l1",
            f_scale=max(0.1 * float(np.ptp(target)), 1e-6),
        )
        for share in (0.0, 0.5, 0.9)
        for e in (0.1, 0.3, 1.0)
    ]
    best = min(fits, key=lambda fit: fit.cost).x
    exponents = dict(zip(varying, best[1 + n :].tolist(), strict=True))
    scales = {
        name: float(np.exp(best[1 + i]) * units[name] ** exponents[name]) for i, name in enumerate(varying)
    }
    residual = float(np.sqrt(np.mean((predicted(best) - target) ** 2)))
    return PowerLaw(float(best[0]), scales, exponents, residual)


def scaling_plot(
    loss: Sequence[float], axes: Mapping[str, Sequence[float]], groups: Sequence[str], law: PowerLaw | None
) -> "Figure":
    """Loss over each axis that varies, a colour a group, with the law through each group's points."""
    from matplotlib.figure import Figure

    varying = {name: np.asarray(x, float) for name, x in axes.items() if len(set(x)) > 1}
    figure = Figure(figsize=(4.2 * max(1, len(varying)), 3.6), layout="constrained")
    panels = figure.subplots(1, max(1, len(varying)), squeeze=False)[0]
    measured, named = np.asarray(loss, float), np.asarray(groups)
    for panel, (name, values) in zip(panels, varying.items(), strict=False):
        for group in dict.fromkeys(groups):
            mine = named == group
            order = np.argsort(values[mine])
            points = panel.plot(values[mine][order], measured[mine][order], "o", ms=4, label=group)
            if law is not None:
                at = {key: np.asarray(x, float)[mine][order] for key, x in axes.items()}
                panel.plot(values[mine][order], law(at), "-", lw=0.9, color=points[0].get_color())
        panel.set(xscale="log", yscale="log", xlabel=name, ylabel="validation loss (nats per masked token)")
    panels[0].legend(fontsize=7)
    if law is not None:
        figure.suptitle(f"loss = {law}", fontsize=8)
    return figure
