"""Corpora and their batches."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cloud_core.scope.tokenizer import Tokenizer
from cloud_core.training import counter
from cloud_core.training.batches import Batches, CorpusError, batches_per_epoch, epoch_batches, share
from cloud_core.training.corpus import read_column
from tests.demo_cut import demo_strings

TEXTS = [
    "1 4 a D D D b O O O g O O O c O O O 0 | 2b 4d 2a | Bi 0.25 B 0.5 Ru 0.25",
    "1 2 a D D O c O O O 0 | 4i 2a | Ho 0.33 Ga 0.44 Pt 0.22",
    "0 3 a O D D b O O O j O O O 0 | 2a 2b | Co 0.5 Cu 0.25 As 0.25",
]


def test_rows_are_the_distinct_strings_whatever_their_order() -> None:
    corpus = Batches.distinct([*TEXTS, *TEXTS[:2]])
    assert len(corpus) == 3
    assert corpus.digest == Batches.distinct(reversed(TEXTS)).digest != Batches.distinct(TEXTS[:2]).digest
    tokenizer = Tokenizer()
    rows = [corpus.ids[a:b].tolist() for a, b in zip(corpus.offsets, corpus.offsets[1:], strict=False)]
    assert rows == [tokenizer.encode(text) for text in sorted(TEXTS)]
    assert corpus.ids.dtype == np.uint16


def test_long_strings_are_cut_as_the_published_tokenizer_cuts_them() -> None:
    corpus = Batches.distinct(TEXTS, positions=25)
    tokenizer = Tokenizer()
    expected = [tokenizer.encode(text) for text in sorted(TEXTS)]
    expected = [ids if len(ids) <= 25 else [*ids[:24], tokenizer.sep_id] for ids in expected]
    assert corpus.ids.tolist() == [token for ids in expected for token in ids]
    assert corpus.truncated == 2
    assert corpus.lengths.max() == 25


def test_reading_parquet_files(tmp_path: Path) -> None:
    pq.write_table(pa.table({"canonical": [*TEXTS[:2], None]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"canonical": TEXTS[1:]}), tmp_path / "b.parquet")
    files = [str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")]
    assert Batches.distinct(read_column(files, "canonical")).digest == Batches.distinct(TEXTS).digest
    with pytest.raises(CorpusError, match="no column 'official'"):
        read_column(files, "official")
    with pytest.raises(CorpusError, match="no encoded structure"):
        read_column([], "canonical")
    with pytest.raises(CorpusError, match="no SCOPE strings"):
        Batches.distinct([])


def test_saved_and_loaded(tmp_path: Path) -> None:
    corpus = Batches.distinct(TEXTS, positions=25)
    corpus.save(tmp_path / "corpus.safetensors")
    loaded = Batches.load(tmp_path / "corpus.safetensors")
    assert (loaded.digest, loaded.truncated) == (corpus.digest, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.safetensors"]
    with pytest.raises(CorpusError, match="no such file of tokens"):
        Batches.load(tmp_path / "other.safetensors")


def test_a_string_keeps_its_side_when_the_table_grows() -> None:
    texts = demo_strings(1200)
    small, large = Batches.distinct(texts[:600]), Batches.distinct(texts)
    hashes = [set(part.row_hashes().tolist()) for corpus in (small, large) for part in corpus.split(0.1)]
    small_train, small_held, large_train, large_held = hashes
    assert small_train <= large_train and small_held <= large_held
    assert not large_train & large_held
    assert len(large_train) + len(large_held) == len(large)  # no two strings share a hash
    assert abs(len(large_held) / len(large) - 0.1) < 0.02
    with pytest.raises(CorpusError, match="do not split"):
        Batches.distinct(TEXTS).split(1e-9)


def test_smaller_shares_lie_in_larger_ones() -> None:
    corpus = Batches.distinct(demo_strings(1200))
    shares = [set(corpus.subset(f).row_hashes().tolist()) for f in (0.25, 0.5, 1.0)]
    assert shares[0] < shares[1] < shares[2]
    assert abs(len(shares[0]) / len(corpus) - 0.25) < 0.04
    # the share must not be the side of the split again
    validation = set(corpus.split(0.5)[1].row_hashes().tolist())
    assert 0.4 < len(shares[1] & validation) / len(validation) < 0.6


def test_batches_hold_every_row_once_and_follow_seed_and_epoch() -> None:
    batches = epoch_batches(1003, 64, seed=7, epoch=2)
    assert len(batches) == batches_per_epoch(1003, 64) == 16
    assert {len(batch) for batch in batches} == {62, 63}
    assert sorted(np.concatenate(batches)) == list(range(1003))
    again = epoch_batches(1003, 64, seed=7, epoch=2)
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))
    for seed, epoch in ((7, 3), (8, 2)):
        assert not np.array_equal(
            np.concatenate(batches), np.concatenate(epoch_batches(1003, 64, seed, epoch))
        )


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_share_a_batch_without_overlap_and_evenly(ranks: int) -> None:
    corpus = Batches.distinct(demo_strings(500))
    rows = epoch_batches(len(corpus), 100, 0, 0)[0]
    parts = [share(rows, corpus.lengths, rank, ranks) for rank in range(ranks)]
    assert sorted(np.concatenate(parts)) == sorted(rows)
    tokens = [corpus.lengths[part].sum() for part in parts]
    assert max(tokens) - min(tokens) <= corpus.lengths.max()


def test_padding() -> None:
    corpus = Batches.distinct(TEXTS)
    grid, lengths = corpus.padded(np.array([2, 0]))
    ids = [Tokenizer().encode(sorted(TEXTS)[row]) for row in (2, 0)]
    assert lengths.tolist() == [len(row) for row in ids]
    assert grid.tolist() == [row + [1] * (grid.shape[1] - len(row)) for row in ids]


def test_numbers_of_a_counter_are_uniform_and_independent_of_company() -> None:
    draws = counter.uniform(3, counter.CHOICE, np.arange(200)[:, None], np.arange(500))
    assert draws.shape == (200, 500)
    assert draws.ravel()[1234] == counter.uniform(3, counter.CHOICE, 1234 // 500, 1234 % 500)[0]
    counts = np.histogram(draws, 50, (0, 1))[0]
    from scipy.stats import chisquare

    assert chisquare(counts).pvalue > 1e-4
    for axis in (0, 1):  # neighbours along each coordinate
        a, b = np.delete(draws, 0, axis), np.delete(draws, -1, axis)
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.015
    assert (
        abs(np.corrcoef(draws.ravel(), counter.uniform(4, counter.CHOICE, np.arange(100_000)))[0, 1]) < 0.015
    )
