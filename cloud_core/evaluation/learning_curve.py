"""Pictures of a training run."""

from pathlib import Path
from typing import TYPE_CHECKING

from cloud_core.training.progress import read_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def learning_curve(metrics_file: str | Path) -> "Figure":
    """Loss (nats per masked token) and masked accuracy over the steps, training and validation."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    lines = list(read_lines(Path(metrics_file)))
    for part, style in (
        ("train", {"lw": 1.0, "alpha": 0.6}),
        ("validation", {"lw": 1.6, "marker": "o", "ms": 3}),
    ):
        for axis, key in ((loss, f"{part}/loss"), (accuracy, f"{part}/masked_accuracy")):
            points = [(step, metrics[key]) for step, metrics in lines if key in metrics]
            if points:
                axis.plot(*zip(*points, strict=True), label=part, **style)
    for field in ("generator", "wyckoff", "element", "fraction"):
        key = f"validation/masked_accuracy_{field}"
        points = [(step, metrics[key]) for step, metrics in lines if key in metrics]
        if points:
            accuracy.plot(*zip(*points, strict=True), label=field, lw=0.8, ls="--")
    loss.set(xlabel="step", ylabel="loss (nats per masked token)")
    accuracy.set(xlabel="step", ylabel="masked accuracy", ylim=(0, 1))
    for axis in (loss, accuracy):
        axis.legend(fontsize=7)
    return figure
