"""Pictures of a discovery benchmark: hull-distance histogram, rolling error, ROC, precision–recall."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FloatArray = NDArray[np.float64]

# stacked from the bottom; colours that differ in brightness too
_CLASSES = (
    ("true positive", "#2a9d8f"),
    ("false negative", "#e9c46a"),
    ("false positive", "#e76f51"),
    ("true negative", "#8ab6d6"),
)


def _figure(width: float = 5.6, height: float = 4.0) -> "Figure":
    from matplotlib.figure import Figure  # not pyplot, which keeps every figure alive

    return Figure(figsize=(width, height), layout="constrained")


def hull_distance_histogram(
    each_true: FloatArray,
    each_pred: FloatArray,
    stability_threshold: float = 0.0,
    limit: float = 0.7,
    bins: int = 140,
    title: str = "",
) -> "Figure":
    """Crystals by predicted hull distance, coloured by whether the model calls them right.

    Args:
        each_true, each_pred: [n] eV/atom; rows without a prediction are left out.
        limit: of the axis to both sides, eV/atom; beyond it crystals are counted in the title.
    """
    known = ~np.isnan(each_pred)
    true, predicted = each_true[known], each_pred[known]
    stable, called = true <= stability_threshold, predicted <= stability_threshold
    groups = [stable & called, stable & ~called, ~stable & called, ~stable & ~called]
    figure = _figure()
    axes = figure.add_subplot()
    axes.hist(
        [predicted[group] for group in groups],
        bins=np.linspace(-limit, limit, bins + 1).tolist(),
        stacked=True,
        color=[colour for _, colour in _CLASSES],
        label=[f"{name} ({group.sum():,})" for (name, _), group in zip(_CLASSES, groups, strict=True)],
    )
    axes.axvline(stability_threshold, color="black", linewidth=0.8, linestyle="--")
    outside = int((np.abs(predicted) > limit).sum())
    note = f"{outside:,} of {len(predicted):,} lie beyond ±{limit:g}" if outside else ""
    axes.set(
        xlabel="predicted distance to the convex hull (eV/atom)",
        ylabel="crystals",
        title="\n".join(part for part in (title, note) if part),
    )
    axes.legend(fontsize="small")
    return figure


def rolling_error(
    each_true: FloatArray,
    each_pred: FloatArray,
    window: float = 0.04,
    step: float = 0.005,
    limit: float = 0.3,
    title: str = "",
) -> "Figure":
    """Mean absolute error in a window that moves over the true hull distance, with its standard error.

    Inside the shaded triangle the error is larger than the distance to the hull, so that a call is a guess.

    Args:
        each_true, each_pred: [n] eV/atom; rows without a prediction are left out.
        window: width, eV/atom.
    """
    known = ~np.isnan(each_pred)
    true, error = each_true[known], np.abs(each_pred - each_true)[known]
    centres = np.arange(-limit, limit + step / 2, step)
    means, spreads = np.full(len(centres), np.nan), np.full(len(centres), np.nan)
    order = np.argsort(true)
    true, error = true[order], error[order]
    for i, centre in enumerate(centres):
        first, last = np.searchsorted(true, [centre - window / 2, centre + window / 2])
        if last - first > 1:
            inside = error[first:last]
            means[i], spreads[i] = inside.mean(), inside.std(ddof=1) / np.sqrt(len(inside))
    figure = _figure()
    axes = figure.add_subplot()
    axes.fill_between([-limit, 0, limit], [limit, 0, limit], limit, color="0.92", label="error > distance")
    axes.fill_between(centres, means - spreads, means + spreads, alpha=0.3)
    axes.plot(centres, means, label=f"MAE in {1000 * window:g} meV/atom")
    top = max(float(np.nanmax(means + spreads, initial=0.0)) * 1.1, 0.05)
    axes.set(
        xlabel="true distance to the convex hull (eV/atom)",
        ylabel="mean absolute error (eV/atom)",
        xlim=(-limit, limit),
        ylim=(0, min(top, limit)),
        title=title,
    )
    axes.legend(fontsize="small")
    return figure


def roc_curve(
    each_true: FloatArray, each_pred: FloatArray, stability_threshold: float = 0.0, title: str = ""
) -> "Figure":
    """Receiver operating characteristic over all thresholds; missing predictions come last."""
    from sklearn import metrics

    figure = _figure(4.4, 4.2)
    axes = figure.add_subplot()
    stable, score = _scores(each_true, each_pred, stability_threshold)
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle="--")
    if 0 < stable.sum() < len(stable):
        false_positive, true_positive, _ = metrics.roc_curve(stable, score)
        area = metrics.roc_auc_score(stable, score)
        axes.plot(false_positive, true_positive, label=f"area {area:.3f}")
        axes.legend(loc="lower right")
    else:
        axes.text(0.5, 0.5, "all crystals are of one class", ha="center")
    axes.set(xlabel="false-positive rate", ylabel="true-positive rate", title=title)
    axes.set_aspect("equal")
    return figure


def precision_recall_curve(
    each_true: FloatArray, each_pred: FloatArray, stability_threshold: float = 0.0, title: str = ""
) -> "Figure":
    """Cumulative precision and recall as crystals are taken in the order of their predicted stability.

    The stars mark where the model itself would stop: the last one that it calls stable.
    """
    stable, score = _scores(each_true, each_pred, stability_threshold)
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(stable[order])
    taken = np.arange(1, len(stable) + 1)
    stop = int((score >= -stability_threshold).sum())
    figure = _figure()
    axes = figure.add_subplot()
    curves = {"precision": hits / taken, "recall": hits / max(1, int(stable.sum()))}
    for name, values in curves.items():
        (line,) = axes.plot(taken, values, label=name)
        if stop:
            axes.plot(stop, values[stop - 1], "*", color=line.get_color(), markersize=11)
    axes.axhline(stable.mean(), color="grey", linewidth=0.8, linestyle="--", label="prevalence")
    axes.set(xlabel="crystals taken, most stable first", ylim=(0, 1.02), title=title)
    axes.legend(fontsize="small")
    return figure


def _scores(
    each_true: FloatArray, each_pred: FloatArray, stability_threshold: float
) -> tuple[NDArray[np.bool_], FloatArray]:
    worst = np.nanmax(each_pred, initial=stability_threshold) + 1.0
    return each_true <= stability_threshold, -np.where(np.isnan(each_pred), worst, each_pred)


def shortlist_figure(
    values: FloatArray, chosen: FloatArray, spread: FloatArray | None, new: NDArray[np.bool_], label: str
) -> "Figure":
    """All candidates as a histogram of a value, and the shortlist in its order with its uncertainty.

    Args:
        values: [n] of all candidates, nan left out.
        chosen: [m] of the shortlist, best first.
        spread: [m] standard deviations, or None.
        new: [m] which of the shortlist are not among the known crystals.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    known = values[~np.isnan(values)]
    low, high = np.quantile(known, [0.002, 0.998]) if len(known) else (0.0, 1.0)
    left.hist(known, bins=np.linspace(low, max(high, low + 1e-6), 80).tolist(), color="0.7")
    if len(chosen):
        left.axvspan(float(chosen.min()), float(chosen.max()), color="C1", alpha=0.3, label="shortlist")
        left.legend(fontsize="small")
    left.set(xlabel=label, ylabel="candidates", title=f"{len(known):,} candidates")
    place = np.arange(1, len(chosen) + 1)
    for mask, name, colour in ((new, "not among the known", "C2"), (~new, "known or not compared", "C0")):
        if mask.any():
            bars = spread[mask] if spread is not None else None
            right.errorbar(place[mask], chosen[mask], bars, fmt="o", ms=3, lw=0.8, color=colour, label=name)
    right.set(xlabel="rank", ylabel=label, title="shortlist")
    if len(chosen):
        right.legend(fontsize="small")
    return figure
