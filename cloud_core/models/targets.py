"""Properties that models learn, and how labels become what a model puts out. Nothing here needs torch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cloud_core.errors import CloudError

Scaling = Literal["standard", "log", "none"]


DEVIATION = "_std"  # after a target's name: its predictive standard deviation


class TargetError(CloudError):
    """Labels that a target cannot take; names the target and the remedy."""


@dataclass(frozen=True)
class Target:
    """One property: its name and unit, and how its labels become what the model puts out.

    Regression has one output, `(value - mean) / deviation`, of the value's natural logarithm where `scaling`
    is "log". Classification has a logit for each of `classes`; its labels are their indices.
    """

    name: str
    unit: str = ""
    kind: Literal["regression", "classification"] = "regression"
    scaling: Scaling = "standard"
    mean: float = 0.0
    deviation: float = 1.0
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind == "classification" and len(self.classes) < 2:
            raise TargetError(f"{self.name}: classification needs at least two classes")

    @property
    def width(self) -> int:
        """Outputs of the model for this target."""
        return len(self.classes) if self.kind == "classification" else 1

    def fitted(self, labels: ArrayLike) -> "Target":
        """With mean and deviation of `labels` (training rows; nan where there is none).

        Raises:
            TargetError: no labels, not finite, not positive where the scaling is "log", or no class index.
        """
        values = np.asarray(labels, dtype=np.float64)
        values = values[~np.isnan(values)]
        if not len(values):
            raise TargetError(f"{self.name}: no training row has a label; check the name of the label")
        if self.kind == "classification":
            if not np.isin(values, np.arange(len(self.classes))).all():
                raise TargetError(f"{self.name}: labels must be indices of the classes {self.classes}")
            return self
        if not np.isfinite(values).all():
            raise TargetError(f"{self.name}: a label is infinite; remove the row")
        scaled = self._transform(values)
        if self.scaling == "none":
            return self
        return replace(self, mean=float(scaled.mean()), deviation=float(scaled.std()) or 1.0)

    def _transform(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.scaling != "log":
            return values
        if (values <= 0).any():
            raise TargetError(
                f"{self.name}: log scaling needs positive labels, found {values[values <= 0].max():g}; "
                "use scaling: standard"
            )
        return np.log(values)

    def scale(self, labels: ArrayLike) -> NDArray[np.float64]:
        """Labels in physical units, or class indices, to what outputs are compared with; nan stays nan."""
        values = np.asarray(labels, dtype=np.float64)
        if self.kind == "classification":
            return values
        return (self._transform(values) - self.mean) / self.deviation

    def unscale(self, outputs: ArrayLike) -> NDArray[np.float64]:
        """Outputs `[n, width]` to physical units `[n]`, or to class probabilities `[n, classes]`."""
        values = np.asarray(outputs, dtype=np.float64)
        if self.kind == "classification":
            shifted = np.exp(values - values.max(axis=-1, keepdims=True))
            return shifted / shifted.sum(axis=-1, keepdims=True)
        physical = values[..., 0] * self.deviation + self.mean
        return np.exp(physical) if self.scaling == "log" else physical


def slices(targets: Sequence[Target]) -> Iterator[tuple[Target, slice]]:
    """Each target with its place among the outputs."""
    start = 0
    for target in targets:
        yield target, slice(start, start + target.width)
        start += target.width


def target_from(entry: Mapping[str, Any]) -> Target:
    """A target from its JSON."""
    return Target(**{**entry, "classes": tuple(entry.get("classes", ()))})


def standard_deviation(
    scale: Sequence[float], spread: NDArray[np.float64], distance: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """√(a² s² + b² d^(2p)) `[n]` of a scale (a, b) or (a, b, p), the members' spread s `[n]`, and the
    distance
    d `[n]` to the training crystals, in medians of theirs; 1 where it is not known."""
    a, b, *power = scale
    grown = 1.0 if distance is None or not power else distance ** power[0]
    return np.hypot(a * spread, b * grown)


def combined(
    targets: Sequence[Target],
    scales: Sequence[Sequence[float]],
    members: Sequence[Mapping[str, NDArray[np.float64]]],
    distance: NDArray[np.float64] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Physical predictions of each member, by target name, to means `[n]` (or class probabilities
    `[n, classes]`), and for regression `<name>_std` `[n]`; distance `[n]` as of `standard_deviation`."""
    found: dict[str, NDArray[np.float64]] = {}
    for target, scale in zip(targets, scales, strict=True):
        stacked = np.stack([member[target.name] for member in members])
        found[target.name] = stacked.mean(axis=0)
        if target.kind == "regression":
            spread = stacked.std(axis=0, ddof=1) if len(members) > 1 else np.zeros(stacked.shape[1])
            found[target.name + DEVIATION] = standard_deviation(scale, spread, distance)
    return found
