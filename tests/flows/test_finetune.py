"""The finetuning flow on real rows: a real Prefect server, MLflow store and torchrun."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from sklearn.metrics import mean_absolute_error, roc_auc_score

from cloud_core.config import ConfigError
from cloud_core.inference import Predictor
from cloud_core.models.checkpoint import save_encoder
from cloud_core.models.encoder import MaskedLanguageModel
from cloud_core.models.folder import CheckpointError
from cloud_core.models.geometry import EncoderConfig
from cloud_core.models.heads import PropertyModel
from cloud_core.models.training_keys import read_training_keys
from flows.benchmark import BenchmarkConfig
from flows.finetune import FinetuneConfig, finetune
from tasks.registry import RegistryError, registered_models, resolve, roll_back, set_champion

TINY = {"hidden_size": 32, "layers": 2, "heads": 2, "feed_forward": 64}
QUICK = {"epochs": 3, "batch_size": 32, "optimiser": {"learning_rate": 2e-3}}


@pytest.fixture(scope="module")
def strings(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SCOPE strings with a heat capacity and a made-up second label, in a file of the user's."""
    frame = pd.read_csv(project / "flows" / "demo_data" / "heat_capacity.csv").drop_duplicates("cloud")
    frame = frame.sample(240, random_state=1).reset_index(names="row").rename(columns={"cloud": "scope"})
    frame["n"] = frame["cv"] / frame["n_atoms"]
    frame["gap"] = np.where(frame.index % 3 == 0, np.nan, 100.0 / frame["n"])
    path = tmp_path_factory.mktemp("data") / "strings.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.mark.integration
def test_a_fit_starts_from_the_package_unless_told_otherwise(
    project: Path, runs: Path, mlflow_uri: str, prefect_server: str, tmp_path: Path
) -> None:
    data = pd.read_csv(project / "tests/inference/held_out.csv").head(60)
    data.to_csv(tmp_path / "mine.csv", index=False)
    result = finetune(
        FinetuneConfig(
            file=tmp_path / "mine.csv",
            scope_column="resolved",
            targets=[{"label": "formation_energy"}],
            fit={"epochs": 1},
            baselines=["mean"],
            scratch_baseline=False,
        )
    )
    about = json.loads(Path(result.model_folder, "config.json").read_text())["metadata"]
    assert about["parent"] == "formation_energy"
    assert about["pretrained"]["outputs"] == {"formation_energy": "formation_energy"}
    assert (
        result.metrics["test/formation_energy/mae"] < result.metrics["baseline/mean/formation_energy/mae"] / 3
    )


def config(file: Path, **changes: Any) -> FinetuneConfig:
    values: dict[str, Any] = {
        "name": "n",
        "file": file,
        "scope_column": "scope",
        "form": "canonical",
        "id_column": "row",
        "targets": [{"label": "n"}, {"label": "gap", "unit": "eV", "scaling": "log"}],
        "from_scratch": True,
        "geometry": TINY,
        "fit": QUICK,
        "baselines": ["mean", "composition random forest"],
        "registered": False,
    }
    return FinetuneConfig.model_validate(values | changes)


@pytest.mark.integration
def test_model_is_shown_beside_its_baselines_and_serves(
    strings: Path, runs: Path, mlflow_uri: str, prefect_server: str
) -> None:
    result = finetune(config(strings, seeds=(0, 1), pooling="mean"))
    table = pd.read_csv(result.predictions)
    assert result.rows["test"] == len(table)
    assert sum(result.rows.values()) == 240
    for target in ("n", "gap"):
        has = table[target].notna()
        for name, key in (("model", "test"), ("mean", "baseline/mean")):
            mae = mean_absolute_error(table[target][has], table[f"{target}: {name}"][has])
            assert result.metrics[f"{key}/{target}/mae"] == pytest.approx(mae, rel=1e-6)
        assert result.metrics[f"baseline/mean/{target}/mae_over_mad"] == pytest.approx(1.0)
    told = result.summary()
    assert f"cloud predict --model {result.model_folder} FILE" in told and result.gate in told
    assert f"{result.metrics['test/n/mae']:.4g}" in told and "composition random forest" in told
    # shared strings are counted by both forms, target by target
    counted = {(row["target"], row["form"]) for row in result.leakage}
    assert counted == {(name, form) for name in ("n", "gap") for form in ("official", "canonical")}
    # the folder predicts what the run predicted, for strings and with the ensemble's deviation
    rows = Predictor.load(result.model_folder).predict(table["scope"].head(5).tolist())
    np.testing.assert_allclose([row["n"] for row in rows], table["n: model"].head(5), rtol=1e-5)
    np.testing.assert_allclose([row["n_std"] for row in rows], table["n: model (std)"].head(5), rtol=1e-4)
    # lineage: parent with figures, a child a seed with its learning curve
    client = MlflowClient(tracking_uri=mlflow_uri)
    parent = client.get_run(result.run_id)
    assert parent.info.status == "FINISHED"
    names = {item.path for item in client.list_artifacts(result.run_id)}
    assert {"learning_curves.png", "comparison.json", "leakage.json", "test_predictions.csv"} <= names
    figures = {item.path for item in client.list_artifacts(result.run_id, "n")}
    assert {"n/parity.png", "n/calibration.png", "n/error_by_element.png"} <= figures
    children = client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{result.run_id}'")
    assert {child.data.params["seed"] for child in children} == {"0", "1"}
    history = client.get_metric_history(children[0].info.run_id, "validation_loss")
    assert sorted(metric.step for metric in history) == [1, 2, 3]


@pytest.mark.integration
def test_a_challenger_is_compared_with_the_champion(
    strings: Path, runs: Path, mlflow_uri: str, prefect_server: str
) -> None:
    """On test rows that neither was trained on; promotion can be undone, and says who and why."""
    given = {"targets": [{"label": "n", "unit": "J/(mol K)"}], "baselines": ["mean"], "registered": True}
    first = finetune(config(strings, **given, promote="force"))
    assert (first.registered, first.promoted) == ("models:/n/1", True)
    assert read_training_keys(first.model_folder) is not None
    second = finetune(config(strings, **given, seeds=(1,), promote="never"))
    assert "test crystals; beside it mean " in second.gate and "the champion (version 1) " in second.gate
    tags = MlflowClient(tracking_uri=mlflow_uri).get_model_version("n", "2").tags
    assert tags["gate"] == second.gate and second.gate.startswith("promote: never (")
    assert not second.promoted
    other = finetune(config(strings, **given | {"targets": [{"label": "n", "unit": "eV"}]}, seeds=(2,)))
    assert "cannot be compared with the champion (version 1): it predicts n (J/(mol K))" in other.gate
    set_champion("n", "2", "by hand")
    assert roll_back("n", "worse on oxides") == ("2", "1")
    tags = MlflowClient(tracking_uri=mlflow_uri).get_model_version("n", "1").tags
    assert tags["restored_because"] == "worse on oxides" and tags["restored_by"]
    assert tags["promoted_because"].startswith("promote: force")
    aliases = {row["model"]: row["alias"] for row in registered_models()}
    assert aliases == {"models:/n/1": "champion", "models:/n/3": "challenger"}
    with pytest.raises(RegistryError, match="no version 9"):
        set_champion("n", "9", "")


@pytest.mark.integration
def test_finished_seeds_are_not_fitted_again(
    strings: Path, runs: Path, mlflow_uri: str, prefect_server: str
) -> None:
    first = finetune(config(strings, baselines=["mean"]))
    (folder,) = (runs / "finetune").iterdir()
    before = (folder / "seed-0" / "model" / "model.safetensors").stat().st_mtime_ns
    again = finetune(config(strings, baselines=["mean"]))
    assert (folder / "seed-0" / "model" / "model.safetensors").stat().st_mtime_ns == before
    assert again.metrics == first.metrics
    assert again.run_id != first.run_id


@pytest.mark.integration
def test_torchrun_gives_the_model_of_one_process(
    strings: Path, runs: Path, mlflow_uri: str, prefect_server: str
) -> None:
    # without dropout, whose numbers belong to a rank, two ranks compute what one does
    still = TINY | {"dropout": 0.0, "attention_dropout": 0.0}
    thawing = QUICK | {"frozen_epochs": 1}
    alone = finetune(config(strings, geometry=still, fit=thawing, baselines=["mean"], name="alone"))
    two = finetune(
        config(strings, geometry=still, fit=thawing, baselines=["mean"], name="two", launch={"processes": 2})
    )
    left, right = (pd.read_csv(result.predictions)["n: model"] for result in (alone, two))
    np.testing.assert_allclose(left, right, atol=2e-4)


@pytest.mark.integration
def test_classes_searched_settings_and_the_encoder_from_scratch(
    strings: Path, runs: Path, mlflow_uri: str, prefect_server: str, tmp_path: Path
) -> None:
    frame = pd.read_csv(strings).head(120)
    frame["high"] = frame["n"] > frame["n"].median()
    frame.to_csv(tmp_path / "classes.csv", index=False)
    encoder = save_encoder(
        tmp_path / "encoder", MaskedLanguageModel(EncoderConfig(**TINY)), {"form": "canonical"}
    )
    result = finetune(
        config(
            tmp_path / "classes.csv",
            targets=[{"label": "high", "kind": "classification", "classes": ["False", "True"]}],
            encoder=str(encoder),
            from_scratch=False,
            baselines=["mean"],
            search={"trials": 2, "space": {"layer_decay": None, "batch_size": [16, 32]}},
        )
    )
    table = pd.read_csv(result.predictions)
    for name, key in (("model", "test"), ("encoder from scratch", "baseline/encoder_from_scratch")):
        area = roc_auc_score(table["high"], table[f"high: {name}, True"])
        assert result.metrics[f"{key}/high/roc_auc"] == pytest.approx(area)
    assert not np.allclose(table["high: model, True"], table["high: encoder from scratch, True"])
    assert result.metrics["baseline/mean/high/roc_auc"] == pytest.approx(0.5)
    client = MlflowClient(tracking_uri=mlflow_uri)
    parent = client.get_run(result.run_id)
    children = client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{result.run_id}'")
    names = {child.info.run_name for child in children}
    assert names == {"trial-0", "trial-1", "n-seed-0", "n-scratch-seed-0"}
    losses = [
        child.data.metrics["best_validation_loss"]
        for child in children
        if child.info.run_name.startswith("trial")
    ]
    assert parent.data.metrics["search/validation_loss"] == pytest.approx(min(losses))
    metadata = PropertyModel.load(result.model_folder)[1]
    assert metadata["parent"] == str(encoder)
    assert Predictor.load(result.model_folder).predict([table["scope"][0]])[0]["high"] in ("False", "True")


def test_missing_encoder_is_an_error_and_no_start_from_scratch(strings: Path, tmp_path: Path) -> None:
    with pytest.raises((RegistryError, CheckpointError), match="nowhere"):
        config(strings, encoder=str(tmp_path / "nowhere"), from_scratch=False).start(resolve)
    with pytest.raises(ConfigError, match="formation_energy: pretrained on resolved strings"):
        config(strings, from_scratch=False).start(resolve)
    with pytest.raises(ValueError, match="from_scratch"):  # MatBench's folds: none by default
        BenchmarkConfig.model_validate({"data": "x", "tasks": ["matbench"]})
    with pytest.raises(ValueError, match="never both"):
        config(strings, encoder="somewhere")


def test_encoder_of_another_form_is_refused(strings: Path, tmp_path: Path) -> None:
    folder = save_encoder(
        tmp_path / "encoder", MaskedLanguageModel(EncoderConfig(**TINY)), {"form": "official"}
    )
    with pytest.raises(ConfigError, match="pretrained on official strings"):
        config(strings, encoder=str(folder), from_scratch=False).start(resolve)
    unknown = save_encoder(tmp_path / "unknown", MaskedLanguageModel(EncoderConfig(**TINY)), {})
    with pytest.raises(ConfigError, match="cloud import --form"):
        config(strings, encoder=str(unknown), from_scratch=False).start(resolve)
    started = config(strings, encoder=str(folder), from_scratch=False, form="official")
    assert started.start(resolve).job == {"start_from": str(folder)}
    assert json.loads((folder / "config.json").read_text())["kind"] == "encoder"


def test_shipped_configurations_are_valid(project: Path) -> None:
    folder = project / "deployments" / "configs"
    assert FinetuneConfig.from_yaml(folder / "finetune.yaml").targets[0].unit == "eV/atom"
    assert len(BenchmarkConfig.from_yaml(folder / "finetune-matbench.yaml").chosen()) == 9
