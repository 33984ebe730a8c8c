"""Crystals that stand in both the training and the test part of a fold."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike

from cloud_core.scope.canonical import canonicalise


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
    form: str, train: Sequence[str], test: Sequence[str], absolute_error: ArrayLike | None = None
) -> Leakage:
    """Count strings shared by the two parts (training with validation), and split the error by them.

    Args:
        form: of the strings ("official", "canonical"), for the report.
        absolute_error: `[test rows]`, in the target's unit; without it the errors are nan.
    """
    known = set(train)
    shared = np.array([text in known for text in test], dtype=bool)
    errors = np.full(len(test), np.nan) if absolute_error is None else np.asarray(absolute_error, np.float64)
    if len(errors) != len(test) or not len(test):
        raise ValueError(f"{len(errors)} errors for {len(test)} test rows; give one each")

    def mae(mask: np.ndarray) -> float:
        return float(errors[mask].mean()) if mask.any() else float("nan")

    strings = len({text for text, both in zip(test, shared, strict=True) if both})
    return Leakage(form, len(test), int(shared.sum()), strings, mae(shared), mae(~shared))


def leakage_by_form(
    texts: Sequence[str],
    form: str,
    train: ArrayLike,
    test: ArrayLike,
    absolute_error: ArrayLike | None = None,
) -> list[Leakage]:
    """`leakage` in the form of `texts` and, where that is official, in the canonical one too."""
    forms = {form: list(texts)}
    if form == "official":
        known: dict[str, str] = {}
        for text in texts:
            if text not in known:
                known[text] = canonicalise(text)
        forms["canonical"] = [known[text] for text in texts]
    left, right = np.asarray(train, dtype=int), np.asarray(test, dtype=int)
    return [
        leakage(name, [strings[i] for i in left], [strings[i] for i in right], absolute_error)
        for name, strings in forms.items()
    ]
