"""Vectors of encoded structures, and which of them are nearest to a given one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cloud_core.errors import CloudError
from cloud_core.files import atomic
from cloud_core.inference.addresses import local_folder
from cloud_core.inference.inputs import strings_of
from cloud_core.inference.predictor import Predictor
from cloud_core.lake.schemas import ENCODED
from cloud_core.lake.table import Table
from cloud_core.models.folder import weights_digest
from cloud_core.scope.formulas import formula_of
from cloud_core.scope.grammar import decode
from cloud_core.training.batches import Batches

MODEL = "formation_energy"
_ROWS_AT_ONCE = 4096


class EmbeddingError(CloudError):
    """Vectors that cannot be made or read; names the file or model and the remedy."""


class Embedded(NamedTuple):
    """What `embed` did: rows in the file, and how many of them are new."""

    rows: int
    new: int


class Neighbour(NamedTuple):
    """A row near to a structure; `distance` in the space of the model's vectors, 0 for the same string."""

    structure: str
    rank: int
    id: str
    formula: str
    space_group: int
    distance: float
    scope: str


def embed(table: str, path: Path, model: str = MODEL) -> Embedded:
    """Write a Parquet file with the vector of each encoded row of a table: id, scope, formula, space_group,
    vector `[V]` float32. Rows that the file has already, by id and string, are kept as they are.

    Raises:
        EmbeddingError: the model has no vectors, or the file's are of another model.
        LakeError: there is no such table.
    """
    predictor, digest = _model(model)
    there = _there(path, digest)
    place = {pair: row for row, pair in enumerate(_pairs(there))} if there is not None else {}
    whole: list[pa.Table] = []
    new = 0
    for batch in Table.open(table).batches(ENCODED, ["structure_id", predictor.form]):
        named = zip(batch["structure_id"].to_pylist(), batch[predictor.form].to_pylist(), strict=True)
        pairs = [(name, text) for name, text in named if text is not None]
        if there is not None:
            kept = [place[pair] for pair in pairs if pair in place]
            whole.append(there.take(pa.array(kept, pa.int64())))
        fresh = [pair for pair in pairs if pair not in place]
        if fresh:
            whole.append(_rows(fresh, _vectors(predictor, [text for _, text in fresh])))
            new += len(fresh)
    rows = sum(map(len, whole))
    if not rows:
        raise EmbeddingError(f"{table}: no row has a {predictor.form} string; encode it with that form")
    with atomic(path) as partial:
        about = {"model": model, "weights": digest}
        pq.write_table(pa.concat_tables(whole).replace_schema_metadata(about), partial, compression="zstd")
    return Embedded(rows, new)


def similar(structures: list[Any], path: Path, count: int = 10) -> Iterator[Neighbour | tuple[str, str]]:
    """The nearest rows of a file of `embed` to each structure, exactly; (structure, why) where one cannot be
    read.

    Args:
        structures: what `Predictor.predict` takes.

    Raises:
        EmbeddingError: no such file, or one that `embed` did not write.
    """
    from sklearn.neighbors import NearestNeighbors

    table = _read(path)
    model = table.schema.metadata[b"model"].decode()
    predictor, digest = _model(model)
    if digest.encode() != table.schema.metadata[b"weights"]:
        raise EmbeddingError(
            f"{path}: vectors of other weights than those of {model}; run `cloud embed` again"
        )
    matrix = np.stack(table["vector"].combine_chunks().to_numpy(zero_copy_only=False)).astype(np.float32)
    index = NearestNeighbors(n_neighbors=min(count, len(matrix)), algorithm="brute").fit(matrix)
    for asked in strings_of(structures, predictor.form):
        name = f"{structures[asked.place]}{asked.name}"
        if asked.scope is None:
            yield name, str(asked.error)
            continue
        distances, places = index.kneighbors(_vectors(predictor, [asked.scope]))
        for rank, (distance, place) in enumerate(zip(distances[0], places[0].tolist(), strict=True), start=1):
            row = {key: table[key][place].as_py() for key in ("id", "formula", "space_group", "scope")}
            yield Neighbour(structure=name, rank=rank, distance=round(float(distance), 4), **row)


def _model(model: str) -> tuple[Predictor, str]:
    folder = local_folder(model)
    return Predictor.load(folder), weights_digest(folder)


def _vectors(predictor: Predictor, texts: list[str]) -> NDArray[np.float32]:
    """`[n, V]`."""
    parts = []
    for start in range(0, len(texts), _ROWS_AT_ONCE):
        rows = Batches.of_texts(texts[start : start + _ROWS_AT_ONCE], predictor.engine.geometry)
        vectors = predictor.engine(rows).vectors
        if vectors is None:
            raise EmbeddingError("this model reads strings and gives no vectors; name one that reads sites")
        parts.append(vectors)
    return np.concatenate(parts)


def _rows(pairs: list[tuple[str, str]], vectors: NDArray[np.float32]) -> pa.Table:
    parts = [decode(text) for _, text in pairs]
    flat = pa.array(np.ascontiguousarray(vectors).ravel())
    return pa.table(
        {
            "id": [name for name, _ in pairs],
            "scope": [text for _, text in pairs],
            "formula": list(map(formula_of, parts)),
            "space_group": pa.array([each.space_group for each in parts], pa.int32()),
            "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
        }
    )


def _pairs(rows: pa.Table) -> Iterator[tuple[str, str]]:
    return zip(rows["id"].to_pylist(), rows["scope"].to_pylist(), strict=True)


def _read(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise EmbeddingError(f"{path}: cannot be read ({error}); write it by `cloud embed TABLE`") from error
    if b"weights" not in (table.schema.metadata or {}):
        raise EmbeddingError(f"{path}: no file of vectors; write one by `cloud embed TABLE --to FILE`")
    return table


def _there(path: Path, digest: str) -> pa.Table | None:
    """The rows of a file that is there already."""
    if not path.exists():
        return None
    table = _read(path)
    if table.schema.metadata[b"weights"] != digest.encode():
        raise EmbeddingError(f"{path}: holds vectors of another model; name another file")
    return table.replace_schema_metadata()
