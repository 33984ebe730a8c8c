"""Figures of merit of a classification."""

import numpy as np
from numpy.typing import ArrayLike

THRESHOLD = 0.5  # MatBench's, of the probability of the second of two classes


def classification_metrics(labels: ArrayLike, probabilities: ArrayLike) -> dict[str, float]:
    """accuracy, balanced_accuracy, f1 and roc_auc; of two classes also matbench_rocauc. Areas are nan where a
    class has no row.

    roc_auc is of the probabilities. MatBench's package (0.6) turns them into labels before it scores, so that
    what it records as `rocauc`, here matbench_rocauc, says nothing of how probabilities rank: the area under
    the curve of a single threshold is the balanced accuracy.

    Args:
        labels: `[n]` class indices.
        probabilities: `[n, classes]`. With two classes f1 and roc_auc are of the second, and a row belongs to
            it above one half; with more, f1 is the mean over classes and roc_auc one against the rest.

    Raises:
        ValueError: unequal lengths, or probabilities that are not finite.
    """
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, roc_auc_score

    true = np.asarray(labels).astype(int)
    shares = np.asarray(probabilities, dtype=np.float64)
    if shares.ndim != 2 or len(true) != len(shares) or not len(true):
        raise ValueError(f"{true.shape} labels and {shares.shape} probabilities; [n] and [n, classes]")
    if not np.isfinite(shares).all():
        raise ValueError("probabilities must be finite; a missing prediction is an error")
    whole = len(np.unique(true)) == shares.shape[1]
    if shares.shape[1] == 2:
        said = (shares[:, 1] > THRESHOLD).astype(int)
        f1 = f1_score(true, said)
        area = roc_auc_score(true, shares[:, 1]) if whole else float("nan")
        more = {"matbench_rocauc": float(roc_auc_score(true, said)) if whole else float("nan")}
    else:
        said = shares.argmax(axis=1)
        f1 = f1_score(true, said, average="macro")
        area = roc_auc_score(true, shares, multi_class="ovr") if whole else float("nan")
        more = {}
    return {
        "accuracy": float(accuracy_score(true, said)),
        "balanced_accuracy": float(balanced_accuracy_score(true, said)),
        "f1": float(f1),
        "roc_auc": float(area),
        **more,
    }
