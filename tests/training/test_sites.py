"""Sites through training: hidden elements and letters, fits, averaged weights, and configurations."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from cloud_core.config import ConfigError, checked
from cloud_core.inference import Predictor
from cloud_core.models.geometry import FIELDS, SitesConfig
from cloud_core.models.heads import PropertyModel
from cloud_core.models.targets import Target
from cloud_core.scope import canonicalise, resolve
from cloud_core.scope.grammar import join
from cloud_core.scope.sites import letter_of_position
from cloud_core.training.batches import Batches
from cloud_core.training.distributed import Ranks
from cloud_core.training.fit import run
from cloud_core.training.job import LABELS, PARTS, FitJob, FitSettings, PretrainJob, PretrainSettings
from cloud_core.training.loop import WeightAverage
from cloud_core.training.losses.masked_sites import ELEMENT, WITH_POSITION, SitesObjective
from cloud_core.training.masking import Masking
from cloud_core.training.optimiser import OptimiserSettings
from cloud_core.training.pretrain import Run, main
from flows.finetune import FinetuneConfig
from flows.pretrain import PretrainConfig
from tests.training.test_pretrain import losses, side_by_side, weights, written

TINY = SitesConfig("sites", hidden_size=32, layers=2, heads=2, feed_forward=64)
STEPS = 12


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Resolved strings of real cells of many kinds."""
    golden = pd.read_parquet(Path(__file__).parents[1] / "scope" / "golden.parquet")
    return sorted({text for text in golden["resolved"] if isinstance(text, str)})


@pytest.fixture(scope="module")
def corpora(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpora")
    Batches.of_sites(texts[20:]).save(folder / "training.safetensors")
    Batches.of_sites(texts[:20]).save(folder / "validation.safetensors")
    return folder


def job(corpora: Path, folder: Path, steps: int = STEPS, dropout: float = 0.1) -> PretrainJob:
    settings = PretrainSettings(
        encoder=replace(TINY, dropout=dropout),
        masking=Masking(rate=0.3),
        optimiser=OptimiserSettings(learning_rate=3e-3),
        batch_size=40, log_every=1, validate_every=6, checkpoint_every=4, micro_batch_tokens=60,
    )  # fmt: skip
    return PretrainJob(
        folder=str(folder), model=str(folder / "model"), steps=steps, settings=settings,
        training=str(corpora / "training.safetensors"), validation=str(corpora / "validation.safetensors"),
    )  # fmt: skip


def test_what_is_hidden_cannot_be_seen(texts: list[str]) -> None:
    corpus = Batches.of_sites(texts)
    rows = np.arange(len(texts))
    batch = SitesObjective.batch(corpus, rows, Masking(rate=0.4), seed=3, epoch=1)
    seen, whole = batch.fields.numpy(), corpus.ids.astype(np.int64)
    elements, letters = batch.elements.numpy(), batch.letters.numpy()
    assert (seen[elements, ELEMENT] == 0).all() and (seen[letters][:, WITH_POSITION] == 0).all()
    assert np.array_equal(batch.true_elements, whole[elements, ELEMENT])
    assert np.array_equal(batch.true_letters, letter_of_position()[whole[letters, FIELDS.index("position")]])
    changed = seen != whole
    changed[elements, ELEMENT] = False
    changed[letters[:, None], WITH_POSITION] = False
    assert not changed.any()
    own = np.flatnonzero(whole[:, FIELDS.index("space_group")])
    assert not np.isin(own, np.concatenate([elements, letters])).any()
    asked = (len(elements) + len(letters)) / (2 * (len(whole) - len(texts)))
    assert asked == pytest.approx(0.4, abs=0.03)
    assert SitesObjective.scored(corpus, rows, Masking(rate=0.4), 3, 1) == len(elements) + len(letters)


def test_a_killed_run_ends_as_if_it_was_not(corpora: Path, tmp_path: Path) -> None:
    whole, killed = job(corpora, tmp_path / "whole"), job(corpora, tmp_path / "killed")
    main(written(whole))
    path = written(killed)
    first = Run(killed, Ranks(0, 1, torch.device("cpu")))
    for _ in range(6):
        first.take_step()
        if first.step % killed.settings.checkpoint_every == 0:
            first.save()
    main(path)
    assert_identical_weights(whole, killed)
    assert losses(killed)[-6:] == losses(whole)[-6:]


def assert_identical_weights(one: PretrainJob, other: PretrainJob) -> None:
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def test_two_processes_reach_the_losses_of_one_and_learn(corpora: Path, tmp_path: Path) -> None:
    alone = job(corpora, tmp_path / "alone", steps=40, dropout=0.0)
    main(written(alone))
    pair = replace(alone, folder=str(tmp_path / "pair"), model=str(tmp_path / "pair" / "model"))
    side_by_side(2, pair)
    np.testing.assert_allclose(losses(pair), losses(alone), rtol=1e-4)
    assert np.mean(losses(alone)[-5:]) < 0.85 * np.mean(losses(alone)[:5])


def rows_of_perovskites(n: int) -> tuple[list[str], np.ndarray]:
    """Made-up perovskites whose label says which of two elements sits in the octahedra; their canonical
    strings do not."""
    rng = np.random.default_rng(0)
    names = ("Sr", "Ti", "Ba", "Zr", "Ca", "Hf", "La", "Al")
    pairs = [rng.choice(len(names), 2, replace=False) for _ in range(n)]
    texts = []
    for a, b in pairs:
        parts = sorted({names[a]: 0.2, names[b]: 0.2, "O": 0.6}.items())
        composition = " ".join(f"{element} {fraction}" for element, fraction in parts)
        texts.append(resolve(join(221, f"1a {names[a]} 1b {names[b]} 3d O", composition)))
    return texts, np.array([float(a) for a, _ in pairs])


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> FitJob:
    folder = tmp_path_factory.mktemp("fit")
    texts, labels = rows_of_perovskites(240)
    for part, rows in zip(PARTS, np.split(np.arange(240), (160, 200)), strict=True):
        columns = {LABELS: labels[rows][:, None]}
        Batches.of_sites([texts[i] for i in rows], columns).save(folder / f"{part}.safetensors")
    settings = FitSettings(
        30, 32, OptimiserSettings(learning_rate=3e-3, betas=(0.9, 0.99)), averaging=0.9, pooling="mean"
    )
    made = FitJob(
        str(folder / "job"), str(folder), str(folder / "model"), (Target("which"),), settings,
        from_scratch=TINY, metadata={"form": "resolved"},
    )  # fmt: skip
    assert FitJob.read(made.write(made.file)) == made
    run(made)
    return made


def test_a_fit_learns_which_element_sits_where(fitted: FitJob) -> None:
    predicted, true = fitted.predictions("test")["which"], fitted.load("test").columns[LABELS][:, 0]
    assert np.abs(predicted - true).mean() < 0.25 * np.abs(true - true.mean()).mean()
    texts, _ = rows_of_perovskites(240)
    assert len({canonicalise(text) for text in texts}) < len(set(texts))


def test_what_was_fitted_predicts_from_strings_and_refuses_other_forms(fitted: FitJob) -> None:
    predictor = Predictor.load(fitted.model)
    texts = rows_of_perovskites(240)[0][200:]
    found = [row["which"] for row in predictor.predict(texts)]
    np.testing.assert_allclose(found, fitted.predictions("test")["which"], atol=1e-4)
    (refused,) = predictor.predict([canonicalise(texts[0])])
    assert "only the resolved form says which element sits on which position" in refused["error"]
    assert predictor.predict([]) == []


def test_averaged_weights_are_the_mean_over_the_steps() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    averaged = WeightAverage(layer, 0.5)
    expected = layer.weight.item()
    for step, value in enumerate((1.0, 2.0, 4.0)):
        layer.weight.data.fill_(value)
        averaged.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    with averaged.in_place():
        assert layer.weight.item() == pytest.approx(expected)
    assert layer.weight.item() == 4.0
    WeightAverage(layer, None).take()
    assert layer.weight.item() == 4.0


def test_configurations_tell_the_kind_of_encoder() -> None:
    rows = {"texts": "strings.txt", "epochs": 1}
    sites = {"kind": "sites", "layers": 2}
    given = checked(PretrainConfig, rows | {"column": "resolved", "training": {"encoder": sites}}, "here")
    assert given.training.encoder == SitesConfig("sites", layers=2)
    with pytest.raises(ConfigError, match="column: resolved, not canonical"):
        checked(PretrainConfig, rows | {"column": "canonical", "training": {"encoder": sites}}, "here")
    with pytest.raises(ConfigError, match=r"^here: 'training.encoder.layer' is not a key of SitesConfig"):
        checked(PretrainConfig, rows | {"training": {"encoder": {"kind": "sites", "layer": 2}}}, "here")
    with pytest.raises(ConfigError, match=r"^here: 'training.encoder.layer' is not a key of EncoderConfig"):
        checked(PretrainConfig, rows | {"training": {"encoder": {"layer": 2}}}, "here")
    fit = {"file": "rows.csv", "scope_column": "scope", "targets": [{"label": "gap"}], "from_scratch": True}
    finetune = checked(FinetuneConfig, fit | {"form": "resolved", "geometry": sites}, "here")
    assert finetune.geometry == SitesConfig("sites", layers=2)
    with pytest.raises(ConfigError, match="form: resolved, not canonical"):
        checked(FinetuneConfig, fit | {"form": "canonical", "geometry": sites}, "here")
    with pytest.raises(ConfigError, match=r"^here: 'geometry.layer' is not a key of SitesConfig"):
        checked(FinetuneConfig, fit | {"form": "resolved", "geometry": {"kind": "sites", "layer": 2}}, "here")
    with pytest.raises(ValueError, match="of `masking` only the rate applies"):
        PretrainSettings(encoder=TINY, masking=Masking(strategy="span"))


def test_the_model_of_a_fit_knows_its_elements(fitted: FitJob) -> None:
    model, _ = PropertyModel.load(fitted.model)
    assert model.encoder.state_dict()["embeddings.properties"].abs().sum() > 100
