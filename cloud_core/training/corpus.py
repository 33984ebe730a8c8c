"""The strings of a pretraining corpus, read from the files of a table's snapshot."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pydantic import AfterValidator

from cloud_core.models.geometry import EncoderConfig, Geometry
from cloud_core.scope.tokenizer import Tokenizer
from cloud_core.training.batches import CorpusError


def read_column(files: Sequence[str], column: str, filesystem: Any = None) -> list[str]:
    """Distinct strings of a column of Parquet files, without nulls, unsorted.

    Raises:
        CorpusError: there is no file, or no such column.
    """
    strings = _read(files, (column,), filesystem)[column]
    return list(pc.unique(pc.drop_null(strings)).to_pylist())


def read_pairs(files: Sequence[str], column: str, filesystem: Any = None) -> set[tuple[str, str]]:
    """(canonical string, string of `column`) of each row of Parquet files that has one in `column`.

    Raises:
        CorpusError: there is no file, no such column, or no canonical string beside one of `column`.
    """
    if column == "canonical":
        return {(text, text) for text in read_column(files, column, filesystem)}
    table = _read(files, ("canonical", column), filesystem).filter(pc.is_valid(pc.field(column)))
    if not len(table):
        raise CorpusError(
            f"{files[0]}: no row has a {column} string; encode the structures with forms: [canonical, "
            f"{column}], or train on `column: canonical`"
        )
    lacking = table["canonical"].null_count
    if lacking:
        raise CorpusError(
            f"{files[0]}: {lacking} rows have a string in '{column}' and none in 'canonical', by which a "
            "corpus is split; encode the structures in both forms"
        )
    return set(zip(table["canonical"].to_pylist(), table[column].to_pylist(), strict=True))


def check_form(texts: Iterable[str], column: str, where: str) -> None:
    """Raise CorpusError where strings of a file are resolved ones and should not be, or the reverse; official
    and canonical ones look alike."""
    for text in texts:
        symbols = text.split("|")[1].split() if text.count("|") == 2 else []
        if (len(symbols) > 1 and symbols[1].isalpha()) != (column == "resolved"):
            raise CorpusError(
                f"{where}: {text!r} is no {column} string; name the form of the strings as `column`"
            )


def _read(files: Sequence[str], columns: Sequence[str], filesystem: Any) -> pa.Table:
    if not files:
        raise CorpusError("no files to read: the snapshot has no encoded structure")
    paths = [file if filesystem is None else file.split("://")[-1] for file in files]
    data = ds.dataset(paths, format="parquet", filesystem=filesystem)
    for column in columns:
        if column not in data.schema.names:
            raise CorpusError(f"{files[0]}: no column '{column}' (columns: {', '.join(data.schema.names)})")
    return data.to_table(columns=list(columns))


def knows_every_word(encoder: Geometry) -> Geometry:
    """An encoder's geometry whose word embedding has a row for each token of SCOPE.

    Raises ValueError where it has fewer.
    """
    words = Tokenizer().vocabulary_size
    if isinstance(encoder, EncoderConfig) and encoder.vocabulary_size < words:
        raise ValueError(f"vocabulary_size {encoder.vocabulary_size} is less than SCOPE's {words} words")
    return encoder


AnyGeometry = Annotated[Geometry, AfterValidator(knows_every_word)]
"""Of an encoder, in a configuration: of sites where it says `kind: sites`, else of strings."""
