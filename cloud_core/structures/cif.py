"""CIF: a fast reader for the plain layout, pymatgen for everything else.

The fast reader gives, bit for bit, the lattice, positions and order of sites of pymatgen's
`Structure.from_file` (2026.10), because the official SCOPE string hangs on the last bit of the numbers.
It covers one block of ordered, neutral atoms in P1, the layout of computed databases, and returns None
for whatever it does not cover for certain.
"""

import math
import operator
import re
import warnings
from functools import cache, lru_cache
from itertools import chain
from typing import Any

import numpy as np
import orjson

from cloud_core.structures.cell import Cell, FloatArray
from cloud_core.structures.errors import Reason, StructureError
from cloud_core.structures.pymatgen import PARSER_ERRORS, from_pymatgen

# Elements by (Pauling electronegativity, symbol), the order in which pymatgen sorts the sites of a CIF.
# Those without an electronegativity (He, Ne, Ar, beyond Lr) have no such order and are left to pymatgen.
_BY_ELECTRONEGATIVITY = (
    "Fr Cs K Rb Ba Ra Na Sr Li Ca Ac La Tb Yb Ce Pm Pr Nd Sm Eu Gd Dy Y Ho Er Tm Lu Pu Am Bk Cf Cm Es Fm Hf "
    "Lr Md No Th Mg Zr Np Sc U Pa Ta Ti Mn Be Nb Al Tl V Zn Cr Cd In Ga Fe Co Cu Re Si Tc Ni Ag Sn Hg Po Ge "
    "Bi B Sb Te Mo As P At H Ir Os Pd Rn Ru Pt Rh Pb W Au C Se S Xe I Br Kr N Cl O F"
)
_RANKS = {symbol: rank for rank, symbol in enumerate(_BY_ELECTRONEGATIVITY.split())}
_CELL_TAGS = (
    "_cell_length_a",
    "_cell_length_b",
    "_cell_length_c",
    "_cell_angle_alpha",
    "_cell_angle_beta",
    "_cell_angle_gamma",
)
_SYMOP_TAGS = ("_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation_xyz")
# Magnetic CIFs, ions, a second block, text fields, powder blocks: pymatgen's.
_DECLINED = ("_magn", "_atom_site_moment", "_oxidation_number", "powder_pattern", "\n;", "_eof", "_xyz_")
_SITE_TOLERANCE = 1e-4
_WHOLE = frozenset(("1", "1.0", "1.00", "1.000", "1.0000"))


@cache
def _gemmi() -> Any:
    from gemmi import cif

    return cif


def read_cif(text: str, fast: bool = True) -> Cell:
    """The first structure of a CIF. `fast=False` leaves everything to pymatgen.

    Raises StructureError.
    """
    cell = read_plain(text) if fast else None
    return _read_with_pymatgen(text) if cell is None else cell


def read_plain(text: str) -> Cell | None:
    """The structure of a plain CIF as pymatgen would read it, or None where that is not certain."""
    if not text.isascii():
        return None
    values = _values_of_pymatgen(text) or _values_of_gemmi(text)
    return None if values is None else _cell(*values)


# Words of a CIF: six cell parameters; for each site its element; x, then y, then z of all sites; occupancies.
_Values = tuple[list[str], list[str], list[str], list[str]]

# The head of the files that pymatgen writes, word by word.
_HEAD = re.compile(
    r"(?:# generated using pymatgen\n)?data_[A-Za-z0-9().]+\n"
    r"_symmetry_space_group_name_H-M +'P 1'\n"
    r"_cell_length_a +([\d.]+)\n_cell_length_b +([\d.]+)\n_cell_length_c +([\d.]+)\n"
    r"_cell_angle_alpha +([\d.]+)\n_cell_angle_beta +([\d.]+)\n_cell_angle_gamma +([\d.]+)\n"
    r"_symmetry_Int_Tables_number +1\n"
    r"_chemical_formula_structural +[A-Za-z0-9().]+\n"
    r"_chemical_formula_sum +(?:[A-Za-z0-9.]+|'[A-Za-z0-9. ]+')\n"
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
    if len(words) % 7 or not "".join(words[1::7]).isalnum() or not "".join(words[2::7]).isdigit():
        return None
    return list(head.groups()), words[::7], words[3::7] + words[4::7] + words[5::7], words[6::7]


def _values_of_gemmi(text: str) -> _Values | None:
    """The words of one block of atoms in P1 in any layout, else None."""
    if text.count("data_") != 1 or any(word in text for word in _DECLINED):
        return None
    try:
        document = _gemmi().read_string(text)
    except ValueError:
        return None
    if len(document) != 1 or not _is_p1(block := document[0]):
        return None
    parameters = [block.find_value(tag) for tag in _CELL_TAGS]
    sites = block.find_loop_item("_atom_site_fract_x")
    if sites is None or None in parameters:
        return None
    tags, values = sites.loop.tags, sites.loop.values
    columns = {tag: values[i :: len(tags)] for i, tag in enumerate(tags)}
    if not columns.keys() >= _SITE_TAGS:
        return None
    symbols, x, y, z = [columns[tag] for tag in _COLUMNS]
    return parameters, symbols, x + y + z, columns.get("_atom_site_occupancy", [])


def _cell(
    parameters: list[str], species: list[str], coordinates: list[str], occupancies: list[str]
) -> Cell | None:
    """The cell of the words of a CIF, sites sorted as pymatgen does; None where they are not plain."""
    if not species or not _WHOLE.issuperset(occupancies):
        return None
    try:
        ranks = [_RANKS[symbol] for symbol in species]
        lattice = lattice_from_parameters(*map(float, parameters))
        # Most values are neither near a third nor outside the cell; -0.0 becomes 0.0.
        values = [
            (value or 0.0)
            if 0 <= value < 0.3332 or 0.3334 < value < 0.6665 or 0.6668 < value < 0.9998
            else _settled(value)
            for value in _numbers(coordinates)
        ]
    except (KeyError, ValueError, TypeError, OverflowError):
        return None
    count = len(species)
    x, y, z = values[:count], values[count : 2 * count], values[2 * count :]
    if lattice is None or _may_coincide(x, y, z):
        return None
    values[0::3], values[1::3], values[2::3] = x, y, z
    fractions = np.array(values).reshape(count, 3)
    if sorted(ranks) != ranks:
        order = sorted(range(count), key=ranks.__getitem__)
        fractions = fractions[order]
        species = [species[i] for i in order]
    return Cell(lattice, tuple(species), fractions)


def _numbers(words: list[str]) -> list[float]:
    """What `float` makes of each word; a JSON parser is seven times faster. Raises ValueError."""
    joined = ",".join(words)
    try:
        numbers: list[float] = orjson.loads(f"[{joined}]")
    except orjson.JSONDecodeError:
        numbers = []
    # An "e" may be that of true or false.
    return numbers if len(numbers) == len(words) and "e" not in joined else list(map(float, words))


def _settled(value: float) -> float:
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
    """Whether the identity is the one symmetry operation, and is said to be."""
    found = [item for tag in _SYMOP_TAGS if (item := block.find_loop_item(tag)) is not None]
    if len(found) != 1 or any(block.find_pair(tag) for tag in _SYMOP_TAGS):
        return False
    loop = found[0].loop
    tag = next((t for t in loop.tags if t in _SYMOP_TAGS), None)
    if tag is None or loop.length() != 1:
        return False
    operation = loop.values[loop.tags.index(tag)]
    return operation in ("'x, y, z'", "'x,y,z'", "x,y,z", '"x, y, z"', '"x,y,z"')


# Sites closer than the tolerance are closer than `_NEAR` along this direction (the sum of its components
# times the tolerance, and a little).
_DIRECTION = (0.5321, 0.7151, 0.9137)
_NEAR = 2.17 * _SITE_TOLERANCE
_EDGES = tuple(1 - k * _SITE_TOLERANCE for k in (1.5, 3, 5, 8, 12, 18))


def _may_coincide(x: list[float], y: list[float], z: list[float]) -> bool:
    """Whether two sites at x, y, z in [0, 1] may be closer than the tolerance in each coordinate.

    Sure where it says no. Sorts the sites along a line, so costs n log n.
    """
    if max(max(x), max(y), max(z)) > _EDGES[0]:
        # Sites just below 1 stand beside those at 0: they are moved there, all above a gap between sites.
        for edge in _EDGES:
            if not any(edge - 1.1 * _SITE_TOLERANCE < value <= edge for value in chain(x, y, z)):
                break
        else:
            return True
        x, y, z = ([value - (value > edge) for value in axis] for axis in (x, y, z))
    p, q, r = _DIRECTION
    along = [p * a + q * b + r * c for a, b, c in zip(x, y, z, strict=True)]
    steps = sorted(along)
    if min(map(operator.sub, steps[1:], steps), default=1.0) > _NEAR:
        return False
    order = sorted(range(len(along)), key=along.__getitem__)
    for place, i in enumerate(order, start=1):
        while place < len(order) and along[j := order[place]] - along[i] < _NEAR:
            if max(abs(x[i] - x[j]), abs(y[i] - y[j]), abs(z[i] - z[j])) < _SITE_TOLERANCE * 1.001:
                return True
            place += 1
    return False


def lattice_from_parameters(
    a: float, b: float, c: float, alpha: float, beta: float, gamma: float
) -> FloatArray | None:
    """Lattice `[3, 3]` (rows, Å) of lengths in Å and angles in degrees; None where it is not plain.

    The arithmetic is that of pymatgen's `Lattice.from_parameters`, operation by operation.
    """
    angles = _angles(alpha, beta, gamma)
    if angles is None:
        return None
    sin_alpha, cos_alpha, sin_beta, cos_beta, sin_gamma_star, cos_gamma_star = angles
    # The cell is at least this thick for its lengths; pymatgen's limit is 0.01 Å.
    thickness = sin_alpha * sin_beta * sin_gamma_star
    if not (a * thickness > 0.1 and b * thickness > 0.1 and c * thickness > 0.1 and a + b + c < 1e4):
        return None
    return np.array(
        [
            [a * sin_beta, 0.0, a * cos_beta],
            [-b * sin_alpha * cos_gamma_star, b * sin_alpha * sin_gamma_star, b * cos_alpha],
            [0.0, 0.0, c],
        ]
    )


@lru_cache(maxsize=4096)
def _angles(alpha: float, beta: float, gamma: float) -> tuple[float, ...] | None:
    """Sines and cosines of alpha, beta and gamma*, from degrees; None where the angles are not plain."""
    if not (1 < alpha < 179 and 1 < beta < 179 and 1 < gamma < 179):
        return None
    angles = np.radians([alpha, beta, gamma])
    cos_alpha, cos_beta, cos_gamma = np.cos(angles).tolist()
    sin_alpha, sin_beta, _ = np.sin(angles).tolist()
    cos_gamma_star = (cos_alpha * cos_beta - cos_gamma) / (sin_alpha * sin_beta)
    if not -0.99999 < cos_gamma_star < 0.99999:
        return None
    gamma_star = np.arccos(cos_gamma_star)
    return sin_alpha, cos_alpha, sin_beta, cos_beta, float(np.sin(gamma_star)), float(np.cos(gamma_star))


def _read_with_pymatgen(text: str) -> Cell:
    from pymatgen.io.cif import CifParser

    messages: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            parser = CifParser.from_str(text)
            messages = parser.warnings  # type: ignore[attr-defined]
            structure = parser.parse_structures(primitive=False, on_error="ignore")[0]
        except NotImplementedError as error:
            raise StructureError(Reason.UNSUPPORTED, f"CIF: {error}") from error
        except PARSER_ERRORS as error:
            reason, message = _diagnosis(text, " ".join(messages), error)
            raise StructureError(reason, f"CIF: {message}") from error
    return from_pymatgen(structure)


def _diagnosis(text: str, messages: str, error: Exception) -> tuple[Reason, str]:
    """The reason behind a CIF that pymatgen could not read."""
    details = messages.split("\n", 1)[-1].strip() or f"{type(error).__name__}: {error}"
    if found := re.search(r"Occupancy ([\d.]+) exceeded tolerance", messages):
        if float(found[1]).is_integer():
            return Reason.OVERLAPPING_SITES, f"{float(found[1]):g} whole atoms on one site"
        return Reason.INVALID_OCCUPANCY, details
    if isinstance(error, ZeroDivisionError):
        return Reason.PARSE_ERROR, "a loop_ with fewer values than columns"
    if "below threshold" in messages:
        return Reason.INVALID_LATTICE, details
    if not re.search(r"^\s*data_", text, re.MULTILINE):
        return Reason.PARSE_ERROR, "no data_ block"
    if not re.search(r"_atom_site_fract_[xyz]|_atom_site_label", text):
        return Reason.NO_ATOMS, "no atom sites with fractional coordinates"
    if not re.search(r"_cell_length_[abc]", text):
        return Reason.INVALID_LATTICE, "no cell lengths"
    if isinstance(error, KeyError) and str(error.args[0]).startswith("_"):  # a tag
        return Reason.PARSE_ERROR, f"no {error.args[0]}"
    return Reason.PARSE_ERROR, details
