"""Small CIFs about the symmetry and the formula that a file states."""

from collections.abc import Iterator

from tests.structures.small_cif import (
    BOX,
    FILLED,
    NACL,
    PAIR,
    ROCKSALT,
    Case,
    read_case,
    refused_case,
)


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
    for symbol, angles in (
        ("P 21/a", (90, 90, 89.67)),
        ("P 21/b", (90, 90, 97.3)),
        ("P 21/c", (90, 90.4, 90)),
        ("P 21/n", (90, 97.3, 90)),
        ("P 21/b", (90.4, 90, 90)),
    ):
        yield read_case(
            f"{symbol} with angles {angles}", "Ca1 Ca .5 0 .5", "Ti1 Ti .751 .447 .653",
            cell=(5.53, 5.8, 8.11, *angles), symmetry=f"_symmetry_space_group_name_H-M '{symbol}'",
            composition="Ca1 Ti2", group=14,
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
