"""Labelled rows from files and tables, benchmark files, baselines and the search."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pymatgen.core import Lattice, Structure
from sklearn.ensemble import RandomForestRegressor

from cloud_core.evaluation.baselines import BASELINES, composition_forest
from cloud_core.evaluation.data.catalogue import BenchmarkError, BenchmarkTask, load_task
from cloud_core.evaluation.data.dataset import Dataset, DatasetError, from_file, from_table, require_labels
from cloud_core.evaluation.data.folds import Split, split_by_group
from cloud_core.files import FrameError
from cloud_core.lake.table import Table
from cloud_core.models.targets import Target
from cloud_core.scope import canonicalise, encode
from cloud_core.scope.features import composition_of
from cloud_core.training.loop import FitSettings
from cloud_core.training.search import Space, search

SALT = "Na 0.5 Cl 0.5"


def rock_salt(first: str, second: str) -> Structure:
    return Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(5.6), [first, second], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )


@pytest.fixture(scope="module")
def published(shared: Path) -> pd.DataFrame:
    return pd.read_csv(shared / "data/cloud_example/finetune_dielectric_train_and_val.csv")


def test_rows_of_a_file(published: pd.DataFrame, tmp_path: Path) -> None:
    frame = published.head(20).copy()
    frame.loc[3, "n"] = np.nan
    frame.loc[5, "scope"] = None
    frame.to_csv(tmp_path / "rows.csv.gz", index=False)
    data = from_file(tmp_path / "rows.csv.gz", [Target("n")], scope_column="scope")
    assert len(data) == 18
    assert data.left_out == {"no label": 1, "no string": 1}
    assert data.ids[:5] == ("0", "1", "2", "4", "6")
    assert data.texts[0] == canonicalise(frame["scope"][0])
    official = from_file(tmp_path / "rows.csv.gz", [Target("n")], scope_column="scope", form="official")
    assert official.texts[0] == frame["scope"][0]
    assert official.keys == data.texts
    # published strings are the official form of the canonical ones that are learned from
    assert data.forms() == {"official": official.texts, "canonical": data.texts} == official.forms()
    split = split_by_group(data.keys, 0.2, 0.2, 0)
    data.save(tmp_path / "kept.parquet", split)
    back, again = Dataset.load(tmp_path / "kept.parquet")
    assert back.forms() == data.forms()
    assert back.targets == data.targets
    np.testing.assert_array_equal(back.labels, data.labels)
    assert all(np.array_equal(a, b) for a, b in zip(split, again, strict=True))


def test_what_cannot_be_used_is_told(tmp_path: Path) -> None:
    pd.DataFrame({"scope": ["nonsense"], "y": [1.0]}).to_csv(tmp_path / "bad.csv", index=False)
    with pytest.raises(DatasetError, match=r"bad.csv: row 0, column 'scope': .*nonsense"):
        from_file(tmp_path / "bad.csv", [Target("y")], scope_column="scope")
    with pytest.raises(DatasetError, match="no column 'z'"):
        from_file(tmp_path / "bad.csv", [Target("z")], scope_column="scope")
    with pytest.raises(FrameError, match="no such file"):
        from_file(tmp_path / "none.csv", [Target("y")], scope_column="scope")
    with pytest.raises(DatasetError, match="either"):
        from_file(tmp_path / "bad.csv", [Target("y")])
    classes = Target("y", kind="classification", classes=("a", "b"))
    with pytest.raises(DatasetError, match="not one of a, b"):
        from_file(tmp_path / "bad.csv", [classes], scope_column="scope")


def test_an_infinite_label_is_told_by_row_and_column(tmp_path: Path) -> None:
    text = encode(rock_salt("Na", "Cl")).canonical
    frame = pd.DataFrame({"scope": [text] * 3, "name": ["a", "b", "c"], "y": [1.0, np.inf, np.nan]})
    frame.to_csv(tmp_path / "rows.csv", index=False)
    with pytest.raises(DatasetError, match=r"rows.csv: row b, label 'y': inf is not finite"):
        from_file(tmp_path / "rows.csv", [Target("y")], scope_column="scope", id_column="name")


def test_zero_and_one_are_truth_values(tmp_path: Path) -> None:
    text = encode(rock_salt("Na", "Cl")).canonical
    target = Target("y", kind="classification", classes=("False", "True"))
    for values in ([0, 1, None], [False, True, None], ["False", "True", None]):
        pd.DataFrame({"scope": [text] * 3, "y": values}).to_csv(tmp_path / "rows.csv", index=False)
        data = from_file(tmp_path / "rows.csv", [target], scope_column="scope")
        assert data.labels[:, 0].tolist() == [0.0, 1.0]


def test_each_target_is_known_in_each_part() -> None:
    labels = np.array([[1.0, 1.0], [2.0, np.nan], [3.0, 2.0]])
    names = ("a", "b", "c")
    data = Dataset(names, names, names, labels, (Target("n"), Target("gap")), "canonical")
    train, middle, test = np.array([0]), np.array([1]), np.array([2])
    require_labels(data, Split(np.array([0, 1]), test, test))
    with pytest.raises(DatasetError, match="target 'gap': none of the 1 validation rows"):
        require_labels(data, Split(train, middle, test))
    with pytest.raises(DatasetError, match="target 'gap': none of the 1 test rows"):
        require_labels(data, Split(train, test, middle))


def test_rows_of_a_table(tmp_path: Path) -> None:
    table = Table.create(str(tmp_path / "structures"))
    text = encode(rock_salt("Na", "Cl")).canonical
    rows = {
        "structure_id": ["s:1", "s:2", "s:3"],
        "status": ["encoded"] * 3,
        "canonical": [text, text.replace("Na", "K"), text.replace("Na", "Rb")],
        "official": ["as published", None, None],
        "labels": pa.array(
            [[("gap", 1.5)], [("energy", -2.0), ("gap", 2.5)], None], pa.map_(pa.string(), pa.float64())
        ),
    }
    table.append_chunk(pa.table(rows), "chunk")
    data, snapshot = from_table(str(tmp_path / "structures"), [Target("gap"), Target("energy")])
    by_id = dict(zip(data.ids, data.labels.tolist(), strict=True))
    assert set(by_id) == {"s:1", "s:2"}
    assert by_id["s:2"] == [2.5, -2.0]
    assert dict(zip(data.ids, data.forms()["official"], strict=True)) == {"s:1": "as published", "s:2": None}
    assert np.isnan(by_id["s:1"][1])
    assert data.left_out == {"no label": 1}
    assert (snapshot.n_rows, snapshot.version) == (3, table.version)
    # units that the table declares: of another scale they are converted, of another quantity refused
    columns = {name: rows[name] for name in ("status", "official", "labels")}
    again = {"structure_id": ["u:1", "u:2", "u:3"], "canonical": [f"{text}"] * 3}
    units = [[("gap", "meV")], [("energy", "eV/atom"), ("gap", "eV")], None]
    declared = {"label_units": pa.array(units, pa.map_(pa.string(), pa.string()))}
    other = Table.create(str(tmp_path / "units"))
    other.append_chunk(pa.table(again | columns | declared), "chunk")
    data, _ = from_table(other.uri, [Target("gap", "eV"), Target("energy", "kJ/mol/atom")][:1])
    assert sorted(data.labels[:, 0]) == [0.0015, 2.5]
    with pytest.raises(DatasetError, match="'gap' is in meV, and the configuration says GPa"):
        from_table(other.uri, [Target("gap", "GPa")])
    with pytest.raises(DatasetError, match="labels: energy, gap"):
        from_table(str(tmp_path / "structures"), [Target("bulk")])
    with pytest.raises(DatasetError, match="official"):
        from_table(str(tmp_path / "structures"), [Target("gap")], "official")


def test_unconvbench_files_as_published(tmp_path: Path) -> None:
    # split-form JSON of pymatgen structures, rows numbered, KFold with random_state 42
    pairs = [(a, b) for a in ("Li", "Na", "K", "Rb", "Cs") for b in ("F", "Cl")]
    published = {
        "index": list(range(len(pairs))),
        "columns": ["structure", "gap"],
        "data": [[rock_salt(a, b).as_dict(), float(i)] for i, (a, b) in enumerate(pairs)],
    }
    (tmp_path / "ub_unconvbench_salts.json").write_text(json.dumps(published))
    task = BenchmarkTask(
        "unconvbench_salts", "ub_unconvbench_salts", "gap", "eV", 10, "unconvbench_salts", fold_seed=42
    )
    data = load_task(task, tmp_path)
    assert data.ids[0] == "unconvbench_salts-01"
    assert data.texts[0] == encode(rock_salt("Li", "F")).canonical
    assert data.forms()["official"][0] == encode(rock_salt("Li", "F"), forms=("official",)).official
    from sklearn.model_selection import KFold

    expected = [test for _, test in KFold(5, shuffle=True, random_state=42).split(range(10))]
    assert all(np.array_equal(a, b) for a, b in zip(task.folds(data), expected, strict=True))
    short = BenchmarkTask(**(task.__dict__ | {"n_rows": 11}))
    with pytest.raises(BenchmarkError, match="10 rows, not 11"):
        load_task(short, tmp_path)
    with pytest.raises(BenchmarkError, match="fetch it"):
        load_task(task, tmp_path / "nowhere")


def test_refused_structures_are_counted(tmp_path: Path) -> None:
    good = json.dumps(rock_salt("Na", "Cl").as_dict())
    frame = pd.DataFrame({"structure": [good, '{"no": "structure"}'], "y": [1.0, 2.0]})
    frame.to_parquet(tmp_path / "rows.parquet")
    data = from_file(tmp_path / "rows.parquet", [Target("y")], structure_column="structure")
    assert len(data) == 1
    assert sum(data.left_out.values()) == 1


def test_structures_may_be_bytes(tmp_path: Path) -> None:
    cif = rock_salt("Na", "Cl").to(fmt="cif").encode()
    pd.DataFrame({"structure": [cif], "y": [1.0]}).to_parquet(tmp_path / "rows.parquet")
    data = from_file(tmp_path / "rows.parquet", [Target("y")], structure_column="structure")
    assert data.texts == (encode(rock_salt("Na", "Cl")).canonical,)


def test_a_class_without_training_rows_keeps_its_column(published: pd.DataFrame) -> None:
    texts = published["scope"].head(40).tolist()
    for known in ([0, 2], [2, 2]):  # of three classes
        labels = np.array(known * 20, dtype=float)
        for name, run in BASELINES.items():
            shares = run(texts, labels, texts[:2], 3, 0)
            assert shares.shape == (2, 3), name
            np.testing.assert_allclose(shares.sum(axis=1), 1.0, err_msg=name)
            assert not shares[:, 1].any(), name


def test_features_of_baselines(published: pd.DataFrame) -> None:
    texts = published["scope"].head(50).tolist()
    features = composition_of(texts)
    np.testing.assert_allclose(features.sum(axis=1), 1.0, atol=0.03)  # fractions are rounded
    assert features[0, [16, 19]].tolist() == [0.5, 0.5]  # S 0.5 K 0.5


def test_baselines_beat_the_mean(published: pd.DataFrame) -> None:
    rows = published.sample(600, random_state=0)
    texts, labels = rows["scope"].tolist(), rows["n"].to_numpy()
    errors = {
        name: np.abs(run(texts[:500], labels[:500], texts[500:], None, 0) - labels[500:]).mean()
        for name, run in BASELINES.items()
    }
    assert errors["composition random forest"] < 0.8 * errors["mean"]
    assert errors["boosting"] < 0.8 * errors["mean"]
    forest = RandomForestRegressor(200, max_features=1 / 3, random_state=0)
    forest.fit(composition_of(texts[:500]), labels[:500])
    said = forest.predict(composition_of(texts[500:]))
    ours = composition_forest(texts[:500], labels[:500], texts[500:], None, 0)
    np.testing.assert_allclose(ours, said)
    metal = (labels > np.median(labels)).astype(float)
    for name, run in BASELINES.items():
        shares = run(texts[:500], metal[:500], texts[500:], 2, 0)
        np.testing.assert_allclose(shares.sum(axis=1), 1.0, err_msg=name)


def test_search_finds_the_best_rate_and_begins_with_the_present_one() -> None:
    tried: list[float] = []

    def loss(number: int, settings: FitSettings) -> float:
        tried.append(settings.optimiser.learning_rate)
        assert number == len(tried) - 1
        return float(abs(np.log10(settings.optimiser.learning_rate) + 3.5))

    best, value = search(Space(layer_decay=None), FitSettings(), trials=30, seed=0, loss=loss)
    assert tried[0] == FitSettings().optimiser.learning_rate
    assert value == min(abs(np.log10(rate) + 3.5) for rate in tried)
    assert best.optimiser.learning_rate == pytest.approx(10**-3.5, rel=0.3)
    assert best.optimiser.layer_decay == FitSettings().optimiser.layer_decay
