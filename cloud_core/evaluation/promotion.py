"""What a challenger is compared with before it may serve: the baselines, and the champion of the registry."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cloud_core.errors import CloudError
from cloud_core.evaluation.metrics.gate import GateDecision, decide, masked
from cloud_core.models.folder import CheckpointError
from cloud_core.models.training_keys import TrainingKeys, read_training_keys

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Champion:
    """The model that serves now."""

    version: str
    folder: Path


@dataclass(frozen=True)
class ComparedRows:
    """One target's test rows, on which models are compared.

    keys: canonical strings `[n]`. errors: the challenger's absolute errors `[n]`. references: those of the
    baselines by name. seen: `[n]` rows whose label the model that the challenger started from was trained on;
    None where that does not say.
    champion_errors: absolute errors `[n]` of a model folder on these rows.
    """

    label: str
    unit: str
    keys: Sequence[str]
    errors: Floats
    references: Mapping[str, Floats]
    seen: NDArray[np.bool_] | None
    champion_errors: Callable[[Path], Floats]


def gate(rows: ComparedRows, champion: Champion | None) -> GateDecision:
    """Compare with every baseline, and with the champion on the rows that it was not trained on either.

    Rows that the start has seen are left out, and counted in the message. Rows of one canonical string are
    one crystal, with their mean error. A champion that cannot be compared stays.
    """
    if rows.seen is None:
        return GateDecision(
            False, "is not promoted: the model that it started from does not say what it was trained on"
        )
    counted = masked(rows.errors, rows.seen)
    references = dict(rows.references)
    if champion is not None:
        name = f"the champion (version {champion.version})"
        try:
            seen = seen_in_training(champion.folder, [rows.label], rows.keys)
            if seen is None:
                raise CheckpointError("its folder does not say what it was trained on")
            references[name] = masked(rows.champion_errors(champion.folder), seen)
        except CloudError as error:
            return GateDecision(False, f"is not promoted: cannot be compared with {name}: {error}")
    errors = {name: _of_crystals(values, rows.keys) for name, values in references.items()}
    found = decide(_of_crystals(counted, rows.keys), errors, rows.unit)
    if not rows.seen.any():
        return found
    left = f"{rows.seen.sum()} test rows left out, whose label the start was trained on"
    return GateDecision(found.passed, f"{found.message}; {left}")


def _of_crystals(values: Floats, keys: Sequence[str]) -> Floats:
    """Mean error `[crystals]` of the rows of each that count; nan where none does."""
    return np.asarray(pd.Series(values).groupby(np.asarray(keys)).mean(), dtype=np.float64)


def seen_in_training(
    model: str | Path | None, labels: Sequence[str], keys: Sequence[str]
) -> NDArray[np.bool_] | None:
    """`[n]` of which crystals, by canonical string, a model was trained on one of `labels`: of none without a
    model; None where its folder does not say."""
    seen = np.zeros(len(keys), dtype=bool)
    if model is None:
        return seen
    known = read_training_keys(model)
    if known is None:
        return None
    for label in labels:
        seen |= known.seen(label, keys)
    return seen


def trained_on(
    own: Mapping[str, Sequence[str]], start: str | Path | None, same: Mapping[str, str]
) -> TrainingKeys | None:
    """What a model has seen by label, with what its start has; None where the start does not say.

    Args:
        own: label -> canonical strings of training and validation rows.
        same: label -> the start's name for it.
    """
    found = TrainingKeys.of(own)
    if start is None:
        return found
    known = read_training_keys(start)
    if known is None:
        return None
    renamed = {label: known.hashes[name] for label, name in same.items() if name in known.hashes}
    return found | known | TrainingKeys(renamed)
