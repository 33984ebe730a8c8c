"""Batches as the model sees them, and what it is asked: masked tokens, counted by field."""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cloud_core.models.encoder import MaskedLanguageModel, Packing
from cloud_core.scope.tokenizer import FIELDS, SPECIAL
from cloud_core.training.augmentation import augment
from cloud_core.training.batches import Batches, epoch_batches, share
from cloud_core.training.distributed import Ranks
from cloud_core.training.masking import Masking, Tokens, choose, corrupt

VALIDATION_EPOCH = -1  # masks of the validation rows are drawn once for all


class MicroBatch(NamedTuple):
    """What goes through the model at once."""

    ids: Tensor  # [T] as the model sees them
    packing: Packing
    masked: Tensor  # [M] places among the T
    targets: Tensor  # [M] the true words
    fields: Tensor  # [M] of which field each is

    def to(self, device: torch.device) -> "MicroBatch":
        if device.type == "cpu":
            return self
        ids, masked, targets, fields = (
            tensor.pin_memory().to(device, non_blocking=True)
            for tensor in (self.ids, self.masked, self.targets, self.fields)
        )
        return MicroBatch(ids, self.packing.to(device), masked, targets, fields)


class Objective(nn.Module):
    """The model and its loss, as one module for DDP, FSDP and the compiler to wrap."""

    def __init__(self, model: MaskedLanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """-> the summed cross-entropy of the masked tokens (nats), and `[1 + 2 * 5]`: that sum, then for each
        of `FIELDS` the words predicted rightly and the words asked for."""
        logits = self.model.masked_logits(batch.ids, batch.packing, batch.masked).float()
        loss = F.cross_entropy(logits, batch.targets, reduction="sum")
        right = (logits.argmax(-1) == batch.targets).double()
        counts = torch.zeros(2, len(FIELDS), dtype=torch.float64, device=logits.device)
        counts[0].index_add_(0, batch.fields, right)
        counts[1].index_add_(0, batch.fields, torch.ones_like(right))
        return loss, torch.cat([loss.detach().double()[None], counts.flatten()])


def micro_batches(
    corpus: Batches,
    rows: NDArray[np.int64],
    masking: Masking,
    seed: int,
    epoch: int,
    ranks: Ranks,
    limit: int,
    groups: NDArray[np.int64] | None = None,
) -> tuple[list[MicroBatch], int]:
    """This rank's share of the global batch `rows`, and the number of masked tokens in the whole batch.

    The number of micro-batches is the same on every rank. `groups`: see `micro_batch`.
    """
    tokens = Tokens.of(corpus, rows)
    scored = int(choose(tokens, masking, seed, epoch).sum())
    mine = share(rows, corpus.lengths, ranks.rank, ranks.world)
    parts = min(-(-len(tokens.ids) // (ranks.world * limit)), len(rows) // ranks.world)
    ends = np.cumsum(corpus.lengths[mine])
    cuts = np.searchsorted(ends, ends[-1] * np.arange(1, parts) / parts, side="right")
    parts_of_mine = np.split(mine, cuts)
    return [micro_batch(corpus, part, masking, seed, epoch, groups) for part in parts_of_mine], scored


def micro_batch(
    corpus: Batches,
    rows: NDArray[np.int64],
    masking: Masking,
    seed: int,
    epoch: int,
    groups: NDArray[np.int64] | None = None,
) -> MicroBatch:
    """Some rows, masked; augmented first where the space groups `[rows of the corpus]` are given."""
    tokens = Tokens.of(corpus, rows)
    if groups is not None:
        tokens = augment(tokens, groups, seed, epoch)
    chosen = choose(tokens, masking, seed, epoch)
    seen = corrupt(tokens, chosen, masking, seed, epoch)
    lengths = torch.from_numpy(corpus.lengths[rows])
    return MicroBatch(
        torch.from_numpy(seen),
        Packing.of(lengths, int(lengths.max())),
        torch.from_numpy(np.flatnonzero(chosen)),
        torch.from_numpy(tokens.ids[chosen]),
        torch.from_numpy(tokens.fields[chosen].astype(np.int64)),
    )


@torch.no_grad()
def evaluate(
    objective: nn.Module, corpus: Batches, ranks: Ranks, tokens_at_once: int = 16_384
) -> dict[str, float]:
    """Loss, perplexity and accuracies on a corpus, with published masks that are the same at every call."""
    training = objective.training
    objective.eval()
    total = torch.zeros(1 + 2 * len(FIELDS), dtype=torch.float64, device=ranks.device)
    rule = Masking()
    at_once = ranks.world * max(1, tokens_at_once // int(corpus.lengths.max()))
    for rows in epoch_batches(len(corpus), at_once, 0, 0):
        mine = share(rows, corpus.lengths, ranks.rank, ranks.world)
        batch = micro_batch(corpus, mine, rule, 0, VALIDATION_EPOCH)
        total += objective(batch.to(ranks.device))[1]
    objective.train(training)
    metrics = summary(ranks.sum(total).cpu(), "validation")
    return metrics | {"validation/perplexity": math.exp(min(metrics["validation/loss"], 700.0))}


def summary(sums: Tensor, prefix: str) -> dict[str, float]:
    """Mean loss and masked accuracies, over all words and per field, from an `Objective`'s sums."""
    right, asked = sums[1:].reshape(2, -1).tolist()
    metrics = {
        f"{prefix}/loss": float(sums[0]) / max(sum(asked), 1.0),
        f"{prefix}/masked_accuracy": sum(right) / max(sum(asked), 1.0),
    }
    for name, hits, words in zip(FIELDS, right, asked, strict=True):
        if words and name != FIELDS[SPECIAL]:  # separators; they stand where they must
            metrics[f"{prefix}/masked_accuracy_{name}"] = hits / words
    return metrics
