"""The corpus of a pretraining: strings of a table's snapshot or of a text file, split for the ranks."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pydantic import AfterValidator, Field, model_validator

from cloud_core.config import FlowConfig, TableUri
from cloud_core.lake.storage import Storage
from cloud_core.models.geometry import EncoderConfig, Geometry
from cloud_core.scope.settings import Form
from cloud_core.scope.tokenizer import Tokenizer
from cloud_core.training.batches import Batches, CorpusError


class CorpusConfig(FlowConfig):
    """Which strings to train on and to validate with."""

    table: TableUri | None = Field(
        default=None, description="table of structures: a folder or an s3:// address"
    )
    version: int | None = Field(default=None, ge=0, description="table version; default: the newest")
    texts: Path | None = Field(
        default=None,
        description="instead of a table: a file of one SCOPE string per line; split by these strings",
    )
    column: Form = Field(
        default="resolved",
        description="form of the strings; a table is split by the canonical ones beside them all the same",
    )
    exclude: tuple[Path, ...] = Field(
        (),
        description="files with one SCOPE string per line, canonical or as in `column`, whose crystals "
        "must not be trained on or validated with",
    )
    validation_fraction: float = Field(default=0.02, gt=0, lt=1, description="share of the distinct strings")
    data_fraction: float = Field(default=1.0, gt=0, le=1, description="share of the training strings to use")

    @model_validator(mode="after")
    def _one_source(self) -> "CorpusConfig":
        if (self.table is None) == (self.texts is None):
            raise ValueError("give either table or texts")
        return self


def split_corpus(
    config: CorpusConfig, encoder: Geometry, files: Sequence[str], folder: str | Path
) -> dict[str, Any]:
    """Tokenize for `encoder`, split by string, and leave two files in `folder`; returns what they hold.

    Of a table (its `files`), a crystal is its canonical string: it gives one string of the column, to one
    side, or none.

    Raises:
        CorpusError: a file cannot be read, or has no strings of the form that `column` names.
    """
    if config.texts is not None:
        pairs = {(text, text) for text in read_texts(config.texts)}
        check_form((text for text, _ in pairs), config.column, str(config.texts))
    else:
        pairs = read_pairs(files, config.column)
    unwanted = {text for path in config.exclude for text in read_texts(path)}
    excluded = {key for key, text in pairs if key in unwanted or text in unwanted}
    # The first of a crystal's strings; and should two crystals share one, it stays one row.
    crystals = dict(sorted((pair for pair in pairs if pair[0] not in excluded), reverse=True))
    crystal_of = {text: key for key, text in crystals.items()}
    rows = sorted(crystal_of)
    keys = [crystal_of[text] for text in rows]
    corpus = Batches.of_texts(rows, encoder)
    by = corpus if keys == rows else Batches.of_rows(keys)
    training, validation = corpus.split(config.validation_fraction, by)
    training = training.subset(config.data_fraction)
    parts = {"training": training, "validation": validation}
    paths = {name: str(Path(folder, f"{name}.safetensors")) for name in parts}
    for name, part in parts.items():
        part.save(Path(paths[name]))
    return paths | {
        "training_strings": len(training),
        "validation_strings": len(validation),
        "training_tokens": len(training.ids),
        "truncated_strings": corpus.truncated,
        "excluded_strings": len(excluded),
        "digest": training.digest,
    }


def read_texts(path: Path) -> list[str]:
    """SCOPE strings of a text file; a first line without `|` is a header.

    Raises:
        CorpusError: the file cannot be read.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise CorpusError(f"{path}: cannot read the strings ({error.strerror}); check the path") from error
    strings = [line for line in lines if line]
    return strings[1:] if strings and "|" not in strings[0] else strings


def texts_digest(path: Path) -> str:
    """sha256 of the strings of a file."""
    return hashlib.sha256("\n".join(read_texts(path)).encode()).hexdigest()


def read_column(files: Sequence[str], column: str) -> list[str]:
    """Distinct strings of a column of Parquet files, without nulls, unsorted.

    Raises:
        CorpusError: there is no file, or no such column.
    """
    strings = _read(files, (column,))[column]
    return list(pc.unique(pc.drop_null(strings)).to_pylist())


def read_pairs(files: Sequence[str], column: str) -> set[tuple[str, str]]:
    """(canonical string, string of `column`) of each row of Parquet files that has one in `column`.

    Raises:
        CorpusError: there is no file, no such column, or no canonical string beside one of `column`.
    """
    if column == "canonical":
        return {(text, text) for text in read_column(files, column)}
    table = _read(files, ("canonical", column)).filter(pc.is_valid(pc.field(column)))
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


def _read(files: Sequence[str], columns: Sequence[str]) -> pa.Table:
    if not files:
        raise CorpusError("no files to read: the snapshot has no encoded structure")
    remote = Storage.from_environment().file_system(files[0])[0] if "://" in files[0] else None
    data = ds.dataset([file.split("://")[-1] for file in files], format="parquet", filesystem=remote)
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
