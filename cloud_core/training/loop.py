"""Fit any model of SCOPE strings to labels, and run it over many strings.

The batches of an epoch are drawn from (seed, epoch) and dropout from (seed, step, rank), as in pretraining;
the ranks of a process group take equal parts of each batch, so that their number does not change what is
computed.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cloud_core.errors import CloudError
from cloud_core.training import counter
from cloud_core.training.batches import Batches, batches_per_epoch, epoch_batches, share, smallest_batch
from cloud_core.training.distributed import Ranks, spread
from cloud_core.training.job import FitSettings, Precision
from cloud_core.training.optimiser import adamw, schedule, set_learning_rate

Loss = Callable[[Tensor, Mapping[str, Tensor]], Tensor]
"""(output of the model, columns of the batch) -> a scalar: the mean over the rows of the batch."""

# of a batch without gradients: what fills a GPU, and what stays in a CPU's caches
TOKENS_AT_ONCE = 16_384 if torch.cuda.is_available() else 4_096


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to; losses are means over rows."""

    number: int  # from 1
    train_loss: float
    validation_loss: float
    learning_rate: float
    rows_per_second: float


@dataclass(frozen=True)
class FitResult:
    """`best` is the epoch whose weights the model has now."""

    epochs: tuple[Epoch, ...]
    best: Epoch


class FitError(CloudError):
    """A fit that cannot begin or go on; says why and what to change."""


class FitStoppedError(RuntimeError):
    """A fit that was asked to stop; nothing of it is kept."""


def alone() -> Ranks:
    """This process by itself, on the GPU where there is one."""
    return Ranks(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def fit(
    model: nn.Module,
    train: Batches,
    validation: Batches,
    settings: FitSettings,
    loss: Loss,
    on_epoch: Callable[[Epoch], None] | None = None,
    ranks: Ranks | None = None,
    keep_best: bool = True,
    stopping: Callable[[], bool] | None = None,
) -> FitResult:
    """Fit `model` to `train`; the weights of the epoch with the lowest validation loss are left in it.

    Validation rows are never trained on. `model(input_ids, lengths)` gives the output that `loss` takes, and
    `model.encoder` is what is frozen and what layer-wise rates count.

    Args:
        on_epoch: called after each epoch, on rank 0.
        ranks: the process group; every rank has to call this with the same arguments.
        keep_best: False leaves the last epoch's weights instead, as published recipes without a validation
            part do.
        stopping: asked after each step, on every rank; the fit ends where it says yes, to all of them alike.

    Raises:
        FitError: no rows, fewer than ranks, or a loss that is not finite.
        FitStoppedError: `stopping` said so.
    """
    ranks = ranks or alone()
    if len(train) < ranks.world or len(validation) < 1:
        raise FitError(
            f"{len(train)} training and {len(validation)} validation rows are too few for {ranks.world} "
            "processes; give more rows or another split"
        )
    per_epoch = batches_per_epoch(len(train), settings.batch_size)
    smallest = smallest_batch(len(train), settings.batch_size)
    if smallest < ranks.world:
        raise FitError(
            f"{len(train)} rows in batches of {smallest} to {settings.batch_size} are too few for "
            f"{ranks.world} processes; start fewer, or give a larger batch_size"
        )
    steps = settings.epochs * per_epoch
    model.to(ranks.device)
    encoder = model.encoder
    if not isinstance(encoder, nn.Module):
        raise TypeError(f"{type(model).__name__}.encoder is no module")
    optimiser = adamw(model, len(getattr(encoder, "layers", ())), settings.optimiser)
    columns = _on_device(train, ranks.device)
    epochs: list[Epoch] = []
    best: Epoch | None = None
    kept: dict[str, Tensor] = {}
    averaged = WeightAverage(model, settings.averaging)
    wrapped = model
    for number in range(1, settings.epochs + 1):
        frozen = number <= settings.frozen_epochs
        if number == 1 or number == settings.frozen_epochs + 1:
            encoder.requires_grad_(not frozen)
            # DDP learns at this point which parameters take part.
            wrapped = spread(model, nn.ModuleList(), ranks, "ddp")
        model.train()
        started = time.perf_counter()
        total = torch.zeros((), dtype=torch.float64, device=ranks.device)
        for index, rows in enumerate(epoch_batches(len(train), settings.batch_size, settings.seed, number)):
            step = (number - 1) * per_epoch + index
            factor = schedule(step, steps, settings.optimiser)
            set_learning_rate(optimiser, factor)
            torch.manual_seed(
                int(counter.bits(settings.seed, counter.DROPOUT, step, ranks.rank)[0] >> np.uint64(1))
            )
            mine = share(rows, train.lengths, ranks.rank, ranks.world)
            value = _loss(wrapped, train, columns, mine, loss, settings.precision, ranks.device)
            # Gradients are averaged over the ranks; the mean over all rows is what is wanted.
            part = len(mine) / len(rows)
            (value * (part * ranks.world)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), settings.optimiser.clip_norm)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            averaged.update(step)
            total += value.detach().double() * len(mine)
            if stopping is not None and stopping():
                raise FitStoppedError(f"stopped in epoch {number} of {settings.epochs}")
        train_loss = float(ranks.sum(total)) / len(train)
        seconds = time.perf_counter() - started
        with averaged.in_place():
            epoch = Epoch(
                number,
                train_loss,
                mean_loss(model, validation, loss, settings.precision, ranks),
                settings.optimiser.learning_rate * factor,
                len(train) / seconds,
            )
            if keep_best and (best is None or epoch.validation_loss < best.validation_loss):
                kept = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        if not np.isfinite([epoch.train_loss, epoch.validation_loss]).all():
            raise FitError(
                f"epoch {number}: the loss is {epoch.train_loss:g} on training and "
                f"{epoch.validation_loss:g} on validation rows; lower optimiser.learning_rate"
            )
        epochs.append(epoch)
        if best is None or epoch.validation_loss < best.validation_loss:
            best = epoch
        if on_epoch is not None and ranks.first:
            on_epoch(epoch)
        if settings.patience is not None and number - best.number >= settings.patience:
            break
    assert best is not None
    encoder.requires_grad_(True)
    if keep_best:
        model.load_state_dict(kept)
    else:
        averaged.take()
    model.eval()
    return FitResult(tuple(epochs), best)


class WeightAverage:
    """The weights of a model averaged over the steps: each step moves the average by 1 - decay, in the first
    steps by more, so that it does not remember where it began. Without a decay it is the model itself."""

    def __init__(self, model: nn.Module, decay: float | None) -> None:
        self.decay = decay
        self.weights = [parameter.data for parameter in model.parameters()]
        self.average = [] if decay is None else [weight.clone() for weight in self.weights]

    def update(self, step: int) -> None:
        if self.decay is not None:
            decay = min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self.average, self.weights, 1 - decay)

    def take(self) -> None:
        """Give the model the average, and the average what the model had."""
        for weight, average in zip(self.weights, self.average, strict=bool(self.average)):
            held = weight.clone()
            weight.copy_(average)
            average.copy_(held)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the average inside, and goes on where it was after."""
        self.take()
        yield
        self.take()


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    return nullcontext() if precision == "float32" else torch.autocast(device.type, torch.bfloat16)


def on_device(values: NDArray[Any], device: torch.device) -> Tensor:
    """On a GPU without waiting for what it is doing."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _on_device(examples: Batches, device: torch.device) -> dict[str, Tensor]:
    return {name: torch.from_numpy(values).to(device) for name, values in examples.columns.items()}


def _inputs(examples: Batches, rows: NDArray[np.int64], device: torch.device) -> tuple[Tensor, Tensor]:
    """(input_ids on the device, lengths on the CPU, where the batch is packed)."""
    ids, lengths = examples.padded(rows)
    return on_device(ids, device), torch.from_numpy(lengths)


def _loss(
    model: nn.Module,
    examples: Batches,
    columns: Mapping[str, Tensor],
    rows: NDArray[np.int64],
    loss: Loss,
    precision: Precision,
    device: torch.device,
) -> Tensor:
    with autocast(device, precision):
        output = model(*_inputs(examples, rows, device))
    chosen = on_device(rows, device)
    return loss(output.float(), {name: values[chosen] for name, values in columns.items()})


def _length_batches(lengths: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """All rows, those of like length together, about `TOKENS_AT_ONCE` tokens a batch."""
    order = np.argsort(lengths, kind="stable")
    parts = np.cumsum(lengths[order]) // TOKENS_AT_ONCE
    return np.split(order, np.flatnonzero(np.diff(parts)) + 1) if len(order) else []


@torch.inference_mode()
def mean_loss(
    model: nn.Module,
    examples: Batches,
    loss: Loss,
    precision: Precision = "float32",
    ranks: Ranks | None = None,
) -> float:
    """The loss over all rows, without dropout; the ranks share the batches."""
    ranks = ranks or alone()
    model.eval()
    columns = _on_device(examples, ranks.device)
    total = torch.zeros((), dtype=torch.float64, device=ranks.device)
    for rows in _length_batches(examples.lengths)[ranks.rank :: ranks.world]:
        value = _loss(model, examples, columns, rows, loss, precision, ranks.device)
        total += value.double() * len(rows)
    return float(ranks.sum(total)) / len(examples)


@torch.inference_mode()
def outputs(
    model: nn.Module, examples: Batches, precision: Precision = "float32", device: torch.device | None = None
) -> NDArray[np.float32]:
    """What the model gives for each row, in order: `[rows, …]`, without dropout."""
    device = device or alone().device
    model.to(device)
    model.eval()
    parts: list[Tensor] = []
    batches = _length_batches(examples.lengths)
    with autocast(device, precision):  # around all batches: the weights are cast once
        for rows in batches:
            parts.append(model(*_inputs(examples, rows, device)).float())
    if not parts:
        raise FitError("no rows to run the model on")
    found = torch.cat(parts).cpu().numpy()
    result = np.empty_like(found)
    result[np.concatenate(batches)] = found
    return result
