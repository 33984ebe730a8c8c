"""The Debye flow on real rows, through a real Prefect server and MLflow's SQLite store."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

from cloud_core.config import ConfigError
from cloud_core.evaluation.thermal.comparison import compare, control
from cloud_core.evaluation.thermal.data import (
    Split,
    ThermalData,
    parse_temperatures,
    read_thermal,
    split_table,
)
from cloud_core.evaluation.thermal.fits import direct_job, direct_values
from cloud_core.inference.predictor import Predictor
from cloud_core.models.debye import heat_capacity
from cloud_core.models.debye_model import DebyeModel
from cloud_core.models.geometry import EncoderConfig
from cloud_core.models.heads import PropertyModel
from cloud_core.models.targets import Target
from cloud_core.scope import canonicalise
from cloud_core.training.fit import run as fit_job
from cloud_core.training.job import FitSettings
from cloud_core.training.optimiser import OptimiserSettings
from flows.cli.curves import sweep
from flows.debye import DebyeConfig, debye
from tasks.registry import RegistryError, resolve
from tasks.tracking import mlflow_client

TINY = EncoderConfig(hidden_size=32, layers=1, heads=2, feed_forward=64, dropout=0.0)
FIT = FitSettings(epochs=30, batch_size=16, optimiser=OptimiserSettings(learning_rate=3e-3, layer_decay=1.0))


@pytest.fixture
def table(project: Path, tmp_path: Path) -> Path:
    """300 rows of the C_v example."""
    frame = pd.read_csv(project / "flows/demo_data/heat_capacity.csv").head(300)
    path = tmp_path / "cv.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.mark.integration
def test_trains_registers_and_answers(prefect_server: str, mlflow_uri: str, table: Path) -> None:
    config = DebyeConfig(
        data=ThermalData(path=str(table)),
        from_scratch=TINY,
        fit=FIT,
        register_as="debye",
    )
    result = debye(config)
    assert result.n_train + result.n_validation + result.n_test == 300
    assert result.n_test == pytest.approx(60, abs=20)
    assert result.metrics["test_mae"] < result.metrics["control_mae"]
    models = [row["model"] for row in result.comparison]
    assert models[:2] == ["Debye model", "control: mean per atom × n_atoms"]
    assert "direct regressor, with n_atoms" in models and "direct regressor, without n_atoms" in models
    assert result.comparison[-1]["MAE"] < 0.05 * result.comparison[1]["MAE"]
    assert Path(result.curves).stat().st_size > 10_000
    assert "test crystals" in result.gate

    run = mlflow_client().get_run(result.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test_mae"] == pytest.approx(result.metrics["test_mae"])
    assert run.data.params["thermal.lowest_theta"] == "20.0"
    names = {item.path for item in mlflow_client().list_artifacts(result.run_id)}
    assert {
        "curves.png",
        "crystal-1.png",
        "crystal-3.png",
        "parity.png",
        "comparison.json",
        "test_predictions.json",
    } <= names

    folder = resolve("models:/debye@challenger")
    predictor = Predictor.load(folder)
    row = predictor.predict([canonicalise(pd.read_csv(table)["cloud"][0])])[0]
    assert 20 < row["debye_temperature"] < 5000
    assert len(row["heat_capacity"]) == len(row["temperature"]) == 21
    # served by MLflow, from the registry alone: the same curves, one list a crystal
    served = mlflow.pyfunc.load_model("models:/debye@challenger")
    answer = served.predict(pd.DataFrame({"structure": [row["scope"]]})).iloc[0]
    assert answer["debye_temperature"] == pytest.approx(row["debye_temperature"])
    assert answer["heat_capacity"] == pytest.approx(row["heat_capacity"])
    assert {"internal_energy", "internal_energy_thermal", "entropy", "helmholtz_energy"} <= set(answer.index)
    # the first test crystals again, from the registered model: the logged predictions
    parts = split_table(config.data, config.split)
    again = predictor.predict_texts(parts.test.texts)["debye_temperature"]
    predicted = parts.test.scaled(parts.test.curves(again), "cell")[:, 0]
    true = parts.test.scaled(parts.test.values, "cell")[:, 0]
    assert np.abs(predicted - true).mean() == pytest.approx(result.metrics["test_mae"], abs=1e-3)


def test_control_is_the_training_mean_per_atom(table: Path) -> None:
    data = ThermalData(path=str(table))
    parts = split_table(data, Split())
    frame = pd.read_csv(table)
    rows = compare(parts, {"control": control(parts)}, "cell")
    true = parts.test.values[:, 0] * parts.test.n_atoms
    mean = parts.train.values.mean()
    assert rows[0]["MAE"] == pytest.approx(np.abs(mean * parts.test.n_atoms - true).mean(), abs=1e-4)
    # the whole table's own control, as published: mean C_v per atom × n_atoms
    everything = read_thermal(data)
    assert everything.values[:, 0] * everything.n_atoms == pytest.approx(frame["cv"].to_numpy())


def test_held_out_temperatures_are_not_in_training(tmp_path: Path, table: Path) -> None:
    frame = pd.read_csv(table).head(60)
    frame["id"] = [f"c{i}" for i in range(len(frame))]
    long = pd.concat([frame.assign(temperature=t, cv=frame["cv"] * t / 300) for t in (200.0, 300.0, 400.0)])
    path = tmp_path / "long.parquet"
    long.to_parquet(path)
    data = ThermalData(path=str(path), temperature="temperature", id="id")
    parts = split_table(data, Split(held_out_temperatures=(300.0,)))
    assert parts.train.temperatures.tolist() == [200.0, 400.0]
    assert parts.test.temperatures.tolist() == [200.0, 300.0, 400.0]
    rows = compare(parts, {"control": control(parts)}, "atom")
    assert {"MAE", "held-out T: MAE"} <= set(rows[0])
    with pytest.raises(ValueError, match="held_out_temperatures"):
        split_table(data, Split(held_out_temperatures=(250.0,)))


def test_temperatures() -> None:
    assert parse_temperatures("0:1000:10").tolist() == list(range(0, 1001, 10))
    assert parse_temperatures("77,300").tolist() == [77.0, 300.0]
    for bad in ("0:10", "a", "10:0:1", "-5", "0:10:0"):
        with pytest.raises(ValueError, match="temperatures"):
            parse_temperatures(bad)


def test_bad_input_is_named(tmp_path: Path, table: Path, mlflow_uri: str) -> None:
    with pytest.raises(ValueError, match=r"no column heat; columns: cloud, cv, n_atoms"):
        read_thermal(ThermalData(path=str(table), value="heat"))
    with pytest.raises(ValueError, match="no such file"):
        read_thermal(ThermalData(path=str(tmp_path / "none.csv")))
    frame = pd.read_csv(table)
    frame.loc[4, "cloud"] = "not a string"
    frame.to_csv(tmp_path / "bad.csv")
    with pytest.raises(ValueError, match=r"bad\.csv, row 5"):
        read_thermal(ThermalData(path=str(tmp_path / "bad.csv")))
    with pytest.raises(ValueError, match="encoder or from_scratch, not both"):
        DebyeConfig(
            data=ThermalData(path=str(table)), encoder="formation_energy", from_scratch=EncoderConfig()
        )
    assert DebyeConfig(data=ThermalData(path=str(table))).encoder == "formation_energy"
    with pytest.raises(RegistryError):
        resolve("models:/nothing@champion")
    config = tmp_path / "debye.yaml"
    config.write_text("data: {path: x.csv}\nfrom_scratch: {}\nepochs: 3\n")
    with pytest.raises(ConfigError, match="'epochs' is not a key of DebyeConfig"):
        DebyeConfig.from_yaml(config)


def test_sweep_writes_a_table_and_a_picture_a_crystal(project: Path, tmp_path: Path, runs: Path) -> None:
    model = DebyeModel(TINY, 321.0).save(tmp_path / "model", {"form": "canonical"})
    (tmp_path / "bad.cif").write_text("no crystal")
    files = [str(project / "flows/demo_data/held_out.cif"), str(tmp_path / "bad.cif")]
    good, bad = sweep(str(model), files, "0:1000:10", tmp_path / "curves")
    assert good.debye_temperature == pytest.approx(321, rel=1e-4)
    table = pd.read_csv(str(good.table))
    assert table["temperature"].tolist() == list(range(0, 1001, 10))
    assert table["heat_capacity"].is_monotonic_increasing and table["heat_capacity"][0] == 0
    assert Path(str(good.figure)).stat().st_size > 10_000
    assert bad.error and bad.table is None
    with pytest.raises(ValueError, match="no such file"):
        sweep(str(model), [str(tmp_path / "missing.cif")], to=tmp_path)
    other = PropertyModel(TINY, [Target("gap")]).save(tmp_path / "other", {"form": "canonical"})
    with pytest.raises(ValueError, match="predicts no Debye temperature"):
        sweep(str(other), files, to=tmp_path)


def test_two_files_of_one_name_have_a_curve_each(project: Path, tmp_path: Path, runs: Path) -> None:
    """Of a model of properties too, one of which is the Debye temperature."""
    target = Target("debye_temperature", "K", mean=500.0)
    model = PropertyModel(TINY, [target]).save(tmp_path / "model", {"form": "canonical"})
    files = [tmp_path / name / "POSCAR.cif" for name in ("a", "b")]
    for file in files:
        file.parent.mkdir()
        shutil.copy(project / "flows/demo_data/held_out.cif", file)
    curves = sweep(str(model), files, "0,300", tmp_path / "curves")
    assert [Path(str(curve.table)).name for curve in curves] == ["POSCAR.csv", "POSCAR-2.csv"]
    for curve in curves:
        table = pd.read_csv(str(curve.table))
        assert curve.debye_temperature is not None
        known = heat_capacity(theta=curve.debye_temperature, temperature=300.0)
        assert table["heat_capacity"].tolist() == pytest.approx([0.0, float(known)])


def test_curves_of_a_crystal_from_the_shell(project: Path, tmp_path: Path, runs: Path) -> None:
    """`cloud debye MODEL FILE --temperatures …` as a person types it."""
    model = DebyeModel(TINY, 321.0).save(tmp_path / "model", {"form": "canonical"})
    arguments = [str(model), "flows/demo_data/held_out.cif", "--temperatures", "0:300:100"]
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "debye", *arguments, "--to", str(tmp_path / "curves"), "--json"],
        cwd=project,
        env=os.environ | {"CLOUD_RUNS": str(runs)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (curve,) = json.loads(done.stdout)
    assert curve["debye_temperature"] == pytest.approx(321, rel=1e-4)
    assert pd.read_csv(curve["table"])["temperature"].tolist() == [0, 100, 200, 300]
    assert Path(curve["figure"]).read_bytes().startswith(b"\x89PNG")


def test_regressors_without_physics_at_many_temperatures(
    prefect_server: str, mlflow_uri: str, tmp_path: Path, table: Path
) -> None:
    """An output a temperature; held-out ones lie on the line between their neighbours."""
    frame = pd.read_csv(table).head(80)
    frame["id"] = [f"c{i}" for i in range(len(frame))]
    parts = [frame.assign(temperature=t, cv=frame["cv"] * t / 300) for t in (200.0, 300.0, 400.0)]
    path = tmp_path / "long.parquet"
    pd.concat(parts).to_parquet(path)
    fit = FitSettings(epochs=3, batch_size=16, optimiser=OptimiserSettings(learning_rate=3e-3))
    config = DebyeConfig(
        data=ThermalData(path=str(path), temperature="temperature", id="id"),
        split=Split(held_out_temperatures=(300.0,)),
        from_scratch=TINY,
        fit=fit,
        report_per="atom",
    )
    split = split_table(config.data, config.split)
    for with_atoms in (True, False):
        found = []
        for place in ("once", "again"):  # the same rows, seed and start: the same model
            folder = tmp_path / f"{place}-{with_atoms}"
            job = direct_job(folder, split, with_atoms, fit, TINY, {"from_scratch": TINY})
            fit_job(job)
            found.append(direct_values(job, split, with_atoms))
        values, again = found
        assert values.shape == split.test.values.shape == (len(split.test), 3)
        assert values[:, 1] == pytest.approx((values[:, 0] + values[:, 2]) / 2)
        assert np.std(values[:, 0]) > 0  # it tells crystals apart
        assert np.array_equal(values, again)
    rows = {row["model"]: row for row in debye(config).comparison}
    assert len(rows) == 5
    assert all({"MAE", "MAE/MAD", "R2", "held-out T: MAE/MAD"} <= set(row) for row in rows.values())
