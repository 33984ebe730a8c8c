"""MLflow runs that say where every number came from.

A run holds the whole configuration, the tables it read (URI and version), the git commit and the Prefect flow
run; the flow run gets an artifact that links back.
"""

import json
import logging
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import yaml
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_PARENT_RUN_ID, MLFLOW_SOURCE_NAME
from mlflow.utils.time import get_current_time_millis
from mlflow.utils.validation import MAX_METRICS_PER_BATCH, MAX_PARAM_VAL_LENGTH, MAX_PARAMS_TAGS_PER_BATCH
from pydantic import BaseModel

from tasks.reporting import flow_run_link, publish_markdown

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

RUNS_VARIABLE = "CLOUD_RUNS"
LOCAL_UI = "http://127.0.0.1:5000"  # where `make ui` serves the embedded store


class PinnedTable(Protocol):
    """What is logged of a table that a run read: `cloud_core.lake.snapshot.Snapshot` is one."""

    @property
    def uri(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def n_rows(self) -> int: ...


def runs_folder() -> Path:
    """Where embedded defaults put tables, models and the MLflow store: `$CLOUD_RUNS`, else `./runs`."""
    return Path(os.environ.get(RUNS_VARIABLE, "runs")).absolute()


def tracking_uri() -> str:
    """`$MLFLOW_TRACKING_URI`, else an SQLite file under the runs folder (MLflow refuses plain folders)."""
    configured = os.environ.get("MLFLOW_TRACKING_URI")
    if configured:
        return configured
    runs_folder().mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{runs_folder() / 'mlflow.db'}"


def mlflow_client() -> MlflowClient:
    uri = tracking_uri()
    _prepare(uri)
    return MlflowClient(tracking_uri=uri)


@cache
def _prepare(uri: str) -> None:
    """Make the tables of an embedded store: two processes that open a new one at once would collide."""
    if uri.startswith("sqlite:///"):
        for name in ("mlflow.store.db.utils", "alembic"):  # a new store logs each of its migrations
            logging.getLogger(name).setLevel(logging.WARNING)
        with FileLock(uri.removeprefix("sqlite:///") + ".lock"):
            MlflowClient(tracking_uri=uri).search_experiments(max_results=1)


def experiment_id(client: MlflowClient, name: str) -> str:
    """The experiment of this name, made where it is missing."""
    existing = client.get_experiment_by_name(name)
    if existing is not None:
        return str(existing.experiment_id)
    # Without a server, artifacts would go to ./mlruns of whatever folder the process happens to be in.
    embedded = not tracking_uri().startswith(("http://", "https://"))
    configured_root = os.environ.get("MLFLOW_ARTIFACT_ROOT")
    location = configured_root or ((runs_folder() / "mlartifacts").as_uri() if embedded else None)
    try:
        created = client.create_experiment(
            name, artifact_location=location and f"{location.rstrip('/')}/{name}"
        )
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise
        return experiment_id(client, name)  # another process was first
    return str(created)


def git_commit() -> str:
    """The commit of this code, `+changes` where the tree differs; `$CLOUD_GIT_COMMIT` in images."""
    configured = os.environ.get("CLOUD_GIT_COMMIT")
    if configured:
        return configured
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown (not a git checkout)"
    return commit + ("+changes" if changed else "")


@dataclass(frozen=True)
class Run:
    """One MLflow run, addressed by id, so that several processes and threads can log to it."""

    run_id: str
    experiment_id: str
    client: MlflowClient

    @property
    def url(self) -> str:
        """Its page in the MLflow UI (`make ui` serves the embedded store)."""
        uri = tracking_uri()
        base = uri.rstrip("/") if uri.startswith("http") else LOCAL_UI
        return f"{base}/#/experiments/{self.experiment_id}/runs/{self.run_id}"

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        now = get_current_time_millis()
        entries = [Metric(key, float(value), now, step) for key, value in metrics.items()]
        for start in range(0, len(entries), MAX_METRICS_PER_BATCH):
            self.client.log_batch(self.run_id, metrics=entries[start : start + MAX_METRICS_PER_BATCH])

    def log_params(self, params: Mapping[str, Any]) -> None:
        entries = [Param(key, str(value)[:MAX_PARAM_VAL_LENGTH]) for key, value in params.items()]
        for start in range(0, len(entries), MAX_PARAMS_TAGS_PER_BATCH):
            self.client.log_batch(self.run_id, params=entries[start : start + MAX_PARAMS_TAGS_PER_BATCH])

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        self.client.log_batch(self.run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()])

    def log_figure(self, figure: "Figure", name: str) -> None:
        """`name` ends in .png or .svg; folders in it are kept."""
        self.client.log_figure(self.run_id, figure, name)

    def log_table(self, table: "pd.DataFrame", name: str) -> None:
        """`name` ends in .json: shown as a table in the MLflow UI."""
        self.client.log_table(self.run_id, table, name)

    def log_text(self, text: str, name: str) -> None:
        self.client.log_text(self.run_id, text, name)

    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        self.client.log_artifact(self.run_id, str(path), folder)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`: MLflow's parameters are flat."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _log_inputs(run: Run, inputs: Mapping[str, PinnedTable]) -> None:
    tags: dict[str, Any] = {}
    datasets: list[DatasetInput] = []
    for name, table in inputs.items():
        source = {"uri": table.uri, "version": table.version}
        tags |= {
            f"input.{name}.uri": table.uri,
            f"input.{name}.version": table.version,
            f"input.{name}.rows": table.n_rows,
        }
        datasets.append(
            DatasetInput(
                Dataset(
                    name=name,
                    digest=f"v{table.version}",
                    source_type="delta_table",
                    source=json.dumps(source),
                    profile=json.dumps({"num_rows": table.n_rows}),
                )
            )
        )
    if datasets:
        run.set_tags(tags)
        run.client.log_inputs(run.run_id, datasets=datasets)


@contextmanager
def tracked_run(
    experiment: str,
    name: str,
    config: BaseModel | None = None,
    inputs: Mapping[str, PinnedTable] | None = None,
    parent_run_id: str | None = None,
    tags: Mapping[str, Any] | None = None,
) -> Iterator[Run]:
    """Open an MLflow run; close it FINISHED, FAILED on an exception, KILLED when cancelled or interrupted.

    The run is addressed by id and is never MLflow's global active run: flows that run side by side in one
    process, and the ranks of a distributed job, would otherwise log into each other's.
    """
    client = mlflow_client()
    experiment_key = experiment_id(client, experiment)
    created = client.create_run(experiment_key, run_name=name)
    run = Run(created.info.run_id, experiment_key, client)
    flow_run_id, flow_run_url = flow_run_link()
    lineage = {MLFLOW_GIT_COMMIT: git_commit(), MLFLOW_SOURCE_NAME: name}
    if parent_run_id is not None:
        lineage[MLFLOW_PARENT_RUN_ID] = parent_run_id
    if flow_run_id is not None:
        lineage |= {"prefect.flow_run_id": flow_run_id, "prefect.flow_run_url": flow_run_url or ""}
    run.set_tags(lineage | dict(tags or {}))
    if config is not None:
        values = config.model_dump(mode="json")
        run.log_params(flatten(values))
        run.log_text(yaml.safe_dump(values, sort_keys=False), "config.yaml")
    _log_inputs(run, inputs or {})
    publish_markdown(f"mlflow-{name}", _back_link(run, name, inputs or {}), f"MLflow run of {name}")
    status = "FAILED"
    try:
        yield run
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    except BaseException as error:
        # Prefect cancels a run by raising its own BaseException in it.
        status = "FAILED" if isinstance(error, Exception) else "KILLED"
        raise
    finally:
        client.set_terminated(run.run_id, status=status)


def _back_link(run: Run, name: str, inputs: Mapping[str, PinnedTable]) -> str:
    lines = [f"MLflow run [{name}]({run.url}): `{run.run_id}`"]
    lines += [
        f"- reads `{table.uri}` at version {table.version} ({table.n_rows:,} rows)"
        for table in inputs.values()
    ]
    return "\n".join(lines)


def metric_history(run: Run, keys: Sequence[str]) -> dict[str, list[tuple[int, float]]]:
    """`{key: [(step, value), …]}` of a run's metrics, as logged."""
    return {
        key: [(metric.step, metric.value) for metric in run.client.get_metric_history(run.run_id, key)]
        for key in keys
    }
