"""Structures in columns of numbers, and rows of OPTIMADE columns."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from cloud_core.structures.cell import Cell
from cloud_core.structures.errors import Reason, StructureError
from cloud_core.structures.sites import check_lattice, fractions_of


def cell_from_arrays(
    species: str | Sequence[str], lattice: Any, coordinates: Any, cartesian: bool = False
) -> Cell:
    """Cell from symbols, nine lattice numbers (row vectors, Å) and 3n coordinates, fractional or in Å.

    Raises:
        ValueError: the numbers are not that many; a StructureError for Cartesian ones without a lattice.
    """
    symbols = tuple(species.split()) if isinstance(species, str) else tuple(map(str, species))
    matrix = _numbers(lattice)
    numbers = _numbers(coordinates)
    if matrix.size != 9:
        raise ValueError(f"a lattice has nine numbers, not {matrix.size}")
    if numbers.size != 3 * len(symbols):
        raise ValueError(f"{numbers.size} coordinates for {len(symbols)} sites")
    matrix, numbers = matrix.reshape(3, 3), numbers.reshape(-1, 3)
    if cartesian:
        check_lattice(matrix, "table")
        numbers = fractions_of(matrix, numbers, "table")
    return Cell(lattice=matrix, species=symbols, fractions=numbers)


def _numbers(value: Any) -> np.ndarray:
    if isinstance(value, str):
        value = json_value(value)
    return np.asarray(value, dtype=np.float64)


def json_value(text: str) -> Any:
    """What a JSON text says. Raises StructureError for any other."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StructureError(Reason.PARSE_ERROR, f"numbers in JSON: {str(error)[:80]}") from error


def optimade_text(values: Iterable[tuple[str, Any]]) -> str:
    """The JSON of an OPTIMADE structure whose values are in columns, as lists or as JSON text."""
    return json.dumps({name: _listed(name, value) for name, value in values}, separators=(",", ":"))


def _listed(name: str, value: Any) -> Any:
    if isinstance(value, np.ndarray):
        flat = name in ("lattice_vectors", "cartesian_site_positions")
        return value.reshape(-1, 3).tolist() if flat else value.tolist()
    if name == "species_at_sites" and isinstance(value, str) and value.lstrip()[:1] != "[":
        return value.split()
    return value
