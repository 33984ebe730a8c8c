"""Lineage of MLflow runs, against a real SQLite store and a real Prefect server."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib.figure
import pytest
from prefect import flow
from prefect.artifacts import Artifact
from pydantic import BaseModel

from tasks.reporting import Progress, artifact_key, publish_figure, publish_table
from tasks.tracking import git_commit, metric_history, mlflow_client, tracked_run


class Settings(BaseModel):
    rate: float = 0.1
    encoder: dict[str, int] = {"layers": 2}


@dataclass(frozen=True)
class Pinned:
    uri: str = "runs/lake/structures"
    version: int = 7
    n_rows: int = 1000


def test_a_run_names_its_configuration_its_tables_and_its_code(mlflow_uri: str) -> None:
    with tracked_run("pretrain", "small", Settings(), inputs={"structures": Pinned()}) as run:
        for step in (1, 2):
            run.log_metrics({"loss": 1.0 / step}, step=step)
    stored = mlflow_client().get_run(run.run_id)
    assert stored.info.status == "FINISHED"
    assert stored.data.params == {"rate": "0.1", "encoder.layers": "2"}
    assert stored.data.tags["input.structures.version"] == "7"
    assert stored.data.tags["input.structures.uri"] == "runs/lake/structures"
    assert stored.data.tags["mlflow.source.git.commit"] == git_commit()
    assert json.loads(stored.inputs.dataset_inputs[0].dataset.source)["version"] == 7
    assert metric_history(run, ["loss"]) == {"loss": [(1, 1.0), (2, 0.5)]}


def test_processes_may_open_a_new_store_at_once(mlflow_uri: str) -> None:
    program = "from tasks.tracking import *; print(experiment_id(mlflow_client(), 'pretrain'))"
    opened = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    assert {process.communicate()[0].strip() for process in opened} == {"1"}


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_run_that_breaks_off_says_so(mlflow_uri: str, error: type[BaseException], status: str) -> None:
    with pytest.raises(error), tracked_run("pretrain", "small") as run:
        raise error("broken off")
    assert mlflow_client().get_run(run.run_id).info.status == status


def test_embedded_artifacts_stay_in_the_runs_folder(
    mlflow_uri: str, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with tracked_run("pretrain", "small") as run:
        run.log_text("hello", "note.txt")
    assert [path.read_text() for path in (runs / "mlartifacts").rglob("note.txt")] == ["hello"]
    assert not (tmp_path / "mlruns").exists()


def test_the_flow_run_and_the_mlflow_run_name_each_other(mlflow_uri: str, prefect_server: str) -> None:
    @flow
    def reporting_flow() -> tuple[str, str]:
        from prefect.runtime import flow_run

        with (
            tracked_run("pretrain", "linked", inputs={"structures": Pinned()}) as run,
            Progress(4, "step A") as bar,
        ):
            bar.advance(4, failures=1)
            publish_table("counts by reason", [{"reason": "parse_error", "rows": 1}])
            publish_figure("a plot", matplotlib.figure.Figure())
        return run.run_id, str(flow_run.get_id())

    run_id, flow_run_id = reporting_flow()
    assert mlflow_client().get_run(run_id).data.tags["prefect.flow_run_id"] == flow_run_id
    link = Artifact.get("mlflow-linked")
    assert link is not None and run_id in str(link.data) and "at version 7" in str(link.data)
    # One by one: a list of artifacts ends at 200, and other tests have made some.
    progress, counts, plot = (Artifact.get(key) for key in ("step-a", "counts-by-reason", "a-plot"))
    assert progress is not None and counts is not None and plot is not None
    assert progress.data == 100.0 and "failures 1" in str(progress.description)
    assert json.loads(str(counts.data)) == [{"reason": "parse_error", "rows": 1}]
    assert str(plot.data).startswith("data:image/png;base64,")


def test_artifact_keys_are_what_prefect_accepts() -> None:
    assert artifact_key("Quarantine by reason (2024)") == "quarantine-by-reason-2024"
