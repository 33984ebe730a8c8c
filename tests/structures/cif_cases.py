"""Small CIFs, one of each kind that went wrong once or may, and what must come out of each."""

import bz2
import gzip
import lzma
import re
import unicodedata
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloud_core.scope import Scope

CUBIC = (5.64, 5.64, 5.64, 90, 90, 90)
BOX = (5, 6, 7, 90, 90, 90)
PAIR = ("Na1 Na .1 .3 .2", "Cl1 Cl .35 .1 .4")
NACL = ("Na1 Na 0 0 0", "Cl1 Cl 0.5 0.5 0.5")
TYPED = ("label", "type_symbol", "fract_x", "fract_y", "fract_z")
BARE = ("label", "fract_x", "fract_y", "fract_z")
FILLED = (*TYPED, "occupancy")
FLAGGED = (*TYPED, "calc_flag")
HYDROGENS = (*TYPED, "attached_hydrogens")
P1 = "_symmetry_space_group_name_H-M 'P 1'"
ROCKSALT = "_symmetry_space_group_name_H-M 'F m -3 m'"
PRIMITIVE = "_symmetry_space_group_name_H-M 'P m -3 m'"
MMM = "loop_\n_symmetry_equiv_pos_as_xyz\n" + "\n".join(
    f"{a}x,{b}y,{c}z" for a in ("", "-") for b in ("", "-") for c in ("", "-")
)


def cif(
    *sites: str,
    columns: Sequence[str] = TYPED,
    cell: Sequence[float | str] = CUBIC,
    symmetry: str = P1,
    formula: str = "",
    z: str = "",
    extra: str = "",
    dot: str = "_",
) -> str:
    """The text of a CIF; `extra` stands before the sites, `dot` between a category and its item."""
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    lines = ["data_x", *(f"_cell{dot}{name} {value}" for name, value in zip(names, cell, strict=True))]
    lines += [symmetry] if symmetry else []
    lines += [f"_chemical_formula{dot}sum '{formula}'"] if formula else []
    lines += [f"_cell{dot}formula_units_Z {z}"] if z else []
    lines += [extra] if extra else []
    lines += ["loop_", *(f"_atom_site{dot}{column}" for column in columns), *sites, ""]
    return "\n".join(lines)


@dataclass(frozen=True)
class Case:
    """An input, and what must come out of it.

    composition: e.g. "Na1 Cl1", compared by its ratio; "" where it is refused, then `reasons` has the codes
    that would be true. flags: those that the row must have; without: those that it must not. says: what the
    message of a refusal must hold.
    """

    name: str
    content: str | bytes
    composition: str = ""
    group: int | None = None
    flags: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    says: str = ""
    suffix: str = ".cif"

    @property
    def file(self) -> str:
        return f"{re.sub(r'[^A-Za-z0-9]+', '_', self.name)}_{zlib.crc32(self.name.encode()):08x}{self.suffix}"

    def write(self, folder: Path) -> Path:
        path = folder / self.file
        path.write_bytes(self.content.encode() if isinstance(self.content, str) else self.content)
        return path

    def faults(self, scope: Scope) -> str:
        """What is wrong about a scope, "" for nothing."""
        return self.faults_of(scope.space_group, scope.composition, scope.flags)

    def faults_of(self, group: int, composition: Mapping[str, float], flags: Sequence[str]) -> str:
        if self.reasons:
            return f"encoded as {group} {dict(composition)}"
        if not same_ratio(amounts(self.composition), composition):
            return f"composition {dict(composition)}"
        if self.group is not None and group != self.group:
            return f"space group {group}"
        if missing := set(self.flags) - set(flags):
            return f"no flag {sorted(missing)} in {flags}"
        return f"flags {flags}" if set(self.without) & set(flags) else ""

    def faults_of_refusal(self, reason: str, message: str) -> str:
        if not self.reasons or reason not in self.reasons:
            return f"refused {reason}: {message}"
        return "" if self.says in message else f"the message lacks {self.says!r}: {message}"


def amounts(text: str) -> dict[str, float]:
    return {element: float(n or 1) for element, n in re.findall(r"([A-Z][a-z]?)([\d.]*)", text)}


def same_ratio(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    total, others = sum(one.values()), sum(other.values())
    return one.keys() == other.keys() and all(
        abs(one[element] / total - other[element] / others) < 2e-3 for element in one
    )


def read_case(name: str, *sites: str, composition: str, **how: Any) -> Case:
    """A case that is encoded."""
    about = {key: how.pop(key) for key in ("group", "flags", "without") if key in how}
    return Case(name, cif(*sites, **how), composition, **about)


def refused_case(name: str, *sites: str, reasons: Sequence[str] | str, says: str = "", **how: Any) -> Case:
    reasons = (reasons,) if isinstance(reasons, str) else tuple(reasons)
    return Case(name, cif(*sites, **how), reasons=reasons, says=says)


def atoms() -> Iterator[Case]:
    """What stands in an element's place."""
    of_hydrogen = {
        "OH": "O",
        "OH2": "O",
        "H2O": "O",
        "OH-": "O",
        "H3O": "O",
        "D2O": "O",
        "OD": "O",
        "NH": "N",
        "NH2": "N",
        "NH3": "N",
        "NH4": "N",
        "ND4": "N",
    }
    for symbol, heavy in (of_hydrogen | {"NH4+": "N", "CH": "C", "CH2": "C", "CH3": "C", "Wat": "O"}).items():
        yield read_case(
            f"symbol {symbol}", "Ca1 Ca 0 0 0", f"A1 {symbol} 0.5 0.5 0.5",
            cell=BOX, composition=f"Ca1 {heavy}1", flags=("hydrogen_missing",),
        )  # fmt: skip
    for label in ("OH", "OH1", "O-H(1)", "OH2", "Wat", "WAT1", "Ow1", "OW"):
        flags = () if label.lower().startswith("ow") else ("hydrogen_missing",)
        yield read_case(
            f"label {label}", "Ca1 0 0 0", f"{label} 0.5 0.5 0.5",
            columns=BARE, cell=BOX, composition="Ca1 O1", flags=flags,
        )  # fmt: skip
    yield read_case(
        "label NH4", "Cl1 0 0 0", "NH4 0.5 0.5 0.5",
        columns=BARE, composition="Cl1 N1", flags=("hydrogen_missing",),
    )  # fmt: skip
    for label in ("T", "T1", "M", "M2", "X", "X1", "Q", "Q1"):
        yield refused_case(
            f"bare label {label}", f"{label} 0 0 0", "O1 0.5 0.5 0.5", columns=BARE, reasons="unknown_element"
        )
    for label in ("T1", "M1", "X1", "Q1", "JJ2"):
        yield read_case(
            f"label {label} with a symbol", f"{label} Si 0 0 0", "O1 O 0.5 0.5 0.5", composition="Si1 O1"
        )
    for symbol in ("D", "T", "D1+"):
        yield read_case(
            f"symbol {symbol}", "K1 K 0 0 0", f"A1 {symbol} 0.5 0.5 0.5",
            composition="K1 H1", group=221, flags=("isotope",),
        )  # fmt: skip
    yield read_case(
        "bare label D1", "K1 0 0 0", "D1 0.5 0.5 0.5", columns=BARE, composition="K1 H1", flags=("isotope",)
    )
    yield read_case(
        "H and D on one site", "K1 K 0 0 0 1", "H1 H .5 .5 .5 0.25", "D1 D .5 .5 .5 0.75",
        columns=FILLED, composition="K1 H1", group=221, flags=("isotope",), without=("disordered",),
    )  # fmt: skip
    for symbol in ("Na+", "Na1+", "Na+1", "NA", "na", "Na0", "Na1−", "Na1\N{SUPERSCRIPT PLUS SIGN}"):
        yield read_case(f"symbol {symbol}", f"Na1 {symbol} 0 0 0", NACL[1], composition="Na1 Cl1", group=221)
    for symbol in ("Vac", "VAC", "Va", "va", "□", "Vacancy"):
        yield read_case(
            f"vacancy {symbol}", *NACL, f"V1 {symbol} 0.25 0.25 0.25", composition="Na1 Cl1", group=221
        )
    yield read_case("vanadium", "V1 V 0 0 0", "O1 O 0.5 0.5 0.5", composition="V1 O1")
    yield read_case("vanadium by its label", "V1 0 0 0", "O1 .5 .5 .5", columns=BARE, composition="V1 O1")
    yield refused_case("symbol X", *NACL, "X1 X 0.25 0.25 0.25", reasons="unknown_element")
    yield read_case(
        "symbol X that the formula does not count",
        *NACL,
        "X1 X 0.25 0.25 0.25",
        formula="Na Cl",
        composition="Na1 Cl1",
    )
    yield refused_case(
        "symbol X in the formula", *NACL, "X1 X .25 .25 .25", formula="Na Cl X", reasons="unknown_element"
    )
    for symbol in ("NO3", "SO4", "PO4", "CO3", "SCN", "CN", "COOH"):
        yield refused_case(
            f"symbol {symbol}, several heavy atoms",
            *NACL,
            f"A1 {symbol} .25 .25 .25",
            reasons="unknown_element",
        )
    yield read_case(
        "symbol CO of the formula", "A1 CO 0 0 0", NACL[1], formula="Co Cl", composition="Co1 Cl1"
    )
    yield refused_case("symbol Zz", *NACL, "Z1 Zz 0.25 0.25 0.25", reasons="unknown_element", says="Zz")
    yield read_case(
        "a mixture as symbol",
        "M1 '0.8Nb + 0.2Zr' 0 0 0",
        "O1 O .5 .5 .5",
        composition="Nb0.8 Zr0.2 O1",
        group=221,
    )


def hydrogens() -> Iterator[Case]:
    missing = ("hydrogen_missing",)
    yield read_case(
        "attached hydrogens", "Ca1 Ca 0 0 0 0", "O1 O .5 .5 .5 1",
        columns=HYDROGENS, formula="Ca O H", composition="Ca1 O1", flags=missing,
    )  # fmt: skip
    yield read_case(
        "attached hydrogens, none", "Ca1 Ca 0 0 0 0", "O1 O .5 .5 .5 .",
        columns=HYDROGENS, formula="Ca O", composition="Ca1 O1", without=missing,
    )  # fmt: skip
    for mark in ("?", "."):
        yield read_case(
            f"a hydrogen at {mark}", "Ca1 Ca 0 0 0", "O1 O .5 .5 .5", f"H1 H {mark} {mark} {mark}",
            formula="Ca O H", composition="Ca1 O1", flags=missing,
        )  # fmt: skip
    yield read_case(
        "hydrogen of the formula has no sites", "Ca1 Ca 0 0 0", "O1 O .5 .5 .5",
        formula="Ca O H", composition="Ca1 O1", flags=missing,
    )  # fmt: skip
    yield read_case(
        "all hydrogen is there", "Ca1 Ca 0 0 0", "O1 O .5 .5 .5", "H1 H .5 .5 .64",
        formula="Ca O H", composition="Ca1 O1 H1", without=missing,
    )  # fmt: skip
    yield read_case(
        "deuterium of the formula", "Ca1 Ca 0 0 0", "O1 O .5 .5 .5", "D1 D .5 .5 .64",
        formula="Ca D O", composition="Ca1 O1 H1", flags=("isotope",), without=missing,
    )  # fmt: skip
    yield read_case(
        "deuterium sites, hydrogen formula", "Ca1 Ca 0 0 0", "O1 O .5 .5 .5", "D1 D .5 .5 .64",
        formula="Ca H O", composition="Ca1 O1 H1", flags=("isotope",), without=missing,
    )  # fmt: skip
    yield read_case(
        "more hydrogen than the formula", "Ca1 Ca 0 0 0", "O1 O .5 .5 .5", "H1 H .5 .5 .64",
        formula="Ca O", composition="Ca1 O1 H1",
    )  # fmt: skip
    yield read_case(
        "H beside O on one site", "Pd1 Pd 0 0 0 1", "H1 H .5 .5 .5 0.6", "O1 O .5 .5 .5 0.4",
        columns=FILLED, composition="Pd1 H0.6 O0.4", group=221,
    )  # fmt: skip


def occupancies() -> Iterator[Case]:
    for mark in (".", "?"):
        yield read_case(
            f"occupancy {mark}", f"Na1 Na 0 0 0 {mark}", "Cl1 Cl .5 .5 .5 1",
            columns=FILLED, composition="Na1 Cl1", group=221, without=("disordered",),
        )  # fmt: skip
    for zero in ("0", "0.0", "0.000", "0(0)"):
        yield read_case(
            f"occupancy {zero}", "Na1 Na 0 0 0 1", "Cl1 Cl .5 .5 .5 1", f"O1 O .25 .25 .25 {zero}",
            columns=FILLED, composition="Na1 Cl1", group=221,
        )  # fmt: skip
    for wrong in ("-1", "-0.01", "\N{MINUS SIGN}0.5", "1.5", "2", "nan", "inf"):
        yield refused_case(
            f"occupancy {wrong}", "Na1 Na 0 0 0 1", f"Cl1 Cl .5 .5 .5 {wrong}",
            columns=FILLED, reasons=("invalid_occupancy", "parse_error"),
        )  # fmt: skip
    yield refused_case(
        "occupancy abc", "Na1 Na 0 0 0 1", "Cl1 Cl .5 .5 .5 abc",
        columns=FILLED, reasons=("invalid_occupancy", "parse_error"), says="abc",
    )  # fmt: skip
    yield read_case(
        "occupancy 1.0001", "Na1 Na 0 0 0 1.0001", "Cl1 Cl .5 .5 .5 1",
        columns=FILLED, composition="Na1 Cl1", without=("disordered",),
    )  # fmt: skip
    for one, other, fine in (
        ("0.5001", "0.5", True),
        ("0.667", "0.334", True),
        ("0.34", "0.67", True),
        ("0.5(1)", "0.5", True),
        ("0.52", "0.50", False),
        ("0.60", "0.60", False),
        ("1", "0.5", False),
        ("1", "1", False),
    ):
        sites = (f"Na1 Na 0 0 0 {one}", f"K1 K 0 0 0 {other}", "Cl1 Cl .5 .5 .5 1")
        name = f"occupancies {one} and {other} on one site"
        if fine:
            numbers = [float(word.partition("(")[0]) for word in (one, other)]
            shares = [number / sum(numbers) for number in numbers]
            yield read_case(
                name, *sites, columns=FILLED,
                composition=f"Na{shares[0]} K{shares[1]} Cl1", flags=("disordered",),
            )  # fmt: skip
        else:
            yield refused_case(
                name, *sites, columns=FILLED, reasons=("invalid_occupancy", "overlapping_sites")
            )
    yield read_case(
        "a split site", "Na1 Na 0.04 0.04 0.04 0.125", "Cl1 Cl .5 .5 .5 1",
        columns=FILLED, symmetry=MMM, composition="Na1 Cl1", flags=("disordered",),
    )  # fmt: skip
    yield refused_case(
        "images 0.45 Å apart, each whole", "Na1 Na 0.04 0.5 0.5 1", "Cl1 Cl 0 0 0 1",
        columns=FILLED, symmetry=MMM, reasons="overlapping_sites",
    )  # fmt: skip


def coordinates() -> Iterator[Case]:
    for mark in (".", "?", "nan", "inf", "1e300", "abc", "''", "0.2.5", "--0.5"):
        yield refused_case(
            f"coordinate {mark}",
            "Na1 Na 0 0 0",
            f"Cl1 Cl .5 .5 {mark}",
            reasons=("invalid_positions", "parse_error"),
        )
    for half in ("0.5(3)", "+.5", "5e-1", "0.50000000000000001", "-0.5", "2.5", "0.5(12)", ".5(1)"):
        yield read_case(
            f"coordinate {half}", NACL[0], f"Cl1 Cl {half} 0.5 0.5", composition="Na1 Cl1", group=221
        )
    for name in (
        "HYPHEN",
        "NON-BREAKING HYPHEN",
        "EN DASH",
        "MINUS SIGN",
        "FULLWIDTH HYPHEN-MINUS",
        "SMALL HYPHEN-MINUS",
    ):
        sign = unicodedata.lookup(name)
        yield read_case(
            f"coordinate with {name}", NACL[0], f"Cl1 Cl {sign}.5 .5 .5", composition="Na1 Cl1", group=221
        )
        yield read_case(
            f"operator with {name}", *PAIR, cell=BOX, composition="Na1 Cl1", group=2,
            symmetry=f"loop_\n_symmetry_equiv_pos_as_xyz\n'x,y,z'\n'{sign}x,{sign}y,{sign}z'",
        )  # fmt: skip
    yield read_case(
        "P 1 is taken as written", "Mg1 Mg 0.33 0.67 0.25", "Mg2 Mg 0.67 0.33 0.75",
        cell=(9.6, 9.6, 15.6, 90, 90, 120), composition="Mg1", group=63,
    )  # fmt: skip
    matrix = "\n".join(
        f"_atom_sites_Cartn_tran_matrix_{i}{j} {5.64 if i == j else 0}" for i in (1, 2, 3) for j in (1, 2, 3)
    )
    vector = "\n".join(f"_atom_sites_Cartn_tran_vector_{i} 0" for i in (1, 2, 3))
    cartesian = ("label", "type_symbol", "Cartn_x", "Cartn_y", "Cartn_z")
    sites = ("Na1 Na 0 0 0", "Cl1 Cl 2.82 2.82 2.82")
    yield read_case(
        "Cartesian with its matrix", *sites, columns=cartesian, extra=f"{matrix}\n{vector}",
        composition="Na1 Cl1", group=221,
    )  # fmt: skip
    yield refused_case(
        "Cartesian without its matrix", *sites, columns=cartesian, cell=(5.64, 5.64, 5.64, 80, 75, 70),
        reasons=("invalid_positions", "no_atoms", "unsupported"), says="Cartn",
    )  # fmt: skip
    yield read_case(
        "a dummy site", *(f"{site} d" for site in NACL), "Cg1 C .25 .25 .25 dum",
        columns=FLAGGED, composition="Na1 Cl1", group=221,
    )  # fmt: skip
    yield read_case(
        "a dummy site at ?", *(f"{site} d" for site in NACL), "Cg1 C ? ? ? dum",
        columns=FLAGGED, composition="Na1 Cl1", group=221,
    )  # fmt: skip


def special_positions() -> Iterator[Case]:
    """What is moved and what is not, under mirrors at 0 in a cell of 5.64 Å."""
    rest = "Cl1 Cl .5 .1 .2"
    for x, moved in (
        ("0.0004", True),
        ("0.00", True),
        (".999", False),
        ("1.0", True),
        ("0.002", False),
        ("0.01", False),
    ):
        if moved:
            yield read_case(
                f"x {x} on a mirror", f"Na1 Na {x} .3 .3", rest, symmetry=MMM, composition="Na1 Cl1", group=47
            )
        else:
            yield refused_case(
                f"x {x} beside a mirror", f"Na1 Na {x} .3 .3", rest, symmetry=MMM, reasons="overlapping_sites"
            )
        yield read_case(
            f"half an atom at x {x}", f"Na1 Na {x} .3 .3 .5", f"{rest} 1", columns=FILLED, symmetry=MMM,
            composition="Na1 Cl2" if moved else "Na1 Cl1", group=47, flags=("disordered",),
        )  # fmt: skip
    hcp = (2.5, 2.5, 4.1, 90, 90, 120)
    p63mmc = "_symmetry_space_group_name_H-M 'P 63/m m c'"
    for third, two in (
        ("0.33", "0.67"),
        ("0.333", "0.667"),
        ("0.3333", "0.6667"),
        ("0.33", "0.66"),
        ("1/3", "2/3"),
    ):
        yield read_case(
            f"thirds as {third} {two}",
            f"Mg1 Mg {third} {two} 0.25",
            cell=hcp,
            symmetry=p63mmc,
            composition="Mg1",
            group=194,
        )
        yield read_case(
            f"a mixture on thirds as {third} {two} and 0.33333 0.66667",
            f"Fe1 Fe {third} {two} .25 .5", "Co1 Co 0.33333 0.66667 .25 .5",
            columns=FILLED, cell=hcp, symmetry=p63mmc, composition="Fe1 Co1", group=194,
        )  # fmt: skip
    yield read_case(
        "two charges of one element on a site", "Fe1 Fe2+ 0 0 0 .3", "Fe2 Fe3+ 0 0 0 .7", "Cl1 Cl .5 .5 .5 1",
        columns=FILLED, composition="Fe1 Cl1", group=221, without=("disordered",),
    )  # fmt: skip
    yield refused_case(
        "all atoms of the cell beside operators",
        "Cs1 Cs 0 0 0", "Cl1 Cl .5 0 0", "Cl2 Cl 0 .5 0", "Cl3 Cl 0 0 .5",
        symmetry=PRIMITIVE, reasons="overlapping_sites",
    )  # fmt: skip


def lattices() -> Iterator[Case]:
    for word in ("-5.64", "0", "nan", "1e300", "inf", "?", ".", "abc", "5,64"):
        yield refused_case(
            f"cell length {word}",
            *NACL,
            cell=(word, 5.64, 5.64, 90, 90, 90),
            reasons=("invalid_lattice", "parse_error"),
        )
    for word in ("0", "180", "-90", "nan", "1e300", "360"):
        yield refused_case(
            f"cell angle {word}",
            *NACL,
            cell=(5.64, 5.64, 5.64, 90, word, 90),
            reasons=("invalid_lattice", "parse_error"),
        )
    yield refused_case(
        "angles that close no cell",
        *NACL,
        cell=(5, 5, 5, 30, 40, 120),
        reasons=("invalid_lattice", "parse_error"),
    )
    yield read_case(
        "cell lengths with esds", *NACL, cell=("5.64(2)",) * 3 + (90,) * 3, composition="Na1 Cl1", group=221
    )


def overlaps() -> Iterator[Case]:
    """In a cell of 10 Å."""
    large = (10, 10, 10, 90, 90, 90)
    yield refused_case(
        "atoms 0.4 Å apart",
        "Na1 Na 0 0 0",
        "Cl1 Cl 0.04 0 0",
        cell=large,
        reasons="overlapping_sites",
        says="0.4",
    )
    yield refused_case(
        "atoms 0.017 Å apart", "Na1 Na 0 0 0", "Na2 Na 0.0017 0 0", cell=large, reasons="overlapping_sites"
    )
    yield refused_case("one atom twice", *NACL, NACL[0], reasons="overlapping_sites")
    yield refused_case(
        "one atom twice, a lattice translation apart", *NACL, "Na2 Na 1 0 1", reasons="overlapping_sites"
    )
    yield read_case("atoms 0.6 Å apart", "Na1 Na 0 0 0", "Cl1 Cl 0.06 0 0", cell=large, composition="Na1 Cl1")
    yield read_case(
        "hydrogen 0.4 Å from oxygen", "O1 O 0 0 0", "H1 H 0.04 0 0", cell=large, composition="O1 H1"
    )
    yield refused_case(
        "hydrogen 0.2 Å from oxygen", "O1 O 0 0 0", "H1 H 0.02 0 0", cell=large, reasons="overlapping_sites"
    )
    yield read_case(
        "half atoms 0.4 Å apart", "Na1 Na 0 0 0 0.5", "K1 K 0.04 0 0 0.5", "Cl1 Cl .5 .5 .5 1",
        columns=FILLED, cell=large, composition="Na0.5 K0.5 Cl1", flags=("disordered",),
    )  # fmt: skip


def symmetry() -> Iterator[Case]:
    given = ("no_symmetry_given",)
    yield read_case(
        "no word about symmetry", *NACL, symmetry="", composition="Na1 Cl1", group=221, flags=given
    )
    yield read_case("P 1 alone", *NACL, composition="Na1 Cl1", group=221, without=given)
    yield read_case(
        "number 1 alone",
        *NACL,
        symmetry="_symmetry_Int_Tables_number 1",
        composition="Na1 Cl1",
        without=given,
    )
    yield read_case(
        "symbol ?", *NACL, symmetry="_symmetry_space_group_name_H-M ?", composition="Na1 Cl1", flags=given
    )
    yield read_case(
        "operators ?",
        *NACL,
        symmetry="loop_\n_symmetry_equiv_pos_as_xyz\n?",
        composition="Na1 Cl1",
        flags=given,
    )
    for symbol in ("rocksalt", "F m -3 q", "P 7", "P 21/c 1 1 1", "cubic", "Fm-3m?", "R -3 m Q"):
        yield refused_case(
            f"unknown symbol {symbol}", *NACL, symmetry=f"_symmetry_space_group_name_H-M '{symbol}'",
            reasons="unknown_symmetry", says=symbol,
        )  # fmt: skip
    for number in ("231", "0", "-1", "abc", "1000000"):
        yield refused_case(
            f"number {number}", *NACL, symmetry=f"_symmetry_Int_Tables_number {number}",
            reasons=("unknown_symmetry", "parse_error"),
        )  # fmt: skip
    yield refused_case(
        "unknown Hall symbol",
        *NACL,
        symmetry="_symmetry_space_group_name_Hall 'F 9q 2 3'",
        reasons="unknown_symmetry",
    )
    yield read_case(
        "unknown symbol beside operators", *PAIR, cell=BOX, composition="Na1 Cl1", group=2,
        symmetry="_symmetry_space_group_name_H-M 'mine'\nloop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\n-x,-y,-z",
    )  # fmt: skip
    for operators in (
        "x,y\n-x,-y",
        "x,y,z\n-x,-y,q",
        "x,y,z\n-x,-y,",
        "x,y,z\n1e9x,y,z",
        "x,y,z\n-x,-y,2z",
        "x,y,z\n?",
    ):
        lines = "\n".join(f"'{operator}'" for operator in operators.split("\n"))
        yield refused_case(
            f"operators {operators!r}", *PAIR, cell=BOX,
            symmetry=f"loop_\n_symmetry_equiv_pos_as_xyz\n{lines}",
            reasons=("unknown_symmetry", "contradictory_symmetry", "parse_error"),
        )  # fmt: skip
    for symbol in ("F m 3 m", "FM3M", "Fm-3m", "F_m_-3_m", "f m -3 m", "F 4/m -3 2/m", "F m -3 m ", "Fm3m"):
        yield read_case(
            f"symbol {symbol}",
            *NACL,
            symmetry=f"_space_group_name_H-M_alt '{symbol}'",
            composition="Na1 Cl1",
            group=225,
        )
    half = "loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\n-x,-y,-z"
    yield refused_case(
        "operators and a number that contradict each other", *PAIR, cell=BOX,
        symmetry=f"_symmetry_Int_Tables_number 16\n{half}",
        reasons=("contradictory_symmetry", "ambiguous_setting"),
    )  # fmt: skip
    yield read_case(
        "a contradiction that the formula decides", "Na1 Na .1 .3 .2", "Cl1 Cl .5 .5 .5",
        cell=BOX, formula="Na2 Cl", z="1",
        symmetry=f"_symmetry_Int_Tables_number 16\n{half}",
        composition="Na2 Cl1", group=2, flags=("symmetry_contradicted",),
    )  # fmt: skip


def origins_and_axes() -> Iterator[Case]:
    """Diamond in both origins, and bismuth telluride on both axes: the symbol says which."""
    diamond = (5.431, 5.431, 5.431, 90, 90, 90)
    for origin, position, symbols in (
        (
            "1",
            "0 0 0",
            ("F d -3 m :1", "F d -3 m:1", "Fd-3m:1", "F d -3 m S", "Fd-3mS", "F d 3 m S", "F d 3 m :1"),
        ),
        (
            "2",
            ".125 .125 .125",
            ("F d -3 m :2", "Fd-3m :2", "F d -3 m Z", "FD3MZ", "F 41/d -3 2/m :2", "F_d_-3_m_:2"),
        ),
        ("2", ".125 .125 .125", ("F d -3 m (origin choice 2)", "F d \N{MINUS SIGN}3 m Z", "Fd3\u0305m:2")),
    ):
        for symbol in symbols:
            yield read_case(
                f"diamond in origin {origin}: {symbol}", f"C1 C {position}",
                cell=diamond, symmetry=f"_symmetry_space_group_name_H-M '{symbol}'",
                composition="C1", group=227,
            )  # fmt: skip
    yield refused_case(
        "diamond in an unknown origin", "C1 C .125 .125 .125",
        cell=diamond, symmetry="_symmetry_space_group_name_H-M 'F d -3 m'", reasons="ambiguous_setting",
    )  # fmt: skip
    evidences: tuple[dict[str, str], ...] = (
        {"formula": "Si", "z": "8"},
        {"formula": "Si8", "z": "8"},
        {"extra": "_exptl_crystal_density_diffrn 2.33"},
    )
    for evidence in evidences:
        yield read_case(
            f"silicon in an unknown origin, {evidence}", "Si1 Si .125 .125 .125", cell=diamond,
            symmetry="_symmetry_space_group_name_H-M 'F d -3 m'", composition="Si1", group=227, **evidence,
        )  # fmt: skip
    telluride = ("Bi1 Bi {0} {0} {1}", "Te1 Te 0 0 0", "Te2 Te {2} {2} {3}")
    hexagonal = [site.format("0", "0.4", "0", "0.212") for site in telluride]
    rhombohedral = [site.format("0.4", "0.4", "0.212", "0.212") for site in telluride]
    for axes, sites, cell in (
        ("hexagonal", hexagonal, (4.386, 4.386, 30.497, 90, 90, 120)),
        ("rhombohedral", rhombohedral, (10.473, 10.473, 10.473, 24.17, 24.17, 24.17)),
    ):
        letter, other = ("H", "R") if axes == "hexagonal" else ("R", "H")
        for symbol in ("R -3 m", "R-3m", f"R -3 m :{letter}", f"R -3 m {letter}", f"R-3m{letter}"):
            yield read_case(
                f"{symbol} on {axes} axes", *sites, cell=cell, composition="Bi2 Te3", group=166,
                symmetry=f"_symmetry_space_group_name_H-M '{symbol}'",
            )  # fmt: skip
        yield read_case(
            f"number 166 on {axes} axes", *sites, cell=cell, composition="Bi2 Te3", group=166,
            symmetry="_symmetry_Int_Tables_number 166",
        )  # fmt: skip
        yield refused_case(
            f"R -3 m :{other} on {axes} axes", *sites, cell=cell,
            symmetry=f"_symmetry_space_group_name_H-M 'R -3 m :{other}'", reasons="contradictory_symmetry",
        )  # fmt: skip
    yield refused_case(
        "a cubic symbol on orthorhombic axes",
        *NACL,
        cell=BOX,
        symmetry=ROCKSALT,
        reasons="contradictory_symmetry",
    )
    yield read_case(
        "a cubic cell within its digits", *NACL, cell=(5.64, 5.641, 5.64, 90, 89.99, 90), symmetry=ROCKSALT,
        composition="Na1 Cl1", group=225,
    )  # fmt: skip


def formulas() -> Iterator[Case]:
    fluorite = ("Ca1 Ca 0 0 0", "F1 F .25 .25 .25")
    for formula, z in (
        ("Ca F2", "4"), ("Ca4 F8", "4"), ("Ca4 F8", "1"), ("Ca1F2", ""), ("CaF2", "4"), ("F2 Ca", "4"),
        ("Ca F2", "?"), ("?", "4"), ("(Ca F2)", "4"), ("Ca (F)2", "4"), ("Ca1.00 F2.00", "4"),
    ):  # fmt: skip
        yield read_case(
            f"formula {formula}, Z {z}", *fluorite, symmetry=ROCKSALT, formula=formula, z=z,
            composition="Ca1 F2", group=225, without=("formula_mismatch",),
        )  # fmt: skip
    for formula in (
        "La1-x Srx Mn O3",
        "Ca F2 n(H2 O)",
        "[Ca F2]",
        "(Ca F2)2",
        "Ca+2 F-1 2",
        "calcium fluoride",
    ):
        yield read_case(
            f"formula {formula}, which is no sum or no contradiction", *fluorite,
            symmetry=ROCKSALT, formula=formula, composition="Ca1 F2", group=225,
        )  # fmt: skip
    for formula in ("Ca F", "Ca F3", "Sr F2", "Ca F2 Na", "Ca"):
        yield refused_case(
            f"formula {formula} of CaF2", *fluorite, symmetry=ROCKSALT, formula=formula,
            reasons="formula_mismatch", says=formula.split()[-1],
        )  # fmt: skip
    yield refused_case(
        "solvent that was not located", "Ca1 Ca 0 0 0", "F1 F .25 .25 .25", symmetry=ROCKSALT,
        formula="Ca F2 H2 O", reasons="formula_mismatch", says="no site",
    )  # fmt: skip
    yield read_case(
        "formula within its digits", "Sn1 Sn 0 0 0 0.0672", "K1 K .5 .5 .5 1",
        columns=FILLED, formula="K Sn0.07", composition="K1 Sn0.0672",
    )  # fmt: skip
    yield refused_case(
        "formula beyond its digits", "Sn1 Sn 0 0 0 0.672", "K1 K .5 .5 .5 1",
        columns=FILLED, formula="K Sn0.70", reasons="formula_mismatch",
    )  # fmt: skip


def syntax() -> Iterator[Case]:
    text = cif(*NACL, symmetry=ROCKSALT)
    rocksalt = {"composition": "Na1 Cl1", "group": 225}
    head = text.replace("data_x\n", "")
    note = "_publ_section_comment\n;\ndata_taking was done\nloop_ of things\n_cell_length_a 99\n#;\n;\n"
    for name, content in {
        "line ends of Windows": text.replace("\n", "\r\n"),
        "line ends of old Macs": text.replace("\n", "\r"),
        "tabs": text.replace(" ", "\t").replace("'F\tm\t-3\tm'", "'F m -3 m'"),
        "byte order mark": "\ufeff" + text,
        "UTF-16": text.encode("utf-16"),
        "UTF-16, big end first": b"\xfe\xff" + text.encode("utf-16-be"),
        "a comment in Latin 1": b"# \xc5ngstr\xf6m\n" + text.encode(),
        "keywords in capitals": text.replace("data_", "DATA_").replace("loop_", "LOOP_"),
        "tags in capitals": re.sub(r"^_\S+", lambda found: found[0].upper(), text, flags=re.M),
        "tags in small letters": re.sub(r"^_\S+", lambda found: found[0].lower(), text, flags=re.M),
        "a text field that looks like a block": f"data_x\n{note}{head}",
        "a text field as value of the symbol": text.replace(" 'F m -3 m'", "\n;F m -3 m\n;"),
        "quotes in quotes": text.replace("data_x\n", "data_x\n_publ_author_name 'O'Neill, P.'\n"),
        "comments everywhere": text.replace("\n", " # data_y 'loop_\n"),
        "blank lines": text.replace("\n", "\n\n"),
        "a foreign tag twice": text.replace("data_x\n", "data_x\n_diffrn_x 1\n_diffrn_x 2\n"),
        "a second block without atoms": text + "data_y\n_publ_author_name me\n",
        "a first block without atoms": "data_global\n_publ_author_name me\n" + text,
        "values on their own lines": re.sub(r"^(_\S+) (\S)", r"\1\n  \2", text, flags=re.M),
        "dotted names": cif(*NACL, symmetry="_space_group.name_H-M_alt 'F m -3 m'", dot="."),
        "a modulation that is none": text.replace("data_x\n", "data_x\n_cell_modulation_dimension ?\n"),
        "null bytes in a comment": text.replace("data_x\n", "# \0\0\ndata_x\n"),
        "no end of line at the end": text.rstrip(),
    }.items():
        yield Case(name, content, **rocksalt)
    for suffix, compress in {
        ".gz": gzip.compress,
        ".bz2": bz2.compress,
        ".xz": lzma.compress,
        ".zst": zstd,
    }.items():
        yield Case(f"compressed {suffix[1:]}", compress(text.encode()), suffix=f".cif{suffix}", **rocksalt)
    for tag in ("_cell_length_a 6.0", "_symmetry_space_group_name_H-M 'P 1'"):
        twice = text.replace("data_x\n", f"data_x\n{tag}\n")
        yield Case(f"{tag.split()[0]} twice", twice, reasons=("parse_error",), says=tag.split()[0])
    twice = text + "loop_\n_atom_site_label\n_atom_site_fract_x\nNa1 0\n"
    yield Case("_atom_site_label twice", twice, reasons=("parse_error",), says="_atom_site_")
    two = text + cif(*NACL, symmetry=PRIMITIVE).replace("data_x", "data_y")
    yield Case("two blocks with atoms", two, reasons=("several_structures",))
    for name, content in {
        "a loop that lacks a value": text.replace("0.5 0.5 0.5", "0.5 0.5"),
        "an unterminated quote": text.replace("'F m -3 m'", "'F m -3 m"),
        "an unterminated text field": text.replace(" 'F m -3 m'", "\n;F m -3 m"),
    }.items():
        yield Case(name, content, reasons=("parse_error",))
    yield Case("an empty file", "", reasons=("parse_error", "unknown_format", "no_atoms"))
    yield Case("no sites", text.partition("loop_")[0], reasons=("no_atoms",))
    yield Case(
        "no cell",
        re.sub(r"_cell_length_b.*\n", "", text),
        reasons=("invalid_lattice",),
        says="_cell_length_b",
    )


def zstd(data: bytes) -> bytes:
    import pyarrow as pa

    packed: bytes = pa.compress(data, codec="zstd", asbytes=True)
    return packed


def other_dialects() -> Iterator[Case]:
    for tag in (
        "_cell_modulation_dimension 1",
        "_space_group_ssg_name 'Pnma(0,b,0)'",
        "_space_group_ssg_IT_number 1",
    ):
        yield refused_case(
            f"modulated: {tag.split()[0]}", *NACL, extra=tag, reasons="unsupported", says="modulated"
        )
    quoted = cif(*NACL, extra="_publ_section_title '''a title\nof two lines'''").replace(
        "data_x", "#\\#CIF_2.0\ndata_x"
    )
    yield Case("CIF 2.0 with triple quotes", quoted, reasons=("unsupported",), says="CIF 2")
    protein = (
        "data_1ABC\n_entry.id 1ABC\n_cell.length_a 50\n_cell.length_b 50\n_cell.length_c 50\n"
        "_cell.angle_alpha 90\n_cell.angle_beta 90\n_cell.angle_gamma 90\n"
        "_symmetry.space_group_name_H-M 'P 1'\n"
        "loop_\n_atom_site.group_PDB\n_atom_site.id\n_atom_site.type_symbol\n_atom_site.label_atom_id\n"
        "_atom_site.label_comp_id\n_atom_site.label_asym_id\n_atom_site.Cartn_x\n_atom_site.Cartn_y\n"
        "_atom_site.Cartn_z\nATOM 1 N N GLY A 1.0 2.0 3.0\nATOM 2 C CA GLY A 2.4 2.0 3.0\n"
    )
    yield Case("mmCIF of a macromolecule", protein, reasons=("unsupported",), says="mmCIF")
    operators = (
        "loop_\n_space_group_symop_magn_operation{d}id\n_space_group_symop_magn_operation{d}xyz\n"
        "1 x,y,z,+1\n2 -x,-y,-z,+1\n"
        "loop_\n_space_group_symop_magn_centering{d}id\n_space_group_symop_magn_centering{d}xyz\n"
        "1 x,y,z,+1\n2 x+1/2,y+1/2,z+1/2,-1\n"
    )
    moments = (
        "loop_\n_atom_site_moment{d}label\n_atom_site_moment{d}crystalaxis_x\n_atom_site_moment{d}crystalaxis_y\n"
        "_atom_site_moment{d}crystalaxis_z\nFe1 0 0 2.1\n"
    )
    for dot in ("_", "."):
        yield Case(
            f"magnetic, {'dotted' if dot == '.' else 'old'} names",
            cif("Fe1 Fe .1 .2 .3", "O1 O .3 .1 .15", cell=BOX, symmetry=operators.format(d=dot))
            + moments.format(d=dot),
            "Fe1 O1", 2, ("moments_ignored",),
        )  # fmt: skip


KINDS: tuple[Callable[[], Iterator[Case]], ...] = (
    atoms,
    hydrogens,
    occupancies,
    coordinates,
    special_positions,
    lattices,
    overlaps,
    symmetry,
    origins_and_axes,
    formulas,
    syntax,
    other_dialects,
)
CASES = {f"{kind.__name__}: {case.name}": case for kind in KINDS for case in kind()}
