"""The fit: what it learns, what it leaves alone, and what it keeps."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cloud_core.models.checkpoint import save_encoder
from cloud_core.models.encoder import MaskedLanguageModel
from cloud_core.models.geometry import EncoderConfig
from cloud_core.models.heads import PropertyModel
from cloud_core.models.targets import Target
from cloud_core.training.batches import Batches
from cloud_core.training.distributed import LAUNCHER_VARIABLE, Ranks
from cloud_core.training.fit import build, run
from cloud_core.training.job import LABELS, PARTS, FitJob, FitSettings
from cloud_core.training.loop import Epoch, FitError, fit, mean_loss, outputs
from cloud_core.training.losses.property import property_loss, scaled
from cloud_core.training.optimiser import OptimiserSettings, adamw
from cloud_core.training.progress import METRICS

GEOMETRY = EncoderConfig(hidden_size=32, layers=2, heads=2, feed_forward=64)
ELEMENTS = ("H", "Li", "Na", "K", "Rb", "Cs", "F", "Cl", "Br", "I")
SETTINGS = FitSettings(
    epochs=12, batch_size=16, optimiser=OptimiserSettings(learning_rate=3e-3, layer_decay=1.0)
)


def strings(n: int) -> tuple[list[str], np.ndarray]:
    """Made-up strings whose label is the place of their first element."""
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 5, n), rng.integers(5, 10, n)
    texts = [
        f"0 3 n O O O i O O O e O O O 0 | 1a | {ELEMENTS[a]} 0.5 {ELEMENTS[b]} 0.5"
        for a, b in zip(first, second, strict=True)
    ]
    return texts, first.astype(float)


@pytest.fixture(scope="module")
def examples() -> Batches:
    texts, labels = strings(160)
    target = Target("place").fitted(labels)
    return scaled(Batches.of_rows(texts, {LABELS: labels[:, None]}), [target])


def model() -> PropertyModel:
    torch.manual_seed(0)
    return PropertyModel(GEOMETRY, [Target("place")])


LOSS = property_loss([Target("place")], np.ones(1))
TRAIN, HELD = np.arange(120), np.arange(120, 160)


def test_learns_a_rule_from_training_rows(examples: Batches) -> None:
    fitted = model()
    before = mean_loss(fitted, examples.take(HELD), LOSS)
    longer = replace(SETTINGS, epochs=30)
    result = fit(fitted, examples.take(TRAIN), examples.take(HELD), longer, LOSS)
    assert result.best.validation_loss < 0.2 * before
    assert mean_loss(fitted, examples.take(HELD), LOSS) == pytest.approx(result.best.validation_loss)


def test_the_best_epoch_is_kept_and_patience_ends_the_fit(examples: Batches) -> None:
    fitted = model()
    wild = replace(SETTINGS, epochs=30, patience=2, optimiser=OptimiserSettings(learning_rate=2e-2))
    seen: list[Epoch] = []
    result = fit(fitted, examples.take(TRAIN), examples.take(HELD), wild, LOSS, seen.append)
    assert tuple(seen) == result.epochs
    assert result.best == min(result.epochs, key=lambda epoch: epoch.validation_loss)
    assert result.epochs[-1].number == result.best.number + 2 < 30
    assert mean_loss(fitted, examples.take(HELD), LOSS) == pytest.approx(result.best.validation_loss)


def test_validation_labels_do_not_reach_the_weights(examples: Batches) -> None:
    settings = replace(SETTINGS, epochs=2)
    held = examples.take(HELD)
    other = Batches(held.ids, held.offsets, {LABELS: held.columns[LABELS][::-1].copy()})
    weights = []
    for validation in (held, other):
        fitted = model()
        fit(fitted, examples.take(TRAIN), validation, settings, LOSS, keep_best=False)
        weights.append(fitted.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_frozen_epochs_move_the_head_alone(examples: Batches) -> None:
    fitted = model()
    start = {name: tensor.clone() for name, tensor in fitted.state_dict().items()}
    frozen = replace(SETTINGS, epochs=2, frozen_epochs=2)
    fit(fitted, examples.take(TRAIN), examples.take(HELD), frozen, LOSS)
    moved = {name for name, tensor in fitted.state_dict().items() if not torch.equal(tensor, start[name])}
    assert moved == {name for name in start if not name.startswith("encoder.")}
    fit(fitted, examples.take(TRAIN), examples.take(HELD), replace(frozen, frozen_epochs=1), LOSS)
    assert not torch.equal(
        fitted.state_dict()["encoder.embeddings.words.weight"], start["encoder.embeddings.words.weight"]
    )


def test_layers_near_the_input_learn_slower() -> None:
    settings = OptimiserSettings(learning_rate=1.0, layer_decay=0.5)
    rates = {group["peak"] for group in adamw(model(), 2, settings).param_groups}
    assert rates == {1.0, 0.5, 0.25, 0.125}  # head, two layers, embeddings


def test_same_seed_same_weights(examples: Batches) -> None:
    found = []
    for seed in (0, 0, 1):
        fitted = model()
        fit(fitted, examples.take(TRAIN), examples.take(HELD), replace(SETTINGS, epochs=2, seed=seed), LOSS)
        found.append(outputs(fitted, examples))
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_outputs_keep_the_order_of_rows_of_any_length() -> None:
    texts = strings(8)[0]
    longer = [text.replace("1a", "1a 2b 4c") for text in texts[:3]]
    mixed = [texts[0], longer[0], texts[1], longer[1], texts[2], longer[2]]
    fitted = model()
    together = outputs(fitted, Batches.of_rows(mixed))
    apart = np.concatenate([outputs(fitted, Batches.of_rows([text])) for text in mixed])
    np.testing.assert_allclose(together, apart, atol=1e-6)


def test_loss_of_several_targets_ignores_missing_labels() -> None:
    targets = [Target("a"), Target("b", kind="classification", classes=("x", "y", "z"))]
    output = torch.tensor([[1.0, 2.0, 0.0, -1.0], [3.0, 0.5, 0.5, 0.0]])
    labels = torch.tensor([[2.0, float("nan")], [float("nan"), 2.0]])
    loss = property_loss(targets, np.array([0.5, 0.5]))(output, {LABELS: labels})
    # each target has one known label out of two rows: its mean over known labels counts one half
    expected = 0.5 * (1.0 + F.cross_entropy(output[1:, 1:], torch.tensor([2])))
    assert loss.item() == pytest.approx(float(expected))


@pytest.mark.parametrize(("objective", "expected"), [("l1", 2.0), ("l2", 4.0), ("huber", 1.5)])
def test_objectives(objective: str, expected: float) -> None:
    loss = property_loss([Target("a")], np.ones(1), objective)  # type: ignore[arg-type]
    assert loss(torch.tensor([[3.0]]), {LABELS: torch.tensor([[1.0]])}).item() == expected


def test_a_loss_that_blows_up_is_told(examples: Batches) -> None:
    def nan(output: torch.Tensor, columns: object) -> torch.Tensor:
        return output.sum() * float("nan")

    with pytest.raises(FitError, match="learning_rate"):
        fit(model(), examples.take(TRAIN), examples.take(HELD), SETTINGS, nan)
    with pytest.raises(FitError, match="too few"):
        fit(model(), examples.take(TRAIN[:0]), examples.take(HELD), SETTINGS, LOSS)
    small, three = replace(SETTINGS, batch_size=3), Ranks(0, 3, torch.device("cpu"))
    with pytest.raises(FitError, match="4 rows in batches of 2 to 3 are too few for 3 processes"):
        fit(model(), examples.take(TRAIN[:4]), examples.take(HELD), small, LOSS, ranks=three)


def test_examples_survive_their_file(examples: Batches, tmp_path: object) -> None:
    path = f"{tmp_path}/rows.safetensors"
    examples.save(path)
    back = Batches.load(path)
    assert np.array_equal(back.ids, examples.ids)
    assert np.array_equal(back.columns[LABELS], examples.columns[LABELS])
    part = examples.take(np.array([5, 3]))
    assert np.array_equal(part.columns[LABELS], examples.columns[LABELS][[5, 3]])
    with pytest.raises(ValueError, match="values for"):
        Batches(examples.ids, examples.offsets, {LABELS: np.zeros(3)})


def test_long_strings_are_cut_and_end_in_sep() -> None:
    text = strings(1)[0][0]
    whole = Batches.of_rows([text])
    cut = Batches.of_rows([text], positions=10)
    assert len(cut.ids) == 10
    assert cut.ids[-1] == whole.ids[-1]
    assert np.array_equal(cut.ids[:-1], whole.ids[:9])


def test_a_job_says_pooling_and_dropout(tmp_path: Path) -> None:
    still = replace(GEOMETRY, dropout=0.0, attention_dropout=0.0)
    folder = save_encoder(tmp_path / "encoder", MaskedLanguageModel(still), {})
    places = str(tmp_path / "job"), str(tmp_path), str(tmp_path / "model")
    settings = replace(SETTINGS, pooling="mean", dropout=0.2)
    job = FitJob(*places, (Target("a"),), settings, start_from=str(folder))
    assert FitJob.read(job.write(job.file)) == job
    texts, labels = strings(10)
    rows = Batches.of_rows(texts, {LABELS: labels[:, None]})
    fitted = build(job, rows, rows)[0].model
    assert (fitted.pooling, fitted.config.dropout, fitted.config.attention_dropout) == ("mean", 0.2, 0.2)
    assert 0.2 in {module.p for module in fitted.modules() if isinstance(module, torch.nn.Dropout)}
    kept = build(replace(job, settings=SETTINGS), rows, rows)[0].model
    assert (kept.pooling, kept.config) == ("first", still)


def test_scaling_is_of_training_labels_alone(tmp_path: Path) -> None:
    texts, labels = strings(24)
    for part, shift in zip(PARTS, (0.0, 100.0, -100.0), strict=True):
        columns = {LABELS: (labels + shift)[:, None]}
        Batches.of_rows(texts, columns).save(tmp_path / f"{part}.safetensors")
    places = str(tmp_path / "job"), str(tmp_path), str(tmp_path / "model")
    job = FitJob(*places, (Target("place"),), replace(SETTINGS, epochs=1), from_scratch=GEOMETRY)
    job.write(job.file)
    run(job)
    (target,) = PropertyModel.load(places[2])[0].targets
    assert (target.mean, target.deviation) == pytest.approx((labels.mean(), labels.std()))


def test_a_fit_does_not_outlive_who_launched_it(tmp_path: Path) -> None:
    texts, labels = strings(40)
    for part in PARTS:
        Batches.of_rows(texts, {LABELS: labels[:, None]}).save(tmp_path / f"{part}.safetensors")
    places = str(tmp_path / "job"), str(tmp_path), str(tmp_path / "model")
    endless = replace(SETTINGS, epochs=10**6)
    job = FitJob(*places, (Target("place"),), endless, from_scratch=GEOMETRY)
    launcher = subprocess.Popen(["sleep", "600"])
    fitting = subprocess.Popen(
        [sys.executable, "-m", "cloud_core.training.fit", str(job.write(job.file))],
        env=os.environ | {LAUNCHER_VARIABLE: str(launcher.pid)},
        stdout=subprocess.PIPE,
    )
    try:
        lines = Path(job.folder) / METRICS
        deadline = time.monotonic() + 60
        while not (lines.is_file() and lines.stat().st_size):
            assert time.monotonic() < deadline and fitting.poll() is None
            time.sleep(0.05)
        launcher.kill()
        launcher.wait()
        said, _ = fitting.communicate(timeout=30)
    finally:
        launcher.kill()
        fitting.kill()
    assert fitting.returncode == 0  # torchrun starts a failed rank again
    assert b"stopped in epoch" in said
    assert job.result() is None


def test_a_property_that_the_start_predicts_already_begins_with_its_output(tmp_path: Path) -> None:
    """Under another name and scaling; outputs of another unit, or of no use, are left."""
    rng = np.random.default_rng(1)
    texts, _ = strings(60)
    torch.manual_seed(0)
    start = PropertyModel(
        GEOMETRY, [Target("of no use", "eV"), Target("place", "eV", mean=2.0, deviation=3.0)]
    )
    rows = Batches.of_rows(texts)
    folder = start.save(tmp_path / "start", {})
    told = start.physical(outputs(start, rows))["place"]
    noise = rng.normal(size=60)
    values = np.stack([told + 0.01 * told.std() * noise, noise, told, told], axis=1)
    train = Batches.of_rows(texts, {LABELS: values})
    targets = (
        Target("mine", "eV"),
        Target("chance", "eV"),
        Target("other unit", "K"),
        Target("unit not given"),
    )
    job = FitJob(str(tmp_path), "", "", targets, start_from=str(folder))
    task, origin = build(job, train, train)
    assert origin["outputs"] == {"mine": "place", "unit not given": "place"}
    assert isinstance(task.model, PropertyModel)
    begun = task.physical(outputs(task.model, rows))
    np.testing.assert_allclose(begun["mine"], told, atol=1e-5)
    assert np.abs(begun["other unit"] - told).mean() > 10 * np.abs(begun["mine"] - told).mean()
