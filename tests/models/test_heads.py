"""Targets, property models and ensembles."""

import numpy as np
import pytest
import torch
from scipy.special import softmax

from cloud_core.models.checkpoint import save_encoder
from cloud_core.models.encoder import MaskedLanguageModel
from cloud_core.models.ensemble import Ensemble
from cloud_core.models.folder import CheckpointError
from cloud_core.models.geometry import EncoderConfig
from cloud_core.models.heads import Pooling, PropertyModel, geometry, take_encoder
from cloud_core.models.targets import Target, TargetError

GEOMETRY = EncoderConfig(hidden_size=32, layers=1, heads=2, feed_forward=64)
METAL = Target("metal", kind="classification", classes=("no", "yes"))


@pytest.mark.parametrize("scaling", ["standard", "log", "none"])
def test_scaling_comes_back_and_is_fitted_on_known_labels(scaling: str) -> None:
    values = np.array([1.0, np.nan, 10.0, 100.0])
    target = Target("a", scaling=scaling).fitted(values)  # type: ignore[arg-type]
    scaled = target.scale(values)
    assert np.isnan(scaled[1])
    np.testing.assert_allclose(target.unscale(scaled[[0, 2, 3], None]), values[[0, 2, 3]])
    if scaling != "none":
        assert np.nanmean(scaled) == pytest.approx(0)
        assert np.nanstd(scaled) == pytest.approx(1)
    if scaling == "log":
        assert scaled[2] == pytest.approx(0)


def test_labels_that_cannot_be_scaled_are_told() -> None:
    with pytest.raises(TargetError, match="positive"):
        Target("a", scaling="log").fitted([1.0, 0.0])
    with pytest.raises(TargetError, match="no training row"):
        Target("a").fitted([np.nan])
    with pytest.raises(TargetError, match="indices"):
        METAL.fitted([0.0, 2.0])
    with pytest.raises(TargetError, match="two classes"):
        Target("a", kind="classification", classes=("only",))


def test_the_mean_is_over_real_tokens() -> None:
    model = PropertyModel(GEOMETRY, [Target("a")], "mean").eval()
    ids = torch.randint(5, 500, (2, 7))
    seen: list[torch.Tensor] = []
    model.hidden.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    model(ids, torch.tensor([7, 3]))
    for row, length in enumerate((7, 3)):
        alone = model.encoder(ids[row : row + 1, :length], torch.tensor([length]))[0]
        torch.testing.assert_close(seen[0][row], alone.mean(0))
    with pytest.raises(ValueError, match="first or mean"):
        PropertyModel(GEOMETRY, [Target("a")], "last")  # type: ignore[arg-type]


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_a_model_folder_gives_the_same_predictions(tmp_path: object, pooling: Pooling) -> None:
    targets = [Target("a", "eV").fitted([1.0, 3.0]), METAL]
    model = PropertyModel(GEOMETRY, targets, pooling)
    ids, lengths = torch.randint(5, 500, (3, 7)), torch.tensor([7, 5, 2])
    folder = f"{tmp_path}/model"
    model.save(folder, {"form": "canonical"})
    loaded, metadata = PropertyModel.load(folder)
    assert metadata == {"form": "canonical"}
    assert loaded.targets == tuple(targets)
    assert loaded.pooling == pooling
    before, after = model.predict(ids, lengths), loaded.predict(ids, lengths)
    for name in ("a", "metal"):
        np.testing.assert_array_equal(before[name], after[name])
    raw = model(ids, lengths).detach().numpy()
    np.testing.assert_allclose(before["metal"], softmax(raw[:, 1:], axis=1), rtol=1e-5)
    np.testing.assert_allclose(before["a"], raw[:, 0] + 2.0, rtol=1e-5)


def test_the_encoder_of_any_folder_can_be_taken(tmp_path: object) -> None:
    pretrained = MaskedLanguageModel(GEOMETRY)
    folder = save_encoder(f"{tmp_path}/encoder", pretrained, {"form": "canonical"})
    assert geometry(folder) == GEOMETRY
    model = PropertyModel(geometry(folder), [METAL])
    assert take_encoder(model, folder) == {"form": "canonical"}
    for name, tensor in pretrained.encoder.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], tensor)
    again = PropertyModel(GEOMETRY, [Target("b")])
    take_encoder(again, model.save(f"{tmp_path}/property", {}))
    assert torch.equal(again.encoder.embeddings.words.weight, pretrained.encoder.embeddings.words.weight)
    with pytest.raises(CheckpointError, match="nowhere"):
        take_encoder(again, f"{tmp_path}/nowhere")
    wider = PropertyModel(EncoderConfig(hidden_size=64, layers=1, heads=2, feed_forward=64), [METAL])
    with pytest.raises(CheckpointError, match="do not fit"):
        take_encoder(wider, folder)


def test_an_ensemble_gives_mean_and_scaled_deviation(tmp_path: object) -> None:
    members = [PropertyModel(GEOMETRY, [Target("a").fitted([0.0, i + 1.0]), METAL]) for i in range(3)]
    ensemble = Ensemble(members, [(2.0, 0.3), (1.0, 0.0)])
    ids, lengths = torch.randint(5, 500, (4, 6)), torch.tensor([6, 6, 3, 2])
    ensemble.eval()
    ensemble.save(f"{tmp_path}/ensemble", {})
    loaded, _ = Ensemble.load(f"{tmp_path}/ensemble")
    loaded.eval()
    each = [member.predict(ids, lengths) for member in members]
    for model in (ensemble, loaded):
        found = model.physical(model(ids, lengths).detach().numpy())
        values = np.stack([one["a"] for one in each])
        np.testing.assert_allclose(found["a"], values.mean(0), rtol=1e-5)
        np.testing.assert_allclose(found["a_std"], np.hypot(2 * values.std(0, ddof=1), 0.3), rtol=1e-4)
        np.testing.assert_allclose(found["metal"], np.mean([one["metal"] for one in each], 0), rtol=1e-5)
    with pytest.raises(TargetError, match="same targets"):
        Ensemble([members[0], PropertyModel(GEOMETRY, [METAL])])
