"""The tokenizer against the ids of the published one."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cloud_core.scope import Tokenizer
from cloud_core.scope.tokenizer import ELEMENT, FIELDS, FRACTION, GENERATOR, SPECIAL, WYCKOFF

TEXT = "1 4 a D D D b O O O g O O O c O O O 0 | 2b 4d 2a | Bi 0.25 B 0.5 Ru 0.25"


def test_published_ids(shared: Path) -> None:
    table = pd.read_parquet(shared / "reference" / "official_token_ids.parquet")
    tokenizer = Tokenizer()
    assert len(table) == 2000
    for text, ids in table.itertuples(index=False):
        assert tokenizer.encode(text) == list(ids)
    flat, offsets = tokenizer.encode_many(table["scope"])
    assert flat.dtype == np.uint16
    assert offsets.dtype == np.int64
    assert np.array_equal(flat, np.concatenate(table["input_ids"].to_list()))
    assert np.array_equal(np.diff(offsets), table["input_ids"].str.len())


def test_unknown_words_fall_apart_as_in_bert(tmp_path: Path) -> None:
    """The oracle is BertTokenizer over the same vocabulary."""
    transformers = pytest.importorskip("transformers")
    from cloud_core.scope.tokenizer import _vocabulary

    words = list(_vocabulary())
    (tmp_path / "vocab.txt").write_text("\n".join(words[:463]) + "\n")
    published = transformers.BertTokenizer(
        str(tmp_path / "vocab.txt"), do_lower_case=False, do_basic_tokenize=True
    )
    published.add_tokens(words[463:])
    tokenizer = Tokenizer()
    for element in ("At", "Fr", "Es", "Fm", "Og", "Xx"):
        text = f"1 0 0 | 2i | {element} 1.0"
        assert tokenizer.encode(text) == published(text)["input_ids"], element
    assert tokenizer.encode(TEXT) == published(TEXT)["input_ids"]


def test_decode_returns_the_string() -> None:
    tokenizer = Tokenizer()
    assert tokenizer.vocabulary_size == 564
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    assert tokenizer.decode(tokenizer.encode("1 0 0 | 2i | At 1.0")) == "1 0 0 | 2i | At 1.0"


def test_fields_of_strings_laid_end_to_end() -> None:
    tokenizer = Tokenizer()
    flat, offsets = tokenizer.encode_many([TEXT, "1 0 0 | 2i | B 0.5 C 0.5", TEXT])
    fields = tokenizer.field_of(flat)
    expected = {"1": GENERATOR, "2i": WYCKOFF, "B": ELEMENT, "C": ELEMENT, "0.5": FRACTION, "|": SPECIAL}
    second = slice(int(offsets[1]), int(offsets[2]))
    words = ["[CLS]", *["1", "0", "0", "|", "2i", "|", "B", "0.5", "C", "0.5"], "[SEP]"]
    for word, field in zip(words, fields[second], strict=True):
        assert field == expected.get(word, GENERATOR if word == "0" else SPECIAL), (word, FIELDS[field])
    # "B" and "D" are letters of generators too: the place decides, not the id.
    assert list(fields[: offsets[1]]) == list(tokenizer.field_of(tokenizer.encode(TEXT)))
    assert list(fields[offsets[2] :]) == list(fields[: offsets[1]])
