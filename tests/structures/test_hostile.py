"""Broken and hostile CIFs: a cell or a StructureError, in bounded time; no silent change of the crystal."""

import re
import tarfile
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cloud_core.scope import encode
from cloud_core.structures import Cell, StructureError, read
from tests.structures.cif_cases import CASES
from tests.structures.cif_text import Statement, write
from tests.structures.crystals import made_up, settings
from tests.structures.small_cif import FILLED, MMM, NACL, PAIR, ROCKSALT, cif

SECONDS = 20.0  # for one input of some MB, on a busy machine


def outcome(content: str | bytes) -> Cell | StructureError:
    """What comes of a CIF; nothing but a StructureError may leave the reader."""
    start = time.process_time()
    try:
        return read(content, "cif")
    except StructureError as error:
        assert str(error)
        return error
    finally:
        assert time.process_time() - start < SECONDS


# Inputs of some MB, or with numbers that no program expects.

MANY = 200_000
LONG = 2_000_000
NUMBERS = (
    "1e400",
    "-1e400",
    "9" * 5000,
    "0." + "3" * LONG,
    "1(" + "1" * 5000 + ")",
    "1e-400",
    "1_000",
    "٣",
    "0x10",
)


def large() -> Iterator[tuple[str, str | bytes]]:
    text = cif(*NACL, symmetry=ROCKSALT)
    loop = "loop_\n_symmetry_equiv_pos_as_xyz\n"
    yield "operators", cif(*NACL, symmetry=loop + "x,y,z\n" * MANY)
    different = "\n".join(f"x+{i}/{MANY},y,z" for i in range(MANY))
    yield "different operators", cif(*NACL, symmetry=loop + different)
    yield "operators that are large numbers", cif(*NACL, symmetry=loop + f"x+{'9' * LONG},y,z\nx,y,z")
    yield "an operator of many terms", cif(*NACL, symmetry=f"{loop}{'+x-x' * MANY},y,z\nx,y,z")
    yield "atoms", cif(*(f"Na{i} Na {i / MANY} {i * 7 % MANY / MANY} 0" for i in range(MANY)))
    yield (
        "atoms and operators",
        cif(
            *(f"Na{i} Na {i / 20000} {i * 7 % 20000 / 20000} 0.1" for i in range(20_000)),
            symmetry=_all_operators(),
        ),
    )
    yield "one atom many times", cif(*[NACL[0]] * MANY)
    yield "blocks", "".join(f"data_{i}\n_a.b 1\n" for i in range(MANY))
    yield "blocks with atoms", "".join(text.replace("data_x", f"data_{i}") for i in range(5000))
    yield "tags", text + "".join(f"_x_{i} 1\n" for i in range(MANY))
    yield "columns", text + "loop_\n" + "".join(f"_y_{i}\n" for i in range(MANY)) + "1\n" * MANY
    yield "a line", text.replace("data_x\n", f"data_x\n# {'x' * LONG}\n")
    yield "a word", text.replace("data_x\n", f"data_x\n_x_y {'x' * LONG}\n")
    yield "an unterminated quote", text + "_x_z '" + "x " * LONG
    yield "an unterminated text field", text + "_x_z\n;\n" + "x\n" * LONG
    yield "blanks", text + " " * LONG
    yield "null bytes", text.encode() + b"\0" * LONG
    yield "null bytes alone", b"\0" * LONG
    yield "bytes that are no text", b"data_x\n" + bytes(range(128, 256)) * 1000
    yield "save frames", "data_x\n" + "save_a\n_x.y 1\nsave_\n" * MANY
    yield "loops", "data_x\n" + "loop_\n" * MANY
    for name, value in {
        "F": "F" * LONG,
        "open parentheses": "(" * LONG,
        "nested": "(" * MANY + "Na Cl" + ")" * MANY,
        "many elements": "Na1 Cl1 " * MANY,
        "many digits": "Na" + "1" * LONG + " Cl1",
        "blanks": "Na" + " " * LONG + "Cl",
        "an exponent": "Na1e400 Cl1",
        "products": "(" * 200 + "Na Cl" + ")9" * 200,
    }.items():
        yield f"formula: {name}", cif(*NACL, formula=value)
    for tag in ("name_H-M", "name_Hall"):
        for name, value in {
            "P" * 10: "P" * LONG,
            "blanks": "P" + " " * LONG + "1",
            "screws": "P " + "21 " * MANY,
            "bars": "P " + "-" * LONG,
            "colons": "P 1" + ":" * LONG,
            "parentheses": "P 1 (" + "x," * MANY + ")",
        }.items():
            yield f"{tag}: {name}", cif(*NACL, symmetry=f"_symmetry_space_group_{tag} '{value}'")
    for name, value in {
        "long": "C" * LONG,
        "a mixture": "'" + "0.5Nb + " * MANY + "0.5Zr'",
        "parentheses": "O" + "(" * LONG,
        "digits": "O" + "1" * LONG,
        "charges": "O" + "-" * LONG,
        "hydrogens": "N" + "H" * LONG,
    }.items():
        yield f"symbol: {name}", cif(NACL[0], f"A1 {value} .5 .5 .5")
        yield f"label: {name}", cif("Na1 0 0 0", f"{value} .5 .5 .5", columns=(FILLED[0], *FILLED[2:5]))


def _all_operators() -> str:
    group = max(settings(), key=lambda setting: len(setting.rotations))
    return "loop_\n_symmetry_equiv_pos_as_xyz\n" + "\n".join(group.operators())


def odd_numbers() -> Iterator[tuple[str, str]]:
    """Each number of a file, replaced by what is none or is out of all bounds."""
    for number in NUMBERS:
        short = number[:12]
        yield f"length {short}", cif(*NACL, cell=(number, 5.64, 5.64, 90, 90, 90))
        yield f"angle {short}", cif(*NACL, cell=(5.64, 5.64, 5.64, 90, number, 90))
        yield f"coordinate {short}", cif(NACL[0], f"Cl1 Cl .5 {number} .5")
        yield f"generated coordinate {short}", cif(NACL[0], f"Cl1 Cl .5 {number} .5", symmetry=MMM)
        yield f"occupancy {short}", cif("Na1 Na 0 0 0 1", f"Cl1 Cl .5 .5 .5 {number}", columns=FILLED)
        yield f"Z {short}", cif(*NACL, symmetry=ROCKSALT, formula="Na Cl", z=number)
        yield f"number {short}", cif(*NACL, symmetry=f"_symmetry_Int_Tables_number {number}")
        yield f"formula {short}", cif(*NACL, formula=f"Na{number} Cl")
        yield (
            f"density {short}",
            cif(*NACL, symmetry=ROCKSALT, extra=f"_exptl_crystal_density_diffrn {number}"),
        )
        yield (
            f"operator {short}",
            cif(
                *PAIR, symmetry=f"loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\n'x+{number},y,z'\n'{number}x,y,z'"
            ),
        )
        for column in ("symmetry_multiplicity", "attached_hydrogens", "site_symmetry_order"):
            sites = (f"{NACL[0]} {number}", f"{NACL[1]} 4")
            yield f"{column} {short}", cif(*sites, symmetry=ROCKSALT, columns=(*FILLED[:5], column))
    for operator in (
        "x+1/0,y,z",
        "x/0,y,z",
        "x+1/,y,z",
        ",,",
        "x,y,z,-1,m",
        "x,y,z;x",
        "x,x,x",
        "0,0,0",
        "xyz",
        "x+y+z+w,y,z",
    ):
        yield (
            f"operator {operator}",
            cif(*PAIR, symmetry=f"loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\n'{operator}'"),
        )


@pytest.mark.parametrize("name, content", [pytest.param(*pair, id=pair[0]) for pair in large()])
def test_a_large_or_endless_input_ends(name: str, content: str | bytes) -> None:
    found = outcome(content)
    assert isinstance(found, Cell | StructureError)


@pytest.mark.parametrize("name, content", [pytest.param(*pair, id=ascii(pair[0])) for pair in odd_numbers()])
def test_odd_numbers_are_read_or_refused(name: str, content: str) -> None:
    found = outcome(content)
    if isinstance(found, Cell):
        assert np.isfinite(found.lattice).all()
        assert np.isfinite(found.fractions).all()


# Files with random damage.


@pytest.fixture(scope="module")
def real_texts(shared: Path) -> list[bytes]:
    """Small CIFs of other parsers' tests, those of the Materials Project, and the cases."""
    texts = []
    with tarfile.open(shared / "data" / "cif_edge" / "cif_edge_cases.tar.xz") as archive:
        for member in archive:
            packed = (
                archive.extractfile(member)
                if member.size < 8000 and not member.name.endswith(".gz")
                else None
            )
            if packed is not None:
                texts.append(packed.read())
    column = pd.read_csv(shared / "data" / "cdvae" / "perov_5_val.csv.gz", usecols=["cif"], nrows=20)["cif"]
    texts += [text.encode() for text in column]
    return texts + [case.content.encode() for case in CASES.values() if isinstance(case.content, str)]


Mutation = Callable[[bytes, np.random.Generator], bytes]
Change = Callable[[list[bytes], int, np.random.Generator], None]


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """One to three mutations of bytes, words or lines."""
    for _ in range(int(rng.integers(1, 4))):
        content = MUTATIONS[int(rng.integers(len(MUTATIONS)))](content, rng) or content
    return content


def _of_parts(pattern: bytes, change: Change) -> Mutation:
    """A change of one of the pieces that a pattern finds."""

    def mutate(content: bytes, rng: np.random.Generator) -> bytes:
        ends = [
            0,
            *(place for found in re.finditer(pattern, content) for place in found.span()),
            len(content),
        ]
        parts = [content[a:b] for a, b in pairwise(ends)]
        if len(parts) > 1:
            change(parts, 2 * int(rng.integers(len(parts) // 2)) + 1, rng)
        return b"".join(parts)

    return mutate


def _delete(parts: list[bytes], i: int, rng: np.random.Generator) -> None:
    del parts[i]


def _double(parts: list[bytes], i: int, rng: np.random.Generator) -> None:
    parts.insert(i, parts[i])


def _exchange(parts: list[bytes], i: int, rng: np.random.Generator) -> None:
    """With the next of its kind, or any other."""
    j = i + 2 if rng.integers(2) and i + 2 < len(parts) else 2 * int(rng.integers(len(parts) // 2)) + 1
    parts[i], parts[j] = parts[j], parts[i]


def _replace(words: str) -> Change:
    chosen = [word.encode("utf-8", "surrogateescape") for word in words.split(" ")]

    def change(parts: list[bytes], i: int, rng: np.random.Generator) -> None:
        parts[i] = chosen[int(rng.integers(len(chosen)))]

    return change


def _many(parts: list[bytes], i: int, rng: np.random.Generator) -> None:
    parts[i] = parts[i] * 500


def _byte(content: bytes, rng: np.random.Generator) -> bytes:
    i = int(rng.integers(len(content) + 1))
    return content[:i] + bytes([int(rng.integers(256))]) + content[i + int(rng.integers(2)) :]


def _cut(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: int(rng.integers(len(content) + 1))]


LINE, WORD, TAG = rb".*\n", rb"\S+", rb"(?m)^[ ]*_\S+"
NUMBER = rb"(?<=\s)[-+]?[\d.]+(?:\(\d+\))?(?=\s)"
SYMBOL = rb"(?<=\s)[A-Z][a-z]?[\d+-]*(?=\s)"
OPERATOR = rb"[-+xyz/\d]+ *, *[-+xyz/\d]+ *, *[-+xyz/\d]+"
_number = _replace(
    "0 1 -1 0.5 1e300 -1e-300 nan inf . ? 0.333 1/3 1(0) 99999999999 0.3333(1) 2.0e0 +1 -0.0 360 180 '' x −½"
)
_symbol = _replace("H D T X O Va OH2 NH4 Fe3+ 0 . ? Xx H2O CO SO4 Fe+Ni 0.5 fe - □")
_tag = _replace(
    "_atom_site_fract_x _cell_length_a _atom_site_label _atom_site_Cartn_x _symmetry_equiv_pos_as_xyz loop_ "
    "_atom_site_occupancy _atom_site_type_symbol _cell_modulation_dimension save_a global_ data_y "
    "_atom_site.fract_x"
)
_operator = _replace(
    "x,y,z -x,-y,-z x+1/3,y,z y,x,z x,y x,y,z,-1 1/2-x,y,z x+0.5,y,z -x,y+1/7,z 2x,y,z x,x,z z,x,y x/0,y,z"
)
_word = _replace("' \" ; # loop_ data_ stop_ ? . \udcff\udcfe \0 [ { \n;\n $x ''' \ufeff")
MUTATIONS: tuple[Mutation, ...] = (
    *(_of_parts(NUMBER, change) for change in (_number, _number, _number, _exchange)),
    *(_of_parts(SYMBOL, change) for change in (_symbol, _symbol, _exchange)),
    *(_of_parts(TAG, change) for change in (_tag, _exchange)),
    *(_of_parts(OPERATOR, change) for change in (_operator, _operator, _exchange)),
    *(_of_parts(WORD, change) for change in (_word, _delete)),
    *(_of_parts(LINE, change) for change in (_delete, _delete, _double, _exchange, _many)),
    _byte,
    _cut,
)


def _read_damaged(texts: list[bytes], tries: int, seed: int) -> int:
    rng = np.random.default_rng(seed)
    read_at_all = 0
    for _ in range(tries):
        content = damaged(texts[int(rng.integers(len(texts)))], rng)
        try:
            found = outcome(content)
            if isinstance(found, Cell):
                read_at_all += 1
                if len(found) < 200:
                    encode(found)
        except StructureError:
            pass
        except BaseException as error:
            error.add_note(f"reading {content!r}")
            raise
    return read_at_all


def test_damaged_files_are_read_or_refused(real_texts: list[bytes]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert _read_damaged(real_texts, 1200, 8) > 200


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_damaged_files_are_read_or_refused(real_texts: list[bytes]) -> None:
    assert _read_damaged(real_texts, 60_000, 9) > 10_000


# Damage that leaves a readable file: the crystal stays, or it is refused, or the row says so.


def silent_damage(text: str, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    """(kind, text): a file with operators, symbol, number, formula and Z, changed in one place."""
    lines = text.split("\n")
    operators = [i for i, line in enumerate(lines) if re.fullmatch(r"'[-+xyz/\d,]+'", line)]
    sites = [i for i, line in enumerate(lines) if re.match(r"[A-Z][a-z]?\d+ [A-Z][a-z]? ", line)]

    def changed(i: int, line: str | None) -> str:
        return "\n".join([*lines[:i], *([] if line is None else [line]), *lines[i + 1 :]])

    def at(pattern: str) -> int:
        return next(i for i, line in enumerate(lines) if re.match(pattern, line))

    def other_digit(line: str) -> str:
        places = [found.start() for found in re.finditer(r"\d", line)]
        i = places[int(rng.integers(len(places)))]
        return f"{line[:i]}{(int(line[i]) + int(rng.integers(1, 10))) % 10}{line[i + 1 :]}"

    operator = operators[int(rng.integers(1, len(operators)))]
    yield "an operator is gone", changed(operator, None)
    yield "a sign of an operator is gone", changed(operator, lines[operator].replace("-", "", 1))
    letter = {"x": "y", "y": "z", "z": "x"}
    swapped = re.sub("[xyz]", lambda found: letter[found[0]], lines[operator], count=1)
    yield "a letter of an operator is another", changed(operator, swapped)
    first, last = operators[0], operators[-1]
    yield "all operators are gone", "\n".join([*lines[: first - 2], *lines[last + 1 :]])
    yield (
        "half of the operators are gone",
        "\n".join([*lines[: first + len(operators) // 2], *lines[last + 1 :]]),
    )
    z = at("_cell_formula_units_Z")
    yield "a digit of Z is another", changed(z, other_digit(lines[z]))
    number = at("_symmetry_Int_Tables_number")
    yield "a digit of the number is another", changed(number, other_digit(lines[number]))
    symbol = at("_symmetry_space_group_name_H-M")
    if digits := re.search(r"'.*\d", lines[symbol]):
        head = lines[symbol][: digits.start()]
        yield (
            "a digit of the symbol is another",
            changed(symbol, head + other_digit(lines[symbol][digits.start() :])),
        )
    yield "the symbol lacks its bar", changed(symbol, lines[symbol].replace(" -", " "))
    formula = at("_chemical_formula_sum")
    yield "a digit of the formula is another", changed(formula, other_digit(lines[formula]))
    site = sites[int(rng.integers(len(sites)))]
    yield "a site is gone", changed(site, None)
    yield "a site appears twice", changed(site, f"{lines[site]}\n{lines[site]}")
    label, element, rest = lines[site].split(" ", 2)
    yield "a site has another element", changed(site, f"{label} {'Kr' if element != 'Kr' else 'Xe'} {rest}")


def test_no_damage_is_silent() -> None:
    rng = np.random.default_rng(77)
    drawn = [setting for setting in settings() if setting.hall_number and len(setting.rotations) > 2]
    silent = []
    tried = 0
    for i in rng.choice(len(drawn), 25, replace=False):
        crystal = made_up(drawn[i], rng)
        group = drawn[i].table
        colon = f":{group.ext}" if group.ext in ("1", "2", "H", "R") else ""
        statement = Statement(
            drawn[i].operators(), hm=f"{group.hm}{colon}", number=group.number, formula="sum", decimals=5
        )
        text = write(crystal, statement)
        assert encode(text).element_key == crystal.key
        for kind, changed in silent_damage(text, rng):
            if changed == text:
                continue
            tried += 1
            try:
                scope = encode(changed)
            except StructureError:
                continue
            if scope.element_key != crystal.key and not scope.flags:
                silent.append(f"{drawn[i].symbol}: {kind}: {scope.element_key}, not {crystal.key}\n{changed}")
    assert not silent, "\n".join(text.partition("\n")[0] for text in silent) + f"\n\n{silent[0]}"
    assert tried > 200
