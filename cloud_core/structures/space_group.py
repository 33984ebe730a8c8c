"""Symmetry operators, and the space groups that operators and symbols stand for."""

import json
import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from importlib.resources import files
from itertools import product

import numpy as np
from numpy.typing import NDArray

from cloud_core.structures.cell import FloatArray
from cloud_core.structures.errors import shown

IntArray = NDArray[np.int64]
MAX_OPERATORS = 2000
# Relative misfit of cell and operators: at most, and where both are of one setting up to their digits.
FIT, CLOSE_FIT = 0.005, 0.0005
_STEPS = 10080  # translations are compared in these parts of a cell edge: 2⁵·3²·5·7
_DENOMINATORS = (1, 2, 3, 4, 6, 8, 12, 5, 16, 24)
_TERM = re.compile(r"([+-]?)(?:(\d+\.?\d*|\.\d+)(?:/(\d+\.?\d*))?)?\*?([xyz]?)")


class SymmetryError(ValueError):
    """Operators or a symbol that stand for no space group; the message says why."""


@dataclass(frozen=True, eq=False)
class Operators:
    """Operators x' = R x + t on fractional coordinates: rotations `[n, 3, 3]`, translations `[n, 3]`."""

    rotations: IntArray
    translations: FloatArray

    def __len__(self) -> int:
        return len(self.rotations)

    @cached_property
    def codes(self) -> frozenset[int]:
        """A number for each operator, equal for operators that differ by a lattice translation."""
        return frozenset(_codes(self.rotations, self.translations).tolist())

    @cached_property
    def is_group(self) -> bool:
        """Whether the product of any two is among them, up to lattice translations."""
        for rotation, translation in zip(self.rotations, self.translations, strict=True):
            products = _codes(rotation @ self.rotations, self.translations @ rotation.T + translation)
            if not self.codes.issuperset(products.tolist()):
                return False
        return True

    @cached_property
    def number(self) -> int | None:
        """Number of the space-group type by spglib, None where it finds none."""
        import spglib

        with warnings.catch_warnings():
            # spglib announces that it will raise one day; both ways are handled.
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                found = spglib.get_spacegroup_type_from_symmetry(
                    self.rotations.astype("intc"), np.mod(self.translations, 1.0), symprec=1e-5
                )
            except (spglib.error.SpglibError, ValueError):
                return None
        return None if found is None else int(found.number)

    @cached_property
    def name(self) -> str:
        """The Hermann–Mauguin symbol with its setting; the number of operators where there is none."""
        import gemmi

        operators = []
        for rotation, translation in zip(self.rotations, self.translations, strict=True):
            operator = gemmi.Op()
            operator.rot = (rotation * gemmi.Op.DEN).astype(int).tolist()
            operator.tran = (np.rint(translation * gemmi.Op.DEN).astype(int) % gemmi.Op.DEN).tolist()
            operators.append(operator)
        found = gemmi.find_spacegroup_by_ops(gemmi.GroupOps(operators))
        return f"{len(self)} operators" if found is None else str(found.xhm())

    @cached_property
    def shape(self) -> frozenset[tuple[int, ...]]:
        """What is left of the operators under a change of origin: rotations with their screw and glide parts.

        Two settings with one shape have the same axes and differ by the origin alone.
        """
        return frozenset(_intrinsic(r, t) for r, t in zip(self.rotations, self.translations, strict=True))

    def fit(self, lattice: FloatArray, tolerance: float = FIT) -> bool:
        """Whether the rotations carry a lattice (rows, Å) onto itself: no angle's cosine and no length moves
        by more than the tolerance."""
        metric = lattice @ lattice.T
        moved = np.swapaxes(self.rotations, 1, 2) @ metric @ self.rotations
        lengths = np.sqrt(np.diag(metric))
        return bool(np.abs((moved - metric) / np.outer(lengths, lengths)).max() <= tolerance)

    @cached_property
    def _matrices(self) -> list[FloatArray]:
        matrices = []
        for rotation, translation in zip(self.rotations, self.translations, strict=True):
            matrix = np.eye(4)
            matrix[:3, :3], matrix[:3, 3] = rotation, translation
            matrices.append(matrix)
        return matrices

    def images(self, point: Sequence[float]) -> FloatArray:
        """The images `[n, 3]` of a point, not brought into the cell.

        One product an operator, as pymatgen's `SymmOp.operate` makes it: the library adds in an order of its
        own, and the official string can hang on the last bit.
        """
        affine = np.append(np.asarray(point, dtype=float), 1.0)
        return np.array([np.dot(matrix, affine) for matrix in self._matrices])[:, :3]


def _codes(rotations: IntArray, translations: FloatArray) -> IntArray:
    steps = np.rint(translations * _STEPS).astype(np.int64) % _STEPS
    code = np.zeros(len(rotations), dtype=np.int64)
    for entry in range(9):
        code = code * 5 + (np.clip(rotations[:, entry // 3, entry % 3], -2, 2) + 2)
    for axis in range(3):
        code = code * _STEPS + steps[:, axis]
    return code


def _intrinsic(rotation: IntArray, translation: FloatArray) -> tuple[int, ...]:
    """Rotation and intrinsic translation of an operator, the least over the lattice translations."""
    powers, power = [np.eye(3, dtype=np.int64)], rotation
    while not np.array_equal(power, powers[0]):
        powers.append(power)
        power = power @ rotation
        if len(powers) > 6:
            raise SymmetryError("an operator of infinite order")
    mean = np.mean(powers, axis=0)
    shifts = np.array(list(product((0, 1, 2), repeat=3)))
    parts = np.rint((translation + shifts) @ mean.T * _STEPS).astype(int) % _STEPS
    return (*rotation.ravel().tolist(), *min(map(tuple, parts.tolist())))


# -- operators


def parse_operators(texts: Iterable[str]) -> Operators:
    """Operators of texts such as "x, y, z" or "-x+1/2, y, -z"; repeated ones count once.

    Raises SymmetryError for a text that is no operator of a lattice.
    """
    return _parse_operators(tuple(texts))


@lru_cache(maxsize=512)
def _parse_operators(texts: tuple[str, ...]) -> Operators:
    if len(texts) > MAX_OPERATORS:
        raise SymmetryError(f"{len(texts)} operators, more than any space group has")
    parsed = [parse_operator(text) for text in texts]
    rotations = np.array([rotation for rotation, _ in parsed], dtype=np.int64).reshape(-1, 3, 3)
    translations = np.array([translation for _, translation in parsed], dtype=float).reshape(-1, 3)
    return _unique(rotations, translations)


def parse_operator(text: str) -> tuple[list[list[int]], list[float]]:
    """Rotation and translation of one operator. Raises SymmetryError."""
    parts = re.sub(r"[\s'\"]", "", text.lower()).split(",") if len(text) < 200 else []
    if len(parts) != 3:
        raise SymmetryError(f"{shown(text, 60)} is no symmetry operator")
    rotation, translation = [], []
    for part in parts:
        row, shift, at = [0, 0, 0], 0.0, 0
        while at < len(part):
            found = _TERM.match(part, at)
            sign, number, divisor, letter = found.groups() if found else ("", None, None, "")
            if (
                not found
                or found.end() == at
                or not (number or letter)
                or (at > 0 and not sign and letter == "")
            ):
                raise SymmetryError(f"{shown(text, 60)} is no symmetry operator")
            at = found.end()
            factor = -1 if sign == "-" else 1
            if letter or number is None:
                size = float(number or 1) / float(divisor or 1) if float(divisor or 1) else math.nan
                if size not in (1.0, 2.0):
                    raise SymmetryError(f"{shown(text, 60)} carries no lattice onto itself")
                row["xyz".index(letter)] += factor * int(size)
            else:
                shift += factor * _translation(text, number, divisor)
        rotation.append(row)
        translation.append(shift)
    if round(np.linalg.det(rotation)) not in (1, -1):
        raise SymmetryError(f"{shown(text, 60)} carries no lattice onto itself")
    return rotation, translation


def _translation(text: str, number: str, divisor: str | None) -> float:
    if divisor is not None:
        if float(divisor) == 0:
            raise SymmetryError(f"{shown(text, 60)} is no symmetry operator")
        value = float(number) / float(divisor)
        if float(divisor) > 99:  # 499/999: a decimal number as a fraction
            for denominator in _DENOMINATORS:
                ideal = round(value * denominator) / denominator
                if abs(value - ideal) <= 1.0 / float(divisor):
                    return ideal
        return _within_cells(text, value)
    decimals = len(number.partition(".")[2])
    value = _within_cells(text, float(number))
    for denominator in _DENOMINATORS:
        ideal = round(value * denominator) / denominator
        # .333, .667 and .666: rounded or cut off
        if abs(value - ideal) <= (0.67 * 10**-decimals if decimals > 1 else 1e-9):
            return ideal
    return value


def _within_cells(text: str, value: float) -> float:
    if not abs(value) < 1e6:
        raise SymmetryError(f"{shown(text, 60)} shifts by {value:g} cells")
    return value


def closure(operators: Operators) -> Operators:
    """The group that operators generate. Raises SymmetryError where it is none of a lattice's."""
    identity = np.eye(3, dtype=np.int64)[None]
    found = _unique(
        np.concatenate([identity, operators.rotations]),
        np.concatenate([np.zeros((1, 3)), operators.translations]),
    )
    while True:
        rotations, translations = found.rotations, found.translations
        products = (rotations[:, None] @ rotations[None]).reshape(-1, 3, 3)
        shifts = (np.einsum("aij,bj->abi", rotations, translations) + translations[:, None]).reshape(-1, 3)
        if np.abs(products).max() > 2:
            raise SymmetryError("the operators generate no group of a lattice")
        larger = _unique(np.concatenate([rotations, products]), np.concatenate([translations, shifts]))
        if len(larger) > MAX_OPERATORS:
            raise SymmetryError("the operators generate no group of a lattice")
        if len(larger) == len(found):
            return found
        found = larger


def _unique(rotations: IntArray, translations: FloatArray) -> Operators:
    """Each operator once, in the order of its first place."""
    _, first = np.unique(_codes(rotations, translations), return_index=True)
    kept = np.sort(first)
    return Operators(rotations[kept], translations[kept])


@cache
def wyckoff_multiplicities() -> Mapping[int, Mapping[str, int]]:
    """Space-group number → Wyckoff letter → multiplicity in the conventional cell."""
    text = files("cloud_core.structures").joinpath("data", "multiplicities.json").read_text(encoding="utf-8")
    return {int(number): letters for number, letters in json.loads(text).items()}


# -- symbols


@dataclass(frozen=True)
class Setting:
    """One setting of a space-group type, out of gemmi's table of 564.

    symbol: with its origin or axes ("F d -3 m:2"); choice: "1", "2", "H", "R" or "" where there is none;
    qualifier: cell choice or axes ("b1", "cab").
    """

    number: int
    symbol: str
    choice: str
    qualifier: str
    hall: str

    @cached_property
    def operators(self) -> Operators:
        return hall_operators(self.hall)

    @property
    def name(self) -> str:
        return self.symbol.partition(":")[0]

    @property
    def is_monoclinic(self) -> bool:
        return 3 <= self.number <= 15

    @property
    def unique_axis(self) -> str:
        return self.qualifier.lstrip("-")[:1] if self.is_monoclinic else ""


@dataclass(frozen=True)
class Symbol:
    """What a Hermann-Mauguin symbol or a number may stand for.

    settings: the settings it names. others: further settings that it can mean where none of those fits the
    cell and the sites (another unique axis of a short symbol).
    is_exact: whether it names origin and axes. is_open: whether it leaves cell choice and axes open.
    """

    text: str
    number: int
    settings: tuple[Setting, ...]
    others: tuple[Setting, ...] = ()
    is_exact: bool = False
    is_open: bool = False


@cache
def settings() -> tuple[Setting, ...]:
    """All settings, the standard one of each type first."""
    import gemmi

    return tuple(
        Setting(s.number, s.xhm(), s.ext.strip("\x00 "), s.qualifier, s.hall)
        for s in gemmi.spacegroup_table()
    )


@cache
def settings_of(number: int) -> tuple[Setting, ...]:
    """The settings of a space-group type."""
    return tuple(setting for setting in settings() if setting.number == number)


@lru_cache(maxsize=1024)
def hall_operators(symbol: str) -> Operators:
    """The operators of a Hall symbol. Raises SymmetryError where it is none."""
    import gemmi

    try:
        group = gemmi.symops_from_hall(_tidy_hall(symbol))
    except (ValueError, RuntimeError) as error:
        raise SymmetryError(f"{symbol!r} is no Hall symbol") from error
    operators = list(group)
    size = float(gemmi.Op.DEN)
    found = Operators(
        np.array([operator.rot for operator in operators], dtype=np.int64) // gemmi.Op.DEN,
        np.array([operator.tran for operator in operators], dtype=float) / size,
    )
    if not found.is_group:
        raise SymmetryError(f"{symbol!r} is no Hall symbol")
    return found


def _tidy_hall(symbol: str) -> str:
    """A Hall symbol in the spelling of the tables: "-f_4vw_2vw_3" → "-F 4vw 2vw 3"."""
    text = " ".join(symbol.replace("_", " ").split())
    found = re.match(r"(-?\s?)([pabcirfhst])(?=\s|\d|-)(.*)", text, re.IGNORECASE)
    return f"{found[1].strip()}{found[2].upper()} {found[3].strip()}" if found else text


def number_symbol(number: int) -> Symbol | None:
    """What a bare number stands for: any setting that International Tables give of it."""
    import gemmi

    tabulated = {s.xhm() for s in gemmi.spacegroup_table_itb() if s.number == number}
    found = tuple(setting for setting in settings_of(number) if setting.symbol in tabulated)
    return Symbol(str(number), number, found, is_open=True) if found else None


_CHOICE = re.compile(
    r"(?:\s*:\s*(?P<colon>[12HRZShrzs])|\s+(?P<letter>[HRZShrzs]|[oO][12])"
    r"|\s*\(\s*(?:origin\s*(?:choice)?|[oO])?\s*(?P<bracket>[12])\s*\))$"
)
_QUALIFIER = re.compile(r"\s*:\s*(-?[abc][123]?|[-abc]{3,4})$")
_CHOICES = {"Z": "2", "S": "1", "O1": "1", "O2": "2"}


@lru_cache(maxsize=4096)
def parse_symbol(text: str) -> Symbol | None:
    """What a Hermann-Mauguin symbol stands for, in the spellings of CIF, ICSD, SHELX and old tables.

    None where it is unknown.
    """
    if re.fullmatch(r"\s*P\s+3\s+2\s*", text, re.IGNORECASE):  # P 32, P 3 2 1 or P 3 1 2
        return None
    # "P2_1/c": an underscore before a subscript; "P_-6_2_m": in place of a blank
    for plain in dict.fromkeys((re.sub(r"(?<=\d)_(?=\d)", "", text), text)):
        tidy = re.sub(r"[{}$\\~]|</?su[bp]>", "", plain).replace("_", " ")
        tidy = re.sub(r"\(([1-6])\)", r"\1", " ".join(tidy.split()))  # SHELX: P2(1)/c
        if 0 < len(tidy) <= 80 and (found := _read_symbol(text, tidy)) is not None:
            return found
    return None


def _read_symbol(text: str, tidy: str) -> Symbol | None:
    if (qualifier := _QUALIFIER.search(tidy)) and (base := _named(tidy[: qualifier.start()])):
        chosen = tuple(s for s in settings_of(base[0].number) if s.qualifier == qualifier[1])
        return Symbol(text, base[0].number, chosen, is_exact=True) if chosen else None
    if tabulated := _tabulated(tidy):
        return _symbol(text, tidy, tabulated, "")
    if choice := _CHOICE.search(tidy):
        name, letter = tidy[: choice.start()], choice["colon"] or choice["letter"] or choice["bracket"]
    elif tidy[-1:].upper() in ("Z", "S", "H", "R"):  # ICSD without blanks: FD-3MZ, R-3MH
        name, letter = tidy[:-1], tidy[-1]
    else:
        name, letter = tidy, ""
    base = _named(name)
    if not base and letter:
        name, letter, base = tidy, "", _named(tidy)
    return _symbol(text, name, base, letter) if base else None


def _symbol(text: str, name: str, found: tuple[Setting, ...], choice: str) -> Symbol | None:
    number = found[0].number
    choice = choice.upper()
    choice = _CHOICES.get(choice, choice)
    choices = {setting.choice for setting in found} - {""}
    if choice and choices:
        found = tuple(setting for setting in found if setting.choice == choice)
        if not found:
            return None
    elif choice in ("2", "H", "R"):
        return None
    if re.match(r"[Hh]", name) and choices:
        found = tuple(setting for setting in found if setting.choice == "H")
        choice = "H"
    others: tuple[Setting, ...] = ()
    is_short = found[0].is_monoclinic and _unspaced(found[0].name) != _unspaced(name)
    if is_short:
        others = tuple(s for s in settings_of(number) if _bare(s.name) == _bare(name) and s not in found)
    return Symbol(text, number, found, others, bool(choice and choices), is_short)


def _bare(name: str) -> str:
    """A monoclinic symbol without the axes that have no symmetry: "P 1 21/c 1" and "P 21/c" are "p21/c"."""
    parts = name.lower().split()
    return "".join(part for part in parts if part != "1") if len(parts) == 4 else "".join(parts)


def _unspaced(name: str) -> str:
    return name.lower().replace(" ", "")


def _named(name: str) -> tuple[Setting, ...]:
    """The settings of a symbol without its choice of origin or axes, all choices of it; () where unknown."""
    import gemmi

    if found := _tabulated(name):
        return found
    is_symbol = ":" not in name and len(name.split()) <= 4
    known = gemmi.find_spacegroup_by_name(name.strip()) if is_symbol else None
    if known is None and is_symbol:
        short = [s for s in settings() if s.is_monoclinic and _bare(s.name) == _bare(name)]
        return tuple(s for s in short if s.unique_axis == short[0].unique_axis)
    if known is None or not _has_axes(name, known.hm):
        return ()
    return tuple(s for s in settings_of(known.number) if s.name == known.hm)


def _tabulated(name: str) -> tuple[Setting, ...]:
    spaced = " ".join(name.lower().split())
    if found := _names().get(spaced):
        return found
    return tuple(s for s in _names().get(_unspaced(name), ()) if _has_axes(name, s.name))


def _has_axes(name: str, symbol: str) -> bool:
    """Whether the screw axes of a spaced spelling are those of the symbol: "P 31 2" is not "P 3 1 2"."""
    if " " not in name or name[:1] in "RrHh":  # no screw axis is written in these
        return True
    screws = re.findall(r"(?<![\d/])(?:21|3[12]|4[123]|6[1-5])(?!\d)", name)
    return set(screws) <= set(re.findall(r"\d+", symbol))


@cache
def _names() -> dict[str, tuple[Setting, ...]]:
    """Spelling in lower case, with blanks and without → the settings that it names."""
    import spglib

    by_hall: dict[str, Setting] = {}
    for setting in settings():
        by_hall.setdefault(setting.hall, setting)
    names: dict[str, dict[Setting, None]] = {}

    def add(name: str, setting: Setting) -> None:
        for key in {name.lower(), name.lower().replace(" ", "")}:
            names.setdefault(key, {}).setdefault(setting)

    for setting in settings():
        add(setting.name, setting)
        # Before 1935 the three-fold axis of the cubic groups was written without its bar.
        if setting.number >= 200 and " -3" in setting.name:
            add(setting.name.replace(" -3", " 3"), setting)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        kinds = [spglib.get_spacegroup_type(hall_number) for hall_number in range(1, 531)]
    for kind in filter(None, kinds):
        named = by_hall.get(kind.hall_symbol.replace("=", '"'))
        if named is not None and not named.is_monoclinic:
            for name in (kind.international_full, *kind.international.split("=")):
                add(" ".join(name.replace("_", "").split()), named)
    return {name: tuple(found) for name, found in names.items()}
