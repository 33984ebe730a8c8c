"""Labels: the numbers that are beside a structure."""

import math
from collections.abc import Container, Iterable, Mapping
from typing import Any, NamedTuple

from pydantic import Field

from cloud_core.config import ConfigSection


class Label(ConfigSection):
    """A property column."""

    column: str = Field("", description="column of the table; default: the label's name")
    unit: str = Field(description="unit of the values, e.g. eV/atom; '1' for a pure number")


class Labels(NamedTuple):
    """The labels of one structure."""

    values: dict[str, float]
    units: dict[str, str]
    message: str = ""  # which were left out since they are not finite
    problem: str = ""  # which is no number at all


def label_columns(labels: Mapping[str, Label]) -> list[str]:
    """The column of each label."""
    return [label.column or name for name, label in labels.items()]


def labels_of(labels: Mapping[str, Label], values: Iterable[Any], missing: Container[Any] = ()) -> Labels:
    """`labels` with their values, in the same order. Nothing, an empty text and NaN are no label, nor what is
    in `missing`.

    A value that is not finite is left out with a message, and the structure stays; text that is no number
    is a problem of the record.
    """
    numbers: dict[str, float] = {}
    infinite: list[str] = []
    for name, value in zip(labels, values, strict=True):
        if value is None or (isinstance(value, str) and (not value.strip() or value in missing)):
            continue
        try:
            number = _number(value)
        except (ValueError, TypeError):
            shown = repr(value[:60]) if isinstance(value, str) else f"a {type(value).__name__}"
            return Labels({}, {}, "", f"{name} is not a number: {shown}")
        if math.isinf(number):
            infinite.append(f"{name} = {str(value)[:20]}")
        elif number == number:  # NaN is how pandas writes an empty cell
            numbers[name] = number
    message = f"left out, since a label is a finite number: {', '.join(infinite)}" if infinite else ""
    return Labels(numbers, {name: labels[name].unit for name in numbers}, message)


def _number(value: Any) -> float:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return float(value.lower() == "true")
    if isinstance(value, str) and "_" in value:  # which Python's float takes
        raise ValueError(value)
    try:
        return float(value)
    except OverflowError:  # an integer beyond what a float holds
        return math.inf if value > 0 else -math.inf
