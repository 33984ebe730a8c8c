"""DebyeModel: bounds, start, folder; thermal labels, their split and loss."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cloud_core.evaluation.thermal.table import (
    ThermalError,
    ThermalTable,
    assemble,
)
from cloud_core.inference.predictor import Predictor
from cloud_core.models.debye import heat_capacity, internal_energy
from cloud_core.models.debye_model import DebyeModel, Quantity, best_theta
from cloud_core.models.folder import CheckpointError
from cloud_core.models.geometry import EncoderConfig
from cloud_core.models.pooling import Pooling
from cloud_core.training.batches import Batches
from cloud_core.training.job import FitSettings
from cloud_core.training.loop import fit, outputs
from cloud_core.training.losses.thermal import thermal_loss
from cloud_core.training.optimiser import OptimiserSettings

TINY = EncoderConfig(hidden_size=16, layers=1, heads=2, feed_forward=32)
SALT = "1 6 a O D D a D O D b O O O c O O O d O O O e O O O 0 | 4a 4b | Cl 0.5 Na 0.5"


def batch(n: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = torch.arange(5, 5 + n)
    return torch.randint(5, 500, (n, int(lengths.max()))), lengths


def test_starts_at_the_initial_theta() -> None:
    model = DebyeModel(TINY, initial_theta=321.0).eval()
    assert torch.allclose(model(*batch()), torch.full((4,), 321.0), rtol=1e-5)


def test_theta_stays_within_its_bounds_whatever_the_weights() -> None:
    model = DebyeModel(TINY, 300.0, lowest=50.0, highest=2000.0).eval()
    for scale in (-1e4, 1e4):
        torch.nn.init.constant_(model.output.bias, scale)
        theta = model(*batch())
        assert torch.isfinite(theta).all()
        assert (theta >= 50.0 - 1e-3).all() and (theta <= 2000.0 + 1e-1).all()


@pytest.mark.parametrize("initial", [10.0, 6000.0, float("nan")])
def test_refuses_an_initial_theta_outside_the_bounds(initial: float) -> None:
    with pytest.raises(ValueError, match="units of the labels"):
        DebyeModel(TINY, initial)


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_folder_round_trip_and_predictor(tmp_path: Path, pooling: Pooling) -> None:
    model = DebyeModel(TINY, 400.0, lowest=30.0, pooling=pooling).eval()
    torch.nn.init.normal_(model.output.weight)
    model.save(tmp_path / "model", {"form": "canonical", "note": 1})
    loaded, metadata = DebyeModel.load(tmp_path / "model")
    inputs = batch()
    assert metadata["note"] == 1 and loaded.lowest == 30.0 and loaded.pooling == pooling
    assert torch.equal(loaded.eval()(*inputs), model(*inputs))
    with pytest.raises(CheckpointError, match="no config"):
        DebyeModel.load(tmp_path / "other")

    predictor = Predictor.load(tmp_path / "model")
    predictor.temperatures = [0.0, 300.0]
    (row,) = predictor.predict([SALT])
    theta = row["debye_temperature"]
    assert row["error"] is None and 30 < theta < 5000
    assert row["temperature"] == [0.0, 300.0]
    assert row["heat_capacity"][0] == 0.0
    assert row["heat_capacity"][1] == pytest.approx(heat_capacity(theta, 300.0).item())
    assert row["internal_energy"][0] == pytest.approx(internal_energy(theta, 0.0).item())
    assert row["helmholtz_energy"][1] == pytest.approx(
        row["internal_energy"][1] - 300.0 * row["entropy"][1], rel=1e-9
    )


def test_heads_are_in_float32_under_bfloat16() -> None:
    """A θ of 8 bits would be 0.4 % off; what is left is the encoder's own rounding."""
    torch.manual_seed(0)
    model = DebyeModel(TINY, 400.0).eval()
    torch.nn.init.normal_(model.output.weight)
    with torch.autocast("cpu", torch.bfloat16):
        theta = model(*batch(40))
    assert theta.dtype is torch.float32
    assert (theta != theta.bfloat16().float()).all()


def test_best_theta_recovers_the_theta_that_made_the_labels() -> None:
    theta = torch.tensor([[80.0], [400.0], [1500.0]], dtype=torch.float64)
    temperatures = torch.tensor([100.0, 300.0, 800.0], dtype=torch.float64)
    for quantity, function in (("heat_capacity", heat_capacity), ("internal_energy", internal_energy)):
        values = function(theta, temperatures)
        values[1, 2] = torch.nan
        found = best_theta(values, temperatures, quantity)  # type: ignore[arg-type]
        assert torch.allclose(found, theta[:, 0], rtol=0.006), quantity


def rows(n: int = 6) -> dict[str, object]:
    return {
        "texts": [f"0 | 1a | H {i / 10}" for i in range(n)],
        "values": np.arange(1.0, n + 1),
        "n_atoms": np.full(n, 2.0),
        "temperatures": np.full(n, 300.0),
        "quantity": "heat_capacity",
        "basis": "cell",
    }


def test_assemble_divides_by_atoms_and_brings_temperatures_together() -> None:
    single = assemble(**rows())  # type: ignore[arg-type]
    assert single.values[:, 0].tolist() == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    many = assemble(
        **rows() | {"temperatures": np.array([300.0, 100, 100, 300, 100, 200]), "ids": list("aabbcc")}  # type: ignore[arg-type]
    )
    assert many.temperatures.tolist() == [100.0, 200.0, 300.0] and len(many) == 3
    expected = [[1.0, np.nan, 0.5], [1.5, np.nan, 2.0], [2.5, 3.0, np.nan]]
    assert np.array_equal(many.values, expected, equal_nan=True)
    assert many.texts == ("0 | 1a | H 0.0", "0 | 1a | H 0.2", "0 | 1a | H 0.4")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": np.array([1.0, 2, -3, 4, 5, 6])}, r"row 3 .* positive numbers"),
        ({"n_atoms": np.array([1.0, 0, 3, 4, 5, 6])}, r"row 2 .* n_atoms must be at least 1"),
        ({"temperatures": np.zeros(6)}, r"row 1 .* above 0 K"),
        ({"texts": []}, "no rows"),
        ({"n_atoms": np.array([1.0, 2, 3, 4, 0.1, 6]) + 0.9, "values": np.arange(1.0, 7) * 20}, "above 3R"),
        ({"ids": list("aabbcd")}, "two labels at 300 K"),
    ],
)
def test_assemble_refuses(change: dict[str, object], message: str) -> None:
    with pytest.raises(ThermalError, match=message):
        assemble(**rows() | change)  # type: ignore[arg-type]


@pytest.mark.parametrize("quantity", ["heat_capacity", "internal_energy", "internal_energy_thermal"])
def test_learns_theta_from_any_quantity_at_several_temperatures(quantity: Quantity) -> None:
    """Two kinds of strings, soft and hard, whose labels are made with 150 and 900 K."""
    torch.manual_seed(0)
    texts = tuple(SALT.replace("0.5", f"0.{digit}") for digit in (2, 8) for _ in range(16))
    theta = np.repeat([150.0, 900.0], 16)
    temperatures = np.array([80.0, 300.0, 600.0])
    empty = np.full((32, 3), np.nan)
    table = ThermalTable(texts, np.full(32, 2.0), temperatures, empty, quantity)
    values = table.curves(theta)
    values[::4, 1] = np.nan
    scale = float(np.nanstd(values))
    examples = Batches.of_rows(texts, {"values": values, "n_atoms": table.n_atoms})
    config = EncoderConfig(hidden_size=16, layers=1, heads=2, feed_forward=32, dropout=0.0)
    model = DebyeModel(config, 400.0)
    optimiser = OptimiserSettings(learning_rate=1e-2, layer_decay=1.0)
    settings = FitSettings(epochs=40, batch_size=8, optimiser=optimiser)
    fit(model, examples, examples, settings, thermal_loss(quantity, temperatures, scale, "atom"))
    assert outputs(model, examples) == pytest.approx(theta, rel=0.05)


def test_loss_is_the_mean_error_over_known_labels() -> None:
    temperatures = np.array([100.0, 300.0])
    theta = torch.tensor([200.0, 500.0], requires_grad=True)
    truth = heat_capacity(theta.detach()[:, None], torch.from_numpy(temperatures).float())
    columns = {
        "values": truth + torch.tensor([[1.0, torch.nan], [2.0, 3.0]]),
        "n_atoms": torch.tensor([2, 4]),
    }
    per_atom = thermal_loss("heat_capacity", temperatures, 2.0, "atom")(theta, columns)
    per_cell = thermal_loss("heat_capacity", temperatures, 1.0, "cell")(theta, columns)
    assert per_atom.item() == pytest.approx((1 + 2 + 3) / 3 / 2, rel=1e-4)
    assert per_cell.item() == pytest.approx((2 + 8 + 12) / 3, rel=1e-4)
    per_cell.backward()
    assert theta.grad is not None and torch.isfinite(theta.grad).all()
