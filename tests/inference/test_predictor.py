"""From structures, files and strings to properties."""

from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from cloud_core.inference import Predictor
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
