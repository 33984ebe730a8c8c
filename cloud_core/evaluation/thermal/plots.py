"""Pictures of heat capacity and energy: curves over temperature, predicted against true."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cloud_core.units import GAS_CONSTANT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FloatArray = NDArray[np.float64]

AXIS_LABELS = {
    "heat_capacity": "$C_v$ (J mol$^{-1}$ K$^{-1}$ per atom)",
    "internal_energy": "$U$ with zero point (kJ mol$^{-1}$ per atom)",
    "internal_energy_thermal": "$U$ without zero point (kJ mol$^{-1}$ per atom)",
    "entropy": "$S$ (J mol$^{-1}$ K$^{-1}$ per atom)",
    "helmholtz_energy": "$F$ (kJ mol$^{-1}$ per atom)",
}


def _axes(width: float = 5.2, height: float = 4.0, columns: int = 1) -> tuple["Figure", list["Axes"]]:
    # not pyplot: it keeps every figure alive and a window system in mind
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height), layout="constrained")
    return figure, [figure.add_subplot(1, columns, 1 + column) for column in range(columns)]


def curves(
    temperatures: FloatArray,
    lines: Mapping[str, FloatArray],
    quantity: str = "heat_capacity",
    points: Mapping[str, tuple[FloatArray, FloatArray]] | None = None,
) -> "Figure":
    """A curve per crystal over temperature.

    Args:
        temperatures: [K] in K.
        lines: name of the crystal -> values [K] per mole of atoms, J/mol or J/(mol K).
        points: name of the crystal -> (temperatures, values) of known labels.
    """
    figure, (axes,) = _axes()
    unit = 1e-3 if "kJ" in AXIS_LABELS[quantity] else 1.0
    for number, (name, values) in enumerate(lines.items()):
        axes.plot(temperatures, values * unit, color=f"C{number}", label=name)
        if points and name in points:
            known_at, known = points[name]
            axes.plot(known_at, known * unit, "o", color=f"C{number}", markeredgecolor="black", markersize=5)
    if quantity == "heat_capacity":
        axes.axhline(3 * GAS_CONSTANT, color="grey", linewidth=0.8, linestyle="--")
        axes.text(temperatures.max(), 3 * GAS_CONSTANT, "$3R$", ha="right", va="bottom", color="grey")
    axes.set(xlabel="$T$ (K)", ylabel=AXIS_LABELS[quantity], xlim=(temperatures.min(), temperatures.max()))
    if quantity != "helmholtz_energy":
        axes.set_ylim(bottom=0)
    axes.legend(fontsize="small")
    return figure


def parity(true: FloatArray, predicted: FloatArray, label: str, title: str = "") -> "Figure":
    """Predicted against true values, [n] each."""
    figure, (axes,) = _axes(4.4, 4.2)
    low, high = (float(f([f(true), f(predicted)])) for f in (np.min, np.max))
    axes.plot([low, high], [low, high], color="grey", linewidth=0.8)
    axes.plot(true, predicted, "o", markersize=3, alpha=0.5)
    axes.set(xlabel=f"true {label}", ylabel=f"predicted {label}", title=title)
    axes.set_aspect("equal", adjustable="datalim")
    return figure


def errors_by_temperature(
    temperatures: FloatArray, errors: Mapping[str, FloatArray], trained: Sequence[float]
) -> "Figure":
    """MAE/MAD [K] of each model at each temperature; `trained` ones are marked on the axis."""
    figure, (axes,) = _axes()
    for name, values in errors.items():
        axes.plot(temperatures, values, "o-", markersize=4, label=name)
    for number, temperature in enumerate(trained):
        axes.axvline(
            temperature, color="grey", linewidth=0.7, linestyle=":", label="" if number else "trained on"
        )
    axes.set(xlabel="$T$ (K)", ylabel="MAE / MAD", yscale="log")
    axes.legend(fontsize="small")
    return figure


def sweep_figure(values: Mapping[str, FloatArray], title: str) -> "Figure":
    """One crystal: heat capacity and entropy, and the energies, over temperature.

    `values` as `cloud_core.inference.thermodynamics` gives them for one crystal: curves [K].
    """
    figure, (left, right) = _axes(4.6, 3.8, 2)
    temperature = values["temperature"]
    left.plot(temperature, values["heat_capacity"], label="$C_v$")
    left.plot(temperature, values["entropy"], label="$S$")
    left.axhline(3 * GAS_CONSTANT, color="grey", linewidth=0.8, linestyle="--", label="$3R$")
    left.set(xlabel="$T$ (K)", ylabel="J mol$^{-1}$ K$^{-1}$ per atom", title=title)
    right.plot(temperature, values["internal_energy"] * 1e-3, label="$U$")
    right.plot(temperature, values["internal_energy_thermal"] * 1e-3, label="$U$ without zero point")
    right.plot(temperature, values["helmholtz_energy"] * 1e-3, label="$F$")
    right.set(xlabel="$T$ (K)", ylabel="kJ mol$^{-1}$ per atom")
    for axes in (left, right):
        axes.legend(fontsize="small")
    return figure
