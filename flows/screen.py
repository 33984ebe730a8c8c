"""Screen candidates with a trained model: hull distances, a ranked shortlist, and the field's metrics.

python -m flows.screen --config deployments/configs/screen.yaml
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from prefect import flow
from pydantic import BaseModel, ConfigDict, Field, model_validator

from cloud_core.evaluation.discovery import (
    SubsetMetrics,
    align,
    hull_distance,
    subset_metrics,
    summary_rows,
)
from cloud_core.evaluation.discovery_plots import (
    hull_distance_histogram,
    precision_recall_curve,
    roc_curve,
    rolling_error,
    shortlist_figure,
)
from cloud_core.evaluation.shortlist import Window, rank, shortlist
from cloud_core.evaluation.wbm import (
    FORMATION_ENERGY,
    HULL_DISTANCE,
    ID,
    UNIQUE,
    read_labels,
    submission_metadata,
    write_submission,
)
from cloud_core.models.checkpoint import read_config
from flows.configs import FlowConfig, TableUri, run_from_shell
from flows.encode import EncodeConfig, encode
from tasks.cluster import ClusterConfig, default_cluster
from tasks.registry import resolve
from tasks.reporting import publish_figure, publish_table
from tasks.screening import (
    Precision,
    Reference,
    ScopeFile,
    ScreeningError,
    candidates_of_file,
    candidates_of_table,
    hull_distances,
    predict_all,
    property_of,
    reference_hull,
    reference_keys,
    run_folder,
)
from tasks.tracking import Run, runs_folder, tracked_run


class Labels(BaseModel):
    """True energies of the candidates; the defaults are the columns of the published `wbm-summary.csv.gz`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(description="CSV (compressed or not) or Parquet")
    id: str = Field(ID, description="column of names, equal to the candidates'")
    formation_energy: str = Field(FORMATION_ENERGY, description="column, eV/atom")
    hull_distance: str = Field(HULL_DISTANCE, description="column, eV/atom; rows without one are not judged")
    unique_prototype: str = Field(UNIQUE, description="column of True or False; may be absent")
    expected_rows: int | None = Field(None, ge=1, description="another number is an error; 256,963 for WBM")
    note: str = Field("", description="what to know of the labels, shown with every figure of merit")


class Target(BaseModel):
    """A range that a predicted property should fall in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: float = float("-inf")
    high: float = float("inf")


class Submission(BaseModel):
    """The files that Matbench Discovery's leaderboard takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model_key: str = Field(pattern=r"^[a-zA-Z0-9.+-]+$", description="short name; part of the column's name")
    expected_rows: int | None = Field(256_963, description="rows of the prediction file")
    facts: dict[str, Any] = Field(
        default={}, description="of the model's YAML: model_name, authors, repo, license, training_set, …"
    )


class ScreenConfig(FlowConfig):
    """Which candidates, by which model, against what, and how many to keep."""

    name: str = Field("screen", pattern=r"^[\w.-]+$", description="of the MLflow run and the folder")
    experiment: str = Field("screen", description="MLflow experiment")
    model: str = Field(description="model folder, models:/… or runs:/…")
    source: str | dict[str, Any] | None = Field(
        None, description="structures to encode first: a folder, archive, table or named set"
    )
    table: TableUri | None = Field(
        None,
        description="table of structures; with a source, where they are encoded to",
    )
    version: int | None = Field(None, ge=0, description="version of the table; default: the newest")
    file: ScopeFile | None = Field(None, description="instead: candidates that are SCOPE strings already")
    formation_energy: str | None = Field(
        None, description="the model's property that is a formation energy, eV/atom; default: its only one"
    )
    labels: Labels | None = Field(None, description="true energies, to judge the model by")
    hull: Reference | None = Field(
        None, description="known crystals whose hull distances are measured from, where there are no labels"
    )
    windows: dict[str, Target] = Field(default={}, description="property -> range: rank by these instead")
    known: Reference | None = Field(None, description="table of known crystals (the training table): novelty")
    stability_threshold: float = Field(0.0, description="eV/atom above the hull that still count as stable")
    shortlist: int = Field(100, ge=1, description="candidates to keep")
    novel_only: bool = Field(False, description="keep none that is known already")
    submission: Submission | None = Field(None, description="write the leaderboard's files")
    precision: Precision = "float32"
    shard_rows: int = Field(20_000, ge=1, description="candidates in one Prefect task and one file")
    cluster: ClusterConfig = Field(default_factory=default_cluster, description="where a source is encoded")
    parent_run_id: str | None = Field(None, description="MLflow run to file this one under")

    @model_validator(mode="after")
    def _something_to_do(self) -> "ScreenConfig":
        if (self.file is None) == (self.source is None and self.table is None):
            raise ValueError("give candidates: a source, a table, or a file of SCOPE strings")
        if self.labels is None and self.hull is None and not self.windows:
            raise ValueError("nothing to rank by: give labels, a hull or windows")
        if self.submission is not None and self.labels is None:
            raise ValueError("a submission needs labels")
        return self


class ScreenResult(BaseModel):
    """Where everything is, and how well the model does where that is known."""

    run_id: str
    folder: str
    predictions: str
    shortlist: str
    figures: list[str]
    n_candidates: int
    n_predicted: int
    n_shards: int
    n_shards_there: int
    n_judged: int
    metrics: dict[str, dict[str, float]]
    note: str
    submission: list[str] = []


@flow(name="screen", persist_result=False, validate_parameters=True)
def screen(config: ScreenConfig) -> ScreenResult:
    """Encode where needed, predict in shards, judge, rank; everything that was written is complete."""
    model = resolve(config.model)
    form = read_config(model).get("metadata", {}).get("form", "canonical")
    snapshots = {}
    if config.file is not None:
        candidates = candidates_of_file(config.file, form)
    else:
        uri = config.table or str(runs_folder() / "lake" / f"candidates-{config.name}")
        if config.source is not None:
            forms = tuple(dict.fromkeys(("canonical", form)))
            encode(
                EncodeConfig.model_validate(
                    {
                        "source": config.source,
                        "table": uri,
                        "cluster": config.cluster,
                        "encoding": {"forms": forms},
                    }
                )
            )
        candidates, snapshots["candidates"] = candidates_of_table(uri, config.version, form)
    tags = {"model": config.model}
    with tracked_run(config.experiment, config.name, config, snapshots, config.parent_run_id, tags) as run:
        root = runs_folder() / "screening" / config.name
        folder = run_folder(root, candidates, model, config.precision, config.shard_rows)
        predictions, there = predict_all(folder, model, config.precision, f"predict {config.name}")
        output = _join(candidates, predictions)
        results: dict[str, SubsetMetrics] = {}
        figures: dict[str, Any] = {}
        submitted: list[str] = []
        by: str | dict[str, Window] = "hull_distance"
        energy = None
        if config.labels is not None or config.hull is not None:
            energy = property_of(predictions, config.formation_energy)
        if config.labels is not None and energy is not None:
            output, judged = _judge(config, config.labels, output, energy)
            if len(judged):
                true, predicted = judged["hull_distance_true"].to_numpy(), judged["hull_distance"].to_numpy()
                unique = judged["unique"].to_numpy() if "unique" in judged else None
                results = subset_metrics(true, predicted, unique, config.stability_threshold)
                figures = _pictures(true, predicted, config.stability_threshold, config.labels.note)
        else:
            judged = output.head(0)
            if config.hull is not None and energy is not None:
                output["hull_distance"] = hull_distances(
                    reference_hull(config.hull), candidates, output[energy].tolist()
                )
                if f"{energy}_std" in output:
                    output["hull_distance_std"] = output[f"{energy}_std"]
        if config.windows:
            by = {name: Window(target.low, target.high) for name, target in config.windows.items()}
        keys = reference_keys(config.known) if config.known else set()
        ranked = rank(output, by, keys, key="key")
        best = shortlist(ranked, config.shortlist, config.novel_only)
        column = by if isinstance(by, str) else next(iter(by))
        figures["shortlist"] = _shortlist_picture(output, best, column)
        if config.submission is not None and energy is not None:
            submitted = _submit(config.submission, folder, output, energy, results)
        _write(folder, ranked, best)
        pictures = _log(run, config, folder, results, figures, best)
    return ScreenResult(
        run_id=run.run_id,
        folder=str(folder),
        predictions=str(folder / "predictions.parquet"),
        shortlist=str(folder / "shortlist.csv"),
        figures=pictures,
        n_candidates=len(output),
        n_predicted=int(predictions.drop(columns="id").notna().all(axis=1).sum()),
        n_shards=-(-len(output) // config.shard_rows),
        n_shards_there=there,
        n_judged=len(judged),
        metrics={name: result.metrics for name, result in results.items()},
        note=config.labels.note if config.labels else "",
        submission=submitted,
    )


def _join(candidates: pa.Table, predictions: pd.DataFrame) -> pd.DataFrame:
    """Candidates with their predictions, in the order of both."""
    frame = candidates.select(["id", "scope", "key", "reason"]).to_pandas()
    return pd.concat([frame, predictions.drop(columns="id")], axis=1)


def _judge(
    config: ScreenConfig, labels: Labels, output: pd.DataFrame, energy: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All candidates with hull distances, and the rows of those whose true one is known."""
    truth = read_labels(
        labels.path, labels.id, labels.formation_energy, labels.hull_distance, labels.unique_prototype,
        labels.expected_rows,
    )  # fmt: skip
    if "hull_distance" not in truth:
        raise ScreeningError(f"{labels.path}: no column {labels.hull_distance!r} of true hull distances")
    predicted = output.set_index("id")[energy]
    aligned = align(predicted, truth, drop_unknown=labels.expected_rows is None)
    distance = hull_distance(truth["hull_distance"], truth["formation_energy"], aligned)
    found = pd.DataFrame(
        {"hull_distance": distance, "hull_distance_true": truth["hull_distance"]}, index=truth.index
    )
    if "unique" in truth:
        found["unique"] = truth["unique"]
    output = output.merge(found, left_on="id", right_index=True, how="left")
    if f"{energy}_std" in output:
        output["hull_distance_std"] = output[f"{energy}_std"]
    judged = output[output["hull_distance_true"].notna()]
    return output, judged


def _pictures(true: np.ndarray, predicted: np.ndarray, threshold: float, note: str) -> dict[str, Any]:
    title = f"{len(true):,} crystals" + (f" ({note})" if note else "")
    return {
        "hull_distance_histogram": hull_distance_histogram(true, predicted, threshold, title=title),
        "rolling_mae": rolling_error(true, predicted, title=title),
        "roc": roc_curve(true, predicted, threshold, title=title),
        "precision_recall": precision_recall_curve(true, predicted, threshold, title=title),
    }


def _shortlist_picture(output: pd.DataFrame, best: pd.DataFrame, column: str) -> Any:
    spread = best[f"{column}_std"].to_numpy(dtype=float) if f"{column}_std" in best else None
    novel = best["novel"].fillna(False).to_numpy(dtype=bool)
    values = output[column].to_numpy(dtype=float)
    return shortlist_figure(values, best[column].to_numpy(dtype=float), spread, novel, f"predicted {column}")


def _submit(
    submission: Submission, folder: Path, output: pd.DataFrame, energy: str, results: dict[str, SubsetMetrics]
) -> list[str]:
    values = output.set_index("id")[energy]
    file = folder / f"{submission.model_key}-wbm-IS2RE.csv.gz"
    write_submission(file, values, submission.model_key, submission.expected_rows)
    document = folder / f"{submission.model_key}.yml"
    text = submission_metadata(submission.facts, submission.model_key, file.name, results)
    document.write_text(text, encoding="utf-8")
    return [str(file), str(document)]


def _write(folder: Path, ranked: pd.DataFrame, best: pd.DataFrame) -> None:
    for name, frame in (("predictions", ranked), ("shortlist", best)):
        for path, write in (
            (folder / f"{name}.parquet", lambda p, f: f.to_parquet(p, index=False)),
            (folder / f"{name}.csv", lambda p, f: f.to_csv(p, index=False)),
        ):
            partial = path.with_name(f".{path.name}.partial")
            write(partial, frame)
            partial.replace(path)


def _log(
    run: Run,
    config: ScreenConfig,
    folder: Path,
    results: dict[str, SubsetMetrics],
    figures: dict[str, Any],
    best: pd.DataFrame,
) -> list[str]:
    note = config.labels.note if config.labels else ""
    rows = summary_rows(results)
    for name, result in results.items():
        finite = {key: value for key, value in result.metrics.items() if np.isfinite(value)}
        run.log_metrics({f"{name}.{key}": value for key, value in finite.items()})
    if rows:
        run.log_table(pd.DataFrame(rows), "discovery_metrics.json")
        publish_table(f"{config.name}-metrics", rows, f"Discovery metrics. {note}".strip())
    top = best.drop(columns=["scope", "reason"]).head(20).astype(object)
    shown = top.where(top.notna(), None).to_dict("records")
    publish_table(
        f"{config.name}-shortlist", [{str(k): v for k, v in row.items()} for row in shown], "Best 20"
    )
    run.log_artifact(folder / "shortlist.csv")
    pictures = []
    for name, figure in figures.items():
        run.log_figure(figure, f"{name}.png")
        publish_figure(f"{config.name}-{name}", figure)
        figure.savefig(folder / f"{name}.png", dpi=110)
        pictures.append(str(folder / f"{name}.png"))
    return pictures


if __name__ == "__main__":
    run_from_shell(screen, ScreenConfig)
