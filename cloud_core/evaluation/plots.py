"""Figures of an evaluation; each function returns a matplotlib figure of its own, drawn without a screen."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from cloud_core.evaluation.metrics.uncertainty import coverage, miscalibration_area
from cloud_core.scope.grammar import decode

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# First space group of each system, International Tables A.
CRYSTAL_SYSTEMS = {
    "triclinic": 1,
    "monoclinic": 3,
    "orthorhombic": 16,
    "tetragonal": 75,
    "trigonal": 143,
    "hexagonal": 168,
    "cubic": 195,
}


def crystal_system(space_group: int) -> str:
    return [name for name, first in CRYSTAL_SYSTEMS.items() if first <= space_group][-1]


def _figure(width: float, height: float) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def parity(
    y_true: ArrayLike, y_pred: ArrayLike, name: str, unit: str = "", deviation: ArrayLike | None = None
) -> "Figure":
    """Predicted against true values, with error bars of one standard deviation where there are some."""
    true, predicted = np.asarray(y_true), np.asarray(y_pred)
    figure, axes = _figure(4.6, 4.4)
    if deviation is not None:
        axes.errorbar(true, predicted, np.asarray(deviation), fmt="none", ecolor="0.8", lw=0.6, zorder=0)
    axes.scatter(true, predicted, s=8, alpha=0.5, linewidths=0)
    ends = [float(min(true.min(), predicted.min())), float(max(true.max(), predicted.max()))]
    axes.plot(ends, ends, color="0.3", lw=0.8)
    mae = np.abs(predicted - true).mean()
    suffix = f" ({unit})" if unit else ""
    axes.set(
        xlabel=f"true{suffix}", ylabel=f"predicted{suffix}", title=f"{name}: MAE {mae:.4g} on {len(true)}"
    )
    return figure


def learning_curves(curves: Mapping[str, Sequence[tuple[int, float, float]]]) -> "Figure":
    """Loss by epoch; `curves` is name -> (epoch, training loss, validation loss)."""
    figure, axes = _figure(5.2, 3.6)
    for index, (name, points) in enumerate(curves.items()):
        epochs, training, validation = zip(*points, strict=True)
        color = f"C{index % 10}"
        axes.plot(epochs, training, color=color, lw=0.9, ls="--")
        axes.plot(epochs, validation, color=color, lw=1.4, label=name)
    axes.set(xlabel="epoch", ylabel="loss (scaled units)", title="validation (solid), training (dashed)")
    axes.legend(fontsize=7)
    return figure


def calibration(y_true: ArrayLike, y_pred: ArrayLike, deviations: Mapping[str, ArrayLike]) -> "Figure":
    """Share of rows inside each central interval, against the share that a Gaussian would have there."""
    figure, axes = _figure(4.4, 4.2)
    for name, deviation in deviations.items():
        expected, observed = coverage(y_true, y_pred, deviation)
        area = miscalibration_area(expected, observed)
        axes.plot(expected, observed, marker="o", ms=3, label=f"{name}: area {area:.3f}")
    axes.plot([0, 1], [0, 1], color="0.3", lw=0.8)
    axes.set(xlabel="expected share", ylabel="observed share", title="calibration of the standard deviation")
    axes.legend(fontsize=7)
    return figure


def error_by_crystal_system(texts: Sequence[str], absolute_error: ArrayLike, unit: str = "") -> "Figure":
    """Mean absolute error and number of rows by crystal system, from SCOPE strings `[n]`."""
    errors = np.asarray(absolute_error)
    systems = np.array([crystal_system(decode(text).space_group) for text in texts])
    present = [name for name in CRYSTAL_SYSTEMS if (systems == name).any()]
    return _bars(present, [errors[systems == name] for name in present], unit, "crystal system", 5.2)


def error_by_element(
    texts: Sequence[str], absolute_error: ArrayLike, unit: str = "", most: int = 30
) -> "Figure":
    """Mean absolute error over the rows that hold an element, of the `most` frequent elements."""
    errors = np.asarray(absolute_error)
    rows: dict[str, list[int]] = {}
    for row, text in enumerate(texts):
        for element in decode(text).composition:
            rows.setdefault(element, []).append(row)
    frequent = sorted(rows, key=lambda element: (-len(rows[element]), element))[:most]
    return _bars(frequent, [errors[rows[element]] for element in frequent], unit, "element", 9.0)


def _bars(
    names: Sequence[str], errors: Sequence[np.ndarray], unit: str, label: str, width: float
) -> "Figure":
    figure, axes = _figure(width, 3.4)
    places = np.arange(len(names))
    spread = [part.std() / np.sqrt(len(part)) for part in errors]
    axes.bar(places, [part.mean() for part in errors], yerr=spread, color="C0", alpha=0.8, ecolor="0.4")
    ticks = [f"{name}\n{len(part)}" for name, part in zip(names, errors, strict=True)]
    axes.set_xticks(places, ticks, fontsize=7)
    axes.set(ylabel=f"MAE ({unit})" if unit else "MAE", title=f"error by {label} (rows below)")
    return figure
