"""Search for settings of a fit by their validation loss; test rows take no part in it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from cloud_core.training.job import FitSettings


@dataclass(frozen=True)
class Space:
    """What is tried: rates and decays in a range (logarithmic, but for layer_decay), the others out of
    some values. None leaves a setting as it is.
    """

    learning_rate: tuple[float, float] | None = (1e-5, 1e-3)
    layer_decay: tuple[float, float] | None = (0.7, 1.0)
    weight_decay: tuple[float, float] | None = None
    batch_size: tuple[int, ...] | None = None
    frozen_epochs: tuple[int, ...] | None = None

    def draw(self, trial: Any, settings: FitSettings) -> FitSettings:
        """`settings` with what an Optuna trial proposes."""
        optimiser = {
            name: trial.suggest_float(name, *bounds, log=name != "layer_decay")
            for name in ("learning_rate", "layer_decay", "weight_decay")
            if (bounds := getattr(self, name)) is not None
        }
        rest = {
            name: trial.suggest_categorical(name, list(choices))
            for name in ("batch_size", "frozen_epochs")
            if (choices := getattr(self, name)) is not None
        }
        return replace(settings, optimiser=replace(settings.optimiser, **optimiser), **rest)


def search(
    space: Space,
    settings: FitSettings,
    trials: int,
    seed: int,
    loss: Callable[[int, FitSettings], float],
) -> tuple[FitSettings, float]:
    """(best settings, their loss) of `trials` proposals by Optuna's tree-structured Parzen estimator.

    Args:
        loss: (number of the trial, settings) -> validation loss. The first trial has `settings` as they are
            where they lie in the space, so that the search does not end worse than it began.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    now = {
        "learning_rate": settings.optimiser.learning_rate,
        "layer_decay": settings.optimiser.layer_decay,
        "weight_decay": settings.optimiser.weight_decay,
        "batch_size": settings.batch_size,
        "frozen_epochs": settings.frozen_epochs,
    }
    inside = all(
        value in bounds if name in ("batch_size", "frozen_epochs") else bounds[0] <= value <= bounds[1]
        for name, value in now.items()
        if (bounds := getattr(space, name)) is not None
    )
    if inside:
        study.enqueue_trial({name: value for name, value in now.items() if getattr(space, name) is not None})
    tried: dict[int, FitSettings] = {}

    def objective(trial: Any) -> float:
        tried[trial.number] = space.draw(trial, settings)
        return loss(trial.number, tried[trial.number])

    study.optimize(objective, n_trials=trials)
    return tried[study.best_trial.number], float(study.best_value)
