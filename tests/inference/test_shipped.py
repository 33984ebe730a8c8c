"""The models that come with the package."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.studies import shipped_models as shipped_models_study
from cloud_core.evaluation.data.folds import split_by_group
from cloud_core.evaluation.thermal.data import ThermalData, read_thermal
from cloud_core.inference import Predictor
from cloud_core.inference.predictor import OUTSIDE, predict_together
from cloud_core.models.debye_model import HIGHEST, LOWEST
from cloud_core.models.folder import SHIPPED, CheckpointError, model_folder, shipped_models
from cloud_core.models.training_keys import read_training_keys
from cloud_core.scope import canonicalise
from cloud_core.training import fit

HELD_OUT = Path(__file__).parent / "held_out.csv"  # 300 crystals that no training saw, by shipped_models.py
SALT = Path(__file__).parents[2] / "flows" / "demo_data" / "held_out.cif"


def test_they_are_small_and_carry_a_card() -> None:
    files = [path for path in SHIPPED.rglob("*") if path.is_file()]
    assert max(path.stat().st_size for path in files) < 5_000_000
    assert sum(path.stat().st_size for path in files) < 20_000_000
    assert len(shipped_models()) == 5
    for name in shipped_models():
        assert "mean absolute error" in (SHIPPED / name / "CARD.md").read_text(encoding="utf-8")


def test_formation_energies_of_crystals_held_out_are_those_of_the_card() -> None:
    rows = pd.read_csv(HELD_OUT)
    keys = read_training_keys(SHIPPED / "formation_energy")
    assert keys is not None
    assert keys.seen("formation_energy", [canonicalise(text) for text in rows["resolved"]]).mean() < 0.01
    found = Predictor.load("formation_energy").predict_texts(rows["resolved"].tolist())
    np.testing.assert_allclose(found["formation_energy"], rows["predicted"], atol=2e-3)
    error = np.abs(found["formation_energy"] - rows["formation_energy"])
    for source, mean in (("Materials Project", 0.077), ("WBM", 0.049)):  # of the card, by all its rows
        of_source = error[rows["source"] == source]
        assert of_source.mean() == pytest.approx(mean, abs=3 * of_source.std() / np.sqrt(len(of_source)))
    within = (error < found["formation_energy_std"]).mean()
    assert 0.6 < within < 0.85


@pytest.mark.slow
def test_the_recipe_makes_a_model_that_beats_its_baselines(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of Debye temperatures, by C_v at 300 K of the demo's 1,208 crystals: jobs, folder, keys, card."""
    monkeypatch.setattr(shipped_models_study, "SEEDS", (0,))
    one = ThermalData(
        path=str(project / "flows/demo_data/heat_capacity.csv"), scope="resolved", form="resolved"
    )
    table = read_thermal(one)
    keys = [canonicalise(text) for text in table.texts]
    parts = np.full(len(table), "", dtype=object)
    for name, rows in split_by_group(keys, 0.2, 0.1, 0)._asdict().items():
        parts[rows] = name
    frame = pd.DataFrame(
        {
            "resolved": table.texts,
            "canonical": keys,
            "source": "heat_capacity",
            "debye_temperature": table.best_theta(LOWEST, HIGHEST),
            "part debye_temperature": parts,
        }
    )
    (planned,) = shipped_models_study.shipped_fits(tmp_path, frame, ["debye_temperature"])
    fit.run(planned.job)
    shipped_models_study.finish(tmp_path, frame, tmp_path)
    folder = tmp_path / "debye_temperature"
    test = frame[frame["part debye_temperature"] == "test"]
    found = Predictor.load(folder).predict_texts(test["resolved"].tolist())
    error = np.abs(found["debye_temperature"] - test["debye_temperature"]).mean()
    baselines = shipped_models_study.baselines(tmp_path, frame, "debye_temperature")
    others = {name: np.abs(values - test["debye_temperature"]).mean() for name, values in baselines.items()}
    assert error < min(others.values()), others
    assert (found["debye_temperature_std"] > 0).all() and OUTSIDE in found
    seen = read_training_keys(folder)
    assert seen is not None and seen.seen("debye_temperature", keys).sum() >= len(frame) - len(test)
    assert f"| {len(test)} |" in (folder / "CARD.md").read_text(encoding="utf-8")


def test_all_predict_one_file_without_torch_prefect_or_mlflow() -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from cloud_core.inference.predictor import Predictor, predict_together\n"
        "from cloud_core.models.folder import shipped_models\n"
        "models = {name: Predictor.load(name) for name in shipped_models()}\n"
        f"((_, _, row),) = predict_together(models, [Path({str(SALT)!r})])\n"
        "assert row['error'] is None and -2.4 < row['formation_energy'] < -1.6, row\n"
        "assert row['formation_energy_std'] > 0 and 10 < row['bulk_modulus'] < 60, row\n"
        "assert 250 < row['debye_temperature'] < 380, row\n"  # NaCl: 321 K
        "assert not {'torch', 'prefect', 'mlflow', 'pandas'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_an_element_never_seen_is_named() -> None:
    row = Predictor.load("formation_energy").predict_texts(
        [
            "1 6 a O D D a D O D b O O O c O O O d O O O e O O O 0 | 4a Cl 4b Rn | Cl 0.5 Rn 0.5",
            "1 6 a O D D a D O D b O O O c O O O d O O O e O O O 0 | 4a Cl 4b Na | Cl 0.5 Na 0.5",
        ]
    )
    assert "Rn" in row[OUTSIDE][0] and row[OUTSIDE][1] is None


def test_an_address_that_is_nothing_names_the_models_there_are() -> None:
    with pytest.raises(CheckpointError, match="formation_energy"):
        model_folder("formation_enthalpy")


def test_a_refused_structure_has_every_column(tmp_path: Path) -> None:
    models = {name: Predictor.load(name) for name in shipped_models()}
    (tmp_path / "broken.cif").write_text("not a crystal")
    rows = list(predict_together(models, [SALT, tmp_path / "broken.cif"]))
    assert [row["error"] is None for _, _, row in rows] == [True, False]
    assert rows[0][2].keys() == rows[1][2].keys()
