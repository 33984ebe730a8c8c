"""CIF: a fast reader for the plain layout, the whole reader for everything else.

The fast reader gives, bit for bit, the lattice, positions and order of sites of pymatgen's
`Structure.from_file` (2026.10), because the official SCOPE string hangs on the last bit of the numbers.
It covers one block of ordered, neutral atoms in P1, the layout of computed databases, and returns None
for whatever it does not cover for certain. Both give the same cells.
"""

import math
import re
from functools import cache
from typing import Any

import numpy as np
import orjson

from cloud_core.structures.cell import Cell
from cloud_core.structures.cif_block import CELL_TAGS, blocks_of
from cloud_core.structures.distances import OVERLAP, close_pairs
from cloud_core.structures.errors import Reason, StructureError
from cloud_core.structures.lattice import RANKS, lattice_from_parameters
from cloud_core.structures.numbers import to_float

_SYMOP_TAGS = ("_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation_xyz")
# Magnetic and modulated CIFs, ions, text fields, dummy sites, hydrogens without coordinates.
_DECLINED = (
    "_magn",
    "_atom_site_moment",
    "_oxidation_number",
    "\n;",
    "_xyz_",
    "_ssg",
    "_modulation",
    "_wave_vector",
    "_calc_flag",
    "_attached_hydrogens",
)
_DOTTED = re.compile(r"^[ \t]*_\w+\.\w", re.MULTILINE)  # names of DDLm
_DISPLACEMENTS = ("_atom_site_U", "_atom_site_B", "_atom_site_adp")
_SYMMETRY_LIST = {*_SYMOP_TAGS, "_symmetry_equiv_pos_site_id", "_space_group_symop_id"}
_PLAIN_SYMMETRY = frozenset(("'P 1'", "P1", "'P1'", '"P 1"', "1", "?", ".", "triclinic"))
_TERM = re.compile(r"([A-Z][a-z]?)(\d*)")
_LARGEST = 4000.0  # Å: sites that coincide by 1e-4 in each coordinate are closer than 0.5 Å in smaller cells
_WHOLE = frozenset(("1", "1.0", "1.00", "1.000", "1.0000"))


@cache
def _gemmi() -> Any:
    from gemmi import cif

    return cif


def read_cif(text: str, fast: bool = True) -> Cell:
    """The structure of a CIF by the rules of docs/reading.md. `fast=False` leaves the fast reader out.

    Raises StructureError, also where several blocks hold atoms.
    """
    cell = read_plain(text) if fast else None
    if cell is not None:
        return cell
    from cloud_core.structures.cif_cell import read_block

    blocks = blocks_of(text)
    if not blocks:
        raise StructureError(Reason.PARSE_ERROR, "CIF: no data_ block")
    listing = [b for b in blocks if b.has_atoms] or [b for b in blocks if b.has_sites]
    if len(listing) > 1:
        names = ", ".join(block.name or "(no name)" for block in listing[:5])
        message = f"CIF: {len(listing)} blocks hold atoms: {names}"
        raise StructureError(Reason.SEVERAL_STRUCTURES, message)
    if not listing:
        raise StructureError(Reason.NO_ATOMS, "CIF: no atom sites with fractional coordinates")
    return read_block(listing[0])


def read_plain(text: str) -> Cell | None:
    """The structure of a plain CIF as pymatgen would read it, or None where that is not certain."""
    if not text.isascii():
        return None
    values = _values_of_pymatgen(text) or _values_of_gemmi(text)
    return None if values is None else _cell(*values)


# Words of a CIF: six cell parameters; for each site its element; x, then y, then z of all sites; occupancies;
# the formula ("" where none is stated).
_Values = tuple[list[str], list[str], list[str], list[str], str]

# The head of the files that pymatgen writes, word by word.
_HEAD = re.compile(
    r"(?:# generated using pymatgen\n)?data_[A-Za-z0-9().]+\n"
    r"_symmetry_space_group_name_H-M +'P 1'\n"
    r"_cell_length_a +([\d.]+)\n_cell_length_b +([\d.]+)\n_cell_length_c +([\d.]+)\n"
    r"_cell_angle_alpha +([\d.]+)\n_cell_angle_beta +([\d.]+)\n_cell_angle_gamma +([\d.]+)\n"
    r"_symmetry_Int_Tables_number +1\n"
    r"_chemical_formula_structural +[A-Za-z0-9().]+\n"
    r"_chemical_formula_sum +([A-Za-z0-9.]+|'[A-Za-z0-9. ]+')\n"
    r"_cell_volume +[\d.]+\n_cell_formula_units_Z +\d+\n"
    r"loop_\n _symmetry_equiv_pos_site_id\n _symmetry_equiv_pos_as_xyz\n  1  'x, y, z'\n"
    r"loop_\n _atom_site_type_symbol\n _atom_site_label\n _atom_site_symmetry_multiplicity\n"
    r" _atom_site_fract_x\n _atom_site_fract_y\n _atom_site_fract_z\n _atom_site_occupancy\n"
)


def _values_of_pymatgen(text: str) -> _Values | None:
    """The words of a file that holds what pymatgen writes for ordered atoms and nothing else, else None."""
    if (head := _HEAD.match(text)) is None:
        return None
    words = text[head.end() :].split()
    if len(words) % 7 or not "".join(words[1::7]).isalnum() or words[2::7].count("1") * 7 != len(words):
        return None
    parameters = list(head.groups())
    formula = parameters.pop().strip("'")
    return parameters, words[::7], words[3::7] + words[4::7] + words[5::7], words[6::7], formula


def _values_of_gemmi(text: str) -> _Values | None:
    """The words of one block of atoms in P1 in any layout, else None."""
    lower = text.lower()
    if lower.count("data_") != 1 or any(word in lower for word in _DECLINED) or _DOTTED.search(text):
        return None
    try:
        document = _gemmi().read_string(text, 0)
    except ValueError:
        return None
    if len(document) != 1 or not _is_p1(block := document[0]):
        return None
    parameters = [block.find_value(tag) for tag in CELL_TAGS]
    sites = block.find_loop_item("_atom_site_fract_x")
    if sites is None or None in parameters:
        return None
    tags, values = sites.loop.tags, sites.loop.values
    # The whole reader takes tags in any case; those of displacements, which have capitals, do not matter.
    if any(tag != tag.lower() and not tag.startswith(_DISPLACEMENTS) for tag in tags):
        return None
    columns = {tag: values[i :: len(tags)] for i, tag in enumerate(tags)}
    if not columns.keys() >= _SITE_TAGS or len(columns) != len(tags):
        return None
    if not {"1"}.issuperset(columns.get("_atom_site_symmetry_multiplicity", ())):
        return None
    symbols, x, y, z = [columns[tag] for tag in _COLUMNS]
    formula = _gemmi().as_string(block.find_value("_chemical_formula_sum") or "?")
    occupancies = columns.get("_atom_site_occupancy", [])
    return parameters, symbols, x + y + z, occupancies, "" if formula in ("", "?", ".") else formula


def _cell(
    parameters: list[str], species: list[str], coordinates: list[str], occupancies: list[str], formula: str
) -> Cell | None:
    """The cell of the words of a CIF, sites sorted as pymatgen does; None where they are not plain."""
    if not species or not _WHOLE.issuperset(occupancies) or not _is_formula(formula, species):
        return None
    try:
        ranks = [RANKS[symbol] for symbol in species]
        numbers = _numbers(parameters + coordinates)
        # Most values are neither near a third nor outside the cell; -0.0 becomes 0.0.
        values = [
            (value or 0.0)
            if 0 <= value < 0.3332 or 0.3334 < value < 0.6665 or 0.6668 < value < 0.9998
            else _normalised(value)
            for value in numbers[6:]
        ]
        lattice = lattice_from_parameters(*numbers[:6])
    except (KeyError, ValueError, TypeError, OverflowError):
        return None
    if lattice is None:
        return None
    count = len(species)
    fractions = np.array(values).reshape(3, count).T
    # Sites that may coincide are the whole reader's.
    if sum(numbers[:3]) > _LARGEST or close_pairs(lattice, fractions, OVERLAP):
        return None
    if sorted(ranks) != ranks:
        order = sorted(range(count), key=ranks.__getitem__)
        fractions = fractions[order]
        species = [species[i] for i in order]
    return Cell(lattice, tuple(species), fractions, clearance=OVERLAP)


def _is_formula(text: str, species: list[str]) -> bool:
    """Whether the atoms are in the ratio of a stated formula of whole numbers, hydrogen included."""
    elements = set(species)
    if not text or {f"{element}{species.count(element)}" for element in elements} == set(text.split()):
        return True
    terms = _TERM.findall(text)
    if len(terms) != len(elements) or "".join(map("".join, terms)) != text.replace(" ", ""):
        return False
    first, amount = terms[0]
    unit, count = int(amount or 1), species.count(first)
    return all(species.count(element) * unit == int(amount or 1) * count > 0 for element, amount in terms)


def _numbers(words: list[str]) -> list[float]:
    """What `to_float` makes of each word; a JSON parser is seven times faster. Raises ValueError."""
    joined = ",".join(words)
    try:
        numbers: list[float] = orjson.loads(f"[{joined}]")
    except orjson.JSONDecodeError:
        numbers = []
    # An "e" may be that of true or false.
    return numbers if len(numbers) == len(words) and "e" not in joined else list(map(to_float, words))


def _normalised(value: float) -> float:
    """A coordinate as pymatgen leaves it: within a relative 1e-4 of 1/3 or 2/3 it is that; then modulo 1.

    Raises ValueError or OverflowError for what is not finite.
    """
    for ideal in (1 / 3, 2 / 3):
        if abs(value / ideal - 1) <= 1e-4:
            return ideal
    return value - math.floor(value) + 0.0


_COLUMNS = ("_atom_site_type_symbol", "_atom_site_fract_x", "_atom_site_fract_y", "_atom_site_fract_z")
_SITE_TAGS = {"_atom_site_label", *_COLUMNS}


def _is_p1(block: Any) -> bool:
    """Whether the identity is the one symmetry operation, and nothing says anything else."""
    found = [item for tag in _SYMOP_TAGS if (item := block.find_loop_item(tag)) is not None]
    if len(found) != 1:
        return False
    loop = found[0].loop
    tag = next((t for t in loop.tags if t in _SYMOP_TAGS), None)
    if tag is None or loop.length() != 1:
        return False
    names = set()
    for item in block:
        if item.loop is not None:
            names_of_loop = {tag.lower() for tag in item.loop.tags}
            if any(name.startswith(_SYMMETRY_PREFIXES) for name in names_of_loop - _SYMMETRY_LIST):
                return False
        if item.pair is None:
            continue
        name, value = item.pair
        name = name.lower()
        if name in names or (name.startswith(_SYMMETRY_PREFIXES) and value not in _PLAIN_SYMMETRY):
            return False
        names.add(name)
    operation = loop.values[loop.tags.index(tag)]
    return operation in ("'x, y, z'", "'x,y,z'", "x,y,z", '"x, y, z"', '"x,y,z"')


_SYMMETRY_PREFIXES = ("_symmetry", "_space_group")
