"""The atoms of a CIF block: what is on each listed site, where, and to how many digits."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cloud_core.structures.cell import FloatArray
from cloud_core.structures.cif_block import (
    CARTESIAN_TAGS,
    FRACTION_TAGS,
    MATRIX_TAGS,
    VECTOR_TAGS,
    Block,
    is_known,
)
from cloud_core.structures.elements import is_element, is_vacancy
from cloud_core.structures.errors import Reason, StructureError, shown
from cloud_core.structures.numbers import Number, parse_number

MAX_SITES = 100_000
_THIRDS = tuple(k / 6 for k in (1, 2, 4, 5))
# Symbols of a group of atoms, of which the list gives one: the heavy atom.
_GROUP = re.compile(
    r"(B|C|N|O|P|S|Al|Si|Ge|As|Se)((?:[HD](?:\d++\.?+\d*+|\.\d++)?+)++)(?:[+-]\d?|\d?[+-])?(?![a-z])"
)
_REVERSED = re.compile(r"((?:[HD]\d?+)++)O(?:[+-]\d?|\d?[+-])?")  # H2O, HDO, H3O+
_WATER = re.compile(r"(?:wat(?:er)?|ow|o-h)(?![a-z])", re.IGNORECASE)
_BRACKET = re.compile(r"([A-Z][a-z]?\d?[+-]?)\((H2O|D2O|OH|OD|NH[234]|CH[1-4]?)\)")
# Labels of structure types and of points that are no atoms.
_NO_ELEMENT = frozenset(("T", "M", "X", "Q", "A", "Cg", "Cnt", "Du", "Dum", "Xx", "Zz"))
_SCATTERING = {"Cval": "C", "Siva": "Si", "Sival": "Si"}  # names of the scattering-factor tables
_MIXTURE = re.compile(r"(\d*\.?\d+(?:\(\d+\))?)\s*([A-Z][a-z]?)(?![a-z])")


@dataclass(frozen=True, slots=True)
class Site:
    """One line of the list of atoms.

    position: fractional, thirds as pymatgen takes them. reach: how far each coordinate may be from the
    true one for the digits that it has (at most three count; 1/3, 2/3 and 1/6 in any rounding).
    multiplicity and letter: as stated. hydrogens: attached ones that have no coordinates.
    """

    label: str
    element: str
    type_symbol: str
    position: tuple[float, float, float]
    reach: tuple[float, float, float]
    occupancy: Number
    multiplicity: int | None = None
    letter: str = ""
    hydrogens: float = 0.0


@dataclass(slots=True)
class SiteList:
    """The sites of a block. unknown: species without an element, by label; has_lost_hydrogen: a hydrogen
    without coordinates is listed, or a group of atoms stands for its heavy one."""

    sites: list[Site] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    has_lost_hydrogen: bool = False


def read_sites(block: Block, lattice: FloatArray, elements: frozenset[str]) -> SiteList:
    """The atoms of a block. elements: those of the stated formula, which decide how to read labels.

    Raises StructureError for values that no atom can have.
    """
    coordinates = _coordinates(block, lattice)
    count = len(coordinates[0])
    if count > MAX_SITES:
        raise StructureError(Reason.TOO_MANY_SITES, f"CIF: {count} sites listed")
    columns = {
        name: _filled(block.column(*tags), count, name)
        for name, tags in {
            "label": ("_atom_site_label",),
            "type": ("_atom_site_type_symbol",),
            "occupancy": ("_atom_site_occupancy",),
            "multiplicity": ("_atom_site_symmetry_multiplicity", "_atom_site_site_symmetry_multiplicity"),
            "wyckoff": ("_atom_site_wyckoff_symbol", "_atom_site_wyckoff_label"),
            "hydrogens": ("_atom_site_attached_hydrogens",),
            "flag": ("_atom_site_calc_flag",),
        }.items()
    }
    if block.column("_atom_site_label", "_atom_site_type_symbol") is None:
        raise StructureError(Reason.PARSE_ERROR, "CIF: no _atom_site_label and no _atom_site_type_symbol")
    found = SiteList()
    mixtures: list[Site] = []
    # H1O beside O1 is hydrogen on it, and so is H2O then, though alone it would be water.
    is_named_by_oxygen = any(re.match(r"[HD]1O", label) for label in columns["label"])
    for place in range(count):
        values = {name: column[place] for name, column in columns.items()}
        if values["flag"].strip().lower() == "dum":
            continue
        if is_named_by_oxygen and not is_known(values["type"]) and re.match(r"[HD]\dO", values["label"]):
            values["type"] = values["label"][0]
        words = tuple(axis[place] for axis in coordinates)
        mixture = _mixture(values["type"], values["label"])
        if mixture:
            position, reach = _position(words, values["label"])
            mixtures += [
                _site(values, element, position, reach, amount, 0) for element, amount in mixture.items()
            ]
            continue
        _add(found, values, words, elements)
    found.sites += mixtures
    return found


def _add(
    found: SiteList, values: Mapping[str, str], words: tuple[str, ...], elements: frozenset[str]
) -> None:
    """Add the site of one line, if it is one."""
    name = values["label"].strip() or values["type"].strip()
    has_type = is_known(values["type"])
    symbol, hydrogens = read_symbol(values["type"] if has_type else values["label"], elements, not has_type)
    occupancy = Number(1.0, 0.0, 0)
    if is_known(values["occupancy"]):
        number = parse_number(values["occupancy"])
        if number is None or number.value < 0:
            raise StructureError(
                Reason.INVALID_OCCUPANCY, f"CIF: site {name}: occupancy {shown(values['occupancy'])}"
            )
        occupancy = number
    if symbol == "" or occupancy.value == 0:
        return
    if symbol is None:
        text = (values["type"] if has_type else values["label"]).strip()
        found.unknown.append(f"{name} ({text})" if has_type and text != name else name)
        if re.match("[A-Z][A-Z]", text) and is_element(text[:2].title()) and is_element(text[0]):
            found.unknown[-1] += f" ({text[:2].title()}, or {text[0]} and {text[1]}?)"
        return
    if is_known(values["hydrogens"]) and (number := parse_number(values["hydrogens"])) is not None:
        hydrogens = max(hydrogens, number.value)
    if not all(map(is_known, words)):
        if symbol in ("H", "D", "T"):
            found.has_lost_hydrogen = True
            return
        raise StructureError(Reason.INVALID_POSITIONS, f"CIF: site {name} has no coordinates")
    found.has_lost_hydrogen |= hydrogens > 0
    position, reach = _position(words, name)
    found.sites.append(_site(values, symbol, position, reach, occupancy, hydrogens))


def _site(
    values: Mapping[str, str],
    element: str,
    position: tuple[float, float, float],
    reach: tuple[float, float, float],
    occupancy: Number,
    hydrogens: float,
) -> Site:
    number = parse_number(values["multiplicity"])
    letter = re.fullmatch(r"(\d{0,6}+)\s?([A-Za-z])", values["wyckoff"].strip())
    multiplicity = int(number.value) if number is not None and number.value >= 1 else None
    if letter and letter[1]:
        multiplicity = int(letter[1])
    return Site(
        values["label"].strip(), element, values["type"].strip() or element, position, reach, occupancy,
        multiplicity, letter[2] if letter else "", hydrogens,
    )  # fmt: skip


# -- species


def read_symbol(text: str, elements: frozenset[str], is_label: bool) -> tuple[str | None, float]:
    """The element (or "D", "T") of a type symbol or a label, and the hydrogen atoms that it counts in.

    elements: those of the stated formula, or none; they decide between readings such as Co and C.
    An empty place is "", a species that is no element, or may be one of two, None.
    """
    text = text.strip().lstrip("'\"").partition(",spin=")[0]  # as pymatgen writes spins
    if len(text) > 100:
        return None, 0
    head = re.match(r"[A-Za-z]+", text)
    if head is None:
        return None, 0
    letters = head[0]
    if bracket := _BRACKET.fullmatch(text):  # ICSD: O2-(H2O)
        element, count = read_symbol(bracket[1], elements, is_label)
        return element, max(count, _hydrogens(bracket[2]))
    if is_vacancy(letters) and not (letters.upper() == "VA" and is_label and "V" in elements):
        # a label of capitals may be vanadium on a site A
        return (None, 0) if letters == "VA" and is_label and not elements else ("", 0)
    if water := _WATER.match(text):
        return "O", {"ow": 0, "o-h": 1}.get(water[0].lower(), 2)
    if letters[:2].lower() == "hw":
        return "H", 0
    shown = text.upper() if letters.islower() else text
    match = re.Pattern.match if is_label else re.Pattern.fullmatch
    if group := match(_GROUP, shown):
        return group[1], _hydrogens(group[2])
    if (group := match(_REVERSED, shown)) and not (is_label and group[1] == "H"):  # HO1: hydrogen on O1
        return "O", _hydrogens(group[1])
    if letters in ("D", "T") and not (is_label and letters == "T"):
        return letters, 0
    if not _NO_ELEMENT.isdisjoint((letters, letters[:2], letters[:3])):
        return None, 0
    if letters in _SCATTERING:
        return _SCATTERING[letters], 0
    element, rest = _element(letters, elements, is_label)
    if element is None or "/" in text or not _may_follow(rest, text[len(letters) :], elements, is_label):
        return None, 0
    return element, 0


def _hydrogens(text: str) -> float:
    """The atoms of "H2", "HD", "D4", "H0.5"."""
    return sum(float(count or 1) for count in re.findall(r"[HD](\d+\.?\d*|\.\d+)?", text))


def _element(letters: str, elements: frozenset[str], is_label: bool) -> tuple[str | None, str]:
    """The element that letters begin with, and the letters after it; None where it may be one of two."""
    one, two = letters[0].upper(), letters[:2].title()
    is_two = len(letters) > 1 and is_element(two)
    is_one = is_element(one) and one not in ("D", "T")
    if is_two and is_one and letters[1].isupper() and is_element(letters[1]):
        # Two capitals, both of which are elements: CO is Co or carbon and something else.
        if two in elements:
            return two, letters[2:]
        return (one, letters[1:]) if one in elements else (None, "")
    is_site_of_one = two not in elements and one in elements  # O on a site s is no osmium
    if is_two and not (is_site_of_one and (is_label or letters[1].isupper())):
        return two, letters[2:]
    return (one, letters[1:]) if is_one else (None, "")


def _may_follow(letters: str, rest: str, elements: frozenset[str], is_label: bool) -> bool:
    """Whether what stands after an element can be a charge, a number, or, in a label, the name of a site."""
    if not is_label:
        return not letters and re.fullmatch(r"[-+\d.,()*'\"\s]*", rest) is not None
    if not letters or letters.isupper():
        return True
    # Small letters can be the name of a site (Oa) or of a group (Cp, Cent): the formula tells the first.
    return len(letters) <= 2 and bool(elements)


def _mixture(symbol: str, label: str) -> dict[str, Number]:
    """The occupation of a site as Springer's files write it in place of a symbol: "0.8Nb + 0.2Zr"."""
    parts = symbol.split(" + ")
    if len(parts) <= len(label.split(" + ")):
        return {}
    mixture = {}
    for part in parts:
        found = _MIXTURE.match(part.strip())
        if not found or not is_element(found[2]):
            raise StructureError(Reason.UNKNOWN_ELEMENT, f"CIF: site {label}: {shown(symbol, 60)}")
        amount = parse_number(found[1])
        if amount is None:
            raise StructureError(Reason.INVALID_OCCUPANCY, f"CIF: site {label}: {shown(symbol, 60)}")
        mixture[found[2]] = amount
    return mixture


# -- positions


def _filled(column: list[str] | None, count: int, name: str) -> Sequence[str]:
    if column is None:
        return ("",) * count
    if len(column) != count:
        message = f"CIF: {len(column)} values of {name} for {count} sites"
        raise StructureError(Reason.PARSE_ERROR, message)
    return column


def _coordinates(block: Block, lattice: FloatArray) -> list[list[str]]:
    """The fractional coordinates as they are written, axis by axis."""
    columns = [block.column(tag) for tag in FRACTION_TAGS]
    given = [column for column in columns if column is not None]
    if len(given) == 3 and any(is_known(word) for column in given for word in column):
        if len({len(column) for column in given}) > 1:
            raise StructureError(Reason.PARSE_ERROR, "CIF: columns of coordinates of different length")
        return given
    cartesian = [block.column(tag) for tag in CARTESIAN_TAGS]
    if any(column is None for column in cartesian):
        if given and any(column is None for column in columns):
            missing = next(t for t, column in zip(FRACTION_TAGS, columns, strict=True) if column is None)
            raise StructureError(Reason.INVALID_POSITIONS, f"CIF: no {missing}")
        if len(given) == 3 and given[0]:
            raise StructureError(Reason.INVALID_POSITIONS, "CIF: no site has known coordinates")
        raise StructureError(Reason.NO_ATOMS, "CIF: no atom sites with fractional coordinates")
    return _from_cartesian(block, [column or [] for column in cartesian], lattice)


def _from_cartesian(block: Block, columns: list[list[str]], lattice: FloatArray) -> list[list[str]]:
    """Fractional coordinates of Cartesian ones by the matrix that the block states.

    Raises StructureError where there is none, or it is not that of the cell.
    """
    for kind in ("cartn", "fract"):
        entries = [block.one(f"_atom_sites_{kind}{tag}") for tag in MATRIX_TAGS]
        shifts = [block.one(f"_atom_sites_{kind}{tag}") or "0" for tag in VECTOR_TAGS]
        values = [parse_number(text) for text in (*[entry or "" for entry in entries], *shifts)]
        if None not in values:
            numbers = [number.value for number in values if number is not None]
            matrix, vector = np.array(numbers[:9]).reshape(3, 3), np.array(numbers[9:])
            break
    else:
        raise StructureError(
            Reason.INVALID_POSITIONS,
            "CIF: Cartesian coordinates without fractional ones, and no _atom_sites_Cartn_tran_matrix",
        )
    if abs(np.linalg.det(matrix)) < 1e-12:
        raise StructureError(Reason.INVALID_POSITIONS, "CIF: a singular _atom_sites transformation matrix")
    to_cartesian = matrix if kind == "cartn" else np.linalg.inv(matrix)
    metric = to_cartesian.T @ to_cartesian
    if not np.allclose(metric, lattice @ lattice.T, rtol=0.01, atol=0.05):
        raise StructureError(
            Reason.INVALID_POSITIONS, "CIF: the _atom_sites transformation matrix is not that of the cell"
        )
    if len({len(column) for column in columns}) > 1:
        raise StructureError(Reason.PARSE_ERROR, "CIF: columns of coordinates of different length")
    words = [[parse_number(word) for word in column] for column in columns]
    rows = zip(*words, strict=True)
    converted: list[tuple[str, ...]] = []
    for row in rows:
        if any(number is None for number in row):
            converted.append(("?", "?", "?"))
            continue
        position = np.array([number.value for number in row if number is not None])
        if kind == "cartn":
            fractions = np.linalg.solve(matrix, position - vector)
        else:
            fractions = matrix @ position + vector
        converted.append(tuple(f"{value:.8f}" for value in fractions))
    return [list(axis) for axis in zip(*converted, strict=True)] if converted else [[], [], []]


def _position(
    words: tuple[str, ...], name: str
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    values, reach = [], []
    for word in words:
        number = parse_number(word)
        if number is None or not abs(number.value) < 1e6:
            raise StructureError(Reason.INVALID_POSITIONS, f"CIF: site {name}: coordinate {shown(word)}")
        values.append(_as_pymatgen(number.value))
        reach.append(_reach(number))
    return (values[0], values[1], values[2]), (reach[0], reach[1], reach[2])


def _as_pymatgen(value: float) -> float:
    """Within a relative 1e-4 of 1/3 or 2/3 it is that."""
    for ideal in (1 / 3, 2 / 3):
        if abs(value / ideal - 1) <= 1e-4:
            return ideal
    return value


def _reach(number: Number) -> float:
    """How far the true coordinate may be: half a unit of the last digit, of which at most three count; of a
    third or a sixth, rounded or cut off, as far as that."""
    counted = min(number.decimals, 3) or 3
    reach = 0.5 * 10.0**-counted
    part = abs(number.value) % 1.0
    if number.decimals >= 2:
        unit = 10.0**-number.decimals
        for ideal in _THIRDS:
            if abs(part - ideal) < unit:
                reach = max(reach, abs(part - ideal))
    return reach * (1 + 1e-6) + 1e-9
