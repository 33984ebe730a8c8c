"""An encoder of sites: one token for each element and Wyckoff letter of a crystal, and one for the crystal.

Its input is arrays alone, `FIELDS` columns of whole numbers a token; cloud_core.scope.sites reads them out of
a resolved SCOPE string. Three to eight tokens stand for a crystal where its string has forty, in no order, so
that there are no positions.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cloud_core.models.encoder import Attention, Packing
from cloud_core.models.geometry import (
    ELEMENTS,
    LAST_OF_SYSTEM,
    LEAST_OCCUPANCY,
    LETTERS,
    SITE_SYMMETRIES,
    SPACE_GROUPS,
    WYCKOFF_POSITIONS,
    SitesConfig,
)


class Sites(NamedTuple):
    """The T tokens of a batch of B crystals, end to end, as the encoder reads them."""

    packing: Packing
    fields: Tensor  # [T, FIELDS]
    crystal: Tensor  # [T] the crystal of each token, 0 … B - 1
    first: Tensor  # [B] the place of each crystal's own token among the T
    shares: Tensor  # [T] of the atoms of its crystal; 0 for the crystal's own token

    @staticmethod
    def of(fields: Tensor, packing: Packing) -> "Sites":
        """fields `[T, FIELDS]`."""
        crystal = torch.cumsum(packing.positions == 0, 0) - 1
        first = torch.searchsorted(crystal, torch.arange(packing.batch, device=crystal.device))
        atoms = fields[:, 3] * fields[:, 4] * fields[:, 5].float().clamp(min=LEAST_OCCUPANCY)  # [T]
        totals = atoms.new_zeros(packing.batch).index_add(0, crystal, atoms)
        return Sites(packing, fields, crystal, first, atoms / totals[crystal].clamp(min=LEAST_OCCUPANCY))

    @staticmethod
    def of_padded(fields: Tensor, lengths: Tensor) -> "Sites":
        """fields `[B, L, FIELDS]`, real tokens of each crystal `lengths` `[B]`."""
        packing = Packing.of(lengths, fields.shape[1]).to(fields.device)
        return Sites.of(packing.pack(fields), packing)

    def sum(self, values: Tensor) -> Tensor:
        """`[T, H]` -> `[B, H]` summed over the tokens of each crystal."""
        return values.new_zeros(self.packing.batch, values.shape[-1]).index_add(0, self.crystal, values)

    def mean(self, values: Tensor) -> Tensor:
        """`[T, H]` -> `[B, H]` mean over the atoms of each crystal."""
        return self.sum(values * self.shares[:, None].to(values.dtype))

    def composition(self) -> Tensor:
        """`[B, ELEMENTS]` the fraction of each element."""
        flat = self.shares.new_zeros(self.packing.batch * ELEMENTS)
        flat = flat.index_add(0, self.crystal * ELEMENTS + self.fields[:, 0], self.shares)
        return flat.view(self.packing.batch, ELEMENTS)


class SiteEmbeddings(nn.Module):
    """What is known of a token, as one vector."""

    systems: Tensor
    properties: Tensor

    def __init__(self, config: SitesConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.elements = nn.Embedding(ELEMENTS, size)
        self.from_properties = nn.Linear(config.properties, size)
        self.wyckoff = nn.Embedding(WYCKOFF_POSITIONS, size)
        self.site_symmetries = nn.Embedding(SITE_SYMMETRIES, size)
        self.from_counts = nn.Linear(4, size)
        self.space_groups = nn.Embedding(SPACE_GROUPS, size)
        self.crystal_systems = nn.Embedding(len(LAST_OF_SYSTEM) + 1, size)
        self.from_totals = nn.Linear(3, size)
        self.dropout = nn.Dropout(config.dropout)
        groups = torch.arange(SPACE_GROUPS)
        systems = torch.bucketize(groups, torch.tensor(LAST_OF_SYSTEM)) + 1
        self.register_buffer("systems", torch.where(groups > 0, systems, 0), persistent=False)
        self.register_buffer("properties", torch.zeros(ELEMENTS, config.properties))
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.3)

    def forward(self, sites: Sites) -> Tensor:
        """-> `[T, H]`."""
        element, position, symmetry, multiplicity, count, occupancy, _ = sites.fields.unbind(1)
        numbers = [torch.log1p(multiplicity), torch.log1p(count), occupancy / 100, sites.shares]
        counts = torch.stack([each.float() for each in numbers], dim=1)  # [T, 4]
        embedded = (
            self.elements(element)
            + self.from_properties(self.properties[element])
            + self.wyckoff(position)
            + self.site_symmetries(symmetry)
            + self.from_counts(counts)
        )
        return self.dropout(embedded.index_copy(0, sites.first, self._crystals(sites, counts)))

    def _crystals(self, sites: Sites, counts: Tensor) -> Tensor:
        """`[B, H]` the crystals' own tokens: space group, crystal system, and totals."""
        group = sites.fields[sites.first, 6]
        orbits = sites.fields[:, 4].float()
        atoms = (sites.fields[:, 3] * sites.fields[:, 4] * sites.fields[:, 5]).float() / 100
        kinds = (sites.fields[:, 0] > 0).float()
        totals = torch.log1p(sites.sum(torch.stack([atoms, orbits, kinds], dim=1)))  # [B, 3]
        return self.space_groups(group) + self.crystal_systems(self.systems[group]) + self.from_totals(totals)


class SitesLayer(nn.Module):
    """One transformer block, normalised before each part."""

    def __init__(self, config: SitesConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_epsilon)
        self.attention = Attention(config.hidden_size, config.heads, config.attention_dropout)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_epsilon)
        self.expand = nn.Linear(config.hidden_size, config.feed_forward)
        self.contract = nn.Linear(config.feed_forward, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor, packing: Packing) -> Tensor:
        """hidden `[T, H]` -> `[T, H]`."""
        hidden = hidden + self.dropout(self.attention(self.attention_norm(hidden), packing))
        widened = F.gelu(self.expand(self.feed_forward_norm(hidden)))
        return hidden + self.dropout(self.contract(widened))


class SitesEncoder(nn.Module):
    """Sites to one vector a token, and one a crystal."""

    def __init__(self, config: SitesConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = SiteEmbeddings(config)
        self.layers = nn.ModuleList(SitesLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_epsilon)

    def set_properties(self, values: Tensor) -> None:
        """Give the properties of the elements, `[ELEMENTS, properties]`, standardised, 0 where unknown. They
        are saved with the weights."""
        self.embeddings.properties.copy_(values)

    def forward(self, fields: Tensor, lengths: Tensor) -> Tensor:
        """fields `[B, L, FIELDS]`, real tokens of each crystal `lengths` `[B]` -> `[B, L, H]`, zeros at
        padding."""
        sites = Sites.of_padded(fields, lengths)
        return sites.packing.pad(self.packed(sites))

    def packed(self, sites: Sites) -> Tensor:
        """-> `[T, H]`."""
        hidden = self.embeddings(sites)
        for layer in self.layers:
            hidden = layer(hidden, sites.packing)
        return self.norm(hidden)

    def vectors(self, sites: Sites) -> Tensor:
        """-> `[B, 2 H]`: the mean over the atoms of each crystal beside its own token."""
        hidden = self.packed(sites)
        return torch.cat([sites.mean(hidden), hidden.index_select(0, sites.first)], dim=1)


class MaskedSites(nn.Module):
    """The encoder, and what it says of hidden elements and Wyckoff letters."""

    def __init__(self, config: SitesConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = SitesEncoder(config)
        self.transform = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_epsilon)
        self.elements = nn.Linear(config.hidden_size, ELEMENTS)
        self.letters = nn.Linear(config.hidden_size, LETTERS)

    def forward(self, sites: Sites, elements: Tensor, letters: Tensor) -> tuple[Tensor, Tensor]:
        """Places of hidden elements `[M]` and of hidden letters `[N]` among the T tokens -> logits
        `[M, ELEMENTS]` and `[N, LETTERS]`."""
        hidden = self.encoder.packed(sites)
        element, letter = (
            self.norm(F.gelu(self.transform(hidden.index_select(0, places))))
            for places in (elements, letters)
        )
        return self.elements(element), self.letters(letter)
