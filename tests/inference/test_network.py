"""The numpy evaluation of models over sites, against the same models in torch."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from cloud_core.inference import Predictor
from cloud_core.inference.engines import NumpyEngine, TorchEngine
from cloud_core.models.debye_model import DebyeModel
from cloud_core.models.ensemble import Ensemble
from cloud_core.models.folder import read_config, weight_files, weights_digest
from cloud_core.models.geometry import SitesConfig
from cloud_core.models.heads import PropertyModel, geometry, take_encoder
from cloud_core.models.targets import Target
from cloud_core.scope.sites import standardised_properties
from cloud_core.training.batches import Batches

SITES = SitesConfig("sites", hidden_size=48, layers=2, heads=3, feed_forward=80)
GOLDEN = Path(__file__).parent.parent / "scope" / "golden.parquet"


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """300 real crystals, of one to many sites, with mixed sites among them."""
    return [text for text in pq.read_table(GOLDEN)["resolved"].to_pylist() if text is not None]


def awake(model: torch.nn.Module) -> torch.nn.Module:
    """With no weight at its first, telling value."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    for module in model.modules():
        if hasattr(module, "set_properties"):
            module.set_properties(torch.from_numpy(standardised_properties().copy()))
    return model


def property_model(seed: int) -> PropertyModel:
    torch.manual_seed(seed)
    targets = [Target("energy", "eV/atom", mean=-1.0, deviation=2.0), Target("modulus", "GPa", scaling="log")]
    model = awake(PropertyModel(SITES, targets, "mean"))
    assert isinstance(model, PropertyModel)
    return model


def test_numpy_and_torch_predict_the_same(tmp_path: Path, texts: list[str]) -> None:
    ensemble = Ensemble([property_model(0), property_model(1)], [(1.0, 0.1), (0.5, 3.0)])
    ensemble.save(tmp_path / "ensemble", {"form": "resolved"})
    debye = awake(DebyeModel(SITES, pooling="mean"))
    assert isinstance(debye, DebyeModel)
    debye.save(tmp_path / "debye", {"form": "resolved"})
    for name in ("ensemble", "debye"):
        config = read_config(tmp_path / name)
        rows = Batches.of_sites(texts)
        ours = NumpyEngine(tmp_path / name, config)(rows)
        theirs = TorchEngine.load(tmp_path / name, name, "cpu")(rows)
        assert len(ours.members) == len(theirs.members) == (2 if name == "ensemble" else 1)
        for mine, other in zip(ours.members, theirs.members, strict=True):
            for target, values in other.items():
                assert np.ptp(values) > 0
                np.testing.assert_allclose(mine[target], values, rtol=1e-4, atol=1e-4)
        if theirs.vectors is not None and theirs.fractions is not None:
            assert ours.vectors is not None and ours.fractions is not None
            np.testing.assert_allclose(ours.vectors, theirs.vectors, atol=1e-4)
            np.testing.assert_allclose(ours.fractions, theirs.fractions, atol=1e-6)


def test_members_have_files_of_their_own_and_give_their_encoders(tmp_path: Path) -> None:
    members = [property_model(seed) for seed in range(3)]
    folder = Ensemble(members).save(tmp_path / "three", {"form": "resolved"})
    assert [path.name for path in weight_files(folder)] == [
        "model.safetensors", "model-1.safetensors", "model-2.safetensors"
    ]  # fmt: skip
    assert geometry(folder) == SITES
    loaded, _ = Ensemble.load(folder)
    assert loaded.scales == ((1.0, 0.0), (1.0, 0.0))
    other = PropertyModel(SITES, [Target("gap", "eV")], "mean")
    for seed in range(4):
        take_encoder(other, folder, seed)
        wanted = members[seed % 3].encoder.state_dict()
        assert all(torch.equal(value, wanted[key]) for key, value in other.encoder.state_dict().items())
    before = weights_digest(folder)
    (folder / "model-2.safetensors").write_bytes((folder / "model-1.safetensors").read_bytes())
    assert weights_digest(folder) != before


def test_one_member_has_the_deviation_of_its_validation_errors(tmp_path: Path, texts: list[str]) -> None:
    Ensemble([property_model(0)], [(0.0, 0.25), (0.0, 7.0)]).save(tmp_path / "one", {"form": "resolved"})
    arrays = Predictor.load(tmp_path / "one").predict_texts(texts)
    assert set(arrays["energy_std"]) == {0.25} and set(arrays["modulus_std"]) == {7.0}
