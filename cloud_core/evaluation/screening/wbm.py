"""The WBM test set of Matbench Discovery: its published files, and the files that its leaderboard takes.

J. Riebesell et al., Nature Machine Intelligence 7, 836 (2025); H.-C. Wang, S. Botti, M. A. L. Marques, npj
Computational Materials 7, 12 (2021).
"""

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from cloud_core.evaluation.discovery import (
    FULL,
    MOST_STABLE,
    UNIQUE_PROTOTYPES,
    DiscoveryError,
    SubsetMetrics,
)
from cloud_core.files import atomic, read_frame

N_WBM = 256_963
ID = "material_id"
FORMATION_ENERGY = "e_form_per_atom_mp2020_corrected"
HULL_DISTANCE = "e_above_hull_mp2020_corrected_ppd_mp"
UNIQUE = "unique_prototype"

_LEADERBOARD_SUBSETS = {
    FULL: "full_test_set",
    UNIQUE_PROTOTYPES: "unique_prototypes",
    MOST_STABLE: "most_stable_10k",
}

REQUIRED_FACTS = (
    "model_name", "model_version", "model_type", "model_params", "n_estimators", "targets", "train_task",
    "test_task", "openness", "license", "authors", "date_added", "date_published", "repo", "paper", "doi",
    "pr_url", "checkpoint_url", "requirements", "training_set", "training_cost", "trained_for_benchmark",
)  # fmt: skip
"""What the leaderboard requires of a model beside its metrics."""


def read_labels(
    path: str | Path,
    id_column: str = ID,
    formation_energy: str = FORMATION_ENERGY,
    hull_distance: str | None = HULL_DISTANCE,
    unique_prototype: str | None = UNIQUE,
    expected_rows: int | None = None,
) -> pd.DataFrame:
    """Labels by id: `formation_energy` and, where the file has them, `hull_distance` and `unique`.

    The defaults are the columns of the published `wbm-summary.csv.gz`; its 256,963 rows are `expected_rows`.

    Raises:
        DiscoveryError: a column is missing, an id is empty or appears twice, or the number of rows differs.
    """
    table = read_frame(path)
    for column in (id_column, formation_energy):
        if column not in table.columns:
            raise DiscoveryError(f"{path}: no column {column!r}; columns: {', '.join(table.columns)}")
    if expected_rows is not None and len(table) != expected_rows:
        raise DiscoveryError(f"{path}: {len(table):,} rows where {expected_rows:,} belong; is the file cut?")
    ids = table[id_column]
    if ids.isna().any() or ids.duplicated().any():
        bad = ids[ids.isna() | ids.duplicated()]
        raise DiscoveryError(f"{path}: {len(bad)} ids are empty or appear twice, such as {bad.iloc[0]}")
    labels = pd.DataFrame({"formation_energy": table[formation_energy].to_numpy(dtype=float)}, index=ids)
    if hull_distance is not None and hull_distance in table.columns:
        labels["hull_distance"] = table[hull_distance].to_numpy(dtype=float)
    if unique_prototype is not None and unique_prototype in table.columns:
        marks = table[unique_prototype]
        if marks.dtype != bool:
            raise DiscoveryError(f"{path}: column {unique_prototype!r} must be True or False in every row")
        labels["unique"] = marks.to_numpy()
    labels.index.name = "id"
    return labels


def prediction_column(model_key: str) -> str:
    """What the leaderboard calls a model's column."""
    return f"e_form_per_atom_{model_key}"


def write_submission(
    path: str | Path, predictions: pd.Series, model_key: str, expected_rows: int | None = N_WBM
) -> Path:
    """The leaderboard's prediction file (`.csv.gz`): material_id and the formation energy, eV/atom.

    The bytes depend on the predictions alone. A missing prediction is an empty field.

    Args:
        predictions: indexed by material id.

    Raises:
        DiscoveryError: another number of rows, an id appears twice, or the name does not end in .csv.gz.
    """
    path = Path(path)
    if not path.name.endswith(".csv.gz"):
        raise DiscoveryError(f"{path}: the leaderboard takes a .csv.gz file")
    if expected_rows is not None and len(predictions) != expected_rows:
        raise DiscoveryError(
            f"{len(predictions):,} predictions where the leaderboard takes {expected_rows:,}; predict all, "
            "with an empty value for a crystal that could not be"
        )
    if predictions.index.has_duplicates:
        raise DiscoveryError("an id appears twice among the predictions")
    table = pd.DataFrame({prediction_column(model_key): predictions.round(4)})
    table.index.name = ID
    with (
        atomic(path) as partial,
        partial.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as zipped,
    ):
        zipped.write(table.to_csv().encode())
    return path


def submission_metadata(
    facts: Mapping[str, Any],
    model_key: str,
    prediction_file: str,
    results: Mapping[str, SubsetMetrics],
    url: str | None = None,
) -> str:
    """The model's YAML for the leaderboard: `facts` (authors, repository, training set, …) and the metrics.

    Subsets that the labels could not name are left out. What the leaderboard requires and `facts` lack stands
    in a comment on top.

    Args:
        url: where the prediction file was uploaded to.
    """
    metrics: dict[str, Any] = {"pred_file": prediction_file, "pred_col": prediction_column(model_key)}
    if url is not None:
        metrics["pred_file_url"] = url
    for name, result in results.items():
        values = {k: v for k, v in result.metrics.items() if k not in ("missing", "excluded")}
        metrics[_LEADERBOARD_SUBSETS[name]] = {
            key: value if isinstance(value, int) else round(float(value), 3) for key, value in values.items()
        } | {"missing_preds": result.metrics["missing"] + result.metrics["excluded"]}
    document = {"model_key": model_key, **facts, "metrics": {"discovery": metrics}}
    missing = [key for key in REQUIRED_FACTS if key not in document]
    missing += [] if url is not None else ["metrics.discovery.pred_file_url"]
    head = f"# still to be filled in: {', '.join(missing)}\n" if missing else ""
    return head + yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
