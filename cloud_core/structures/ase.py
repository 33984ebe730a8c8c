"""ASE's atoms as cells: its objects, and the JSON that it writes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cloud_core.structures.arrays import matrix, numbers, truths, vectors
from cloud_core.structures.cell import Cell, FloatArray
from cloud_core.structures.errors import Reason, StructureError, shown
from cloud_core.structures.sites import (
    cell_of,
    check_lattice,
    fractions_of,
    periodicity_note,
    symbol_of_number,
)

_NOT_PERIODIC = "; where it is a crystal, set atoms.pbc = True"


def is_atoms(value: Any) -> bool:
    """Whether an object is ASE's Atoms; ase itself is not needed."""
    return all(hasattr(value, name) for name in ("get_atomic_numbers", "get_positions", "get_cell", "pbc"))


def from_ase(atoms: Any) -> Cell:
    """The cell of an ASE Atoms object. Raises StructureError."""
    return read_ase(
        {
            "numbers": np.array(atoms.get_atomic_numbers()),
            "positions": np.array(atoms.get_positions(), dtype=float),
            "cell": np.array(atoms.get_cell()[:], dtype=float),
            "pbc": np.array(atoms.pbc),
            "info": dict(atoms.info),
            "spacegroup_kinds": atoms.arrays.get("spacegroup_kinds"),
        }
    )


def read_ase(atoms: Mapping[str, Any]) -> Cell:
    """The cell of `Atoms.todict()` or of a row of ASE's JSON: atomic numbers (or symbols), Cartesian
    positions and cell in Å, pbc. Raises StructureError."""
    if atoms.get("positions") is None or atoms.get("cell") is None:
        missing = "positions" if atoms.get("positions") is None else "cell"
        raise StructureError(Reason.PARSE_ERROR, f"ase: no {missing}")
    positions = vectors(_plain(atoms["positions"]), "ase: positions")
    symbols = _symbols(atoms)
    if len(symbols) != len(positions):
        message = f"ase: {len(symbols)} atoms and {len(positions)} positions"
        raise StructureError(Reason.INVALID_POSITIONS, message)
    lattice = _lattice(_plain(atoms["cell"]))
    fractions = fractions_of(lattice, positions, "ase")
    periodic = (True,) * 3 if atoms.get("pbc") is None else truths(_plain(atoms["pbc"]), "ase: pbc")
    notes = periodicity_note(periodic, "ase", _NOT_PERIODIC)
    return cell_of(lattice, _mixtures(atoms, symbols), fractions, "ase", notes)


def _symbols(atoms: Mapping[str, Any]) -> list[str]:
    symbols = atoms.get("symbols")
    if isinstance(symbols, str):
        symbols = symbols.split()
    if atoms.get("numbers") is not None:
        named = [symbol_of_number(n, "ase") for n in numbers(_plain(atoms["numbers"]), "ase: numbers")]
        if isinstance(symbols, list | tuple) and list(symbols) != named:
            raise StructureError(Reason.PARSE_ERROR, "ase: numbers and symbols name other elements")
        return named
    if not isinstance(symbols, list | tuple) or not all(isinstance(symbol, str) for symbol in symbols):
        raise StructureError(Reason.PARSE_ERROR, "ase: no atomic numbers and no list of symbols")
    return list(symbols)


def _lattice(cell: Any) -> FloatArray:
    if (
        not isinstance(cell, bool) and len(cell) == 3 and not isinstance(cell[0], Sequence | np.ndarray)
    ):  # lengths of an orthogonal cell
        lattice = np.diag(numbers(cell, "ase: the cell", Reason.INVALID_LATTICE))
    else:
        lattice = matrix(cell, "ase: the cell")
    if not lattice.any():
        raise StructureError(Reason.UNSUPPORTED, "ase: no cell; a molecule is no crystal")
    check_lattice(lattice, "ase")
    return lattice


def _mixtures(atoms: Mapping[str, Any], symbols: list[str]) -> list[Mapping[str, float]]:
    """What is on each site. ASE notes the occupancies of a disordered crystal beside its atoms: those of each
    kind of site, and the kind of each atom."""
    info = atoms.get("info")
    occupancy = info.get("occupancy") if isinstance(info, Mapping) else None
    if not occupancy:
        return [{symbol: 1.0} for symbol in symbols]
    kinds = atoms.get("spacegroup_kinds")
    if kinds is None or not isinstance(occupancy, Mapping):
        message = "ase: partial occupancies, which are not told site by site; give the file they came from"
        raise StructureError(Reason.UNSUPPORTED, message)
    return mixtures_of(symbols, occupancy, numbers(_plain(kinds), "ase: spacegroup_kinds").tolist(), "ase")


def mixtures_of(
    symbols: Sequence[str], occupancy: Mapping[Any, Any], kinds: Sequence[Any], name: str
) -> list[Mapping[str, float]]:
    """What is on each site by ASE's notes: occupancy, kind → element → amount, and the kind of each site."""
    if len(kinds) != len(symbols):
        raise StructureError(Reason.PARSE_ERROR, f"{name}: spacegroup_kinds is not one for each atom")
    mixtures: list[Mapping[str, float]] = []
    for kind, symbol in zip(kinds, symbols, strict=True):
        word = str(kind).removesuffix(".0")
        amounts = occupancy.get(
            word, occupancy.get(int(word)) if word.isdecimal() and len(word) < 9 else None
        )
        if not isinstance(amounts, Mapping) or symbol not in amounts:
            raise StructureError(
                Reason.PARSE_ERROR, f"{name}: no occupancy of {shown(symbol, 20)}, kind {shown(word, 20)}"
            )
        values = numbers(list(amounts.values()), f"{name}: occupancy", Reason.INVALID_OCCUPANCY).tolist()
        mixtures.append(dict(zip(map(str, amounts), values, strict=True)))
    return mixtures


def _plain(value: Any) -> Any:
    """A list or array as ASE writes it: as such, as `{"__ndarray__": [shape, type, flat list]}`, or the cell
    as an object that has such an array."""
    if isinstance(value, Mapping) and "array" in value:
        value = value["array"]
    if isinstance(value, Mapping) and "__ndarray__" in value:
        parts = value["__ndarray__"]
        if not isinstance(parts, list) or len(parts) != 3 or not isinstance(parts[2], list):
            raise StructureError(Reason.PARSE_ERROR, "ase: a damaged __ndarray__")
        value = parts[2]
    if not isinstance(value, list | tuple | np.ndarray | bool) or (
        not isinstance(value, bool) and len(value) == 0
    ):
        raise StructureError(Reason.PARSE_ERROR, f"ase: a list of numbers expected, not {shown(str(value))}")
    return value
