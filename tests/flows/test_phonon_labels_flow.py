"""Labels from the phonon data set: every row accounted for, units, agreement, no test crystal among them."""

from pathlib import Path

import pandas as pd
import pytest

from cloud_core.evaluation.data.folds import split_by_group
from cloud_core.evaluation.thermal.data import Split, ThermalData, read_thermal, split_table
from cloud_core.evaluation.thermal.phonon_labels import PhononData, PhononLabels
from cloud_core.scope import canonicalise
from flows.phonon_labels import PhononLabelsConfig, phonon_labels

FILE = "data/phonon/phdos_tutorial_data_1521.csv.gz"


def test_whole_data_set(prefect_server: str, shared: Path, project: Path, tmp_path: Path) -> None:
    known = ThermalData(path=str(project / "flows/demo_data/heat_capacity.csv"))
    config = PhononLabelsConfig(
        data=PhononData(path=str(shared / FILE)),
        known=known,
        labels=PhononLabels(temperatures="100:1000:100"),
        to=tmp_path / "labels.parquet",
    )
    counts = phonon_labels(config).counts
    assert counts.read == 1521
    left_out = (
        counts.refused
        + counts.without_known_label
        + counts.disagreeing
        + counts.left_out_as_test
        + counts.double
    )
    assert counts.read == counts.written + left_out
    assert 600 < counts.written < 1000

    rows = pd.read_parquet(config.to)
    assert len(rows) == 10 * counts.written and not rows.isna().any().any()
    # units: per mole of atoms, below Dulong and Petit's 24.94 J/(mol K), rising; U from C_v
    assert rows["heat_capacity"].between(0.5, 24.95).all()
    wide = rows.pivot(index="id", columns="temperature", values="heat_capacity")
    assert (wide.diff(axis=1).iloc[:, 1:] > 0).all().all()
    energy = rows.pivot(index="id", columns="temperature", values="internal_energy")
    slope = (energy[1000.0] - energy[900.0]) / 100
    between = (wide[1000.0] + wide[900.0]) / 2
    assert (slope / between - 1).abs().max() < 1e-3
    # they agree with the known values at 300 K, per cell of their own atoms
    table = read_thermal(known)
    value = dict(zip(table.texts, table.values[:, 0], strict=True))
    at = rows[rows["temperature"] == 300.0]
    off = at["heat_capacity"] / at["scope"].map(value) - 1
    assert off.abs().median() < 0.003
    # no crystal of the known labels' test rows is among them
    tested = {table.texts[row] for row in split_by_group(table.texts, 0.2, 0.1, 0).test}
    assert not tested & set(rows["scope"]) and len(tested) > 200
    assert all(canonicalise(text) == text for text in rows["scope"].head(50))

    parts = split_table(
        ThermalData(
            path=str(config.to), scope="scope", value="heat_capacity", basis="atom",
            temperature="temperature", id="id",
        ),
        Split(seed=1, held_out_temperatures=(300.0,)),
    )  # fmt: skip
    assert not set(parts.train.texts) & set(parts.test.texts)
    assert 300.0 not in parts.train.temperatures and 300.0 in parts.test.temperatures


def test_temperatures_below_the_valid_range_are_refused(prefect_server: str, tmp_path: Path) -> None:
    config = PhononLabelsConfig(
        data=PhononData(path="x.csv"),
        known=ThermalData(path="y.csv"),
        labels=PhononLabels(temperatures="20,300"),
        to=tmp_path / "labels.parquet",
    )
    with pytest.raises(ValueError, match="valid from 100 K up"):
        phonon_labels(config)
    assert not config.to.exists()
