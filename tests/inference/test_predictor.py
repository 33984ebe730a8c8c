"""From structures, files and strings to properties."""

import itertools
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from pymatgen.core import Lattice, Structure

from cloud_core.errors import CloudError
from cloud_core.inference import Predictor
from cloud_core.inference.inputs import TableOf
from cloud_core.inference.predictor import predict_together
from cloud_core.lake.schemas import STRUCTURES
from cloud_core.lake.table import Table
from cloud_core.models.checkpoint import save_encoder
from cloud_core.models.debye_model import DebyeModel
from cloud_core.models.encoder import MaskedLanguageModel
from cloud_core.models.folder import CheckpointError
from cloud_core.models.geometry import EncoderConfig
from cloud_core.models.heads import PropertyModel
from cloud_core.models.targets import Target
from cloud_core.scope import encode

GEOMETRY = EncoderConfig(hidden_size=32, layers=1, heads=2, feed_forward=64)
SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    targets = [
        Target("gap", "eV").fitted([0.0, 4.0]),
        Target("metal", "", "classification", classes=("no", "yes")),
    ]
    return PropertyModel(GEOMETRY, targets).save(tmp_path / "model", {"form": "canonical"})


def test_every_way_to_name_a_crystal_gives_one_answer(folder: Path, tmp_path: Path) -> None:
    SALT.to(str(tmp_path / "salt.cif"))
    turned = SALT.copy()
    turned.translate_sites(range(len(turned)), [0.13, 0.2, 0.3])
    turned.make_supercell([1, 2, 1])
    ways = [SALT, turned, tmp_path / "salt.cif", (tmp_path / "salt.cif").read_text(), SALT.as_dict()]
    predictor = Predictor.load(folder)
    rows = predictor.predict([*ways, encode(SALT).canonical])
    assert {row["scope"] for row in rows} == {encode(SALT).canonical}
    for row in rows:  # a kernel may round the lanes of a batch differently
        assert row["gap"] == pytest.approx(rows[0]["gap"], rel=1e-6)
    assert rows[0]["error"] is None
    assert rows[0]["metal"] in ("no", "yes")
    assert rows[0]["metal_probability_no"] + rows[0]["metal_probability_yes"] == pytest.approx(1.0)
    assert predictor.units == {"gap": "eV", "metal": ""}


def test_a_refused_structure_does_not_take_the_others_along(folder: Path, tmp_path: Path) -> None:
    predictor = Predictor.load(folder)
    rows = predictor.predict([SALT, tmp_path / "nowhere.cif", "0 3 n | 1a | Na 1.0"])
    assert [row["error"] is None for row in rows] == [True, False, False]
    assert rows[1]["gap"] is None
    assert "nowhere.cif" in rows[1]["error"]
    assert "generators" in rows[2]["error"]
    only = predictor.predict(["0 3 n | 1a | Na 1.0"])
    assert only[0]["gap"] is None
    assert predictor.predict([]) == []


def test_the_model_is_asked_in_the_form_it_was_trained_on(tmp_path: Path) -> None:
    folder = PropertyModel(GEOMETRY, [Target("gap")]).save(tmp_path / "model", {"form": "official"})
    row = Predictor.load(folder).predict([SALT])[0]
    assert row["scope"] == encode(SALT, forms=("official",)).official


def test_debye_models_answer_too(tmp_path: Path) -> None:
    folder = DebyeModel(GEOMETRY, 300.0).save(tmp_path / "debye", {"form": "canonical"})
    row = Predictor.load(folder).predict([SALT])[0]
    assert row["debye_temperature"] == pytest.approx(300.0, rel=1e-4)  # an untrained head says its start


def test_a_bare_encoder_predicts_nothing(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "encoder", MaskedLanguageModel(GEOMETRY), {})
    with pytest.raises(CheckpointError, match="finetune it first"):
        Predictor.load(folder)
    with pytest.raises(CheckpointError, match="nowhere"):
        Predictor.load(tmp_path / "nowhere")


def test_the_fast_path_agrees(folder: Path) -> None:
    predictor = Predictor.load(folder)
    text = encode(SALT).canonical
    texts = [text, text.replace("Na", "K"), text.replace("Cl", "Br")]
    arrays = predictor.predict_texts(texts)
    rows = predictor.predict(texts)
    np.testing.assert_allclose(arrays["gap"], [row["gap"] for row in rows], rtol=1e-6)


def test_a_text_is_content_and_one_input(folder: Path, tmp_path: Path) -> None:
    """A name of a file is one error, not one a character, and opens nothing."""
    SALT.to(str(tmp_path / "salt.cif"))
    predictor = Predictor.load(folder)
    (row,) = predictor.predict(str(tmp_path / "salt.cif"))
    assert row["scope"] is None and "a file is given as Path(" in row["error"]
    (row,) = predictor.predict((tmp_path / "salt.cif").read_text())
    assert row["error"] is None
    (row,) = predictor.predict(tmp_path / "salt.cif")
    assert row["error"] is None


def test_a_file_of_several_structures_has_a_row_each(folder: Path, tmp_path: Path) -> None:
    text = SALT.to(fmt="cif")
    (tmp_path / "two.cif").write_text(
        text.replace("data_NaCl", "data_a") + text.replace("data_NaCl", "data_b")
    )
    rows = Predictor.load(folder).predict_named([tmp_path / "two.cif", "no structure", SALT])
    assert [(place, name) for place, name, _ in rows] == [(0, "#a"), (0, "#b"), (1, ""), (2, "")]
    assert [row["error"] is None for _, _, row in rows] == [True, True, False, True]
    assert rows[0][2]["gap"] == pytest.approx(rows[3][2]["gap"], rel=1e-6)


def test_an_object_of_json_or_ase_is_one_structure(folder: Path) -> None:
    from pymatgen.io.ase import AseAtomsAdaptor

    predictor = Predictor.load(folder)
    atoms = AseAtomsAdaptor.get_atoms(SALT)
    for one in (SALT, SALT.as_dict(), atoms):
        assert [row["error"] for row in predictor.predict(one)] == [None]


def test_code_in_a_document_is_not_run(folder: Path, tmp_path: Path) -> None:
    document = SALT.as_dict()
    marker = tmp_path / "mark"
    call = {"@module": "pathlib", "@class": "Path", "@callable": "Path.touch", "args": [str(marker)]}
    for site in document["sites"]:
        site["properties"] = {
            "spell": call,
            "other": {"@module": "os", "@class": "system", "command": f"touch {marker}"},
        }
    (row,) = Predictor.load(folder).predict(document)
    assert row["error"] is None and not marker.exists()


def test_folders_archives_and_tables_give_a_row_for_each_structure(folder: Path, tmp_path: Path) -> None:
    """One that is broken costs itself alone; ids are those of the source."""
    text = SALT.to(fmt="cif")
    cifs = tmp_path / "cifs"
    (cifs / "deep").mkdir(parents=True)
    for name in ("a.cif", "deep/Li0.5CoO2.cif"):
        (cifs / name).write_text(text)
    (cifs / "broken.cif").write_text("data_x")
    archive = Path(shutil.make_archive(str(tmp_path / "archive"), "zip", cifs))
    table = tmp_path / "mine.csv"
    pd.DataFrame({"id": ["0012", "NA"], "cif": [text, "no crystal"]}).to_csv(table, index=False)
    predictor = Predictor.load(folder)
    for source in (cifs, archive):
        rows = {name: row for _, name, row in predictor.predict_named(source)}
        assert set(rows) == {"a.cif", "broken.cif", "deep/Li0.5CoO2.cif"}
        assert {name for name, row in rows.items() if row["error"]} == {"broken.cif"}
        assert (rows["a.cif"]["formula"], rows["a.cif"]["space_group"]) == ("NaCl", 225)
    other = tmp_path / "other.parquet"
    pd.DataFrame({"name": ["p"], "text": [text]}).to_parquet(other)
    given = TableOf(str(other), {"id": "name", "structure": "text"})
    assert [(name, row["formula"]) for _, name, row in predictor.predict_named(given)] == [("p", "NaCl")]
    ((_, _, row),) = predictor.predict_named(other)  # whose columns nobody named
    assert "which column holds the id" in row["error"]
    delta = tmp_path / "delta"
    write_deltalake(str(delta), pd.read_csv(table, dtype=str, keep_default_na=False))
    assert {name for _, name, _ in predictor.predict_named(delta)} == {"0012", "NA"}
    found = [(name, row["error"] is None) for _, name, row in predictor.predict_named([table, SALT])]
    assert found == [("0012", True), ("NA", False), ("", True)]


def test_an_encoded_table_is_asked_by_its_strings(folder: Path, tmp_path: Path) -> None:
    text = encode(SALT).canonical
    table = Table.create(str(tmp_path / "table"))
    columns = {"structure_id": ["mine:salt"], "status": ["encoded"], "canonical": [text], "revision": [1]}
    rows = pa.table(columns).select(columns)
    filled = [rows[f.name] if f.name in columns else pa.nulls(1, f.type) for f in STRUCTURES]
    write_deltalake(table.uri, pa.table(filled, schema=STRUCTURES), mode="append")
    ((_, name, row),) = Predictor.load(folder).predict_named(Path(table.uri))
    assert (name, row["scope"], row["error"]) == ("mine:salt", text, None)


def test_a_frame_has_ids_units_and_a_row_for_each_entry(folder: Path, tmp_path: Path) -> None:
    SALT.to(str(tmp_path / "salt.cif"))
    text = (tmp_path / "salt.cif").read_text()
    predictor = Predictor.load(folder)
    frame = predictor.frame([tmp_path / "salt.cif", "nothing"])
    assert frame["id"].tolist() == [str(tmp_path / "salt.cif"), "1"]
    assert frame["error"].isna().tolist() == [True, False]
    assert frame.attrs["units"] == {"gap": "eV", "metal": ""}
    column = pd.DataFrame({"structure": [text, text]}, index=["x", "y"])["structure"]
    assert predictor.frame(column)["id"].tolist() == ["x", "y"]


def test_structures_are_taken_as_they_are_needed(folder: Path) -> None:
    """Of an endless input the first rows come: memory does not grow with the number of structures."""
    endless = (encode(SALT).canonical for _ in itertools.count())
    rows = predict_together({"": Predictor.load(folder)}, endless)
    assert [row["formula"] for _, _, row in itertools.islice(rows, 1500)] == ["NaCl"] * 1500


def test_addresses_of_models(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUD_RUNS", str(tmp_path / "runs"))
    store = fsspec.filesystem("memory")
    store.put(str(folder), "/models/gap", recursive=True)
    assert Predictor.load("memory://models/gap").units == Predictor.load(folder).units
    for address, message in (
        ("memory://models/none", "cannot be fetched"),
        ("nothing:/x", "cannot be fetched"),
        ("models:/nothing@champion", "models:/nothing@champion"),
    ):
        with pytest.raises(CloudError, match=message):
            Predictor.load(address)
    monkeypatch.setattr("cloud_core.inference.addresses.entry_points", lambda group, name: ())
    with pytest.raises(CheckpointError, match="install"):
        Predictor.load("models:/gap@champion")
