"""Screen candidates with a trained model: hull distances, a ranked shortlist, and the field's metrics.

cloud screen --config deployments/configs/screen.yaml
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from prefect import flow
from pydantic import BaseModel, ConfigDict, Field, model_validator

from cloud_core.config import FlowConfig, TableUri
from cloud_core.evaluation.discovery import summary_rows
from cloud_core.evaluation.promotion import seen_in_training
from cloud_core.evaluation.screening.candidates import (
    Precision,
    Reference,
    ScopeFile,
    ScreeningError,
    candidates_of_file,
    candidates_of_table,
    hull_distances,
    known_crystals,
    property_of,
    reference_hull,
    run_folder,
)
from cloud_core.evaluation.screening.evaluation import (
    LabelEvaluation,
    Labels,
    Submission,
    evaluate_labels,
    measure_lifts,
    submit,
)
from cloud_core.evaluation.screening.lift import Lift
from cloud_core.evaluation.screening.plots import shortlist_figure
from cloud_core.evaluation.screening.shortlist import Known, Window, eligible, mark_known, rank
from cloud_core.files import atomic
from cloud_core.lake.snapshot import Snapshot
from cloud_core.models.folder import read_config
from cloud_core.models.targets import DEVIATION
from flows.encode import EncodeConfig, encode
from tasks.cluster import ClusterConfig, default_cluster
from tasks.registry import resolve
from tasks.reporting import publish_figure, publish_table
from tasks.screening import predict_all
from tasks.tracking import Run, runs_folder, tracked_run

SHOWN_ROWS = 20  # of the shortlist, on the Prefect page
TITLES = {"hull_distance": "predicted energy above hull, eV/atom", "hull_distance_std": "σ, eV/atom"}


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
    known: Reference | None = Field(None, description="known crystals, as those of the training table")
    drop_known: tuple[Known, ...] = Field(
        (),
        description="candidates to drop first: crystals (by canonical string) or formulas (reduced) that "
        "`known` has",
    )
    stability_threshold: float = Field(0.0, description="eV/atom above the hull that still count as stable")
    k: float = Field(
        0.0,
        ge=0,
        description="candidates are ranked, and called stable, by hull distance + k·σ; above 0 the model "
        "must be an ensemble",
    )
    shortlist: int = Field(100, ge=1, description="candidates to keep")
    forest: bool = Field(
        False,
        description="measure the lift over a composition forest too, fitted to the energies of `known`",
    )
    submission: Submission | None = Field(None, description="write the leaderboard's files")
    precision: Precision = "float32"
    shard_rows: int = Field(20_000, ge=1, description="candidates in one Prefect task and one file")
    cluster: ClusterConfig = Field(default_factory=default_cluster, description="where a source is encoded")
    parent_run_id: str | None = Field(None, description="MLflow run to file this one under")

    @model_validator(mode="before")
    @classmethod
    def _earlier_keys(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and "novel_only" in values:
            rest = {key: value for key, value in values.items() if key != "novel_only"}
            return {"drop_known": ["crystals"] if values["novel_only"] else []} | rest
        return values

    @model_validator(mode="after")
    def _something_to_do(self) -> "ScreenConfig":
        if (self.file is None) == (self.source is None and self.table is None):
            raise ValueError("give candidates: a source, a table, or a file of SCOPE strings")
        if self.labels is None and self.hull is None and not self.windows:
            raise ValueError("nothing to rank by: give labels, a hull or windows")
        if self.submission is not None and self.labels is None:
            raise ValueError("a submission needs labels")
        if self.drop_known and self.known is None:
            raise ValueError("drop_known needs known: the table of known crystals")
        if self.k and self.windows:
            raise ValueError("k is for a ranking by hull distance; set it to 0, or leave windows out")
        if self.forest and (self.labels is None or self.known is None or self.windows):
            raise ValueError(
                "forest needs labels to measure by, known crystals to be fitted to, and no windows"
            )
        return self


class ScreenResult(BaseModel):
    """Where everything is, and how well the model does where that is known."""

    run_id: str
    folder: str
    predictions: str
    shortlist: str
    figures: list[str] = []
    n_candidates: int
    n_predicted: int
    n_shards: int
    n_shards_there: int
    n_evaluated: int
    dropped: dict[str, int]
    """candidates that the shortlist may not name, by reason, in the order in which they were dropped"""
    n_predicted_stable: int | None
    """of those left: hull distance + k·σ within the threshold; None where ranked by windows"""
    n_seen: int | None
    """candidates that the model was trained on; None where its folder does not say"""
    metrics: dict[str, dict[str, float]]
    """of hull distances, by subset"""
    formation_energy: dict[str, float]
    """errors over all candidates with a label, eV/atom"""
    lift: list[Lift]
    """of the first candidates of the ranking, over chance and the forest"""
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
        output = pd.concat(
            [candidates.drop(["elements", "fractions"]).to_pandas(), predictions.drop(columns="id")], axis=1
        )
        targets = [name for name in map(str, predictions) if name != "id" and not name.endswith(DEVIATION)]
        seen = seen_in_training(model, targets, output["canonical"].fillna("").tolist())
        if seen is not None:
            output["seen_in_training"] = seen
        evaluated, submitted = LabelEvaluation(output, 0, {}, {}, {}), []
        if config.labels is not None:
            energy = property_of(predictions, config.formation_energy)
            evaluated = evaluate_labels(config.labels, output, energy, config.stability_threshold)
            if config.submission is not None:
                values = output.set_index("id")[energy]
                submitted = submit(config.submission, folder, model, values, evaluated.subsets)
        elif config.hull is not None:
            energy = property_of(predictions, config.formation_energy)
            distances = hull_distances(reference_hull(config.hull), candidates, output[energy].tolist())
            output["hull_distance"] = distances
            if f"{energy}_std" in output:
                output["hull_distance_std"] = output[f"{energy}_std"]
        windows = {name: Window(target.low, target.high) for name, target in config.windows.items()}
        ranked = rank(evaluated.output, windows or "hull_distance", config.k)
        ranked = mark_known(ranked, *(known_crystals(config.known) if config.known else ((), ())))
        if not windows:
            ranked["predicted_stable"] = ranked["score"] <= config.stability_threshold
        ranked = _read_first(ranked)
        pool, dropped = eligible(ranked, config.drop_known)
        best = pool.head(config.shortlist)
        lift: list[Lift] = []
        if config.labels is not None and not windows:
            threshold, known = config.stability_threshold, config.known if config.forest else None
            lift = measure_lifts(pool, config.shortlist, threshold, known)
        _write(folder, ranked, best)
        result = ScreenResult(
            run_id=run.run_id,
            folder=str(folder),
            predictions=str(folder / "predictions.parquet"),
            shortlist=str(folder / "shortlist.csv"),
            n_candidates=len(output),
            n_predicted=int(predictions.drop(columns="id").notna().all(axis=1).sum()),
            n_shards=-(-len(output) // config.shard_rows),
            n_shards_there=there,
            n_evaluated=evaluated.n_evaluated,
            dropped=dropped,
            n_predicted_stable=None if windows else int(pool["predicted_stable"].sum()),
            n_seen=None if seen is None else int(seen.sum()),
            metrics={name: subset.metrics for name, subset in evaluated.subsets.items()},
            formation_energy=evaluated.formation_energy,
            lift=lift,
            note=config.labels.note if config.labels else "",
            submission=submitted,
        )
        column = next(iter(windows), "hull_distance")
        figures = evaluated.figures | {"shortlist": _shortlist_picture(ranked, best, column)}
        _log(run, config.name, result, evaluated, best)
        return result.model_copy(update={"figures": _log_figures(run, config.name, folder, figures)})


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


def _read_first(ranked: pd.DataFrame) -> pd.DataFrame:
    """The same columns, those first that a reader looks for."""
    first = [
        "rank", "structure_id", "id", "formula", "space_group", "hull_distance", "hull_distance_std", "score",
        "predicted_stable", "known_formula", "known_crystal", "seen_in_training",
    ]  # fmt: skip
    first = [column for column in first if column in ranked]
    return ranked[[*first, *(column for column in ranked if column not in first)]]


def _shortlist_picture(output: pd.DataFrame, best: pd.DataFrame, column: str) -> Any:
    spread = best[f"{column}_std"].to_numpy(dtype=float) if f"{column}_std" in best else None
    new = ~best["known_crystal"].fillna(True).to_numpy(dtype=bool)
    values = output[column].to_numpy(dtype=float)
    return shortlist_figure(values, best[column].to_numpy(dtype=float), spread, new, f"predicted {column}")


def _write(folder: Path, ranked: pd.DataFrame, best: pd.DataFrame) -> None:
    """Both tables as Parquet and CSV, each under another name until it is whole."""
    for name, frame in (("predictions", ranked), ("shortlist", best)):
        for kind in ("parquet", "csv"):
            with atomic(folder / f"{name}.{kind}") as partial:
                write = frame.to_parquet if kind == "parquet" else frame.to_csv
                write(partial, index=False)


def _log(run: Run, name: str, result: ScreenResult, evaluated: LabelEvaluation, best: pd.DataFrame) -> None:
    """Metrics, tables and the shortlist, to MLflow and the Prefect page."""
    figures_of_merit = result.metrics | {"formation_energy": result.formation_energy}
    for subset, values in figures_of_merit.items():
        run.log_metrics({f"{subset}.{key}": value for key, value in values.items() if np.isfinite(value)})
    run.log_metrics({f"dropped.{reason.replace(' ', '_')}": n for reason, n in result.dropped.items()})
    for each in result.lift:
        values = {f"lift.{each.against.replace(' ', '_')}": each.lift}
        values |= {f"{key}_{end}": getattr(each, end) for key in list(values) for end in ("low", "high")}
        run.log_metrics({key: value for key, value in values.items() if np.isfinite(value)})
    tables = {
        "metrics": (summary_rows(evaluated.subsets), f"Discovery metrics. {result.note}".strip()),
        "lift": ([asdict(each) for each in result.lift], "Lift of the ranking, with its 95 % interval"),
    }
    for kind, (rows, title) in tables.items():
        if rows:
            run.log_table(pd.DataFrame(rows), f"discovery_{kind}.json")
            publish_table(f"{name}-{kind}", rows, title)
    top = best.drop(columns=["canonical", "scope", "key", "reason", "duplicate_of"]).head(SHOWN_ROWS)
    shown = top.rename(columns=TITLES).astype(object)
    records = shown.where(shown.notna(), None).to_dict("records")
    rows = [{str(key): value for key, value in row.items()} for row in records]
    publish_table(f"{name}-shortlist", rows, f"The first of the shortlist. {counted(result)}")
    for kind in ("csv", "parquet"):
        run.log_artifact(Path(result.folder) / f"shortlist.{kind}")


def counted(result: ScreenResult) -> str:
    """What became of the candidates, in a line."""
    dropped = ", ".join(f"{n:,} {reason}" for reason, n in result.dropped.items() if n) or "none"
    left = result.n_candidates - sum(result.dropped.values())
    parts = [f"{left:,} of {result.n_candidates:,} candidates ranked (dropped: {dropped})"]
    if result.n_predicted_stable is not None:
        parts.append(f"{result.n_predicted_stable:,} predicted stable")
    parts.append(
        "the model does not record which crystals it was trained on"
        if result.n_seen is None
        else f"the model was trained on {result.n_seen:,} of the candidates"
    )
    return "; ".join(parts)


def _log_figures(run: Run, name: str, folder: Path, figures: dict[str, Any]) -> list[str]:
    pictures = []
    for kind, figure in figures.items():
        run.log_figure(figure, f"{kind}.png")
        publish_figure(f"{name}-{kind}-figure", figure)  # an artifact's key names one table or picture
        figure.savefig(folder / f"{kind}.png", dpi=110)
        pictures.append(str(folder / f"{kind}.png"))
    return pictures
