"""The CLOUD encoder: BERT (Devlin et al., arXiv 1810.04805) in plain torch, without work on padding.

Linear layers, norms and dropout see the batch packed: the T real tokens of B strings in one `[T, H]` matrix.
Only attention needs the strings side by side, `[B, heads, L, H / heads]`, where it costs under one percent of
the operations (L <= 64 against H = 768). Measured against padding by length in docs/performance.md.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cloud_core.models.geometry import EncoderConfig

INITIAL_STD = 0.02  # of every weight matrix and embedding, as in BERT


class Packing(NamedTuple):
    """Where the T real tokens of a batch sit in its padded `[B, L]` grid."""

    batch: int
    length: int
    places: Tensor | None  # [T] where in the flat [B * L] grid; None where nothing is padded
    positions: Tensor  # [T] place of each token in its own string
    mask: Tensor | None  # [B, 1, 1, L] True at real keys; None where nothing is padded

    @staticmethod
    def of(lengths: Tensor, length: int) -> "Packing":
        """From the number of real tokens of each string, `lengths` `[B]`, in a grid `length` wide.

        Made where `lengths` are: on a CPU, so that no GPU has to be waited for, and moved by `to`.
        """
        batch = lengths.shape[0]
        place = torch.arange(length, device=lengths.device).expand(batch, length)
        real = place < lengths[:, None]
        if bool(real.all()):
            return Packing(batch, length, None, place.reshape(-1), None)
        return Packing(batch, length, real.reshape(-1).nonzero()[:, 0], place[real], real[:, None, None, :])

    def to(self, device: torch.device) -> "Packing":
        """The same on another device, without waiting for the copy."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return Packing(
            self.batch,
            self.length,
            None if self.places is None else move(self.places),
            move(self.positions),
            None if self.mask is None else move(self.mask),
        )

    def pad(self, packed: Tensor) -> Tensor:
        """`[T, H]` -> `[B, L, H]`, zeros at padding."""
        if self.places is None:
            return packed.view(self.batch, self.length, -1)
        grid = packed.new_zeros(self.batch * self.length, packed.shape[-1])
        return grid.index_copy(0, self.places, packed).view(self.batch, self.length, -1)

    def pack(self, padded: Tensor) -> Tensor:
        """`[B, L, H]` -> `[T, H]`."""
        flat = padded.reshape(self.batch * self.length, -1)
        return flat if self.places is None else flat.index_select(0, self.places)


class Embeddings(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.words = nn.Embedding(config.vocabulary_size, config.hidden_size)
        self.positions = nn.Embedding(config.positions, config.hidden_size)
        self.segments = nn.Embedding(config.segments, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_epsilon)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        """ids, positions `[T]` -> `[T, H]`."""
        embedded = self.words(ids) + self.positions(positions) + self.segments.weight[0]
        return self.dropout(self.norm(embedded))


class Attention(nn.Module):
    """Multi-head self-attention; query, key and value weights lie in one matrix."""

    def __init__(self, size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query_key_value = nn.Linear(size, 3 * size)
        self.output = nn.Linear(size, size)

    def forward(self, hidden: Tensor, packing: Packing) -> Tensor:
        """hidden `[T, H]` -> `[T, H]`."""
        projected = packing.pad(self.query_key_value(hidden))  # [B, L, 3H]
        split = projected.view(packing.batch, packing.length, 3, self.heads, -1)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # each [B, heads, L, H / heads]
        mixed = attend(query, key, value, packing.mask, self.dropout if self.training else 0.0)
        return self.output(packing.pack(mixed.transpose(1, 2).flatten(2)))


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """softmax(Q Kᵀ / √d) V: query `[B, heads, Q, d]`, key and value `[B, heads, L, d]` -> `[B, heads, Q, d]`.

    mask: `[B, 1, 1, L]`, True at real keys. In bfloat16 on a CPU, for strings as short as SCOPE's, torch's
    fused kernel takes three to five times as long as the formula written out (softmax in float32).
    """
    if query.device.type != "cpu" or query.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = F.dropout(scores.softmax(-1, dtype=torch.float32), dropout, training=dropout > 0)
    return weights.to(value.dtype) @ value


class Layer(nn.Module):
    """One transformer block, normalised after each residual sum as BERT does."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.attention = Attention(config.hidden_size, config.heads, config.attention_dropout)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_epsilon)
        self.expand = nn.Linear(config.hidden_size, config.feed_forward)
        self.contract = nn.Linear(config.feed_forward, config.hidden_size)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_epsilon)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor, packing: Packing) -> Tensor:
        """hidden `[T, H]` -> `[T, H]`."""
        hidden = self.attention_norm(hidden + self.dropout(self.attention(hidden, packing)))
        widened = F.gelu(self.expand(hidden))  # [T, feed_forward]
        return self.feed_forward_norm(hidden + self.dropout(self.contract(widened)))


class Encoder(nn.Module):
    """Token ids to one vector per token."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.apply(initialise)

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """input_ids `[B, L]`, real tokens of each string `lengths` `[B]` -> `[B, L, H]`, zeros at padding."""
        if input_ids.shape[1] > self.config.positions:
            raise ValueError(
                f"strings of {input_ids.shape[1]} tokens do not fit the encoder's {self.config.positions} "
                "positions; cut them or take a longer encoder"
            )
        packing = Packing.of(lengths, input_ids.shape[1]).to(input_ids.device)
        return packing.pad(self.packed(packing.pack(input_ids[..., None])[:, 0], packing))

    def packed(self, ids: Tensor, packing: Packing) -> Tensor:
        """ids `[T]` of the real tokens alone -> `[T, H]`: what training calls."""
        hidden = self.embeddings(ids, packing.positions)
        for layer in self.layers:
            hidden = layer(hidden, packing)
        return hidden


class MaskedLanguageModel(nn.Module):
    """The encoder and BERT's prediction head, whose output matrix is the word embedding itself."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.transform = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_epsilon)
        self.bias = nn.Parameter(torch.zeros(config.vocabulary_size))
        initialise(self.transform)

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """input_ids `[B, L]`, lengths `[B]` -> logits `[B, L, vocabulary]`; those at padding mean nothing."""
        return self.score(self.encoder(input_ids, lengths))

    def masked_logits(self, ids: Tensor, packing: Packing, masked: Tensor) -> Tensor:
        """ids `[T]`, places of the masked ones `masked` `[M]` -> logits `[M, vocabulary]`, no others."""
        return self.score(self.encoder.packed(ids, packing).index_select(0, masked))

    def score(self, hidden: Tensor) -> Tensor:
        """`[..., H]` -> `[..., vocabulary]`."""
        return F.linear(
            self.norm(F.gelu(self.transform(hidden))), self.encoder.embeddings.words.weight, self.bias
        )


def initialise(module: nn.Module) -> None:
    """BERT's initial weights: normal with deviation 0.02, biases zero."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INITIAL_STD)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
