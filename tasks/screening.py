"""Predictions of candidates, a shard at a time; each is written once."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from prefect import task
from prefect.cache_policies import NO_CACHE

from cloud_core.evaluation.screening.candidates import (
    CANDIDATES,
    Precision,
    ScreeningError,
    shard_path,
    write_once,
)
from cloud_core.inference.engines import TorchEngine
from cloud_core.inference.predictor import Predictor
from cloud_core.models.folder import weights_digest
from tasks.reporting import Progress


@lru_cache(maxsize=1)
def _predictor(model: str, digest: str, precision: Precision) -> Predictor:
    """Kept between shards; `digest` because a folder may get another model while a worker lives."""
    predictor = Predictor.load(model)
    if isinstance(predictor.engine, TorchEngine):
        predictor.engine.precision = precision
    return predictor


@task(cache_policy=NO_CACHE, persist_result=False, retries=1)
def predict_shard(folder: str, number: int, model: str, digest: str, precision: Precision) -> int:
    """Predict one row group of the candidates and leave it as a file; returns its rows."""
    path = shard_path(Path(folder), number)
    rows = pq.ParquetFile(Path(folder) / CANDIDATES).read_row_group(number, columns=["id", "scope"])
    texts = rows["scope"].to_pylist()
    good = np.array([i for i, text in enumerate(texts) if text is not None], dtype=np.int64)
    predictor = _predictor(model, digest, precision)
    # strings that are equal have equal predictions
    distinct, place = np.unique(np.array([texts[i] for i in good], dtype=object), return_inverse=True)
    columns: dict[str, Any] = {"id": rows["id"]}
    for name, values in predictor.predict_texts(distinct.tolist()).items():
        if values.ndim == 1 and values.dtype.kind == "f":
            full = np.full(len(texts), np.nan)
            full[good] = values[place]
            columns[name] = full
    path.parent.mkdir(parents=True, exist_ok=True)
    write_once(pa.table(columns), path)
    return len(texts)


def predict_all(folder: Path, model: Path, precision: Precision, title: str) -> tuple[pd.DataFrame, int]:
    """Predictions of every candidate, in their order, and how many shards were there already.

    Raises:
        ScreeningError: rows are missing or of another order; the folder was changed by hand.
    """
    candidates = pq.ParquetFile(folder / CANDIDATES)
    numbers = range(candidates.num_row_groups)
    there = [number for number in numbers if shard_path(folder, number).is_file()]
    digest = weights_digest(model)
    with Progress(candidates.metadata.num_rows, title, unit="candidates") as progress:
        for number in numbers:
            n = candidates.metadata.row_group(number).num_rows
            if number not in there:
                predict_shard(str(folder), number, str(model), digest, precision)
            progress.advance(n)
    parts = [pq.read_table(shard_path(folder, number)) for number in numbers]
    predictions = pa.concat_tables(parts)
    if not predictions["id"].combine_chunks().equals(candidates.read(["id"])["id"].combine_chunks()):
        raise ScreeningError(f"{folder}: shards do not fit the candidates; remove the folder and run again")
    return predictions.to_pandas(), len(there)
