"""Masks: the published distribution, drawn by row and not by company."""

import numpy as np
import pytest
from scipy.stats import chisquare

from cloud_core.scope.tokenizer import ELEMENT, FRACTION, WYCKOFF, Tokenizer
from cloud_core.training.batches import Batches
from cloud_core.training.masking import Masking, Tokens, choose, corrupt
from tests.demo_cut import demo_strings


@pytest.fixture(scope="module")
def corpus() -> Batches:
    return Batches.distinct(demo_strings(1200))


def all_tokens(corpus: Batches) -> Tokens:
    return Tokens.of(corpus, np.arange(len(corpus)))


def test_the_published_distribution(corpus: Batches) -> None:
    tokens, tokenizer = all_tokens(corpus), Tokenizer()
    chosen = choose(tokens, Masking(), seed=0, epoch=0)
    seen = corrupt(tokens, chosen, Masking(), seed=0, epoch=0)
    words = ~np.isin(tokens.ids, [tokenizer.cls_id, tokenizer.sep_id])
    n = words.sum()
    assert not chosen[~words].any()
    # five standard errors
    assert abs(chosen.sum() / n - 0.15) < 5 * (0.15 * 0.85 / n) ** 0.5
    assert np.array_equal(seen[~chosen], tokens.ids[~chosen])
    changed = seen[chosen]
    masked = changed == tokenizer.mask_id
    same = ~masked & (changed == tokens.ids[chosen])
    random = ~masked & ~same
    m = chosen.sum()
    for kind, share in ((masked, 0.8 + 0.1 / 564), (same, 0.1 + 0.1 / 564), (random, 0.1 * 562 / 564)):
        assert abs(kind.sum() / m - share) < 5 * (share * (1 - share) / m) ** 0.5
    # random words are of the whole vocabulary in use, and of nothing else
    drawn = changed[random]
    assert 500 < drawn.max() < 564
    counts = np.histogram(drawn, 12, (0, 564))[0]
    assert chisquare(counts).pvalue > 1e-4


def test_masks_follow_seed_epoch_and_row_alone(corpus: Batches) -> None:
    tokens = all_tokens(corpus)
    chosen = choose(tokens, Masking(), 5, 3)
    seen = corrupt(tokens, chosen, Masking(), 5, 3)
    rows = np.array([77, 3, 1100])
    some = Tokens.of(corpus, rows)
    few = choose(some, Masking(), 5, 3)
    places = np.concatenate([np.arange(corpus.offsets[r], corpus.offsets[r + 1]) for r in rows])
    assert np.array_equal(few, chosen[places])
    assert np.array_equal(corrupt(some, few, Masking(), 5, 3), seen[places])
    for seed, epoch in ((5, 4), (6, 3)):
        other = choose(tokens, Masking(), seed, epoch)
        both = (other & chosen).mean()
        assert abs(both - chosen.mean() * other.mean()) < 0.004  # as two independent draws


@pytest.mark.parametrize("length", [1.0, 3.0])
def test_spans_cover_the_rate_in_longer_runs(corpus: Batches, length: float) -> None:
    tokens = all_tokens(corpus)
    chosen = choose(tokens, Masking(strategy="span", span_length=length), 0, 0)
    words = ~np.isin(tokens.ids, [0, 2])
    assert abs(chosen[words].mean() - 0.15) < 0.005
    assert abs(chosen[words & (tokens.positions == 1)].mean() - 0.15) < 0.03
    starts = np.count_nonzero(chosen[1:] & ~chosen[:-1])
    mean_run = chosen.sum() / starts
    assert mean_run == pytest.approx(1.17, abs=0.05) if length == 1 else 2.5 < mean_run < 3.6


def test_fields_are_hidden_whole(corpus: Batches) -> None:
    tokens = all_tokens(corpus)
    masking = Masking(strategy="field", field_share=0.5, rate=0.0)
    chosen = choose(tokens, masking, 0, 0)
    wyckoff = tokens.fields == WYCKOFF
    composition = (tokens.fields == ELEMENT) | (tokens.fields == FRACTION)
    kinds = {"none": 0, "wyckoff": 0, "composition": 0}
    for start, end in zip(corpus.offsets, corpus.offsets[1:], strict=False):
        row = slice(start, end)
        if not chosen[row].any():
            kinds["none"] += 1
        elif np.array_equal(chosen[row], wyckoff[row]):
            kinds["wyckoff"] += 1
        else:
            assert np.array_equal(chosen[row], composition[row])
            kinds["composition"] += 1
    shares = {kind: count / len(corpus) for kind, count in kinds.items()}
    assert shares == pytest.approx({"none": 0.5, "wyckoff": 0.25, "composition": 0.25}, abs=0.04)


def test_a_wrong_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="rate is a share"):
        Masking(rate=15)
    with pytest.raises(ValueError, match="add up to more than 1"):
        Masking(mask_share=0.8, random_share=0.3)
