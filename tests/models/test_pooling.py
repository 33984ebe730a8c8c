"""The shortcut gives what the whole encoder gives, and the same gradients."""

import pytest
import torch

from cloud_core.models.encoder import Encoder
from cloud_core.models.geometry import EncoderConfig
from cloud_core.models.pooling import first_token


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("ragged", [True, False])
def test_equals_the_whole_encoder(layers: int, ragged: bool) -> None:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(hidden_size=32, layers=layers, heads=4, feed_forward=64, dropout=0.0,
                                    attention_dropout=0.0)).double()  # fmt: skip
    ids = torch.randint(5, 500, (6, 20))
    lengths = torch.tensor([20, 3, 7, 12, 20, 1]) if ragged else torch.full((6,), 20)
    whole, short = encoder(ids, lengths)[:, 0], first_token(encoder, ids, lengths)
    assert torch.allclose(short, whole, atol=1e-12)
    parameters = list(encoder.parameters())
    expected = torch.autograd.grad(whole.sin().sum(), parameters, allow_unused=True)
    found = torch.autograd.grad(short.sin().sum(), parameters, allow_unused=True)
    for a, b in zip(expected, found, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, atol=1e-10)


def test_too_long_strings_are_refused() -> None:
    encoder = Encoder(EncoderConfig(hidden_size=16, layers=1, heads=2, feed_forward=32, positions=8))
    with pytest.raises(ValueError, match="do not fit"):
        first_token(encoder, torch.ones(1, 9, dtype=torch.long), torch.tensor([9]))
