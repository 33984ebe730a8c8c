"""Hidden elements and Wyckoff letters of crystals, told from the other sites."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cloud_core.models.encoder import Packing
from cloud_core.models.geometry import FIELDS
from cloud_core.models.sites_encoder import MaskedSites, Sites
from cloud_core.scope.sites import letter_of_position
from cloud_core.training import counter
from cloud_core.training.batches import Batches, token_indices
from cloud_core.training.masking import Masking

ELEMENT, POSITION = FIELDS.index("element"), FIELDS.index("position")
# What a hidden Wyckoff position takes along, for the letter could be read off it.
WITH_POSITION = np.array([POSITION, FIELDS.index("site_symmetry"), FIELDS.index("multiplicity")])


class SitesBatch(NamedTuple):
    """What goes through the model at once: T tokens, of which M elements and N letters are hidden."""

    fields: Tensor  # [T, FIELDS] as the model sees them
    packing: Packing
    elements: Tensor  # [M] places among the T
    true_elements: Tensor  # [M]
    letters: Tensor  # [N] places among the T
    true_letters: Tensor  # [N]

    def to(self, device: torch.device) -> "SitesBatch":
        if device.type == "cpu":
            return self
        fields, _, *rest = self
        moved = [tensor.pin_memory().to(device, non_blocking=True) for tensor in (fields, *rest)]
        return SitesBatch(moved[0], self.packing.to(device), *moved[1:])


class SitesObjective(nn.Module):
    """The model and its loss, as one module for DDP, FSDP and the compiler to wrap."""

    fields = ("element", "letter")

    def __init__(self, model: MaskedSites) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: SitesBatch) -> tuple[Tensor, Tensor]:
        """-> the summed cross-entropy of what is hidden (nats), and `[1 + 2 * 2]`: that sum, then of
        elements and letters how many were told rightly and how many were asked for."""
        sites = Sites.of(batch.fields, batch.packing)
        elements, letters = self.model(sites, batch.elements, batch.letters)
        loss = F.cross_entropy(elements.float(), batch.true_elements, reduction="sum")
        loss = loss + F.cross_entropy(letters.float(), batch.true_letters, reduction="sum")
        counts = [
            (elements.argmax(-1) == batch.true_elements).sum(),
            (letters.argmax(-1) == batch.true_letters).sum(),
            loss.new_tensor(len(batch.elements)),
            loss.new_tensor(len(batch.letters)),
        ]
        return loss, torch.stack([loss.detach().double(), *(count.double() for count in counts)])

    @staticmethod
    def scored(corpus: Batches, rows: NDArray[np.int64], masking: Masking, seed: int, epoch: int) -> int:
        """How much of some rows is hidden."""
        return int(_hidden(corpus, rows, masking, seed, epoch)[1].sum())

    @staticmethod
    def batch(
        corpus: Batches,
        rows: NDArray[np.int64],
        masking: Masking,
        seed: int,
        epoch: int,
        groups: NDArray[np.int64] | None = None,
    ) -> SitesBatch:
        """Some rows, of which each element and each letter is hidden with the rate of `masking`."""
        seen, hidden = _hidden(corpus, rows, masking, seed, epoch)
        elements, letters = np.flatnonzero(hidden[0]), np.flatnonzero(hidden[1])
        truth = seen[elements, ELEMENT], letter_of_position()[seen[letters, POSITION]]
        seen[elements, ELEMENT] = 0
        seen[letters[:, None], WITH_POSITION] = 0
        lengths = torch.from_numpy(corpus.lengths[rows])
        return SitesBatch(
            torch.from_numpy(seen),
            Packing.of(lengths, int(lengths.max())),
            torch.from_numpy(elements),
            torch.from_numpy(truth[0]),
            torch.from_numpy(letters),
            torch.from_numpy(truth[1]),
        )


def _hidden(
    corpus: Batches, rows: NDArray[np.int64], masking: Masking, seed: int, epoch: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The tokens of some rows `[T, FIELDS]`, and which elements and letters of them are hidden `[2, T]`."""
    lengths = corpus.lengths[rows]
    starts = corpus.offsets[:-1][rows]
    places = token_indices(starts, lengths)
    within = places - np.repeat(starts, lengths)
    draws = [
        counter.uniform(seed, use, epoch, np.repeat(rows, lengths), within)
        for use in (counter.CHOICE, counter.FIELD)
    ]
    return corpus.ids[places].astype(np.int64), (np.stack(draws) < masking.rate) & (within > 0)
