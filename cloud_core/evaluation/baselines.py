"""What a result is shown beside: models of the composition, of features of the string, or of nothing."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud_core.scope.features import composition_of, features

Floats = NDArray[np.float64]
_LEAST_ROWS = 10  # of a leaf, and of training rows in which a feature says something


def mean(
    train_texts: Sequence[str], labels: Floats, texts: Sequence[str], classes: int | None, seed: int = 0
) -> Floats:
    """The training mean, or the training share of each class: MatBench's dummy."""
    if classes is None:
        return np.full(len(texts), labels.mean())
    shares = np.bincount(labels.astype(int), minlength=classes) / len(labels)
    return np.tile(shares, (len(texts), 1))


def composition_forest(
    train_texts: Sequence[str], labels: Floats, texts: Sequence[str], classes: int | None, seed: int = 0
) -> Floats:
    """A random forest on element fractions: what a model without symmetry can know."""
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    train, test = composition_of(train_texts), composition_of(texts)
    if classes is None:
        forest = RandomForestRegressor(200, max_features=1 / 3, random_state=seed, n_jobs=-1).fit(
            train, labels
        )
        return np.asarray(forest.predict(test))
    classifier = RandomForestClassifier(200, random_state=seed, n_jobs=-1).fit(train, labels.astype(int))
    return _spread(classifier.predict_proba(test), classifier.classes_, classes)


def boosting(
    train_texts: Sequence[str], labels: Floats, texts: Sequence[str], classes: int | None, seed: int = 0
) -> Floats:
    """Gradient boosting on composition, statistics of the elements' properties, space group and Wyckoff
    letters; of resolved strings on what sits on each letter too."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from threadpoolctl import threadpool_limits

    train, test = features(train_texts), features(texts)
    known = ((train != 0) & ~np.isnan(train)).sum(axis=0) >= _LEAST_ROWS  # the others only cost time
    train, test = train[:, known], test[:, known]
    settings: dict[str, Any] = {
        "max_iter": 500,
        "learning_rate": 0.05,
        "max_features": 0.3,
        "max_bins": 63,
        "min_samples_leaf": _LEAST_ROWS,
        "early_stopping": False,
        "random_state": seed,
    }
    # On few rows its threads wait for each other: with other work on the machine, thirty times as long.
    with threadpool_limits(1 if len(train) < 20_000 else None):
        if classes is None:
            # Absolute errors where labels have long tails, squared ones where they have none: what is better
            # on a part of the training rows.
            order = np.random.default_rng(seed).permutation(len(train))
            held, rest = order[: len(train) // 6 or 1], order[len(train) // 6 :]
            errors = {}
            for loss in ("squared_error", "absolute_error"):
                regressor = HistGradientBoostingRegressor(loss=loss, **settings).fit(
                    train[rest], labels[rest]
                )
                errors[loss] = np.abs(regressor.predict(train[held]) - labels[held]).mean()
            best = min(errors, key=lambda loss: errors[loss])
            return np.asarray(
                HistGradientBoostingRegressor(loss=best, **settings).fit(train, labels).predict(test)
            )
        classifier = HistGradientBoostingClassifier(**settings | {"max_iter": 200})
        classifier.fit(train, labels.astype(int))
        return _spread(classifier.predict_proba(test), classifier.classes_, classes)


def _spread(shares: Floats, known: NDArray[np.int64], classes: int) -> Floats:
    """Probabilities of the classes seen in training as `[n, classes]`; of the others it is zero."""
    every = np.zeros((len(shares), classes))
    every[:, known] = shares if len(known) > 1 else 1.0  # of one class, boosting gives two columns
    return every


Baseline = Callable[[Sequence[str], Floats, Sequence[str], int | None, int], Floats]
"""(training strings, labels, test strings, number of classes; None: regression, seed) -> predictions"""
BASELINES: dict[str, Baseline] = {
    "mean": mean,
    "composition random forest": composition_forest,
    "boosting": boosting,
}
