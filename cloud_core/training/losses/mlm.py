"""Batches as the model sees them, and what it is asked: masked tokens, counted by field."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cloud_core.models.encoder import MaskedLanguageModel, Packing
from cloud_core.scope.tokenizer import FIELDS
from cloud_core.training.augmentation import augment
from cloud_core.training.batches import Batches
from cloud_core.training.masking import Masking, Tokens, choose, corrupt


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

    fields = FIELDS

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

    @staticmethod
    def scored(corpus: Batches, rows: NDArray[np.int64], masking: Masking, seed: int, epoch: int) -> int:
        """How many tokens of some rows are hidden."""
        return int(choose(Tokens.of(corpus, rows), masking, seed, epoch).sum())

    @staticmethod
    def batch(
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
