"""The index against a dictionary."""

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_core.lake.index import ABSENT, IdSet, Index, hash_strings, states_of

# Hashes use all 64 bits: these spread small numbers over them, and so over all parts.
SPREAD = np.uint64(0x9E3779B97F4A7C15)


def ids_of(numbers):
    with np.errstate(over="ignore"):
        return np.array(numbers, np.uint64) * SPREAD


ROW = st.tuples(st.integers(0, 30), st.integers(1, 2**63), st.integers(0, 5))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(ROW, max_size=20), max_size=8))
def test_index_agrees_with_a_dictionary(batches):
    index, expected = Index(), {}
    for batch in batches:
        index.put(
            ids_of([row[0] for row in batch]),
            np.array([row[1] for row in batch], np.uint64),
            np.array([row[2] for row in batch], np.int32),
        )
        for key, state, revision in batch:
            if revision >= expected.get(key, (0, -1))[1]:
                expected[key] = (state, revision)
    states, revisions = index.look_up(ids_of(range(31)))
    assert [expected.get(key, (0, ABSENT)) for key in range(31)] == list(
        zip(states.tolist(), revisions.tolist(), strict=True)
    )
    assert len(index) == len(expected)


def test_a_large_index_keeps_everything_through_its_merges():
    index = Index()
    order = np.random.default_rng(0).permutation(400_000).astype(np.uint64)
    for part in np.array_split(order, 40):
        index.put(ids_of(part), part + np.uint64(1), np.zeros(len(part), np.int32))
    states, revisions = index.look_up(ids_of(range(400_001)))
    assert (states[:-1] == np.arange(1, 400_001, dtype=np.uint64)).all()
    assert (revisions[:-1] == 0).all() and revisions[-1] == ABSENT


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 50), max_size=20), max_size=8))
def test_a_set_of_ids_agrees_with_a_set(batches):
    ids, expected = IdSet(), set()
    for batch in batches:
        ids.add(ids_of(batch))
        expected |= set(batch)
        assert ids.has(ids_of(range(51))).tolist() == [key in expected for key in range(51)]
        assert len(ids) == len(expected)


def test_a_large_set_of_ids_keeps_everything_through_its_merges():
    ids = IdSet()
    order = np.random.default_rng(0).permutation(400_000).astype(np.uint64)
    for part in np.array_split(order, 40):
        ids.add(ids_of(part))
    assert len(ids) == 400_000 and ids.has(ids_of(order)).all() and not ids.has(ids_of([400_000])).any()


def test_hashes_of_ids_do_not_collide():
    texts = [f"wbm:wbm-{i}-{j}" for i in range(1, 6) for j in range(40_000)]
    hashes = hash_strings(pa.array(texts))
    assert len(np.unique(hashes)) == len(texts)


def test_states_see_labels_in_any_order(rows):
    def with_labels(labels):
        table = rows(1, 1)
        column = pa.array([labels], pa.map_(pa.string(), pa.float64()))
        return states_of(table.set_column(table.column_names.index("labels"), "labels", column))[0]

    both = with_labels([("a", 1.0), ("b", 2.0)])
    assert both == with_labels([("b", 2.0), ("a", 1.0)])
    assert len({both, with_labels([("a", 2.0), ("b", 1.0)]), with_labels([("a", 1.0)]), with_labels([])}) == 4


def test_states_of_a_slice_are_a_slice_of_the_states(rows):
    table = rows(0, 50)
    assert np.array_equal(states_of(table.slice(17, 11)), states_of(table)[17:28])
    assert len(np.unique(states_of(table))) == 50
