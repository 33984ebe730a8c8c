"""Tables of heat capacities and energies: read, and made from phonon densities of states."""

from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from cloud_core.evaluation.data.folds import Split as Rows
from cloud_core.evaluation.data.folds import split_by_group
from cloud_core.evaluation.thermal.table import Parts, ThermalError, ThermalTable, assemble
from cloud_core.files import read_frame
from cloud_core.models.debye_model import Quantity
from cloud_core.scope import ScopeError, canonicalise, resolve


class ThermalData(BaseModel):
    """A CSV or Parquet table of labels; a row is one crystal at one temperature."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(description="CSV (compressed or not) or Parquet")
    scope: str = Field("cloud", description="column of SCOPE strings")
    form: Literal["canonical", "resolved"] = Field(
        "canonical",
        description="of the strings to train on; canonical ones are made of official ones, and rows without "
        "a resolved string are left out",
    )
    value: str = Field("cv", description="column of labels, J/(mol K) for C_v or J/mol for U")
    quantity: Quantity = Field("heat_capacity", description="internal_energy has the zero-point energy in it")
    basis: Literal["cell", "atom"] = Field("cell", description="labels are per mole of cells or of atoms")
    n_atoms: str = Field("n_atoms", description="column: atoms of the cell that the label is of")
    temperature: float | str = Field(300.0, description="K, one for all rows or the name of a column")
    id: str | None = Field(None, description="column that tells crystals apart, for several rows a crystal")


class Split(BaseModel):
    """What is trained on, what chooses the epoch, and what is tested on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    test_share: float = Field(
        default=0.2, gt=0, lt=1, description="of the distinct strings, never trained on"
    )
    validation_share: float = Field(default=0.1, gt=0, lt=1, description="of the distinct strings")
    held_out_temperatures: tuple[float, ...] = Field(
        default=(), description="K, for test rows, not trained on"
    )
    seed: int = Field(default=0, ge=0)


def read_thermal(data: ThermalData) -> ThermalTable:
    """The table in strings of the form asked for, per atom; without rows that have no resolved string.

    Raises:
        ThermalError: a column is missing or a row cannot be used.
        DiscoveryError: the file cannot be read.
    """
    frame = read_frame(data.path)
    wanted = [data.scope, data.value, data.n_atoms]
    wanted += [name for name in (data.temperature, data.id) if isinstance(name, str)]
    missing = [name for name in wanted if name not in frame.columns]
    if missing:
        raise ThermalError(
            f"{data.path}: no column {', '.join(missing)}; columns: {', '.join(map(str, frame.columns))}"
        )
    rule = canonicalise
    if data.form == "resolved":
        rule, frame = resolve, frame[frame[data.scope].notna()]
    texts = []
    for row, text in zip(frame.index + 1, frame[data.scope], strict=True):
        try:
            texts.append(rule(str(text)))
        except ScopeError as error:
            raise ThermalError(f"{data.path}, row {row}: {error}") from error
    temperatures: Any = frame[data.temperature] if isinstance(data.temperature, str) else data.temperature
    try:
        return assemble(
            texts,
            _numbers(frame, data.value),
            _numbers(frame, data.n_atoms),
            np.broadcast_to(np.asarray(temperatures, dtype=np.float64), len(frame)),
            data.quantity,
            data.basis,
            frame[data.id].astype(str).tolist() if data.id else None,
        )
    except ThermalError as error:
        raise ThermalError(f"{data.path}: {error}") from error


def _numbers(frame: pd.DataFrame, column: str) -> np.ndarray:
    try:
        return pd.to_numeric(frame[column]).to_numpy(dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise ThermalError(f"column {column}: not numbers ({error})") from error


def split_table(data: ThermalData, split: Split) -> Parts:
    """The parts of a table; the same for the same arguments.

    Raises:
        ThermalError: the table cannot be used, a held-out temperature is not in it, or a part would be empty.
    """
    table = read_thermal(data)
    rows = rows_of(tuple(canonicalise(text) for text in table.texts), split)
    held = np.isin(table.temperatures, split.held_out_temperatures)
    if held.sum() != len(set(split.held_out_temperatures)) or held.all():
        raise ThermalError(
            f"held_out_temperatures {split.held_out_temperatures}: must be among the table's "
            f"{table.temperatures.tolist()} K, and leave some to train on"
        )
    seen = table.at(~held)
    return Parts(seen.take(rows.train), seen.take(rows.validation), table.take(rows.test))


def rows_of(keys: tuple[str, ...], split: Split) -> Rows:
    """Row numbers of the parts, by canonical string.

    Raises:
        SplitError: a part would be empty.
    """
    return split_by_group(keys, split.test_share, split.validation_share, split.seed)


def parse_temperatures(text: str) -> np.ndarray:
    """`0:1000:10` (first, last, step in K, both ends in) or a list `77,300` [K].

    Raises:
        ThermalError: neither, or a temperature below 0 K.
    """
    try:
        if ":" in text:
            first, last, step = (float(part) for part in text.split(":"))
            if step <= 0 or last < first:
                raise ValueError("the step must be above 0, the last not below the first")
            values = first + step * np.arange(int(np.floor((last - first) / step + 1e-9)) + 1)
        else:
            values = np.array([float(part) for part in text.split(",")])
    except ValueError as error:
        raise ThermalError(
            f"temperatures {text!r}: give first:last:step in K, such as 0:1000:10, or a list ({error})"
        ) from error
    if (values < 0).any() or not np.isfinite(values).all():
        raise ThermalError(f"temperatures {text!r}: below 0 K")
    return values
