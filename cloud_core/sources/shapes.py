"""Structures as numbers and JSON objects -> Cell."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cloud_core.structures.cell import Cell


def cell_from_arrays(species: str | Sequence[str], lattice: Any, fractions: Any) -> Cell:
    """Cell from symbols, nine lattice numbers (row vectors, Å) and 3n fractional coordinates.

    Raises:
        ValueError: the numbers are not that many.
    """
    symbols = tuple(species.split()) if isinstance(species, str) else tuple(species)
    matrix = np.asarray(lattice, dtype=np.float64)
    coordinates = np.asarray(fractions, dtype=np.float64)
    if matrix.size != 9:
        raise ValueError(f"a lattice has nine numbers, not {matrix.size}")
    if coordinates.size != 3 * len(symbols):
        raise ValueError(f"{coordinates.size} coordinates for {len(symbols)} sites")
    return Cell(lattice=matrix.reshape(3, 3), species=symbols, fractions=coordinates.reshape(-1, 3))


def cell_from_jarvis(atoms: Mapping[str, Any]) -> Cell:
    """Cell from JARVIS `Atoms.to_dict()`: lattice_mat, coords, elements, cartesian."""
    matrix = np.asarray(atoms["lattice_mat"], dtype=np.float64)
    coordinates = np.asarray(atoms["coords"], dtype=np.float64).reshape(-1, 3)
    if atoms.get("cartesian"):
        coordinates = _fractions(matrix, coordinates)
    return cell_from_arrays([str(element).strip() for element in atoms["elements"]], matrix, coordinates)


def cell_from_ase(atoms: Mapping[str, Any]) -> Cell:
    """Cell from an ASE atoms dictionary: numbers or symbols, positions (Cartesian, Å), cell."""
    matrix = np.asarray(atoms["cell"], dtype=np.float64)
    positions = np.asarray(atoms["positions"], dtype=np.float64).reshape(-1, 3)
    symbols = atoms.get("symbols")
    if symbols is None:
        from pymatgen.core import Element

        symbols = [Element.from_Z(int(number)).symbol for number in atoms["numbers"]]
    return cell_from_arrays(symbols, matrix, _fractions(matrix, positions))


def cell_from_pymatgen(structure: Mapping[str, Any]) -> Cell:
    """Cell from pymatgen's `Structure.as_dict()`, or an entry's that has one under `structure`."""
    from cloud_core.structures.formats import read

    return read(structure.get("structure", structure), "pymatgen")


def _fractions(matrix: np.ndarray, positions: np.ndarray) -> np.ndarray:
    try:
        return np.ascontiguousarray(np.linalg.solve(matrix.T, positions.T).T)
    except np.linalg.LinAlgError as error:
        raise ValueError("the lattice has no volume") from error


CONVERTERS: dict[str, Callable[[Mapping[str, Any]], Cell]] = {
    "pymatgen": cell_from_pymatgen,
    "jarvis": cell_from_jarvis,
    "ase": cell_from_ase,
}
