"""Schedule, groups and rates."""

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup

from cloud_core.models.encoder import MaskedLanguageModel
from cloud_core.models.geometry import EncoderConfig
from cloud_core.training.optimiser import (
    OptimiserSettings,
    adamw,
    depth,
    parameter_groups,
    schedule,
    set_learning_rate,
)

CONFIG = EncoderConfig(hidden_size=16, layers=3, heads=2, feed_forward=32)


def test_schedule_is_a_cosine_with_warmup() -> None:
    """Against transformers' scheduler, whose warm-up begins at 0 where ours takes its first step."""
    steps, warmup = 200, 20
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_cosine_schedule_with_warmup(optimiser, warmup, steps)
    settings = OptimiserSettings(warmup=warmup / steps)
    for step in range(steps):
        expected = theirs.get_last_lr()[0]
        if step >= warmup:
            assert schedule(step, steps, settings) == pytest.approx(expected, abs=1e-9)
        else:
            assert schedule(step, steps, settings) == pytest.approx((step + 1) / (warmup + 1))
        optimiser.step()
        theirs.step()
    assert schedule(199, 200, OptimiserSettings(floor=0.1)) == pytest.approx(0.1, abs=1e-3)
    assert schedule(0, 1, OptimiserSettings()) > 0


def test_every_parameter_is_in_one_group_and_only_matrices_decay() -> None:
    model = MaskedLanguageModel(CONFIG)
    for layer_decay in (1.0, 0.5):
        settings = OptimiserSettings(weight_decay=0.1, layer_decay=layer_decay)
        groups = parameter_groups(model, 3, settings)
        placed = [id(p) for group in groups for p in group["params"]]
        assert sorted(placed) == sorted(id(p) for p in model.parameters())
        decaying = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
        assert decaying == {id(p) for p in model.parameters() if p.ndim > 1}
    assert len(parameter_groups(model, 3, OptimiserSettings())) == 2


def test_rates_fall_layer_by_layer() -> None:
    model = MaskedLanguageModel(CONFIG)
    settings = OptimiserSettings(learning_rate=1.0, layer_decay=0.5)
    optimiser = adamw(model, 3, settings)
    rates = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
    by_depth = {depth(name, 3): rates[id(p)] for name, p in model.named_parameters()}
    assert by_depth == {4: 1.0, 3: 0.5, 2: 0.25, 1: 0.125, 0: 0.0625}
    set_learning_rate(optimiser, 0.5)
    assert {group["lr"] for group in optimiser.param_groups} == {0.5, 0.25, 0.125, 0.0625, 0.03125}
    model.encoder.embeddings.words.weight.requires_grad_(False)
    assert sum(len(g["params"]) for g in parameter_groups(model, 3, settings)) == len(rates) - 1


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="layer_decay"):
        OptimiserSettings(layer_decay=0)
    with pytest.raises(ValueError, match="warmup and floor"):
        OptimiserSettings(warmup=2000)
