"""Labels of C_v(T) and U(T) from phonon densities of states, checked against known heat capacities."""

import json
from ast import literal_eval
from collections import Counter
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from cloud_core.evaluation.thermal.data import Split, ThermalData, parse_temperatures, read_thermal, rows_of
from cloud_core.evaluation.thermal.phonon_dos import heat_capacity, internal_energy
from cloud_core.evaluation.thermal.table import ThermalError
from cloud_core.files import atomic, read_frame
from cloud_core.scope.isolation import Refused, encode_many
from cloud_core.scope.settings import EncoderSettings
from cloud_core.sources.catalogue import open_source


class PhononData(BaseModel):
    """A table of crystals with their phonon densities of states."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(description="CSV (compressed or not) or Parquet")
    id: str = Field("mp_id", description="column of names")
    structure: str = Field("structure", description="column of structures")
    structure_format: Literal["cif", "poscar", "pymatgen", "jarvis", "ase"] = "ase"
    wavenumbers: str = Field("phfreq", description="column: axis, cm⁻¹, a list or its text")
    density: str = Field("phdos", description="column: density of states, in any unit")


class PhononLabels(BaseModel):
    """What is computed, and which rows are trusted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperatures: str = Field(default="100:1000:100", description="K, first:last:step or a list")
    valid_from: float = Field(
        default=100.0,
        gt=0,
        description="K: below it bins of 20 cm⁻¹ spoil C_v (docs/debye.md); lower ones are refused",
    )
    agreement: float = Field(default=0.01, gt=0, description="largest relative error against the known C_v")
    leave_out: Split | None = Field(
        default=Split(), description="leave out the crystals that this split of the known C_v tests on"
    )


class PhononCounts(BaseModel):
    """What became of each row."""

    read: int
    refused: int
    without_known_label: int
    disagreeing: int
    left_out_as_test: int
    double: int
    written: int


def label_phonons(data: PhononData, known: ThermalData, labels: PhononLabels, path: str) -> PhononCounts:
    """Write a Parquet table: id, scope (canonical), resolved, n_atoms, temperature (K), and per mole of atoms
    heat_capacity (J/(mol K)), internal_energy and internal_energy_thermal (J/mol).

    A crystal is kept where its density of states gives the C_v that is known for it by canonical string; one
    that has no known C_v cannot be checked and is left out.

    Raises:
        ThermalError, SourceError: a column or file is missing, or temperatures lie below `valid_from`.
    """
    temperatures = parse_temperatures(labels.temperatures)
    if temperatures.min() < labels.valid_from:
        raise ThermalError(
            f"temperatures {labels.temperatures!r}: labels are valid from {labels.valid_from:g} K up; "
            "see docs/debye.md, and lower `valid_from` if your densities are finer"
        )
    reference = read_thermal(known.model_copy(update={"form": "canonical"}))
    if len(reference.temperatures) != 1:
        raise ThermalError(f"{known.path}: known heat capacities must be at one temperature")
    expected: dict[str, list[float]] = {}
    for text, value in zip(reference.texts, reference.values[:, 0], strict=True):
        expected.setdefault(text, []).append(value)
    tested: set[str] = set()
    if labels.leave_out is not None:
        tested = {reference.texts[row] for row in rows_of(reference.texts, labels.leave_out).test}

    source = open_source(
        {
            "kind": "table",
            "path": data.path,
            "id": data.id,
            "structure": data.structure,
            "structure_format": data.structure_format,
        }
    )
    records = (record for partition in source.partitions() for record in source.read(partition))
    frame = read_frame(data.path).set_index(data.id)
    fate: Counter[str] = Counter()
    seen: set[str] = set()
    tables = []
    for encoded in encode_many(records, EncoderSettings(forms=("canonical", "resolved"))):
        fate["read"] += 1
        if isinstance(encoded, Refused):
            fate["refused"] += 1
            continue
        scope = encoded.scope.canonical
        if scope not in expected:
            fate["without_known_label"] += 1
            continue
        axis = _list(frame.at[encoded.id, data.wavenumbers])
        density = _list(frame.at[encoded.id, data.density])
        at = heat_capacity(axis, density, reference.temperatures)[0]
        # two crystals of one string: the nearer label is its own
        if min(abs(at / value - 1) for value in expected[scope]) > labels.agreement:
            fate["disagreeing"] += 1
        elif scope in tested:
            fate["left_out_as_test"] += 1
        elif scope in seen:
            fate["double"] += 1
        else:
            seen.add(scope)
            fate["written"] += 1
            tables.append(
                pd.DataFrame(
                    {
                        "id": encoded.id,
                        "scope": scope,
                        "resolved": encoded.scope.resolved,
                        "n_atoms": float(encoded.scope.n_sites),
                        "temperature": temperatures,
                        "heat_capacity": heat_capacity(axis, density, temperatures),
                        "internal_energy": internal_energy(axis, density, temperatures),
                        "internal_energy_thermal": internal_energy(
                            axis, density, temperatures, zero_point=False
                        ),
                    }
                )
            )
    counts = PhononCounts(**{name: fate[name] for name in PhononCounts.model_fields})
    if not tables:
        raise ThermalError(f"{data.path}: no crystal agrees with {known.path}: {counts.model_dump()}")
    if counts.read != len(frame):
        raise ThermalError(f"{data.path}: {counts.read} of {len(frame)} rows were read; the file is damaged")
    with atomic(path) as partial:
        pd.concat(tables, ignore_index=True).to_parquet(partial, index=False)
    return counts


def _list(value: object) -> np.ndarray:
    """A list, or one written as text."""
    if isinstance(value, str):
        text = value.strip()
        value = json.loads(text) if "nan" not in text and "None" not in text else literal_eval(text)
    return np.asarray(value, dtype=np.float64)
