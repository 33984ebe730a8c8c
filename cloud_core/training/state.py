"""Where a run stands, on disk: weights, AdamW's moments, the step, and measurements not yet reported.

Everything else that a run needs (order, masks, dropout, learning rate) is a pure function of the seed and the
step. A checkpoint is a model folder too: finetuning can start from any of them.
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from cloud_core.files import flush, write_text
from cloud_core.models.checkpoint import encoder_config, load_weights, read_weights, write_folder
from cloud_core.models.encoder import MaskedLanguageModel
from cloud_core.models.folder import CONFIG, WEIGHTS, CheckpointError, config_text, read_config
from cloud_core.models.sites_encoder import MaskedSites
from cloud_core.training.distributed import Ranks, like, whole

OPTIMISER = "optimiser.safetensors"
STATE = "state.json"
LATEST = "latest"
MOMENTS = ("exp_avg", "exp_avg_sq")


def save_state(
    folder: Path,
    step: int,
    model: MaskedLanguageModel | MaskedSites,
    optimiser: torch.optim.Optimizer,
    pending: Tensor,
    recipe: dict[str, Any],
    metadata: dict[str, Any],
    ranks: Ranks,
    keep: int,
) -> None:
    """Write `step-…` under `folder`, then the pointer `latest`, then drop all but the newest `keep`.

    Every rank has to call it; rank 0 writes, and the others leave when it has.
    """
    weights: dict[str, Tensor] = {}
    moments: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        tensors = {name: parameter} | {f"{m}.{name}": optimiser.state[parameter][m] for m in MOMENTS}
        for key, tensor in tensors.items():
            full = whole(tensor.detach())
            if ranks.first:
                (weights if key == name else moments)[key] = full.cpu()
    if ranks.first:
        weights |= {
            name: buffer.detach().cpu()
            for name, buffer in model.named_buffers()
            if name in model.state_dict()
        }
        config = {"kind": "encoder", "encoder": asdict(model.config), "metadata": metadata | {"step": step}}
        state = {"step": step, "recipe": recipe}
        name = f"step-{step:08d}"
        for left in folder.glob(".step-*"):  # by a process that was killed while it wrote
            shutil.rmtree(left)
        write_folder(
            folder / name,
            {WEIGHTS: weights, OPTIMISER: moments | {"pending": pending}},
            {CONFIG: config_text(config), STATE: json.dumps(state, indent=1)},
        )
        write_text(folder / LATEST, name)
        flush(folder)  # before the checkpoint that the pointer named until now goes
        for old in sorted(folder.glob("step-*"))[:-keep]:
            if old.name != name:
                shutil.rmtree(old)
    ranks.wait()


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint under `folder`, or None."""
    pointer = folder / LATEST
    if not pointer.exists():
        return None
    checkpoint = folder / pointer.read_text(encoding="utf-8").strip()
    if not (checkpoint / STATE).is_file():
        raise CheckpointError(
            f"{pointer}: points to {checkpoint.name}, which is not there; name another in it"
        )
    return checkpoint


def load_state(
    checkpoint: Path,
    model: MaskedLanguageModel | MaskedSites,
    optimiser: torch.optim.Optimizer,
    recipe: dict[str, Any],
) -> tuple[int, Tensor]:
    """Weights and moments into a model spread in any way; returns the step and the pending measurements.

    Raises:
        CheckpointError: the checkpoint was made by another recipe; names what differs.
    """
    state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    differing = sorted(key for key in recipe if state["recipe"].get(key) != recipe[key])
    if differing:
        raise CheckpointError(
            f"{checkpoint}: made with other {', '.join(differing)} than this job's; "
            "use another folder, or start from its weights with `start_from`"
        )
    weights, moments = read_weights(checkpoint), dict(load_file(checkpoint / OPTIMISER))
    step = int(state["step"])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(like(weights[name], parameter))
            optimiser.state[parameter] = {
                "step": torch.tensor(float(step), device=parameter.device),
                **{m: like(moments[f"{m}.{name}"], parameter) for m in MOMENTS},
            }
    return step, moments["pending"]


def start_from(folder: str, model: MaskedLanguageModel | MaskedSites) -> None:
    """Take the weights of a model folder and nothing else.

    Raises:
        CheckpointError: it holds no encoder, or one of another geometry, whose weights may fit all the same.
    """
    theirs, ours = encoder_config(read_config(folder, "encoder")["encoder"]), model.config
    differing = [
        f"{key} {value}, not {getattr(ours, key, None)}"
        for key, value in asdict(theirs).items()
        if not key.endswith("dropout") and value != getattr(ours, key, None)
    ]
    if differing:
        raise CheckpointError(
            f"{folder}: an encoder of {'; '.join(differing)}; set `encoder` to its geometry or "
            "start from another"
        )
    load_weights(model, read_weights(folder), folder)
