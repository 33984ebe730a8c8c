"""Encoders of both kinds, and the one vector of a crystal that a property is read from."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from cloud_core.models.encoder import Attention, Encoder, Layer, Packing, attend
from cloud_core.models.geometry import Geometry, SitesConfig
from cloud_core.models.sites_encoder import Sites, SitesEncoder

AnyEncoder = Encoder | SitesEncoder

Pooling = Literal["first", "mean"]
"""The vector of a string: of its first token, as published, or the mean over its tokens. Masked tokens teach
the first one little; a small encoder, or few rows, learn more from the mean. Sites have one vector only."""


def new_encoder(config: Geometry) -> AnyEncoder:
    """With random weights."""
    return SitesEncoder(config) if isinstance(config, SitesConfig) else Encoder(config)


def pooled(
    encoder: AnyEncoder, inputs: Tensor, lengths: Tensor, pooling: Pooling
) -> tuple[Tensor, Tensor | None]:
    """inputs `[B, L]` of a string encoder, `[B, L, fields]` of a sites encoder; lengths `[B]` -> vectors
    `[B, vector_size]` and, of sites, the fractions of the elements `[B, elements]`."""
    if isinstance(encoder, SitesEncoder):
        sites = Sites.of_padded(inputs, lengths)
        return encoder.vectors(sites), sites.composition()
    if pooling == "first":
        return first_token(encoder, inputs, lengths), None
    return encoder(inputs, lengths).sum(1) / lengths.to(inputs.device)[:, None], None  # zeros at padding


def in_float32(first: Tensor) -> torch.autocast:
    """What a head is computed in under bfloat16 autocast: it sees one row a string, so float32 costs nothing
    there, and rounding its last sums to 8 bits was most of what bfloat16 moved a prediction by."""
    return torch.autocast(first.device.type, enabled=False)


def first_token(encoder: Encoder, input_ids: Tensor, lengths: Tensor) -> Tensor:
    """input_ids `[B, L]`, lengths `[B]` -> `[B, H]`: `encoder(input_ids, lengths)[:, 0]` with less work.

    The last layer is computed for one token of each string; only its keys and values need the others. In
    training, dropout there draws fewer numbers.
    """
    if input_ids.shape[1] > encoder.config.positions or len(encoder.layers) == 0:
        return encoder(input_ids, lengths)[:, 0]  # which says what is wrong
    packing = Packing.of(lengths, input_ids.shape[1]).to(input_ids.device)
    hidden = encoder.embeddings(packing.pack(input_ids[..., None])[:, 0], packing.positions)
    *layers, last = encoder.layers
    for layer in layers:
        hidden = layer(hidden, packing)
    if not isinstance(last, Layer):
        raise TypeError(f"the encoder's last layer is a {type(last).__name__}")
    starts = (packing.positions == 0).nonzero()[:, 0]
    first = hidden.index_select(0, starts)
    attended = _attend(last.attention, first, hidden, packing)
    first = last.attention_norm(first + last.dropout(attended))
    widened = F.gelu(last.expand(first))
    return last.feed_forward_norm(first + last.dropout(last.contract(widened)))


def _attend(attention: Attention, first: Tensor, hidden: Tensor, packing: Packing) -> Tensor:
    """Queries of the first tokens `[B, H]` over all tokens `[T, H]` -> `[B, H]`."""
    size = first.shape[1]
    weight, bias = attention.query_key_value.weight, attention.query_key_value.bias
    query = F.linear(first, weight[:size], bias[:size]).view(packing.batch, 1, attention.heads, -1)
    pair = packing.pad(F.linear(hidden, weight[size:], bias[size:]))  # [B, L, 2H]
    key, value = pair.view(packing.batch, packing.length, 2, attention.heads, -1).permute(2, 0, 3, 1, 4)
    dropout = attention.dropout if attention.training else 0.0
    mixed = attend(query.transpose(1, 2), key, value, packing.mask, dropout)  # [B, heads, 1, H / heads]
    return attention.output(mixed.transpose(1, 2).flatten(1))
