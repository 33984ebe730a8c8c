"""Pretraining by what is hidden: shares of the ranks, validation, figures; of strings and of sites alike."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cloud_core.models.encoder import MaskedLanguageModel
from cloud_core.models.geometry import Geometry, SitesConfig
from cloud_core.models.sites_encoder import MaskedSites
from cloud_core.scope.sites import standardised_properties
from cloud_core.scope.tokenizer import FIELDS, SPECIAL
from cloud_core.training.batches import Batches, epoch_batches, share
from cloud_core.training.distributed import Ranks
from cloud_core.training.losses.masked_sites import SitesObjective
from cloud_core.training.losses.mlm import Objective
from cloud_core.training.masking import Masking

VALIDATION_EPOCH = -1  # masks of the validation rows are drawn once for all


def new_model(encoder: Geometry) -> MaskedLanguageModel | MaskedSites:
    """With random weights."""
    if not isinstance(encoder, SitesConfig):
        return MaskedLanguageModel(encoder)
    model = MaskedSites(encoder)
    model.encoder.set_properties(torch.from_numpy(standardised_properties().copy()))
    return model


def objective_of(model: MaskedLanguageModel | MaskedSites) -> Objective | SitesObjective:
    return SitesObjective(model) if isinstance(model, MaskedSites) else Objective(model)


def micro_batches(
    corpus: Batches,
    rows: NDArray[np.int64],
    masking: Masking,
    seed: int,
    epoch: int,
    ranks: Ranks,
    limit: int,
    groups: NDArray[np.int64] | None = None,
    objective: type[Objective] | type[SitesObjective] = Objective,
) -> tuple[list[Any], int]:
    """This rank's share of the global batch `rows`, and the number of masked tokens in the whole batch.

    The number of micro-batches is the same on every rank. `groups`: see `Objective.batch`.
    """
    scored = objective.scored(corpus, rows, masking, seed, epoch)
    mine = share(rows, corpus.lengths, ranks.rank, ranks.world)
    parts = min(-(-int(corpus.lengths[rows].sum()) // (ranks.world * limit)), len(rows) // ranks.world)
    ends = np.cumsum(corpus.lengths[mine])
    cuts = np.searchsorted(ends, ends[-1] * np.arange(1, parts) / parts, side="right")
    parts_of_mine = np.split(mine, cuts)
    return [objective.batch(corpus, part, masking, seed, epoch, groups) for part in parts_of_mine], scored


@torch.no_grad()
def evaluate(objective: Any, corpus: Batches, ranks: Ranks, tokens_at_once: int = 16_384) -> dict[str, float]:
    """Loss, perplexity and accuracies on a corpus, with published masks that are the same at every call.

    objective: an `Objective` or `SitesObjective`, wrapped by FSDP or not.
    """
    training = objective.training
    objective.eval()
    total = torch.zeros(1 + 2 * len(objective.fields), dtype=torch.float64, device=ranks.device)
    rule = Masking()
    at_once = ranks.world * max(1, tokens_at_once // int(corpus.lengths.max()))
    for rows in epoch_batches(len(corpus), at_once, 0, 0):
        mine = share(rows, corpus.lengths, ranks.rank, ranks.world)
        batch = objective.batch(corpus, mine, rule, 0, VALIDATION_EPOCH)
        total += objective(batch.to(ranks.device))[1]
    objective.train(training)
    metrics = summary(ranks.sum(total).cpu(), "validation", objective.fields)
    return metrics | {"validation/perplexity": math.exp(min(metrics["validation/loss"], 700.0))}


def summary(sums: Tensor, prefix: str, fields: Sequence[str] = FIELDS) -> dict[str, float]:
    """Mean loss and masked accuracies, of all that is hidden and per field, from an objective's sums."""
    right, asked = sums[1:].reshape(2, -1).tolist()
    metrics = {
        f"{prefix}/loss": float(sums[0]) / max(sum(asked), 1.0),
        f"{prefix}/masked_accuracy": sum(right) / max(sum(asked), 1.0),
    }
    for name, hits, n in zip(fields, right, asked, strict=True):
        if n and name != FIELDS[SPECIAL]:  # separators; they stand where they must
            metrics[f"{prefix}/masked_accuracy_{name}"] = hits / n
    return metrics
