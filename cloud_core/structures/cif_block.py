"""The words of a CIF that a structure depends on, by tag."""

import re
import unicodedata
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from cloud_core.structures.errors import Reason, StructureError

CELL_TAGS = (
    "_cell_length_a",
    "_cell_length_b",
    "_cell_length_c",
    "_cell_angle_alpha",
    "_cell_angle_beta",
    "_cell_angle_gamma",
)
OPERATION_TAGS = (
    "_space_group_symop_operation_xyz",
    "_symmetry_equiv_pos_as_xyz",
    "_symmetry_equiv_pos_xyz",
)
HALL_TAGS = ("_space_group_name_hall", "_symmetry_space_group_name_hall")
NAME_TAGS = (
    "_space_group_name_h-m_alt",
    "_symmetry_space_group_name_h-m",
    "_space_group_name_h-m_full",
    "_symmetry_space_group_name_h_m",
    "_space_group_name_h-m",
    "_space_group_name_h-m_ref",
    "_symmetry_space_group_name_h-m_alt",
)
NUMBER_TAGS = ("_space_group_it_number", "_symmetry_int_tables_number", "_symmetry_it_number")
# Whatever else may state the symmetry, but for names of rows and what says nothing of operators.
_OTHER_SYMMETRY = re.compile(
    r"_(symmetry|space_group|magnetic|spin)_(?!.*(_id$|_refln|_wyckoff|_special|_details|_comment))"
)
SETTING_TAG = "_space_group_it_coordinate_system_code"
SYSTEM_TAGS = ("_symmetry_cell_setting", "_space_group_crystal_system")
MAGNETIC_OPERATION_TAGS = (
    "_space_group_symop_magn_operation_xyz",
    "_space_group_symop_magn_operation_mxmymz",
)
MAGNETIC_CENTRING_TAG = "_space_group_symop_magn_centering_xyz"
MAGNETIC_NAME_TAGS = ("_space_group_magn_name_bns", "_space_group_magn_number_bns")
MAGNETIC_TRANSFORM_TAGS = (
    "_space_group_magn_transform_bns_pp_abc",
    "_magnetic_space_group_transform_to_standard_pp_abc",
)
MATRIX_TAGS = tuple(f"_tran_matrix_{i}{j}" for i in (1, 2, 3) for j in (1, 2, 3))
VECTOR_TAGS = tuple(f"_tran_vector_{i}" for i in (1, 2, 3))
FRACTION_TAGS = ("_atom_site_fract_x", "_atom_site_fract_y", "_atom_site_fract_z")
CARTESIAN_TAGS = ("_atom_site_cartn_x", "_atom_site_cartn_y", "_atom_site_cartn_z")
# Tags whose values decide what the crystal is.
_OURS = frozenset(
    (
        *CELL_TAGS,
        *OPERATION_TAGS,
        *HALL_TAGS,
        *NAME_TAGS,
        *NUMBER_TAGS,
        SETTING_TAG,
        *SYSTEM_TAGS,
        MAGNETIC_OPERATION_TAGS[0],
        MAGNETIC_CENTRING_TAG,
        *MAGNETIC_NAME_TAGS,
        *MAGNETIC_TRANSFORM_TAGS,
        *FRACTION_TAGS,
        *CARTESIAN_TAGS,
        *[f"_atom_sites_{kind}{tag}" for kind in ("cartn", "fract") for tag in (*MATRIX_TAGS, *VECTOR_TAGS)],
        "_atom_site_label",
        "_atom_site_type_symbol",
        "_atom_site_occupancy",
        "_atom_site_symmetry_multiplicity",
        "_atom_site_site_symmetry_multiplicity",
        "_atom_site_wyckoff_symbol",
        "_atom_site_wyckoff_label",
        "_atom_site_attached_hydrogens",
        "_atom_site_calc_flag",
        "_atom_type_symbol",
        "_atom_type_oxidation_number",
        "_chemical_formula_sum",
        "_cell_formula_units_z",
        "_exptl_crystal_density_diffrn",
        "_cell_modulation_dimension",
    )
)
# Signs that programs and people write beside the ASCII ones, after normalisation to compatible characters.
_SIGNS: dict[int, str | None] = dict.fromkeys(
    map(ord, "\u2212\u2010\u2011\u2012\u2013\u2014\u2015\u02d7\u00ad\u2796\ufe58\u2043"), "-"
)
_SIGNS |= {
    ord("\u2795"): "+",
    ord("\u2044"): "/",
    ord("\u2215"): "/",
    ord("\u25a1"): "Vac",
    ord("\u25fb"): "Vac",
}
_SIGNS |= {ord("\ufeff"): None, ord("\u200b"): None, ord("\u2028"): "\n", ord("\u2029"): "\n", 0x85: "\n"}
_OVERLINED = re.compile("(.)[\u0304\u0305]")


@cache
def _gemmi() -> Any:
    from gemmi import cif

    return cif


@dataclass(slots=True)
class Block:
    """One data block: the values of the tags that a structure depends on, `?` and `.` among them.

    values: tag in lower case, dots and a last underscore left out → its values; one for a tag outside
    a loop. tags: all tags of the block. other_symmetry: tags of the symmetry that are not understood, with
    their first known value.
    """

    name: str
    values: dict[str, list[str]] = field(default_factory=dict)
    tags: set[str] = field(default_factory=set)
    other_symmetry: dict[str, str] = field(default_factory=dict)

    def column(self, *tags: str) -> list[str] | None:
        """The values of the first of these tags that is there."""
        return next((self.values[tag] for tag in tags if tag in self.values), None)

    def one(self, *tags: str) -> str | None:
        """The value of the first of these tags that has a known one."""
        for tag in tags:
            for value in self.values.get(tag, ())[:1]:
                if is_known(value):
                    return value.strip()
        return None

    @property
    def has_atoms(self) -> bool:
        """Whether there is a site with known coordinates."""
        tags = (*FRACTION_TAGS, *CARTESIAN_TAGS)
        return any(is_known(value) for tag in tags for value in self.values.get(tag, ()))

    @property
    def has_sites(self) -> bool:
        """Whether there is a list of atoms at all."""
        return any(tag.startswith("_atom_site_") for tag in self.tags)


def is_known(value: str) -> bool:
    """Whether a value is there: `?` stands for an unknown one, `.` for none or the default."""
    return value.strip() not in ("", "?", ".")


def blocks_of(text: str) -> list[Block]:
    """The data blocks of a CIF. Raises StructureError, which names the line, where the text is no CIF."""
    text = to_ascii(text)
    try:
        return _parsed(text)
    except StructureError as error:
        # A broken block costs itself alone; one without atoms costs nothing.
        parts = split_blocks(text)
        if len(parts) < 2:
            raise
        blocks: list[Block] = []
        for _, part in parts:
            try:
                blocks += _parsed(part)
            except StructureError:
                if re.search(r"^[ \t]*_atom_site[_.](fract|cartn)", part, re.MULTILINE | re.IGNORECASE):
                    raise
        if not blocks:
            raise error
        return blocks


def _parsed(text: str) -> list[Block]:
    try:
        document = _gemmi().read_string(text, 0)
    except ValueError as error:
        if re.match(r"\s*#\\#CIF_2", text) and re.search(r"'''|\"\"\"", text):
            message = "CIF: triple-quoted values of CIF 2.0 are not read"
            raise StructureError(Reason.UNSUPPORTED, message) from error
        raise StructureError(Reason.PARSE_ERROR, f"CIF: {_words(str(error))}") from error
    return [_block(block) for block in document]


def split_blocks(text: str) -> list[tuple[str, str]]:
    """(name, text) of each data block of a CIF. A `data_` inside a text field or a comment begins none; what
    stands before the first block goes with it."""
    blocks: list[tuple[str, list[str]]] = []
    head: list[str] = []
    in_field = False
    for line in text.splitlines(keepends=True):
        if line.startswith(";"):
            in_field = not in_field
        elif not in_field and line.lstrip()[:5].lower() == "data_":
            name = line.split()[0][5:]
            blocks.append((name, head if not blocks else []))
        (blocks[-1][1] if blocks else head).append(line)
    return [(name, "".join(lines)) for name, lines in blocks] if blocks else [("", text)]


def to_ascii(text: str) -> str:
    """The text with ASCII signs and digits for those of Unicode, and "_" for everything else beyond ASCII
    (it is in names and comments, on which no structure depends)."""
    if text.isascii():
        return text
    text = _OVERLINED.sub(r"-\1", unicodedata.normalize("NFKD", text).translate(_SIGNS))
    return text if text.isascii() else re.sub(r"[^\x00-\x7f]", "_", text)


def _words(message: str) -> str:
    """gemmi's "string:3:16(32): unterminated 'string'" in the words of this package."""
    found = re.match(r"string:(\d+):\d+\(\d+\): (.*)", message, re.DOTALL)
    if not found:
        return message
    number, what = found[1], found[2]
    if what.startswith("expected block header"):
        return f"line {number}: no data_ block"
    if what.startswith("Wrong number of values"):
        return f"line {number}: a loop_ whose values do not fill its columns"
    return f"line {number}: {what}"


def _block(source: Any) -> Block:
    block = Block(source.name)
    for item in source:
        if item.pair is not None:
            tag, value = item.pair
            _add(block, tag, [value])
        elif item.loop is not None:
            tags, values = item.loop.tags, item.loop.values
            for place, tag in enumerate(tags):
                name = _name(tag)
                if name in _OURS:
                    _add(block, tag, values[place :: len(tags)])
                else:
                    block.tags.add(name)
                    _note_symmetry(block, name, values[place :: len(tags)])
    return block


def _note_symmetry(block: Block, name: str, values: list[str]) -> None:
    if _OTHER_SYMMETRY.match(name) and (known := next(filter(is_known, values), None)) is not None:
        block.other_symmetry.setdefault(name, known)


def _add(block: Block, tag: str, values: list[str]) -> None:
    name = _name(tag)
    block.tags.add(name)
    if name not in _OURS:
        _note_symmetry(block, name, values)
        return
    if name in block.values:
        raise StructureError(Reason.PARSE_ERROR, f"CIF: {tag} appears twice in block {block.name!r}")
    as_string = _gemmi().as_string
    block.values[name] = [as_string(value) if value[:1] in "'\";" else value for value in values]


def _name(tag: str) -> str:
    """A tag without case; the dots of DDLm names and the last underscore of some programs left out."""
    return tag.lower().replace(".", "_").rstrip("_")
