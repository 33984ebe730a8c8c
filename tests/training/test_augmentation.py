"""Augmented strings are other names of the same crystals."""

import numpy as np
import pytest

from cloud_core.scope import canonicalise
from cloud_core.scope.grammar import decode
from cloud_core.scope.tables import space_groups
from cloud_core.scope.tokenizer import Tokenizer
from cloud_core.training.augmentation import augment, relabelings, space_group_numbers
from cloud_core.training.batches import Batches
from cloud_core.training.masking import Tokens
from tests.demo_cut import demo_strings


@pytest.fixture(scope="module")
def corpus() -> Batches:
    return Batches.distinct(demo_strings(1200))


def texts_of(tokens: Tokens) -> list[str]:
    tokenizer = Tokenizer()
    starts = np.flatnonzero(tokens.positions == 0)[1:]
    return [tokenizer.decode(row.tolist()) for row in np.split(tokens.ids, starts)]


def test_space_groups_are_those_of_the_strings(corpus: Batches) -> None:
    numbers = space_group_numbers(corpus)
    texts = texts_of(Tokens.of(corpus, np.arange(len(corpus))))
    assert numbers.tolist() == [decode(text).space_group for text in texts]


def test_the_crystal_stays_and_its_name_changes(corpus: Batches) -> None:
    numbers, rows = space_group_numbers(corpus), np.arange(len(corpus))
    plain = Tokens.of(corpus, rows)
    changed = augment(plain, numbers, seed=1, epoch=0)
    before, after = texts_of(plain), texts_of(changed)
    assert [canonicalise(text) for text in after] == [canonicalise(text) for text in before]
    assert np.mean([a != b for a, b in zip(after, before, strict=True)]) > 0.7
    letters = [(decode(a).letters, decode(b).letters) for a, b in zip(after, before, strict=True)]
    assert np.mean([sorted(a) != sorted(b) for a, b in letters]) > 0.2  # relabelled, not only reordered
    assert np.array_equal(changed.fields, Tokenizer().field_of(changed.ids))


def test_the_draw_follows_seed_epoch_and_row_alone(corpus: Batches) -> None:
    numbers = space_group_numbers(corpus)
    whole = texts_of(augment(Tokens.of(corpus, np.arange(len(corpus))), numbers, 1, 2))
    some = texts_of(augment(Tokens.of(corpus, np.array([900, 5, 77])), numbers, 1, 2))
    assert some == [whole[900], whole[5], whole[77]]
    other = texts_of(augment(Tokens.of(corpus, np.arange(len(corpus))), numbers, 1, 3))
    assert np.mean([a != b for a, b in zip(whole, other, strict=True)]) > 0.7


def test_all_relabelings_are_there_and_keep_multiplicities() -> None:
    known = relabelings()
    of_groups = [len(group.relabelings) for group in space_groups().values()]
    assert known.size[1:].tolist() == of_groups and len(known.words) == 1 + sum(of_groups)
    words = Tokenizer().words
    for table in known.words:
        moved = np.flatnonzero(table != np.arange(len(words)))
        assert all(words[i][:-1] == words[table[i]][:-1] for i in moved)


def test_each_relabeling_is_as_likely() -> None:
    """The normaliser of Pnma takes 4a to 4b and back: each stands in half of the epochs."""
    alone = Batches.distinct([f"{space_groups()[62].generators} | 4a 4c | Ca 0.5 O 0.5"])
    numbers = space_group_numbers(alone)
    tokens = Tokens.of(alone, np.array([0]))
    draws = [texts_of(augment(tokens, numbers, 0, epoch))[0] for epoch in range(400)]
    assert 0.4 < np.mean(["4b" in draw for draw in draws]) < 0.6
    assert 0.4 < np.mean(["4c 4" in draw for draw in draws]) < 0.6  # the order is drawn too
    assert 0.4 < np.mean(["Ca 0.5 O" in draw for draw in draws]) < 0.6
