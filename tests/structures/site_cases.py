"""Small CIFs about sites: what stands on them, where, and how much of it."""

import unicodedata
from collections.abc import Iterator

from tests.structures.small_cif import (
    BARE,
    BOX,
    FILLED,
    FLAGGED,
    HYDROGENS,
    MMM,
    NACL,
    PAIR,
    PRIMITIVE,
    Case,
    read_case,
    refused_case,
)


def atoms() -> Iterator[Case]:
    """What is in an element's place."""
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
