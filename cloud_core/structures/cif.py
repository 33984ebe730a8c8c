"""CIF: a fast reader for the plain layout, pymatgen for everything else.

The fast reader gives, bit for bit, the lattice, positions and order of sites of pymatgen's
`Structure.from_file` (2026.10), because the official SCOPE string hangs on the last bit of the numbers.
It covers one block of ordered, neutral atoms in P1, the layout of computed databases, and returns None
for whatever it does not cover for certain.
"""

import re
import warnings
from functools import cache
from typing import Any

import numpy as np

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
    if text.count("data_") != 1 or not text.isascii() or any(word in text for word in _DECLINED):
        return None
    try:
        document = _gemmi().read_string(text)
    except ValueError:
        return None
    if len(document) != 1:
        return None
    block = document[0]
    if not _is_p1(block):
        return None
    try:
        parameters = [float(block.find_value(tag)) for tag in _CELL_TAGS]
    except (TypeError, ValueError):
        return None
    item = block.find_loop_item("_atom_site_fract_x")
    if item is None:
        return None
    tags = item.loop.tags
    values = item.loop.values
    width = len(tags)
    try:
        columns = [values[tags.index(tag) :: width] for tag in ("_atom_site_label", *_SITE_TAGS)]
        positions = np.array([list(map(float, column)) for column in columns[2:]])
        ranks = [_RANKS[symbol] for symbol in columns[1]]
        if "_atom_site_occupancy" in tags:
            occupancies = values[tags.index("_atom_site_occupancy") :: width]
            if not _WHOLE.issuperset(occupancies):
                return None
    except (KeyError, ValueError):
        return None
    fractions = _fractions(positions)
    lattice = lattice_from_parameters(*parameters)
    if fractions is None or lattice is None:
        return None
    species = columns[1]
    order = sorted(range(len(ranks)), key=ranks.__getitem__)
    if order != list(range(len(ranks))):
        fractions = fractions[order]
        species = [species[i] for i in order]
    return Cell(lattice, tuple(species), fractions)


_SITE_TAGS = ("_atom_site_type_symbol", "_atom_site_fract_x", "_atom_site_fract_y", "_atom_site_fract_z")


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


def _fractions(columns: FloatArray) -> FloatArray | None:
    """Positions as pymatgen leaves them, from columns `[3, n]` to `[n, 3]`; None where sites coincide.

    Values within a relative 1e-4 of 1/3 and 2/3 are set to these, then all are taken modulo 1.
    """
    if not np.isfinite(columns).all():
        return None
    for ideal in (1 / 3, 2 / 3):
        columns[np.abs(columns / ideal - 1) <= 1e-4] = ideal
    columns -= np.floor(columns)
    return None if _may_coincide(columns) else np.ascontiguousarray(columns.T)


# Sites closer than the tolerance are closer than this along `_DIRECTION` (the sum of its components
# times the tolerance, and a little).
_DIRECTION = np.array([0.5321, 0.7151, 0.9137])
_NEAR = 2.17 * _SITE_TOLERANCE


def _may_coincide(columns: FloatArray) -> bool:
    """Whether two sites `[3, n]` in [0, 1] may be closer than the tolerance in each coordinate.

    Sure where it says no. Sorts the sites along a line, so costs n log n.
    """
    edge = columns > 1 - 1.5 * _SITE_TOLERANCE
    if edge.any():
        # A site just below 1 stands beside one at 0; the band below the edge would need both views.
        if ((columns > 1 - 2.6 * _SITE_TOLERANCE) & ~edge).any():
            return True
        columns = columns - edge
    along = _DIRECTION @ columns
    order = np.argsort(along)
    gaps = np.diff(along[order]) < _NEAR
    if not gaps.any():
        return False
    # Runs of near neighbours along the line: compare each pair of a run.
    start = 0
    for end in [*np.flatnonzero(~gaps) + 1, len(order)]:
        if end - start > 1:
            run = columns[:, order[start:end]]
            close = (np.abs(run[:, :, None] - run[:, None, :]) < _SITE_TOLERANCE * 1.001).all(axis=0)
            if close.sum() > end - start:
                return True
        start = end
    return False


def lattice_from_parameters(
    a: float, b: float, c: float, alpha: float, beta: float, gamma: float
) -> FloatArray | None:
    """Lattice `[3, 3]` (rows, Å) of lengths in Å and angles in degrees; None where it is not plain.

    The arithmetic is that of pymatgen's `Lattice.from_parameters`, operation by operation.
    """
    if not (
        min(a, b, c) > 0.5
        and max(a, b, c) < 1e4
        and min(alpha, beta, gamma) > 15
        and max(alpha, beta, gamma) < 165
    ):
        return None
    angles = np.radians([alpha, beta, gamma])
    cos_alpha, cos_beta, cos_gamma = np.cos(angles).tolist()
    sin_alpha, sin_beta, _ = np.sin(angles).tolist()
    cos_gamma_star = (cos_alpha * cos_beta - cos_gamma) / (sin_alpha * sin_beta)
    # Flat cells, down to the limits of pymatgen, are left to it.
    if not -0.999 < cos_gamma_star < 0.999:
        return None
    gamma_star = np.arccos(cos_gamma_star)
    cos_gamma_star, sin_gamma_star = float(np.cos(gamma_star)), float(np.sin(gamma_star))
    return np.array(
        [
            [a * sin_beta, 0.0, a * cos_beta],
            [-b * sin_alpha * cos_gamma_star, b * sin_alpha * sin_gamma_star, b * cos_alpha],
            [0.0, 0.0, c],
        ]
    )


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
    if "below threshold" in messages:
        return Reason.INVALID_LATTICE, details
    if not re.search(r"^\s*data_", text, re.MULTILINE):
        return Reason.PARSE_ERROR, "no data_ block"
    if not re.search(r"_atom_site_fract_[xyz]|_atom_site_label", text):
        return Reason.NO_ATOMS, "no atom sites with fractional coordinates"
    if not re.search(r"_cell_length_[abc]", text):
        return Reason.INVALID_LATTICE, "no cell lengths"
    return Reason.PARSE_ERROR, details
