"""Predictions of a screening beside true energies: hull distances, metrics, pictures, a submission."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field
from safetensors.numpy import load_file

from cloud_core.evaluation.baselines import composition_forest
from cloud_core.evaluation.discovery import (
    SubsetMetrics,
    align,
    formation_energy_errors,
    hull_distance,
    subset_metrics,
    without_failed,
)
from cloud_core.evaluation.screening.candidates import Reference, ScreeningError, labelled_strings
from cloud_core.evaluation.screening.lift import Lift, lifts
from cloud_core.evaluation.screening.plots import (
    hull_distance_histogram,
    precision_recall_curve,
    roc_curve,
    rolling_error,
)
from cloud_core.evaluation.screening.wbm import (
    FORMATION_ENERGY,
    HULL_DISTANCE,
    ID,
    N_WBM,
    UNIQUE,
    read_labels,
    submission_metadata,
    write_submission,
)
from cloud_core.models.folder import read_config, weight_files


class Labels(BaseModel):
    """True energies of the candidates; the defaults are the columns of the published `wbm-summary.csv.gz`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(description="CSV (compressed or not) or Parquet")
    id: str = Field(ID, description="column of names, equal to the candidates'")
    formation_energy: str = Field(FORMATION_ENERGY, description="column, eV/atom")
    hull_distance: str = Field(
        HULL_DISTANCE, description="column, eV/atom; rows without one are not evaluated"
    )
    unique_prototype: str = Field(UNIQUE, description="column of True or False; may be absent")
    expected_rows: int | None = Field(None, ge=1, description="another number is an error; 256,963 for WBM")
    partial: bool = Field(
        False, description="only some candidates have a row; otherwise one without a row is an error"
    )
    note: str = Field("", description="what to know of the labels, shown with every figure of merit")


class Submission(BaseModel):
    """The files that Matbench Discovery's leaderboard takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model_key: str = Field(pattern=r"^[a-zA-Z0-9.+-]+$", description="short name; part of the column's name")
    expected_rows: int | None = Field(N_WBM, description="candidates; another number is an error")
    url: str | None = Field(None, description="where the prediction file was uploaded to")
    facts: dict[str, Any] = Field(
        default={}, description="of the model's YAML: model_name, authors, repo, license, training_set, …"
    )


@dataclass(frozen=True)
class LabelEvaluation:
    """What the labels say of the predictions."""

    output: pd.DataFrame
    """all candidates, with `hull_distance`, `hull_distance_true` and `formation_energy_true` where they are
    known, eV/atom"""
    n_evaluated: int
    """candidates with a true hull distance"""
    subsets: dict[str, SubsetMetrics]
    formation_energy: dict[str, float]
    """errors over all labelled candidates, with and without a hull distance; eV/atom"""
    figures: dict[str, Any]


def evaluate_labels(labels: Labels, output: pd.DataFrame, energy: str, threshold: float) -> LabelEvaluation:
    """Hull distances by the definition of Matbench Discovery, and how well they tell stable crystals.

    Args:
        output: a row a candidate, with `id` and the predicted formation energy `energy`, eV/atom.
        threshold: eV/atom above the hull that still count as stable.

    Raises:
        DiscoveryError: rows are missing, unknown or double.
        ScreeningError: the labels have no hull distances.
    """
    truth = read_labels(
        labels.path, labels.id, labels.formation_energy, labels.hull_distance, labels.unique_prototype,
        labels.expected_rows,
    )  # fmt: skip
    if "hull_distance" not in truth:
        raise ScreeningError(f"{labels.path}: no column {labels.hull_distance!r} of true hull distances")
    predicted = align(output.set_index("id")[energy], truth, drop_unknown=labels.partial)
    # a crystal whose label is missing is not evaluated; one whose prediction is missing is
    known = truth["hull_distance"].where(truth["formation_energy"].notna())
    distance = hull_distance(known, truth["formation_energy"], predicted)
    found = pd.DataFrame(
        {
            "hull_distance": distance,
            "hull_distance_true": known,
            "formation_energy_true": truth["formation_energy"],
        },
        index=truth.index,
    )
    if "unique" in truth:
        found["unique"] = truth["unique"]
    output = output.merge(found, left_on="id", right_index=True, how="left")
    if f"{energy}_std" in output:
        output["hull_distance_std"] = output[f"{energy}_std"]
    labelled = output[output["hull_distance_true"].notna()]
    subsets: dict[str, SubsetMetrics] = {}
    figures: dict[str, Any] = {}
    if len(labelled):
        true, values = labelled["hull_distance_true"].to_numpy(), labelled["hull_distance"].to_numpy()
        unique = labelled["unique"].to_numpy() if "unique" in labelled else None
        subsets = subset_metrics(true, values, unique, threshold)
        figures = _pictures(true, without_failed(true, values), threshold, labels.note)
    errors = formation_energy_errors(truth["formation_energy"], predicted)
    return LabelEvaluation(output, len(labelled), subsets, errors, figures)


def _pictures(true: np.ndarray, predicted: np.ndarray, threshold: float, note: str) -> dict[str, Any]:
    title = f"{len(true):,} crystals" + (f" ({note})" if note else "")
    return {
        "hull_distance_histogram": hull_distance_histogram(true, predicted, threshold, title=title),
        "rolling_mae": rolling_error(true, predicted, title=title),
        "roc": roc_curve(true, predicted, threshold, title=title),
        "precision_recall": precision_recall_curve(true, predicted, threshold, title=title),
    }


def measure_lifts(
    pool: pd.DataFrame, taken: int, threshold: float, known: Reference | None = None
) -> list[Lift]:
    """How many more stable crystals are among the first `taken` than at random and, where `known` crystals
    are given, than a random forest of compositions finds that is fitted to their formation energies.

    Args:
        pool: the rows that a shortlist may name, with the columns of `rank` and `evaluate_labels`; those
            without a true hull distance are left out.
        threshold: eV/atom above the hull that still count as stable.
    """
    rows = pool[pool["hull_distance_true"].notna()]
    others = {}
    if known is not None and len(rows) > taken:
        texts, energies = labelled_strings(known)
        predicted = composition_forest(texts, energies, rows["canonical"].tolist(), None)
        true = rows["hull_distance_true"], rows["formation_energy_true"]
        others["composition forest"] = hull_distance(*true, predicted)
    return lifts(rows["hull_distance_true"] <= threshold, rows["score"], others, taken)


def submit(
    submission: Submission,
    folder: Path,
    model: Path,
    predictions: pd.Series,
    subsets: dict[str, SubsetMetrics],
) -> list[str]:
    """Write the leaderboard's prediction file and the model's YAML; `predictions` by id, eV/atom.

    What the model folder tells (numbers of weights and members) need not be among the facts.
    """
    file = folder / f"{submission.model_key}-wbm-IS2RE.csv.gz"
    write_submission(file, predictions, submission.model_key, submission.expected_rows)
    document = folder / f"{submission.model_key}.yml"
    told = {
        "model_params": sum(
            tensor.size for file in weight_files(model) for tensor in load_file(file).values()
        ),
        "n_estimators": len(read_config(model).get("members", [model])),
    }
    facts = told | submission.facts
    text = submission_metadata(facts, submission.model_key, file.name, subsets, submission.url)
    document.write_text(text, encoding="utf-8")
    return [str(file), str(document)]
