"""Vectors of a table, made once, and the nearest of them."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from typer.testing import CliRunner

from cloud_core.inference import Predictor
from cloud_core.inference.embedding import EmbeddingError, Neighbour, embed, similar
from cloud_core.lake.schemas import STRUCTURES
from cloud_core.lake.table import Table
from cloud_core.models.geometry import EncoderConfig
from cloud_core.models.heads import PropertyModel
from cloud_core.models.targets import Target
from cloud_core.training.batches import Batches
from flows.cli import app

SALT = "1 6 a O D D a D O D b O O O c O O O d O O O e O O O 0 | 4a {} 4b {} | {} 0.5 {} 0.5"
HALIDES = ("Br", "Cl", "F", "I")
METALS = ("K", "Li", "Na", "Rb")
DATA = Path(__file__).parents[2] / "flows" / "demo_data"


def strings(metals: tuple[str, ...] = METALS) -> dict[str, str]:
    found = {}
    for metal in metals:
        for halide in HALIDES:
            first, second = sorted((metal, halide))
            found[f"s:{metal}{halide}"] = SALT.format(first, second, first, second)
    return found


def append(table: Table, rows: dict[str, str]) -> None:
    columns = {
        "structure_id": list(rows),
        "status": ["encoded"] * len(rows),
        "resolved": list(rows.values()),
        "revision": [1] * len(rows),
    }
    filled = [
        pa.array(columns[f.name], f.type) if f.name in columns else pa.nulls(len(rows), f.type)
        for f in STRUCTURES
    ]
    write_deltalake(table.uri, pa.table(filled, schema=STRUCTURES), mode="append")


@pytest.fixture
def table(tmp_path: Path) -> Table:
    table = Table.create(str(tmp_path / "table"))
    append(table, strings())
    return table


def test_only_rows_that_lack_a_vector_are_embedded(table: Table, tmp_path: Path) -> None:
    path = tmp_path / "vectors.parquet"
    assert embed(table.uri, path) == (16, 16)
    before = pq.read_table(path)
    assert embed(table.uri, path) == (16, 0)
    append(table, {"s:CsCl": strings(("Cs",))["s:CsCl"]})
    assert embed(table.uri, path) == (17, 1)
    after = pq.read_table(path).to_pandas().set_index("id")
    for row in before.to_pylist():
        assert np.array_equal(after.loc[row["id"], "vector"], row["vector"])
    predictor = Predictor.load("formation_energy")
    vectors = predictor.engine(Batches.of_sites(after["scope"].tolist())).vectors
    assert vectors is not None
    np.testing.assert_allclose(np.stack(after["vector"]), vectors, atol=1e-4)


def test_the_nearest_are_those_of_all_pairs(table: Table, tmp_path: Path) -> None:
    path = tmp_path / "vectors.parquet"
    embed(table.uri, path)
    found = [each for each in similar([DATA / "held_out.cif"], path, 16) if isinstance(each, Neighbour)]
    assert (found[0].id, found[0].formula, found[0].distance, found[0].space_group) == (
        "s:NaCl",
        "NaCl",
        0.0,
        225,
    )
    rows = pq.read_table(path).to_pandas().set_index("id")
    all_distances = np.linalg.norm(np.stack(rows["vector"]) - rows.loc["s:NaCl", "vector"], axis=1)
    expected = dict(zip(rows.index, all_distances, strict=True))
    assert [each.distance for each in found] == pytest.approx(sorted(all_distances), abs=1e-2)
    assert all(each.distance == pytest.approx(expected[each.id], abs=1e-2) for each in found)
    (name, why) = next(similar(["no structure"], path))
    assert name == "no structure" and "no structure" in why


def test_files_and_models_that_do_not_fit_are_told(table: Table, tmp_path: Path) -> None:
    path = tmp_path / "vectors.parquet"
    embed(table.uri, path)
    with pytest.raises(EmbeddingError, match="another model"):
        embed(table.uri, path, "moduli")
    with pytest.raises(EmbeddingError, match="cloud embed"):
        next(similar([DATA / "held_out.cif"], tmp_path / "none.parquet"))
    encoder = EncoderConfig(hidden_size=8, layers=1, heads=1, feed_forward=8)
    strings_model = PropertyModel(encoder, [Target("gap")]).save(tmp_path / "strings", {"form": "resolved"})
    with pytest.raises(EmbeddingError, match="gives no vectors"):
        embed(table.uri, tmp_path / "other.parquet", str(strings_model))


def test_from_the_shell(table: Table, tmp_path: Path) -> None:
    path = str(tmp_path / "vectors.parquet")
    shell = CliRunner()
    assert shell.invoke(app, ["embed", table.uri, "--to", path]).exit_code == 0
    done = shell.invoke(app, ["similar", str(DATA / "held_out.cif"), path, "-n", "3", "--json"])
    first, *_ = json.loads(done.stdout)
    assert first["id"] == "s:NaCl" and done.exit_code == 0
    assert "NaCl" in shell.invoke(app, ["similar", str(DATA / "held_out.cif"), path, "-n", "3"]).stdout
