"""Crystals that are in both the training and the test part of a fold."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Leakage:
    """Test rows whose string the training rows hold too, and the mean absolute error apart.

    Errors are nan where there is no such row.
    """

    form: str
    test_rows: int
    shared_rows: int
    shared_strings: int
    mae_shared: float
    mae_unshared: float

    @property
    def share(self) -> float:
        """Of the test rows, those that are shared."""
        return self.shared_rows / self.test_rows

    def as_dict(self) -> dict[str, float | str]:
        return asdict(self) | {"share": self.share}


def leakage(
    form: str,
    train: Sequence[str | None],
    test: Sequence[str | None],
    absolute_error: ArrayLike | None = None,
) -> Leakage:
    """Count strings shared by the two parts (training with validation), and split the error by them.

    Args:
        form: of the strings ("official", "canonical"), for the report; None is a row without one.
        absolute_error: `[test rows]`, in the target's unit; without it the errors are nan.
    """
    known = set(train) - {None}
    shared = np.array([text in known for text in test], dtype=bool)
    errors = np.full(len(test), np.nan) if absolute_error is None else np.asarray(absolute_error, np.float64)
    if len(errors) != len(test) or not len(test):
        raise ValueError(f"{len(errors)} errors for {len(test)} test rows; give one each")

    def mae(mask: np.ndarray) -> float:
        return float(errors[mask].mean()) if mask.any() else float("nan")

    strings = len({text for text, both in zip(test, shared, strict=True) if both})
    return Leakage(form, len(test), int(shared.sum()), strings, mae(shared), mae(~shared))


def leakage_by_form(
    forms: Mapping[str, Sequence[str | None]],
    train: ArrayLike,
    test: ArrayLike,
    absolute_error: ArrayLike | None = None,
) -> list[Leakage]:
    """`leakage` of the same rows in each of some forms of their strings.

    Args:
        forms: name -> strings of all rows; `train` and `test` are row numbers.
    """
    left, right = np.asarray(train, dtype=int), np.asarray(test, dtype=int)
    return [
        leakage(name, [strings[i] for i in left], [strings[i] for i in right], absolute_error)
        for name, strings in forms.items()
    ]
