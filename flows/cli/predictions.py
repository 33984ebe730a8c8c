"""Predictions as a person, a program or a spreadsheet reads them."""

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from cloud_core.errors import CloudError
from cloud_core.files import atomic, read_frame
from cloud_core.inference.predictor import OUTSIDE
from cloud_core.models.targets import DEVIATION

Named = tuple[int, str, dict[str, Any]]
ABOUT = ("id", "formula", "space_group", "scope", OUTSIDE, "error")
BLOCK = 10_000  # rows of a Parquet row group


def write_predictions(
    rows: Iterable[Named],
    files: Sequence[str],
    units: Mapping[str, str],
    to: Path | Literal["text", "json", "csv"],
) -> bool:
    """Print or write rows of `predict_together`; whether anything could be predicted.

    units: of the quantities; columns of a file carry them in their name ("bulk_modulus (GPa)").
    """
    counts = {"rows": 0, "predicted": 0}
    counted = _counted(_identified(rows, files), counts)
    if to == "json":
        print(json.dumps(list(counted)))
    elif to == "csv":
        _write_csv(counted, units, sys.stdout)
    elif to == "text":
        for row in counted:
            print(_text(row, units))
    elif to.suffix == ".parquet":
        _write_parquet(counted, units, to)
    elif to.suffix == ".csv":
        with atomic(to) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
            _write_csv(counted, units, stream)
    else:
        raise CloudError(f"{to}: name a file that ends in .csv or .parquet")
    if counts["rows"] != 1 and to not in ("json", "csv"):
        where = f", in {to}" if isinstance(to, Path) else ""
        print(f"{counts['predicted']:,} of {counts['rows']:,} structures predicted{where}", file=sys.stderr)
    return counts["predicted"] > 0


def scope_column(files: Sequence[str], column: str, id: str | None) -> tuple[list[str], list[str]]:
    """Ids and SCOPE strings of tables; without a column of ids, rows are numbered.

    Raises:
        CloudError: a file cannot be read, or has no such column.
    """
    names: list[str] = []
    texts: list[str] = []
    for file in files:
        frame = read_frame(file)
        for wanted in filter(None, (column, id)):
            if wanted not in frame.columns:
                there = ", ".join(map(str, frame.columns))
                raise CloudError(f"{file}: no column {wanted!r}; columns: {there}")
        named = frame[id].astype(str) if id else [f"{file}/{row}" for row in range(len(frame))]
        names += list(named)
        texts += ["" if value != value else str(value) for value in frame[column]]
    return names, texts


def _identified(rows: Iterable[Named], files: Sequence[str]) -> Iterator[dict[str, Any]]:
    for place, name, row in rows:
        of_several = name.startswith("#") or not name
        within = name if len(files) == 1 else f"{files[place]}/{name}"
        yield {"id": f"{files[place]}{name}" if of_several else within, **row}


def _counted(rows: Iterable[dict[str, Any]], counts: dict[str, int]) -> Iterator[dict[str, Any]]:
    """Rows as they are; how many on a terminal's stderr."""
    from tqdm import tqdm

    for row in tqdm(rows, unit=" structures", delay=1.0, leave=False, disable=None):
        counts["rows"] += 1
        counts["predicted"] += row["error"] is None
        yield row


def _text(row: dict[str, Any], units: Mapping[str, str]) -> str:
    """A structure in a few lines: each quantity with its standard deviation and unit."""
    if row["error"] is not None:
        return f"{row['id']}: {row['error']}"
    lines = [f"{row['id']}: {row['formula']}, space group {row['space_group']}", f"  {row['scope']}"]
    for name, value in row.items():
        if name in ABOUT or name.endswith(DEVIATION) or value is None:
            continue
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        deviation = row.get(name + DEVIATION)
        sigma = f" ± {deviation:.2g}" if isinstance(deviation, float) else ""
        lines.append(f"  {name:<26} {shown}{sigma} {units.get(name, '')}".rstrip())
    if row.get(OUTSIDE):
        lines.append(f"  out of distribution: {row[OUTSIDE]}")
    return "\n".join(lines)


def _headed(row: Mapping[str, Any], units: Mapping[str, str]) -> dict[str, Any]:
    """With units in the names of the columns; curves are left to `cloud debye`."""
    return {
        f"{name} ({unit})" if (unit := units.get(name.removesuffix(DEVIATION))) else name: value
        for name, value in row.items()
        if not isinstance(value, list)
    }


def _write_csv(rows: Iterable[dict[str, Any]], units: Mapping[str, str], stream: Any) -> None:
    writer = None
    for row in rows:
        headed = _headed(row, units)
        if writer is None:
            writer = csv.DictWriter(stream, list(headed), extrasaction="ignore")
            writer.writeheader()
        writer.writerow(headed)


def _write_parquet(rows: Iterator[dict[str, Any]], units: Mapping[str, str], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def block() -> list[dict[str, Any]]:
        return [_headed(row, units) for row in islice(rows, BLOCK)]

    texts = {"id", "formula", "scope", OUTSIDE, "error"}
    if not (found := block()):
        raise CloudError(f"{path}: not written; the files hold no structure")
    good = next((row for row in found if row["error"] is None), found[0])
    types = {bool: pa.bool_(), int: pa.int64(), str: pa.string()}
    fields = [
        (name, pa.string() if name in texts else types.get(type(value), pa.float64()))
        for name, value in good.items()
    ]
    with atomic(path) as partial, pq.ParquetWriter(partial, pa.schema(fields)) as writer:
        while found:
            writer.write_table(pa.Table.from_pylist(found, schema=writer.schema))
            found = block()
