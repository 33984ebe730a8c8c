"""What version 0.1.0 wrote is read by the code of today, and what a later version will write is refused."""

import json
import re
import shutil
import sqlite3
from pathlib import Path

import pytest
import yaml
from deltalake import DeltaTable
from typer.testing import CliRunner

from cloud_core.config import CONFIG_VERSION, ConfigError, FlowConfig
from cloud_core.inference.predictor import Predictor
from cloud_core.lake.errors import LakeError
from cloud_core.lake.maintenance import migrate
from cloud_core.lake.schemas import SCHEMA_VERSION, STRUCTURES
from cloud_core.lake.status import status
from cloud_core.lake.table import Table
from cloud_core.models.checkpoint import load_encoder
from cloud_core.models.folder import MODEL_VERSION, CheckpointError, read_config
from flows.benchmark import BenchmarkConfig
from flows.cli import app
from flows.debye import DebyeConfig
from flows.encode import EncodeConfig
from flows.finetune import FinetuneConfig
from flows.phonon_labels import PhononLabelsConfig
from flows.pipeline import PipelineConfig
from flows.pretrain import PretrainConfig
from flows.scaling import ScalingConfig
from flows.screen import ScreenConfig
from flows.sync import SyncConfig

EARLIER = Path(__file__).parent / "fixtures" / "v0.1.0"
CONFIGS = {
    "benchmark": BenchmarkConfig,
    "finetune-matbench": BenchmarkConfig,
    "debye_phonon_labels": PhononLabelsConfig,
    "debye": DebyeConfig,
    "encode": EncodeConfig,
    "finetune": FinetuneConfig,
    "pipeline": PipelineConfig,
    "pretrain": PretrainConfig,
    "scaling": ScalingConfig,
    "screen": ScreenConfig,
    "sync": SyncConfig,
}


@pytest.fixture
def table(tmp_path: Path) -> str:
    return str(shutil.copytree(EARLIER / "table", tmp_path / "table"))


def test_the_table_is_read(table: str) -> None:
    opened = Table.open(table)
    assert opened.counts() == {"encoded": 46, "quarantined": 2, "withdrawn": 2}
    rows = {row["structure_id"]: row for row in opened.rows().to_pylist()}
    assert len(rows) == 50 and all(row["encoder_version"] is None for row in rows.values())
    assert [row["revision"] for row in rows.values()].count(1) == 3  # the replaced and the withdrawn ones
    assert status(table)["encoder_versions"] == {"1": 48}  # without the withdrawn
    encoded = next(row for row in rows.values() if row["status"] == "encoded")
    assert dict(encoded["labels"]) == {"band_gap": 1.5} and encoded["canonical"]


def test_the_table_is_migrated_by_a_command(table: str) -> None:
    before = Table.open(table).content_hash()
    for schema in (1, SCHEMA_VERSION):  # and a second time, to no effect
        shown = json.loads(CliRunner().invoke(app, ["migrate", table, "--json"]).stdout)
        assert (shown["schema_before"], shown["schema"]) == (schema, SCHEMA_VERSION)
    assert {field.name for field in DeltaTable(table).schema().fields} == set(STRUCTURES.names)
    assert Table.open(table).content_hash() == before
    assert Table.open(table, version=1).counts()["encoded"] == 48


def test_a_later_table_is_refused(table: str) -> None:
    migrate(Table.open(table))
    DeltaTable(table).alter.set_table_description(f"structures, schema version {SCHEMA_VERSION + 1}")
    with pytest.raises(LakeError, match=f"schema version {SCHEMA_VERSION + 1}.*upgrade the program"):
        Table.open(table)


@pytest.mark.parametrize("kind", ["property", "ensemble", "debye"])
def test_models_predict_what_they_predicted(kind: str) -> None:
    expected = json.loads((EARLIER / "answers.json").read_text())[kind]
    predictor = Predictor.load(EARLIER / "models" / kind)
    found = predictor.predict([row["scope"] for row in expected])
    for row, answer in zip(expected, found, strict=True):
        assert row.pop("scope") == answer["scope"]
        assert {name: answer[name] for name in row} == pytest.approx(row, rel=1e-5)
    name = "debye_temperature" if kind == "debye" else "heat_capacity"
    assert len({row[name] for row in expected}) == 3


def test_the_encoder_is_read() -> None:
    model, metadata = load_encoder(EARLIER / "models" / "encoder")
    assert metadata["form"] == "canonical" and model.config.hidden_size == 16


def test_a_later_model_folder_is_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(EARLIER / "models" / "property", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    assert "version" not in config and read_config(folder)
    (folder / "config.json").write_text(json.dumps(config | {"version": MODEL_VERSION + 1}))
    with pytest.raises(CheckpointError, match="upgrade the program"):
        Predictor.load(folder)


def test_a_registered_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.registry import resolve

    runs = shutil.copytree(EARLIER / "runs", tmp_path / "runs")
    made_at = (EARLIER / "root.txt").read_text().strip()
    with sqlite3.connect(runs / "mlflow.db") as database:
        for name, column in (
            ("experiments", "artifact_location"),
            ("runs", "artifact_uri"),
            ("model_versions", "storage_location"),
            ("logged_models", "artifact_location"),
        ):
            change = f"UPDATE {name} SET {column} = replace({column}, ?, ?)"
            database.execute(change, (made_at, str(tmp_path)))
    database.close()
    monkeypatch.setenv("CLOUD_RUNS", str(runs))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    predictor = Predictor.load(resolve("models:/heat_capacity@champion"))
    expected = json.loads((EARLIER / "answers.json").read_text())["property"][0]
    found = predictor.predict([expected["scope"]])[0]["heat_capacity"]
    assert found == pytest.approx(expected["heat_capacity"], rel=1e-5)


@pytest.mark.parametrize("path", sorted((EARLIER / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_configurations_are_understood(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = CONFIGS.get(path.stem) or CONFIGS[re.split("[-_]", path.stem)[0]]
    assert issubclass(model, FlowConfig) and model.from_yaml(path)


def test_keys_that_moved_say_the_same() -> None:
    pretraining = PretrainConfig.from_yaml(EARLIER / "configs" / "pretrain.yaml").training
    assert (pretraining.encoder.layers, pretraining.batch_size, pretraining.precision) == (
        12,
        1024,
        "bfloat16",
    )
    debye = DebyeConfig.from_yaml(EARLIER / "configs" / "debye.yaml")
    assert (debye.fit.epochs, debye.thermal.loss_per) == (60, "atom")


def test_a_later_configuration_is_refused(tmp_path: Path) -> None:
    values = yaml.safe_load((EARLIER / "configs" / "encode.yaml").read_text())
    path = tmp_path / "encode.yaml"
    path.write_text(yaml.safe_dump(values | {"config_version": CONFIG_VERSION + 1}))
    with pytest.raises(ConfigError, match=r"encode.yaml: 'config_version': .*upgrade the program"):
        EncodeConfig.from_yaml(path)
