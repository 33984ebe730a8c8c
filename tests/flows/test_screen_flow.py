"""Screening of real WBM structures through a real Prefect server, resumed, evaluated and ranked."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from pymatgen.core import Composition

from cloud_core.evaluation.discovery import discovery_metrics
from cloud_core.evaluation.screening.candidates import (
    Reference,
    ScopeFile,
    candidates_of_file,
    hull_distances,
    reference_hull,
    run_folder,
    shard_path,
)
from cloud_core.evaluation.screening.evaluation import Labels, evaluate_labels
from cloud_core.evaluation.screening.hull import Hull
from cloud_core.inference.predictor import Predictor
from cloud_core.lake.pins import pins
from cloud_core.lake.table import Table
from cloud_core.models.ensemble import Ensemble
from cloud_core.models.geometry import EncoderConfig
from cloud_core.models.heads import PropertyModel
from cloud_core.models.targets import Target
from cloud_core.models.training_keys import TrainingKeys
from flows.debye import DebyeConfig
from flows.phonon_labels import PhononLabelsConfig
from flows.screen import ScreenConfig, ScreenResult, Submission, screen
from tasks.screening import predict_all
from tasks.tracking import mlflow_client

TINY = EncoderConfig(hidden_size=16, layers=1, heads=2, feed_forward=32)
N = 60
ENERGY = "e_form_per_atom_mp2020_corrected"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained ensemble: what is tested is what becomes of its predictions."""
    members = [
        PropertyModel(TINY, [Target("formation_energy", "eV/atom", mean=-0.4, deviation=0.6)])
        for _ in range(2)
    ]
    folder = tmp_path_factory.mktemp("models") / "ensemble"
    return Ensemble(members).save(folder, {"form": "canonical"})


@pytest.fixture
def wbm(project: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Candidates (one of them spoiled, one twice under two ids) and a label file of the published schema."""
    data = project / "flows/demo_data"
    structures = pd.read_parquet(data / "candidates.parquet").head(N)
    labels = pd.read_csv(data / "candidate_labels.csv")
    labels = labels[labels["material_id"].isin(structures["material_id"])].reset_index(drop=True)
    labels["unique_prototype"] = np.arange(len(labels)) % 3 > 0
    species = structures.columns.get_loc("species")
    structures.iloc[0, species] = "Xx" + structures.iloc[0, species][2:]
    labels.to_csv(tmp_path / "wbm-summary.csv.gz", index=False)
    double = structures.iloc[[5]].assign(material_id="double")
    pd.concat([structures, double]).to_parquet(tmp_path / "candidates.parquet")
    return tmp_path / "candidates.parquet", tmp_path / "wbm-summary.csv.gz"


@pytest.mark.integration
def test_screens_structures(
    prefect_server: str,
    mlflow_uri: str,
    runs: Path,
    model: Path,
    wbm: tuple[Path, Path],
    dask_workers: dict[str, str],
    tmp_path: Path,
) -> None:
    structures, labels = wbm
    config = ScreenConfig(
        name="wbm",
        model=str(model),
        source=str(structures),
        labels=Labels(path=str(labels), partial=True, note="a sample"),
        shortlist=10,
        shard_rows=25,
        submission=Submission(model_key="cloud", expected_rows=N + 1, facts={"model_name": "CLOUD"}),
        cluster=dask_workers,
    )
    result = screen(config)
    assert (result.n_candidates, result.n_shards, result.n_shards_there) == (N + 1, 3, 0)
    (encoded,) = (runs / "lake").glob("candidates-wbm")
    version = Table.open(str(encoded)).version
    assert pins(str(encoded)) == {f"screen-wbm-v{version}": version}  # what the run names, vacuum keeps
    assert result.n_predicted == N  # the spoiled one has no string
    assert result.n_evaluated == N

    rows = pd.read_parquet(result.predictions).set_index("id")
    truth = pd.read_csv(labels).set_index("material_id")
    assert result.dropped == {"without a score": 2, "duplicate": 0}  # no string, no label
    assert result.n_seen is None  # the folder of this model does not say what it was trained on
    pool = rows[rows["rank"].notna() & rows["duplicate_of"].isna()]
    assert result.n_predicted_stable == (pool["hull_distance"] <= 0).sum()
    (lift,) = result.lift
    stable = pool["hull_distance_true"] <= 0
    assert (lift.against, lift.taken, lift.rows) == ("random", 10, N - 1)
    assert lift.precision == stable.head(10).mean() and lift.reference == pytest.approx(stable.mean())
    assert rows["reason"].notna().sum() == 1 and rows.loc[rows["reason"].notna(), "rank"].isna().all()
    each = truth["e_above_hull_mp2020_corrected_ppd_mp"]
    expected = each + rows["formation_energy"].reindex(truth.index) - truth[ENERGY]
    assert np.allclose(rows["hull_distance"].reindex(truth.index), expected, equal_nan=True)
    assert result.metrics["full"] == pytest.approx(discovery_metrics(each, expected))
    assert result.metrics["full"]["missing"] == 1
    error = (rows["formation_energy"].reindex(truth.index) - truth[ENERGY]).abs()
    assert result.formation_energy["MAE"] == pytest.approx(error.mean())
    assert (result.formation_energy["rows"], result.formation_energy["missing"]) == (N - 1, 1)
    assert set(result.metrics) == {"full", "unique_prototypes", "most_stable_10k"}
    assert (rows["formation_energy_std"].dropna() > 0).all()

    # the registered model gives the same answers for the strings
    some = rows[rows["scope"].notna()].head(5)
    again = Predictor.load(model).predict_texts(some["scope"].tolist())["formation_energy"]
    assert np.allclose(again, some["formation_energy"], atol=1e-5)

    best = pd.read_csv(result.shortlist)
    assert len(best) == 10 and best["hull_distance"].is_monotonic_increasing
    assert list(best.columns[:7]) == [
        "rank", "structure_id", "id", "formula", "space_group", "hull_distance", "hull_distance_std",
    ]  # fmt: skip
    joined = best.merge(Table.open(str(encoded)).scope().to_pandas(), on="structure_id")
    assert len(joined) == 10 and (joined["space_group_x"] == joined["space_group_y"]).all()
    for shown, published in zip(best["formula"], truth["formula"].loc[best["id"]], strict=True):
        assert Composition(shown) == Composition(published).reduced_composition
    pd.testing.assert_frame_equal(
        pd.read_parquet(Path(result.shortlist).with_suffix(".parquet"))[["id", "score"]],
        best[["id", "score"]],
    )
    twins = rows[rows["key"] == rows.loc["double", "key"]]
    (named,) = twins["duplicate_of"].dropna()
    assert len(twins) == 2 and twins.loc[named, "duplicate_of"] is None

    submitted, document = result.submission
    assert list(pd.read_csv(submitted).columns) == ["material_id", "e_form_per_atom_cloud"]
    assert len(pd.read_csv(submitted)) == N + 1
    facts = yaml.safe_load(Path(document).read_text())
    assert facts["metrics"]["discovery"]["full_test_set"]["F1"] == pytest.approx(
        result.metrics["full"]["F1"], abs=1e-3
    )
    members, _ = Ensemble.load(model)
    assert (facts["n_estimators"], facts["model_params"]) == (2, sum(p.numel() for p in members.parameters()))
    assert len(result.figures) == 5 and all(Path(f).stat().st_size > 5_000 for f in result.figures)

    run = mlflow_client().get_run(result.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["input.candidates.rows"] == str(N)
    assert run.data.metrics["full.MAE"] == pytest.approx(result.metrics["full"]["MAE"])
    assert run.data.metrics["formation_energy.MAE"] == pytest.approx(result.formation_energy["MAE"])

    # again, with one shard lost: only that one is predicted, and the files are the same
    before = Path(result.predictions).read_bytes()
    shard_path(Path(result.folder), 1).unlink()
    second = screen(config)
    assert second.n_shards_there == 2 and second.folder == result.folder
    assert pd.read_parquet(second.predictions).equals(pd.read_parquet(result.predictions))
    assert len(Path(second.predictions).read_bytes()) == len(before)

    # any table of structures, without labels: the hull of known crystals, and novelty against them
    table = str(runs / "lake" / "candidates-wbm")
    energies = runs / "energies.csv"
    pd.DataFrame(
        {
            "formula_pretty": truth["formula"],
            "formation_energy_per_atom": truth[ENERGY],
        }
    ).to_csv(energies, index=False)
    other = screen(
        ScreenConfig(
            name="other",
            model=str(model),
            table=table,
            hull=Reference(energies=str(energies)),
            known=Reference(table=table),
            shortlist=5,
        )
    )
    rows = pd.read_parquet(other.predictions)
    assert not other.metrics and rows["hull_distance"].notna().sum() == N
    there = rows["key"].notna()
    assert rows.loc[there, "known_crystal"].all() and rows.loc[there, "known_formula"].all()

    # the same labels with candidates dropped first, k > 0, and a forest of the known crystals' energies
    known = str(runs / "lake" / "known")
    half = Table.open(table).scope().slice(0, N // 2)
    ids = [text.partition(":")[2] for text in half["structure_id"].to_pylist()]
    given = [[("energy", energy)] for energy in truth[ENERGY].reindex(ids, fill_value=-1.0)]
    place = half.schema.get_field_index("labels")
    half = half.set_column(place, "labels", pa.array(given, half.schema.field("labels").type))
    Table.create(known).append_chunk(half, "chunk")
    dropping = screen(
        config.model_copy(
            update={
                "name": "dropping",
                "source": None,
                "table": table,
                "known": Reference(table=known, formation_energy="energy"),
                "drop_known": ("formulas", "crystals"),
                "forest": True,
                "k": 1.0,
                "submission": None,
            }
        )
    )
    rows = pd.read_parquet(dropping.predictions)
    best = pd.read_csv(dropping.shortlist)
    assert dropping.dropped["known crystal"] >= N // 2 - 1 and len(best) == 10
    assert not best["known_formula"].any() and not best["known_crystal"].any()
    assert not set(best["id"]) & set(ids)
    assert np.allclose(best["score"], best["hull_distance"] + best["hull_distance_std"])
    assert best["score"].is_monotonic_increasing
    assert [each.against for each in dropping.lift] == ["random", "composition forest"]
    assert dropping.metrics == result.metrics  # of all candidates, whatever the shortlist may name
    logged = mlflow_client().get_run(dropping.run_id)
    assert logged.data.metrics["dropped.known_crystal"] == dropping.dropped["known crystal"]
    assert logged.data.metrics["lift.random"] == pytest.approx(dropping.lift[0].lift)
    with get_client(sync_client=True) as prefect:
        filters = ArtifactFilter(key=ArtifactFilterKey(any_=["dropping-shortlist"]))
        (artifact,) = prefect.read_artifacts(artifact_filter=filters)
    first = json.loads(artifact.data)[0]
    assert first["structure_id"] == best["structure_id"][0] and "σ, eV/atom" in first
    assert f"{dropping.dropped['known crystal']} known crystal" in artifact.description
    # crystals that the model was trained on are counted and marked
    told = shutil.copytree(model, tmp_path / "told")
    canonical = pd.read_parquet(result.predictions).set_index("id")["canonical"]
    trained = canonical.dropna().head(7)
    TrainingKeys.of({"formation_energy": trained, "other": canonical.dropna()}).write(told)
    again = screen(config.model_copy(update={"model": str(told)}))
    assert (again.n_shards_there, again.n_seen) == (3, canonical.isin(trained).sum())
    seen = pd.read_parquet(again.predictions).set_index("id")["seen_in_training"]
    assert seen[canonical.index].tolist() == canonical.isin(trained).tolist()


def test_labels_and_candidates_that_do_not_fit_are_errors(tmp_path: Path) -> None:
    """Rows of either side that the other lacks, a cut file, another number than a submission takes."""
    labels = pd.DataFrame(
        {
            "material_id": ["a", "b", "c"],
            ENERGY: [-1.0, np.nan, -0.5],
            "e_above_hull_mp2020_corrected_ppd_mp": [0.1, -0.2, np.nan],
        }
    )
    labels.to_csv(tmp_path / "labels.csv", index=False)
    given = Labels(path=str(tmp_path / "labels.csv"))
    output = pd.DataFrame({"id": ["a", "b", "c"], "energy": [-0.8, -1.0, np.nan]})
    evaluated = evaluate_labels(given, output, "energy", 0.0)
    # b has no true formation energy: not evaluated, and not taken for a missing prediction
    assert evaluated.n_evaluated == 1 and evaluated.subsets["full"].metrics["missing"] == 0
    assert evaluated.output["hull_distance"].tolist()[:1] == [pytest.approx(0.3)]
    assert evaluated.formation_energy["rows"] == 1 and evaluated.formation_energy["missing"] == 1
    assert evaluated.formation_energy["MAE"] == pytest.approx(0.2)
    with pytest.raises(ValueError, match="1 ids are not among the 3 labels, as d"):
        evaluate_labels(given, pd.concat([output, output.tail(1).assign(id="d")]), "energy", 0.0)
    with pytest.raises(ValueError, match="c is absent"):
        evaluate_labels(given, output.head(2), "energy", 0.0)
    with pytest.raises(ValueError, match="3 rows where 4 belong"):
        evaluate_labels(given.model_copy(update={"expected_rows": 4}), output, "energy", 0.0)
    partial = given.model_copy(update={"partial": True})
    more = evaluate_labels(partial, pd.concat([output, output.tail(1).assign(id="d")]), "energy", 0.0)
    assert more.n_evaluated == 1 and len(more.output) == 4
    with pytest.raises(ValueError, match="c is absent"):
        evaluate_labels(partial, output.head(2), "energy", 0.0)


def test_another_number_of_candidates_than_a_submission_takes_is_told_first(
    prefect_server: str, mlflow_uri: str, runs: Path, model: Path, scope_file: Path
) -> None:
    config = ScreenConfig(
        model=str(model),
        file=ScopeFile(path=str(scope_file), id="name", scope="cloud"),
        labels=Labels(path="never read"),
        submission=Submission(model_key="cloud"),
    )
    with pytest.raises(ValueError, match="40 candidates where a submission has 256,963"):
        screen(config)
    assert not (runs / "screening").exists()  # nothing was predicted


@pytest.fixture
def scope_file(project: Path, tmp_path: Path) -> Path:
    frame = pd.read_csv(project / "flows/demo_data/heat_capacity.csv").head(40)
    frame = frame.assign(name=[f"crystal-{i:02d}" for i in range(40)])
    frame.loc[7, "cloud"] = "0 2 a | nonsense"
    frame.to_csv(tmp_path / "strings.csv", index=False)
    return tmp_path / "strings.csv"


def test_strings_alone_ranked_by_a_window(
    prefect_server: str, mlflow_uri: str, model: Path, scope_file: Path
) -> None:
    result = screen(
        ScreenConfig(
            model=str(model),
            file=ScopeFile(path=str(scope_file), id="name", scope="cloud"),
            windows={"formation_energy": {"low": -0.5, "high": -0.3}},
            shortlist=4,
        )
    )
    rows = pd.read_parquet(result.predictions)
    assert rows["score"].dropna().is_monotonic_increasing
    bad = rows[rows["id"] == "crystal-07"].iloc[0]
    assert bad["reason"].startswith("invalid_scope") and np.isnan(bad["formation_energy"])


def test_an_interrupted_prediction_goes_on(
    prefect_server: str, tmp_path: Path, model: Path, scope_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates = candidates_of_file(ScopeFile(path=str(scope_file), id="name", scope="cloud"), "canonical")
    folder = run_folder(tmp_path / "run", candidates, model, "float32", 10)
    whole, there = predict_all(folder, model, "float32", "predict")
    assert there == 0 and len(whole) == 40
    # what a killed run leaves: whole shards, a partial file, and none of the rest
    shard_path(folder, 2).unlink()
    shutil.copy(shard_path(folder, 1), folder / "shards" / ".00002.parquet.partial")
    again, there = predict_all(folder, model, "float32", "predict")
    assert there == 3
    pd.testing.assert_frame_equal(again, whole)
    # another model, another folder
    other = PropertyModel(TINY, [Target("formation_energy")]).save(tmp_path / "other", {"form": "canonical"})
    assert run_folder(tmp_path / "run", candidates, other, "float32", 10) != folder
    # a model that is replaced in its folder is not answered for by the one before
    torch.manual_seed(1)
    PropertyModel(TINY, [Target("formation_energy")]).save(tmp_path / "other", {"form": "canonical"})
    first = run_folder(tmp_path / "other-run", candidates, other, "float32", 10)
    before, _ = predict_all(first, other, "float32", "predict")
    PropertyModel(TINY, [Target("formation_energy")]).save(tmp_path / "other", {"form": "canonical"})
    second = run_folder(tmp_path / "other-run", candidates, other, "float32", 10)
    after, there = predict_all(second, other, "float32", "predict")
    assert there == 0 and not np.allclose(
        before["formation_energy"], after["formation_energy"], equal_nan=True
    )
    # shards that do not belong to the candidates are not taken for theirs
    rows = pq.read_table(shard_path(folder, 0))
    pq.write_table(rows.slice(1), shard_path(folder, 0))
    with pytest.raises(ValueError, match="shards do not fit"):
        predict_all(folder, model, "float32", "predict")


@pytest.mark.slow
@pytest.mark.integration
def test_killed_at_random_moments_it_goes_on_to_the_same_predictions(
    prefect_server: str, tmp_path: Path, model: Path, project: Path
) -> None:
    """A real process, killed twice in mid-prediction: what it left is kept, and the end is the same."""
    strings = pd.read_csv(project / "flows/demo_data/heat_capacity.csv").head(600)
    strings.assign(name=[f"crystal-{i:03d}" for i in range(600)]).to_csv(tmp_path / "strings.csv")
    given = {
        "model": str(model),
        "file": {"path": str(tmp_path / "strings.csv"), "id": "name", "scope": "cloud"},
        "windows": {"formation_energy": {"high": -0.3}},
        "shard_rows": 10,
    }
    (tmp_path / "screen.yaml").write_text(yaml.safe_dump(given))

    def start(runs: str) -> "subprocess.Popen[str]":
        environment = {"PREFECT_API_URL": prefect_server, "CLOUD_RUNS": str(tmp_path / runs)}
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "flows.cli",
                "run",
                "screen",
                "--config",
                str(tmp_path / "screen.yaml"),
                "--json",
            ],
            cwd=project,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def shards(runs: str) -> dict[str, int]:
        """Name of each shard that is there -> when it was written."""
        found = (tmp_path / runs).glob("screening/*/shards/[0-9]*.parquet")
        return {path.name: path.stat().st_mtime_ns for path in found}

    def finish(process: "subprocess.Popen[str]") -> ScreenResult:
        output, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
        return ScreenResult.model_validate_json(output[output.index("{") :])

    whole = finish(start("undisturbed"))
    assert (whole.n_shards, whole.n_shards_there) == (60, 0)
    moments = random.Random(5)
    kept: dict[str, int] = {}
    for n in (moments.randint(2, 15), moments.randint(20, 40)):
        process = start("killed")
        while process.poll() is None and len(shards("killed")) < n:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it was over before it could be killed"
        left = shards("killed")
        assert n <= len(left) < 60 and kept.items() <= left.items()  # none was written again
        kept = left
    result = finish(start("killed"))
    assert (result.n_shards, result.n_shards_there) == (60, len(kept))
    assert kept.items() <= shards("killed").items() and len(shards("killed")) == 60
    pd.testing.assert_frame_equal(
        pd.read_parquet(result.predictions), pd.read_parquet(whole.predictions), check_exact=True
    )
    assert Path(result.shortlist).read_bytes() == Path(whole.shortlist).read_bytes()


def test_hull_of_a_table_of_structures(project: Path, tmp_path: Path) -> None:
    uri = str(tmp_path / "table")
    table = Table.create(uri)
    rows = [
        {"structure_id": "s:a", "status": "encoded", "elements": ["Cl", "Na"], "fractions": [0.5, 0.5],
         "labels": [("formation_energy_per_atom", -2.1)]},
        {"structure_id": "s:b", "status": "encoded", "elements": ["Na"], "fractions": [1.0], "labels": []},
    ]  # fmt: skip
    from cloud_core.lake.schemas import STRUCTURES

    names = ["structure_id", "status", "elements", "fractions", "labels"]
    schema = pa.schema([STRUCTURES.field(name) for name in names])
    table.append_chunk(pa.Table.from_pylist(rows, schema), "chunk")
    hull = reference_hull(Reference(table=uri))
    assert hull.energy({"Na": 1, "Cl": 1}) == pytest.approx(-2.1)
    assert hull.energy({"Na": 3, "Cl": 1}) == pytest.approx(-1.05)
    with pytest.raises(ValueError, match="no formation energies"):
        reference_hull(Reference(table=uri, formation_energy="energy"))


def test_hull_of_the_published_training_energies(tmp_path: Path) -> None:
    """`mp-energies.csv.gz` as it is: its columns are the defaults."""
    path = tmp_path / "mp-energies.csv.gz"
    pd.DataFrame(
        {
            "material_id": ["mp-1", "mp-22862", "mp-0"],
            "formula_pretty": ["Cs", "NaCl", "NaCl3"],
            "formation_energy_per_atom": [0.03, -2.1, np.nan],
            "energy_per_atom": [-0.85, -3.4, -3.0],
            "energy_above_hull": [0.03, 0.0, 0.0],
            "decomposition_enthalpy": [0.03, -2.1, 0.0],
            "energy_type": ["GGA", "GGA", "GGA"],
        }
    ).to_csv(path, index=False)
    hull = reference_hull(Reference(energies=str(path)))
    assert hull.energy({"Cs": 1}) == 0.0  # the element itself, not the metastable crystal
    assert hull.energy({"Na": 1, "Cl": 3}) == pytest.approx(-1.05)
    with pytest.raises(ValueError, match="no column composition; columns: material_id, formula_pretty"):
        reference_hull(Reference(energies=str(path), formula="composition"))


def test_bad_input_is_named(tmp_path: Path, model: Path, scope_file: Path, mlflow_uri: str) -> None:
    with pytest.raises(ValueError, match="give candidates"):
        ScreenConfig(model="m", labels=Labels(path="x"))
    with pytest.raises(ValueError, match="nothing to rank by"):
        ScreenConfig(model="m", table="t")
    hull = Reference(energies="mp-energies.csv.gz")
    with pytest.raises(ValueError, match="drop_known needs known"):
        ScreenConfig(model="m", table="t", hull=hull, drop_known=("crystals",))
    with pytest.raises(ValueError, match="forest needs labels"):
        ScreenConfig(model="m", table="t", hull=hull, known=hull, forest=True)
    with pytest.raises(ValueError, match="k is for a ranking by hull distance"):
        ScreenConfig.model_validate({"model": "m", "table": "t", "windows": {"gap": {}}, "k": 1})
    earlier = {"model": "m", "table": "t", "hull": hull, "known": hull, "novel_only": True}
    assert ScreenConfig.model_validate(earlier).drop_known == ("crystals",)
    with pytest.raises(ValueError, match="no column id; columns: cloud"):
        candidates_of_file(ScopeFile(path=str(scope_file), scope="cloud"), "canonical")
    frame = pd.read_csv(scope_file)
    frame.assign(name="same").to_csv(tmp_path / "twice.csv")
    with pytest.raises(ValueError, match="id same appears twice"):
        candidates_of_file(ScopeFile(path=str(tmp_path / "twice.csv"), id="name", scope="cloud"), "canonical")


def test_hull_distances_go_by_exact_compositions(tmp_path: Path) -> None:
    """Resolved strings say them; of others, which round them, there is no distance."""
    frame = pd.DataFrame({"id": ["a"], "scope": ["0 0 0 | 1a Cl 1a Cl 1a Na | Cl 0.67 Na 0.33"]})
    frame.to_csv(tmp_path / "resolved.csv", index=False)
    frame.assign(scope="0 0 0 | 1a | Cl 0.67 Na 0.33").to_csv(tmp_path / "canonical.csv", index=False)
    hull = Hull([{"Na": 1}, {"Cl": 1}, {"Na": 1, "Cl": 1}], [0.0, 0.0, -2.0])
    resolved = candidates_of_file(
        ScopeFile(path=str(tmp_path / "resolved.csv"), id="id", scope="scope"), "resolved"
    )
    exact = hull.distance({"Na": 1, "Cl": 2}, -1.0)
    assert hull_distances(hull, resolved, [-1.0]).tolist() == [pytest.approx(exact, abs=1e-12)]
    assert abs(hull.distance({"Na": 0.33, "Cl": 0.67}, -1.0) - exact) > 0.01
    rounded = candidates_of_file(
        ScopeFile(path=str(tmp_path / "canonical.csv"), id="id", scope="scope"), "canonical"
    )
    with pytest.raises(ValueError, match="round their composition"):
        hull_distances(hull, rounded, [-1.0])


def test_the_example_configurations_are_valid(project: Path) -> None:
    configs = project / "deployments" / "configs"
    assert ScreenConfig.from_yaml(configs / "screen.yaml").labels is not None
    for name in ("debye.yaml", "debye_temperatures.yaml"):
        assert DebyeConfig.from_yaml(configs / name).encoder == "formation_energy"
    labels = PhononLabelsConfig.from_yaml(configs / "debye_phonon_labels.yaml")
    assert str(labels.to) == DebyeConfig.from_yaml(configs / "debye_temperatures.yaml").data.path
