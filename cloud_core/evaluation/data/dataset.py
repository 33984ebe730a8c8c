"""Labelled SCOPE strings, from a table of structures or from a file: what is split, fitted and scored."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cloud_core.errors import CloudError
from cloud_core.evaluation.data.folds import Split
from cloud_core.files import atomic, read_frame
from cloud_core.lake.snapshot import Snapshot
from cloud_core.lake.table import Table
from cloud_core.models.geometry import Geometry
from cloud_core.models.targets import Target, target_from
from cloud_core.scope import EncoderSettings, ScopeError, canonicalise, resolve
from cloud_core.scope.isolation import Encoded, encode_many
from cloud_core.scope.settings import Form
from cloud_core.training.batches import Batches
from cloud_core.training.job import LABELS
from cloud_core.units import conversion


class DatasetError(CloudError):
    """A data set that cannot be used; names the file or table, the column, and the remedy."""


@dataclass(frozen=True, slots=True)
class _Structure:
    """What `encode_many` takes."""

    id: str
    payload: str
    format: str | None = None


@dataclass(frozen=True)
class Dataset:
    """N crystals with a SCOPE string each and labels `[N, targets]` (nan: none) in physical units.

    Labels of a classification are indices of its target's classes.
    """

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    keys: tuple[str, ...]
    """canonical strings: rows that share one are one crystal to a split"""
    labels: NDArray[np.float64]
    targets: tuple[Target, ...]
    form: Form
    left_out: dict[str, int] = field(default_factory=dict)
    """rows of the source that are not here, by reason"""
    official: tuple[str | None, ...] = ()
    """official strings, where they are known, to count leakage by too; None for a row without one"""

    def forms(self) -> dict[str, tuple[str | None, ...]]:
        """The strings of all rows in each form that is known; canonical ones always are."""
        known = {"official": self.official} if self.official else {}
        return known | {self.form: self.texts, "canonical": self.keys}

    def __len__(self) -> int:
        return len(self.ids)

    def examples(self, rows: NDArray[np.int64], encoder: Geometry) -> Batches:
        """Rows as the encoder reads them, with their labels."""
        return Batches.of_texts([self.texts[i] for i in rows], encoder, {LABELS: self.labels[rows]})

    def take_texts(self, rows: NDArray[np.int64]) -> list[str]:
        return [self.texts[i] for i in rows]

    def save(self, path: Path, split: Split) -> None:
        """One Parquet file with the rows, their labels and their part of the split."""
        parts = np.full(len(self), "", dtype=object)
        for name, rows in zip(Split._fields, split, strict=True):
            parts[rows] = name
        columns: dict[str, Any] = {"id": self.ids, "text": self.texts, "key": self.keys, "part": parts}
        columns |= {"official": self.official} if self.official else {}
        columns |= {f"label {i}": self.labels[:, i] for i in range(len(self.targets))}
        facts = {
            "form": self.form,
            "targets": [asdict(target) for target in self.targets],
            "left_out": self.left_out,
        }
        table = pa.table(columns).replace_schema_metadata({"dataset": json.dumps(facts)})
        with atomic(path) as partial:
            pq.write_table(table, partial)

    @classmethod
    def load(cls, path: Path) -> tuple["Dataset", Split]:
        """What `save` wrote."""
        table = pq.read_table(path)
        facts = json.loads(table.schema.metadata[b"dataset"])
        targets = tuple(target_from(entry) for entry in facts["targets"])
        labels = [table[f"label {i}"].to_numpy() for i in range(len(targets))]
        ids, texts, keys = (tuple(table[name].to_pylist()) for name in ("id", "text", "key"))
        parts = np.array(table["part"].to_pylist())
        official = tuple(table["official"].to_pylist()) if "official" in table.column_names else ()
        known = (targets, facts["form"], facts["left_out"], official)
        data = cls(ids, texts, keys, np.stack(labels, axis=1), *known)
        return data, Split(*(np.flatnonzero(parts == name) for name in Split._fields))


def from_table(
    uri: str, targets: Sequence[Target], form: Form = "canonical", version: int | None = None
) -> tuple[Dataset, Snapshot]:
    """The encoded rows of a table of structures that carry at least one of the labels named like the targets.

    Raises:
        DatasetError: no row has a label of that name, or a row lacks a string of this form.
        LakeError: there is no such table or version.
    """
    snapshot = Snapshot.of(uri, version)
    columns = list(dict.fromkeys(["structure_id", form, "canonical", "official", "labels", "label_units"]))
    rows = Table.open(uri, version=snapshot.version).scope(columns)
    labels = np.full((rows.num_rows, len(targets)), np.nan)
    for place, target in enumerate(targets):
        found = pc.map_lookup(rows["labels"].combine_chunks(), target.name, "first")
        units = pc.map_lookup(rows["label_units"].combine_chunks(), target.name, "first")
        factors = _factors(units, target, uri)
        labels[:, place] = found.to_numpy(zero_copy_only=False) * factors
    any_label = [bool((~np.isnan(labels[:, place])).any()) for place in range(len(targets))]
    if not all(any_label):
        empty = [t.name for t, has in zip(targets, any_label, strict=True) if not has]
        known = sorted({key for entry in rows["labels"].to_pylist() if entry for key, _ in entry})
        raise DatasetError(f"{uri}: no row has a label '{empty[0]}'; labels: {', '.join(known) or 'none'}")
    texts = rows[form].to_pylist()
    frame = pd.DataFrame({"id": rows["structure_id"].to_pylist(), "text": texts})
    missing = int(frame["text"].isna().sum())
    if missing:
        raise DatasetError(f"{uri}: {missing} rows have no {form} string; encode the table with that form")
    frame["official"] = rows["official"].to_pylist()
    return _assemble(uri, frame, rows["canonical"].to_pylist(), labels, targets, form, {}), snapshot


def _factors(units: pa.Array, target: Target, uri: str) -> NDArray[np.float64]:
    """`[n]` from the units that the table declares to the target's; 1 where either says none.

    Raises:
        DatasetError: they are units of something else.
    """
    factors: dict[str | None, float] = {None: 1.0, "": 1.0}
    for unit in units.unique().to_pylist():
        if unit and target.unit and (factor := conversion(unit, target.unit)) is None:
            raise DatasetError(
                f"{uri}: label '{target.name}' is in {unit}, and the configuration says {target.unit}; "
                "correct the one that is wrong"
            )
        factors[unit] = 1.0 if not unit or not target.unit else float(factor or 1.0)
    return np.array([factors[unit] for unit in units.to_pylist()])


def from_file(
    path: str | Path,
    targets: Sequence[Target],
    scope_column: str | None = None,
    structure_column: str | None = None,
    id_column: str | None = None,
    form: Form = "canonical",
    processes: int = 1,
    official: bool = False,
) -> Dataset:
    """The rows of a CSV, Parquet or JSON file (compressed or not) that have at least one label.

    Structures are encoded here; those that are refused are counted in `left_out`.

    Args:
        scope_column: holds SCOPE strings; canonical ones are made of them where `form` is canonical, and the
            least of the equivalent ones of resolved strings; others are taken as they are; or
        structure_column: holds CIF text or pymatgen JSON.
        id_column: names the rows; without it they are numbered.
        official: encode structures in the official form too, to count leakage by it; takes some four times
            as long.

    Raises:
        DatasetError: the file, or a column, is missing, a string is no SCOPE string, or a label is infinite
            or no class.
    """
    frame = read_frame(path)
    return from_frame(
        frame, str(path), targets, scope_column, structure_column, id_column, form, processes, official
    )


def from_frame(
    frame: pd.DataFrame,
    name: str,
    targets: Sequence[Target],
    scope_column: str | None = None,
    structure_column: str | None = None,
    id_column: str | None = None,
    form: Form = "canonical",
    processes: int = 1,
    official: bool = False,
) -> Dataset:
    """`from_file` on what a file holds; `name` is used in messages."""
    if (scope_column is None) == (structure_column is None):
        raise DatasetError(f"{name}: name either the column of SCOPE strings or that of structures")
    content = scope_column or structure_column
    for column in (content, id_column, *(target.name for target in targets)):
        if column is not None and column not in frame.columns:
            raise DatasetError(
                f"{name}: no column '{column}' (columns: {', '.join(map(str, frame.columns))})"
            )
    labels = np.stack([_numbers(frame[target.name], target, name) for target in targets], axis=1)
    ids = frame[id_column].astype(str) if id_column else pd.Series([str(i) for i in range(len(frame))])
    left_out: dict[str, int] = {}
    known: list[str | None] = [None] * len(frame)
    if scope_column is not None:
        given = [text if isinstance(text, str) else None for text in frame[scope_column]]
        where = [f"{name}: row {row}, column '{scope_column}'" for row in ids]
        keys = _each(canonicalise, given, where)
        if form in ("canonical", "resolved"):
            texts = keys if form == "canonical" else _each(resolve, given, where)
        else:
            texts = given
        if form not in ("full", "resolved") and given != keys:  # what is canonical was no official string
            known = given
    else:
        structures = frame[str(structure_column)].tolist()
        texts, keys, left_out = _encode(ids.tolist(), structures, form, processes)
        if official and form != "official":
            known = _encode(ids.tolist(), structures, "official", processes)[0]
    rows = pd.DataFrame({"id": ids.to_numpy(), "text": texts, "official": known})
    return _assemble(name, rows, keys, labels, targets, form, left_out)


def require_labels(data: Dataset, split: Split) -> None:
    """Every target has to be known in every part: else it would not be learned, chosen or evaluated.

    Raises:
        DatasetError: names target and part.
    """
    for place, target in enumerate(data.targets):
        for part, rows in zip(Split._fields, split, strict=True):
            if np.isnan(data.labels[rows, place]).all():
                raise DatasetError(
                    f"target '{target.name}': none of the {len(rows)} {part} rows has a label "
                    f"({int((~np.isnan(data.labels[:, place])).sum())} of {len(data)} rows do); give more "
                    "labels, another split, or a run of its own to this target"
                )


def _numbers(values: pd.Series, target: Target, name: str) -> NDArray[np.float64]:
    if target.kind == "classification":
        text = values.map(lambda value: None if pd.isna(value) else _class(value, target.classes))
        unknown = sorted(set(text.dropna()) - set(target.classes))
        if unknown:
            raise DatasetError(
                f"{name}: column '{target.name}' holds {unknown[0]!r}, not one of {', '.join(target.classes)}"
            )
        return np.asarray(text.map({c: i for i, c in enumerate(target.classes)}), dtype=np.float64)
    try:
        return np.asarray(pd.to_numeric(values), dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise DatasetError(f"{name}: column '{target.name}' holds what is no number ({error})") from error


def _class(value: Any, classes: Sequence[str]) -> str:
    """The name of a class; 0 and 1 are truth values where those are the classes."""
    truth = set(classes) == {"False", "True"} and value in (0, 1)
    return str(bool(value)) if truth else str(value)


def _each(
    function: Callable[[str], str], texts: Sequence[str | None], where: Sequence[str]
) -> list[str | None]:
    """`canonicalise` or `resolve` of each string that is there."""
    found: list[str | None] = []
    for text, place in zip(texts, where, strict=True):
        try:
            found.append(None if text is None else function(text))
        except ScopeError as error:
            raise DatasetError(
                f"{place}: no such SCOPE string ({error}); correct or remove it, or name the "
                "form of the strings as `form`"
            ) from error
    return found


def _payload(structure: Any) -> str:
    """Text of a structure; Parquet may hold it as bytes."""
    if isinstance(structure, bytes):
        return structure.decode("utf-8", errors="replace")
    return structure if isinstance(structure, str) else json.dumps(structure)


def _encode(
    ids: list[str], structures: list[Any], form: Form, processes: int
) -> tuple[list[str | None], list[str | None], dict[str, int]]:
    """(strings, canonical strings, reasons of refusals counted); None where a structure was refused."""
    forms = ("canonical",) if form == "canonical" else ("canonical", form)
    records = [_Structure(name, _payload(structure)) for name, structure in zip(ids, structures, strict=True)]
    texts: list[str | None] = []
    keys: list[str | None] = []
    refused: dict[str, int] = {}
    for result in encode_many(records, EncoderSettings(forms=forms), processes):
        if isinstance(result, Encoded):
            texts.append(getattr(result.scope, form))
            keys.append(result.scope.canonical)
        else:
            texts.append(None)
            keys.append(None)
            refused[str(result.reason)] = refused.get(str(result.reason), 0) + 1
    return texts, keys, refused


def _assemble(
    name: str,
    frame: pd.DataFrame,
    keys: Sequence[str | None],
    labels: NDArray[np.float64],
    targets: Sequence[Target],
    form: Form,
    left_out: dict[str, int],
) -> Dataset:
    """The rows with a string and a label, and how many there are without."""
    has_text = frame["text"].notna().to_numpy()
    has_label = (~np.isnan(labels)).any(axis=1)
    counts = dict(left_out)
    missing = int((~has_text).sum()) - sum(left_out.values())
    if missing:
        counts["no string"] = missing
    if (has_text & ~has_label).any():
        counts["no label"] = int((has_text & ~has_label).sum())
    chosen = np.flatnonzero(has_text & has_label)
    if not len(chosen):
        raise DatasetError(f"{name}: no row has both a string and a label ({counts}); check the column names")
    for place, target in enumerate(targets):
        values = labels[chosen, place]
        good = np.isfinite(values)
        if target.kind == "classification":
            good = np.isin(values, np.arange(len(target.classes)))
        wrong = np.flatnonzero(~(good | np.isnan(values)))
        if len(wrong):
            row, value = frame["id"].iloc[chosen[wrong[0]]], values[wrong[0]]
            what = "no class index" if target.kind == "classification" else "not finite"
            raise DatasetError(
                f"{name}: row {row}, label '{target.name}': {value:g} is {what}; correct it or leave it empty"
            )
    official = [text if isinstance(text, str) else None for text in frame["official"].iloc[chosen]]
    return Dataset(
        ids=tuple(frame["id"].iloc[chosen]),
        texts=tuple(frame["text"].iloc[chosen]),
        keys=tuple(str(keys[i]) for i in chosen.tolist()),
        labels=labels[chosen],
        targets=tuple(targets),
        form=form,
        left_out=counts,
        official=tuple(official) if any(official) else (),
    )
