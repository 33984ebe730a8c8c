"""Small CIFs about syntax, encodings, dialects and several blocks."""

import bz2
import gzip
import lzma
import re
from collections.abc import Iterator

from tests.structures.small_cif import (
    BOX,
    NACL,
    PRIMITIVE,
    ROCKSALT,
    Case,
    cif,
    refused_case,
)


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
    for column, columns in (
        ("fract_z", ("label", "fract_x", "fract_y")),
        ("Cartn_z", ("label", "Cartn_x", "Cartn_y")),
    ):
        matrix = "\n".join(
            f"_atom_sites_Cartn_tran_matrix_{i}{j} {5.64 if i == j else 0}"
            for i in (1, 2, 3)
            for j in (1, 2, 3)
        )
        yield refused_case(
            f"{column} outside of the loop", "Na1 0 0", "Cl1 .5 .5",
            columns=columns, extra=f"{matrix}\n_atom_site_{column} 0",
            reasons=("parse_error", "invalid_positions", "no_atoms"),
        )  # fmt: skip
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
