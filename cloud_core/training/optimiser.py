"""AdamW with decoupled decay, layer-wise learning rates, and cosine annealing with warm-up."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class OptimiserSettings:
    """learning_rate is the peak; warmup a share of all steps; floor the share of the peak left at the end;
    layer_decay the factor from a layer to the one below (1: none); clip_norm the largest gradient norm."""

    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    warmup: float = 0.05
    floor: float = 0.0
    layer_decay: float = 1.0
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        if self.learning_rate <= 0 or self.clip_norm <= 0 or not 0 < self.layer_decay <= 1:
            raise ValueError("learning_rate and clip_norm are above 0, layer_decay in (0, 1]")
        if not (0 <= self.warmup <= 1 and 0 <= self.floor <= 1):
            raise ValueError("warmup and floor are shares between 0 and 1")


def depth(name: str, layers: int) -> int:
    """By parameter name: 0 for embeddings, 1 … `layers` for the encoder's layers, `layers` + 1 for heads."""
    if "embeddings." in name:
        return 0
    if ".layers." in f".{name}":
        return 1 + int(f".{name}".split(".layers.", 1)[1].split(".", 1)[0])
    return layers + 1


def parameter_groups(model: nn.Module, layers: int, settings: OptimiserSettings) -> list[dict[str, Any]]:
    """Groups for any torch optimiser: no decay on biases and norms, `lr` scaled by the layer's depth.

    Each group keeps its own peak as `peak`, which `set_learning_rate` scales. Parameters that ask for no
    gradient are left out.
    """
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        level, decays = depth(name, layers), parameter.ndim > 1
        peak = settings.learning_rate * settings.layer_decay ** (layers + 1 - level)
        group = groups.setdefault(
            (level, decays),
            {
                "params": [],
                "lr": peak,
                "peak": peak,
                "weight_decay": settings.weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)
    # One kernel launch serves a group: without layer-wise rates two groups are enough.
    return list(groups.values()) if settings.layer_decay != 1 else _merge(list(groups.values()))


def _merge(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    merged: dict[float, dict[str, Any]] = {}
    for group in groups:
        merged.setdefault(group["weight_decay"], group | {"params": []})["params"].extend(group["params"])
    return list(merged.values())


def adamw(model: nn.Module, layers: int, settings: OptimiserSettings) -> torch.optim.AdamW:
    """Fused AdamW over `parameter_groups`."""
    return torch.optim.AdamW(
        parameter_groups(model, layers, settings),
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.epsilon,
        fused=True,
    )


def schedule(step: int, steps: int, settings: OptimiserSettings) -> float:
    """Share of the peak rate at step 0 … `steps` - 1: linear warm-up, then half a cosine down to `floor`."""
    warmup = settings.warmup * steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1.0, steps - warmup)
    return settings.floor + (1 - settings.floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def set_learning_rate(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Every group to `factor` of its peak."""
    for group in optimiser.param_groups:
        group["lr"] = factor * group["peak"]
