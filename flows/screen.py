"""Screen candidates with a trained model: hull distances, a ranked shortlist, and the field's metrics.

cloud screen --config deployments/configs/screen.yaml
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from prefect import flow
from pydantic import BaseModel, ConfigDict, Field, model_validator

from cloud_core.config import FlowConfig, TableUri
from cloud_core.evaluation.discovery import summary_rows
from cloud_core.evaluation.screening.candidates import (
    Precision,
    Reference,
    ScopeFile,
    ScreeningError,
    candidates_of_file,
    candidates_of_table,
    hull_distances,
    property_of,
    reference_hull,
    reference_keys,
    run_folder,
)
from cloud_core.evaluation.screening.evaluation import (
    LabelEvaluation,
    Labels,
    Submission,
    evaluate_labels,
    submit,
)
from cloud_core.evaluation.screening.plots import shortlist_figure
from cloud_core.evaluation.screening.shortlist import Window, rank, shortlist
from cloud_core.files import atomic
from cloud_core.lake.snapshot import Snapshot
from cloud_core.models.folder import read_config
from flows.encode import EncodeConfig, encode
from tasks.cluster import ClusterConfig, default_cluster
from tasks.registry import resolve
from tasks.reporting import publish_figure, publish_table
from tasks.screening import predict_all
from tasks.tracking import Run, runs_folder, tracked_run


class Target(BaseModel):
    """A range that a predicted property should fall in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: float = float("-inf")
    high: float = float("inf")


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
    labels: Labels | None = Field(None, description="true energies, to evaluate the model by")
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
    n_evaluated: int
    metrics: dict[str, dict[str, float]]
    """of hull distances, by subset"""
    formation_energy: dict[str, float]
    """errors over all candidates with a label, eV/atom"""
    note: str
    submission: list[str] = []


@flow(name="screen", persist_result=False, validate_parameters=True)
def screen(config: ScreenConfig) -> ScreenResult:
    """Encode where needed, predict in shards, evaluate, rank; everything that was written is complete."""
    model = resolve(config.model)
    form = read_config(model).get("metadata", {}).get("form", "canonical")
    candidates, snapshots = _candidates(config, form)
    tags = {"model": config.model}
    with tracked_run(config.experiment, config.name, config, snapshots, config.parent_run_id, tags) as run:
        root = runs_folder() / "screening" / config.name
        folder = run_folder(root, candidates, model, config.precision, config.shard_rows)
        predictions, there = predict_all(folder, model, config.precision, f"predict {config.name}")
        output = _join(candidates, predictions)
        by: str | dict[str, Window] = "hull_distance"
        submitted: list[str] = []
        if config.labels is not None:
            energy = property_of(predictions, config.formation_energy)
            evaluated = evaluate_labels(config.labels, output, energy, config.stability_threshold)
            if config.submission is not None:
                values = output.set_index("id")[energy]
                submitted = submit(config.submission, folder, model, values, evaluated.subsets)
        else:
            if config.hull is not None:
                energy = property_of(predictions, config.formation_energy)
                hull = reference_hull(config.hull)
                output["hull_distance"] = hull_distances(hull, candidates, output[energy].tolist())
                if f"{energy}_std" in output:
                    output["hull_distance_std"] = output[f"{energy}_std"]
            evaluated = LabelEvaluation(output, 0, {}, {}, {})
        if config.windows:
            by = {name: Window(target.low, target.high) for name, target in config.windows.items()}
        keys = reference_keys(config.known) if config.known else set()
        ranked = rank(evaluated.output, by, keys, key="key")
        best = shortlist(ranked, config.shortlist, config.novel_only)
        column = by if isinstance(by, str) else next(iter(by))
        figures = evaluated.figures | {"shortlist": _shortlist_picture(ranked, best, column)}
        _write(folder, ranked, best)
        pictures = _log(run, config, folder, evaluated, figures, best)
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
        n_evaluated=evaluated.n_evaluated,
        metrics={name: result.metrics for name, result in evaluated.subsets.items()},
        formation_energy=evaluated.formation_energy,
        note=config.labels.note if config.labels else "",
        submission=submitted,
    )


def _candidates(config: ScreenConfig, form: str) -> tuple[pa.Table, dict[str, Snapshot]]:
    """The candidates in the model's form of SCOPE, encoded where needed, and the table they come from.

    Raises:
        ScreeningError: another number than a submission takes: told before hours of predictions.
    """
    snapshots = {}
    if config.file is not None:
        candidates = candidates_of_file(config.file, form)
    else:
        uri = config.table or str(runs_folder() / "lake" / f"candidates-{config.name}")
        if config.source is not None:
            given = {"source": config.source, "table": uri, "cluster": config.cluster}
            forms = tuple(dict.fromkeys(("canonical", form)))
            encode(EncodeConfig.model_validate(given | {"encoding": {"forms": forms}}))
        candidates, snapshots["candidates"] = candidates_of_table(uri, config.version, form, config.name)
    expected = config.submission.expected_rows if config.submission else None
    if expected is not None and len(candidates) != expected:
        raise ScreeningError(
            f"{len(candidates):,} candidates where a submission has {expected:,}; screen them all, or set "
            "submission.expected_rows"
        )
    return candidates, snapshots


def _join(candidates: pa.Table, predictions: pd.DataFrame) -> pd.DataFrame:
    """Candidates with their predictions, in the order of both."""
    frame = candidates.select(["id", "scope", "key", "reason"]).to_pandas()
    return pd.concat([frame, predictions.drop(columns="id")], axis=1)


def _shortlist_picture(output: pd.DataFrame, best: pd.DataFrame, column: str) -> Any:
    spread = best[f"{column}_std"].to_numpy(dtype=float) if f"{column}_std" in best else None
    novel = best["novel"].fillna(False).to_numpy(dtype=bool)
    values = output[column].to_numpy(dtype=float)
    return shortlist_figure(values, best[column].to_numpy(dtype=float), spread, novel, f"predicted {column}")


def _write(folder: Path, ranked: pd.DataFrame, best: pd.DataFrame) -> None:
    """Both tables as Parquet and CSV, each under another name until it is whole."""
    for name, frame in (("predictions", ranked), ("shortlist", best)):
        for kind in ("parquet", "csv"):
            with atomic(folder / f"{name}.{kind}") as partial:
                write = frame.to_parquet if kind == "parquet" else frame.to_csv
                write(partial, index=False)


def _log(
    run: Run,
    config: ScreenConfig,
    folder: Path,
    evaluated: LabelEvaluation,
    figures: dict[str, Any],
    best: pd.DataFrame,
) -> list[str]:
    note = config.labels.note if config.labels else ""
    rows = summary_rows(evaluated.subsets)
    figures_of_merit = {name: result.metrics for name, result in evaluated.subsets.items()}
    for name, values in (figures_of_merit | {"formation_energy": evaluated.formation_energy}).items():
        run.log_metrics({f"{name}.{key}": value for key, value in values.items() if np.isfinite(value)})
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
