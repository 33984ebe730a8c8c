"""Candidates of a screening, the folder that their predictions go to, and the crystals that they are held
against.

A run's folder is named by the candidates, the model and the precision: the same run again finds its shards,
and one that was killed goes on with those that are missing.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from cloud_core.errors import CloudError
from cloud_core.evaluation.screening.hull import Hull
from cloud_core.files import atomic, file_digest, read_frame
from cloud_core.lake.pins import pin
from cloud_core.lake.schemas import ENCODED
from cloud_core.lake.snapshot import Snapshot
from cloud_core.lake.table import Table
from cloud_core.models.folder import CONFIG, weights_digest
from cloud_core.scope import ScopeError, canonicalise, decode, resolve
from cloud_core.scope.formulas import amounts_of, formula_of, reduced_formula

Precision = Literal["float32", "bfloat16"]
CANDIDATES = "candidates.parquet"
_COMPOSITION = ("elements", "fractions", "n_atoms_primitive")

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # what labels go by: native where that is unique
        ("structure_id", pa.string()),  # of the table of structures; that of a file's row is its id
        ("formula", pa.string()),  # reduced
        ("space_group", pa.int32()),
        ("canonical", pa.string()),
        ("scope", pa.string()),  # in the form that the model takes; null where there is none
        ("key", pa.string()),  # tells crystals apart: the element-resolved key, or the canonical string
        ("elements", pa.list_(pa.string())),
        ("fractions", pa.list_(pa.float64())),
        ("reason", pa.string()),  # why there is no string
    ]
)


class ScreeningError(CloudError):
    """Candidates that cannot be screened; names the input and the remedy."""


class ScopeFile(BaseModel):
    """Candidates that are SCOPE strings already."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(description="CSV (compressed or not) or Parquet")
    id: str = Field("id", description="column of names")
    scope: str = Field(
        "scope",
        description="column of SCOPE strings, of the form that the model takes, or official for canonical",
    )


class Reference(BaseModel):
    """Crystals that are known already: to be told from new ones, for a convex hull, for a baseline."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    table: str | None = Field(None, description="table of structures: a folder or an s3:// address")
    energies: str | None = Field(
        None, description="or, for a hull alone, a CSV or Parquet file of formulas and formation energies"
    )
    formula: str = Field("formula_pretty", description="of the file: column of formulas")
    formation_energy: str = Field(
        "formation_energy_per_atom", description="label of the table or column of the file, eV/atom"
    )

    @model_validator(mode="after")
    def _one(self) -> "Reference":
        if (self.table is None) == (self.energies is None):
            raise ValueError("give either table or energies")
        return self


def candidates_of_table(uri: str, version: int | None, form: str, run: str) -> tuple[pa.Table, Snapshot]:
    """All structures of a table, quarantined ones without a string; ids are native where that is unique.

    The version is pinned for `run`, so that `vacuum` keeps what its results were made of.
    """
    snapshot = Snapshot.of(uri, version)
    pin(uri, f"screen-{run}-v{snapshot.version}", snapshot.version)
    table = Table.open(snapshot.uri, version=snapshot.version)
    columns = ["structure_id", form, "canonical", "element_key", "space_group", *_COMPOSITION]
    encoded = table.scope(list(dict.fromkeys(columns)))
    if encoded[form].null_count:
        raise ScreeningError(
            f"{uri}: {encoded[form].null_count} structures have no {form} string, which the model takes; "
            f"encode them with forms: [canonical, {form}]"
        )
    given = {
        "id": encoded["structure_id"],
        "structure_id": encoded["structure_id"],
        "formula": pa.array(
            [reduced_formula(_amounts(row)) for row in encoded.select(_COMPOSITION).to_pylist()]
        ),
        "space_group": encoded["space_group"],
        "canonical": encoded["canonical"],
        "scope": encoded[form],
        "key": encoded["element_key"],
        "elements": encoded["elements"],
        "fractions": encoded["fractions"],
        "reason": pa.nulls(len(encoded), pa.string()),
    }
    refused = table.quarantine(["structure_id", "reason"])
    refused = refused.add_column(0, "id", refused["structure_id"])
    rows = pa.concat_tables([pa.table(given, _SCHEMA), refused], promote_options="default").select(
        _SCHEMA.names
    )
    if not len(rows):
        raise ScreeningError(f"{uri}: no structures; encode some first")
    native = pc.replace_substring_regex(rows["id"], r"^[^:]*:", "")
    if len(pc.unique(native)) == len(rows):
        rows = rows.set_column(0, "id", native)
    return rows.sort_by("id"), snapshot


def candidates_of_file(file: ScopeFile, form: str) -> pa.Table:
    """SCOPE strings of a file, in the form that the model takes; invalid ones with a reason.

    Elements and fractions are those of resolved and full strings; others round them to hundredths.
    """
    frame = read_frame(file.path)
    missing = [column for column in (file.id, file.scope) if column not in frame.columns]
    if missing:
        raise ScreeningError(
            f"{file.path}: no column {', '.join(missing)}; columns: {', '.join(map(str, frame.columns))}"
        )
    if frame[file.id].duplicated().any():
        twice = frame[file.id][frame[file.id].duplicated()].iloc[0]
        raise ScreeningError(f"{file.path}: id {twice} appears twice; give each candidate one of its own")
    rows: list[dict[str, Any]] = []
    for name, text in zip(frame[file.id].astype(str), frame[file.scope].astype(str), strict=True):
        row: dict[str, Any] = {"id": name, "structure_id": name}
        try:
            parts = decode(text)
            canonical = canonicalise(text)
            amounts = amounts_of(parts)
            forms = {"canonical": canonical, "resolved": resolve(text) if form == "resolved" else None}
            row |= {
                "formula": formula_of(parts),
                "space_group": parts.space_group,
                "canonical": canonical,
                "scope": forms.get(form, text),
                "key": canonical,
                "elements": list(amounts) if amounts else None,
                "fractions": [n / sum(amounts.values()) for n in amounts.values()] if amounts else None,
            }
        except ScopeError as error:
            row["reason"] = f"invalid_scope: {error}"
        rows.append(row)
    return pa.Table.from_pylist(rows, _SCHEMA).sort_by("id")


def run_folder(root: Path, candidates: pa.Table, model: Path, precision: Precision, shard_rows: int) -> Path:
    """Where this screening lives; writes the candidates there, one row group a shard."""
    content = hashlib.sha256()
    for column in ("id", "scope"):
        for text in candidates[column].to_pylist():
            content.update(f"{text}\n".encode())
    for part in (weights_digest(model), file_digest(model / CONFIG), precision, str(shard_rows)):
        content.update(part.encode())
    folder = root.with_name(f"{root.name}-{content.hexdigest()[:12]}")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / CANDIDATES).is_file():
        write_once(candidates, folder / CANDIDATES, shard_rows)
    return folder


def write_once(table: pa.Table, path: Path, row_group_size: int | None = None) -> None:
    """Under another name until it is whole."""
    with atomic(path) as partial:
        pq.write_table(table, partial, compression="zstd", row_group_size=row_group_size)


def shard_path(folder: Path, number: int) -> Path:
    return folder / "shards" / f"{number:05d}.parquet"


def _crystals(reference: Reference) -> Iterator[tuple[dict[str, float], str | None, float | None]]:
    """Of each known crystal: element -> amount, canonical string, formation energy (eV/atom); the string is
    None of a file, the energy where there is none."""
    if reference.table is not None:
        for batch in Table.open(reference.table).batches(ENCODED, ["canonical", "labels", *_COMPOSITION]):
            for row in batch.to_pylist():
                energy = dict(row["labels"] or []).get(reference.formation_energy)
                yield _amounts(row), row["canonical"], energy
        return
    from pymatgen.core import Composition

    frame = read_frame(str(reference.energies))
    missing = [c for c in (reference.formula, reference.formation_energy) if c not in frame.columns]
    if missing:
        raise ScreeningError(
            f"{reference.energies}: no column {', '.join(missing)}; columns: {', '.join(frame.columns)}"
        )
    frame = frame.dropna(subset=[reference.formula])
    for text, energy in zip(frame[reference.formula], frame[reference.formation_energy], strict=True):
        yield Composition(text).get_el_amt_dict(), None, None if pd.isna(energy) else float(energy)


def _amounts(row: Mapping[str, Any]) -> dict[str, float]:
    """Element -> atoms in the primitive cell, of a row of a table of structures."""
    n_atoms = row["n_atoms_primitive"] or 1.0
    return {e: x * n_atoms for e, x in zip(row["elements"], row["fractions"], strict=True)}


def known_crystals(reference: Reference) -> tuple[set[str], set[str]]:
    """Reduced formulas and canonical strings of the known crystals; a file of energies has formulas alone."""
    formulas, crystals = set(), set()
    for amounts, canonical, _ in _crystals(reference):
        formulas.add(reduced_formula(amounts))
        if canonical is not None:
            crystals.add(canonical)
    return formulas, crystals


def labelled_strings(reference: Reference) -> tuple[list[str], NDArray[np.float64]]:
    """Canonical strings and formation energies (eV/atom) of the known crystals that have both.

    Raises:
        ScreeningError: none has.
    """
    rows = [(text, energy) for _, text, energy in _crystals(reference) if text and energy is not None]
    if not rows:
        raise ScreeningError(
            f"{reference.table or reference.energies}: no crystals with a string and a formation energy "
            f"({reference.formation_energy}); give a table of structures, and name their label"
        )
    return [text for text, _ in rows], np.array([energy for _, energy in rows])


def reference_hull(reference: Reference) -> Hull:
    """The convex hull of the known crystals' formation energies.

    Raises:
        ScreeningError: no crystal has one.
    """
    known = [(amounts, energy) for amounts, _, energy in _crystals(reference) if energy is not None]
    if not known:
        raise ScreeningError(
            f"{reference.table or reference.energies}: no formation energies "
            f"({reference.formation_energy}); name their label"
        )
    return Hull([amounts for amounts, _ in known], [energy for _, energy in known])


def hull_distances(hull: Hull, candidates: pa.Table, energies: Sequence[float]) -> np.ndarray:
    """Predicted distance [n] to the reference's hull, eV/atom; nan where there is no prediction.

    Raises:
        ScreeningError: of no candidate the exact composition is known.
    """
    if candidates["elements"].null_count == len(candidates):
        raise ScreeningError(
            "strings of these candidates round their composition to hundredths, which moves a distance to "
            "the hull by up to 0.5 eV/atom; give resolved strings, structures, or a table of `cloud encode`"
        )
    distances = np.full(len(candidates), np.nan)
    compositions = zip(candidates["elements"].to_pylist(), candidates["fractions"].to_pylist(), strict=True)
    for i, (elements, fractions) in enumerate(compositions):
        if elements is not None and np.isfinite(energies[i]):
            distances[i] = hull.distance(dict(zip(elements, fractions, strict=True)), energies[i])
    return distances


def property_of(predictions: pd.DataFrame, name: str | None) -> str:
    """The column that is the formation energy: the one named, else the only one there is."""
    names = [column for column in predictions.columns if column != "id" and not column.endswith("_std")]
    energies = [column for column in names if column.startswith("formation_energy")]
    if name is not None:
        if name not in names:
            raise ScreeningError(f"the model predicts {', '.join(names)}, not {name}")
        return name
    if len(energies) == 1:
        return energies[0]
    if len(names) != 1:
        raise ScreeningError(f"the model predicts {', '.join(names)}; say which is the formation energy")
    return names[0]
