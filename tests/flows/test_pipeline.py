"""The whole chain on 30 real structures and a real Prefect server: the demo, smaller."""

from pathlib import Path

import mlflow
import pandas as pd
import pytest
from prefect.client.orchestration import get_client
from rich.console import Console

from cloud_core.config import ConfigError, load_config
from cloud_core.lake.table import Table
from flows.cli.demo import DATA, demo_config, show
from flows.pipeline import PipelineConfig, PipelineResult, pipeline
from tasks.registry import resolve
from tasks.tracking import mlflow_client
from tests.demo_cut import cut_demo_data

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

N_STRUCTURES = 30
TINY = {"hidden_size": 32, "layers": 2, "heads": 2, "feed_forward": 64}


@pytest.fixture(scope="module")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cut_demo_data(tmp_path_factory.mktemp("demo_data"), N_STRUCTURES)


@pytest.fixture(scope="module")
def chain(
    small_data: Path,
    tmp_path_factory: pytest.TempPathFactory,
    prefect_server: str,
    dask_workers: dict[str, object],
) -> tuple[PipelineConfig, PipelineResult, PipelineResult]:
    """The chain run twice in one runs folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLOUD_RUNS", str(tmp_path_factory.mktemp("runs")))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        config = demo_config(
            small_data,
            encode={"cluster": dask_workers},
            pretrain={"epochs": 2, "training": {"encoder": TINY}},
            finetune={"fit": {"epochs": 2}},
            screen={"cluster": dask_workers},
            debye={"fit": {"epochs": 2}},
        )
        first, second = pipeline(config), pipeline(config)
        yield config, first, second  # type: ignore[misc]


def test_every_structure_is_accounted_for(
    chain: tuple[PipelineConfig, PipelineResult, PipelineResult],
) -> None:
    config, first, _ = chain
    counts = first.encode
    assert (counts.n_records, counts.n_encoded, counts.n_quarantined) == (N_STRUCTURES + 2, N_STRUCTURES, 2)
    table = Table.open(config.encode["table"])
    assert set(table.quarantine(["structure_id"])["structure_id"].to_pylist()) == {
        "mp:broken-no-atoms.cif",
        "mp:broken-truncated.cif",
    }


def test_a_second_run_encodes_nothing_and_says_so(
    chain: tuple[PipelineConfig, PipelineResult, PipelineResult],
) -> None:
    _, first, second = chain
    assert second.encode.wrote_nothing and second.encode.n_skipped == N_STRUCTURES + 2
    assert second.encode.version == first.encode.version
    assert "nothing to encode" in second.steps[0].figures


def test_models_are_in_the_registry_and_answer_by_alias(
    chain: tuple[PipelineConfig, PipelineResult, PipelineResult],
) -> None:
    _, first, second = chain
    assert set(second.versions.values()) == {"2"} and set(first.versions.values()) == {"1"}
    client = mlflow_client()
    for name in second.versions:
        assert str(client.get_model_version_by_alias(name, "challenger").version) == "2"
        gate = client.get_model_version(name, "2").tags["gate"]
        promoted = str(client.get_registered_model(name).aliases.get("champion")) == "2"
        assert promoted == gate.startswith("passes: ") != gate.startswith("is not promoted: ")
    assert "an encoder is compared by a model" in first.gates["encoder"]
    assert "20 are needed" in first.gates["formation_energy_per_atom"]  # 6 test rows are too few
    # the version that another program loads through MLflow alone gives what the pipeline printed
    mlflow.set_tracking_uri(client.tracking_uri)
    served = mlflow.pyfunc.load_model("models:/formation_energy_per_atom@challenger")
    text = (DATA / "held_out.cif").read_text()
    answer = served.predict(pd.DataFrame({"structure": [text]})).iloc[0]
    printed = second.predictions[0].values
    assert answer["scope"] == printed["scope"]
    assert answer["formation_energy_per_atom"] == pytest.approx(
        printed["formation_energy_per_atom"], abs=1e-5
    )
    assert (resolve("models:/encoder@challenger") / "model.safetensors").is_file()


def test_every_run_can_be_traced_to_its_table_code_and_flow_run(
    chain: tuple[PipelineConfig, PipelineResult, PipelineResult],
) -> None:
    config, first, _ = chain
    client = mlflow_client()
    for run_id in (first.pretrain.run_id, first.finetune.run_id):
        tags = client.get_run(run_id).data.tags
        assert tags["input.structures.uri"].rstrip("/").endswith(config.encode["table"].lstrip("/"))
        assert int(tags["input.structures.version"]) == first.encode.version
        assert tags["mlflow.source.git.commit"]
        with get_client(sync_client=True) as prefect:
            assert prefect.read_flow_run(tags["prefect.flow_run_id"]).state_type.value == "COMPLETED"
    assert "config.yaml" in {item.path for item in client.list_artifacts(first.screen.run_id)}


def test_the_closing_table_shows_each_step(
    chain: tuple[PipelineConfig, PipelineResult, PipelineResult], capsys: pytest.CaptureFixture[str]
) -> None:
    _, first, _ = chain
    show(first, 1.0, Console(width=1000))
    shown = capsys.readouterr().out
    assert len(first.steps) == 6 and all(step.figures and step.where for step in first.steps)
    for part in (
        "test MAE in eV/atom",
        "composition random forest",
        "not comparable",
        "held_out.cif",
        "make ui",
    ):
        assert part in shown


def test_a_stage_that_cannot_work_is_refused_before_the_first_one_starts(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text("encode: {source: cifs/}\npretrain: {epochz: 3}\nfinetune: {}\nscreen: {}\ndebye: {}\n")
    with pytest.raises(ConfigError, match="epochz"):
        load_config(path, PipelineConfig)
    path.write_text("encode: {source: cifs/}\n")
    with pytest.raises(ConfigError, match="'pretrain' is missing"):
        load_config(path, PipelineConfig)
