"""What a result is shown beside: models that know no symmetry, or no order of words, or nothing."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from cloud_core.scope.grammar import decode
from cloud_core.scope.tables import ATOMIC_NUMBERS, ISOTOPES
from cloud_core.scope.tokenizer import Tokenizer

Floats = NDArray[np.float64]


def composition_features(texts: Sequence[str]) -> Floats:
    """Fraction of each element in SCOPE strings: `[n, 118]`, isotopes counted with their element."""
    features = np.zeros((len(texts), 118))
    for row, text in enumerate(texts):
        for element, fraction in decode(text).composition.items():
            number = ATOMIC_NUMBERS.get(element) or ATOMIC_NUMBERS[ISOTOPES[element]]
            features[row, number - 1] += fraction
    return features


def bag_of_words(texts: Sequence[str]) -> NDArray[np.float32]:
    """How often each word stands in SCOPE strings, and the fraction of each element: `[n, 564 + 118]`."""
    tokenizer = Tokenizer()
    ids, offsets = tokenizer.encode_many(texts)
    counts = np.zeros((len(texts), tokenizer.vocabulary_size), dtype=np.float32)
    np.add.at(counts, (np.repeat(np.arange(len(texts)), np.diff(offsets)), ids), 1)
    return np.concatenate([counts, composition_features(texts).astype(np.float32)], axis=1)


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

    train, test = composition_features(train_texts), composition_features(texts)
    if classes is None:
        forest = RandomForestRegressor(200, max_features=1 / 3, random_state=seed, n_jobs=-1).fit(
            train, labels
        )
        return np.asarray(forest.predict(test))
    classifier = RandomForestClassifier(200, random_state=seed, n_jobs=-1).fit(train, labels.astype(int))
    return _spread(classifier.predict_proba(test), classifier.classes_, classes)


def bag_boosting(
    train_texts: Sequence[str], labels: Floats, texts: Sequence[str], classes: int | None, seed: int = 0
) -> Floats:
    """Gradient boosting on the bag of words: all that the string says but the order of its words."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from threadpoolctl import threadpool_limits

    train, test = bag_of_words(train_texts), bag_of_words(texts)
    moving = np.ptp(train, axis=0) > 0  # words that tell training rows apart; the others only cost time
    train, test = train[:, moving], test[:, moving]
    # On few rows its threads wait for each other: with other work on the machine, thirty times as long.
    with threadpool_limits(1 if len(train) < 20_000 else None):
        if classes is None:
            regressor = HistGradientBoostingRegressor(
                loss="absolute_error", max_iter=200, max_bins=63, min_samples_leaf=5, random_state=seed
            ).fit(train, labels)
            return np.asarray(regressor.predict(test))
        classifier = HistGradientBoostingClassifier(
            max_iter=200, max_bins=63, min_samples_leaf=5, random_state=seed
        ).fit(train, labels.astype(int))
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
    "SCOPE bag of words, boosting": bag_boosting,
}
