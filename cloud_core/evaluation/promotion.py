"""What a challenger is compared with before it may serve: the baselines, and the champion of the registry."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
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
    baselines by name. seen: `[n]` rows whose label the model that the challenger started from was trained on.
    champion_errors: absolute errors `[n]` of a model folder on these rows.
    """

    label: str
    unit: str
    keys: Sequence[str]
    errors: Floats
    references: Mapping[str, Floats]
    seen: NDArray[np.bool_]
    champion_errors: Callable[[Path], Floats]


def gate(rows: ComparedRows, champion: Champion | None) -> GateDecision:
    """Compare with every baseline, and with the champion on the rows that it was not trained on either.

    Rows that the start has seen are left out, and counted in the message. A champion that cannot be compared
    stays.
    """
    counted = masked(rows.errors, rows.seen)
    references = dict(rows.references)
    if champion is not None:
        name = f"the champion (version {champion.version})"
        try:
            known = read_training_keys(champion.folder)
            if known is None:
                raise CheckpointError("its folder does not say what it was trained on")
            theirs = rows.champion_errors(champion.folder)
        except CloudError as error:
            return GateDecision(False, f"is not promoted: cannot be compared with {name}: {error}")
        references[name] = masked(theirs, known.seen(rows.label, rows.keys))
    found = decide(counted, references, rows.unit)
    if not rows.seen.any():
        return found
    left = f"{rows.seen.sum()} test rows left out, whose label the start was trained on"
    return GateDecision(found.passed, f"{found.message}; {left}")


def seen_by_start(start: str | Path | None, labels: Sequence[str], keys: Sequence[str]) -> NDArray[np.bool_]:
    """`[n]` of which crystals the model to start from was trained on one of `labels`, as its folder says."""
    known = None if start is None else read_training_keys(start)
    seen = np.zeros(len(keys), dtype=bool)
    for label in labels if known is not None else ():
        assert known is not None
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
