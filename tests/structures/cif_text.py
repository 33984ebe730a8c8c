"""Crystals as the text of a CIF: what it says about the symmetry is the caller's choice."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import gemmi
import numpy as np
import spglib

from tests.structures.crystals import Crystal, FloatArray, Setting


@dataclass(frozen=True)
class Statement:
    """What a file says, beside its cell and sites.

    operators, hall, hm, number: the statements of the symmetry, None for none. tags: how those are named,
    "old" (`_symmetry_…`), "new" (`_space_group_…`) or "dotted" (DDLm). formula: "sum" (the reduced formula
    with Z), "cell" (the whole cell's, Z beside it as pymatgen writes), "unit" (the reduced formula without Z)
    or None. density: in g/cm³. coordinates: words for each site, else its position with `decimals`.
    multiplicities, letters: columns of the site loop. decimals: of the coordinates, which are rounded, or cut
    where `cut`.
    """

    operators: Sequence[str] | None = None
    hall: str | None = None
    hm: str | None = None
    number: int | None = None
    tags: str = "old"
    formula: str | None = None
    density: float | None = None
    multiplicities: Sequence[int] | None = None
    letters: Sequence[str] | None = None
    coordinates: Sequence[Sequence[str]] | None = None
    decimals: int = 6
    cut: bool = False


_TAGS = {
    "old": (
        "_symmetry_space_group_name_H-M",
        "_symmetry_space_group_name_Hall",
        "_symmetry_Int_Tables_number",
        "_symmetry_equiv_pos_as_xyz",
    ),
    "new": (
        "_space_group_name_H-M_alt",
        "_space_group_name_Hall",
        "_space_group_IT_number",
        "_space_group_symop_operation_xyz",
    ),
    "dotted": (
        "_space_group.name_H-M_alt",
        "_space_group.name_Hall",
        "_space_group.IT_number",
        "_space_group_symop.operation_xyz",
    ),
    "full": (
        "_space_group_name_H-M_full",
        "_space_group_name_Hall",
        "_space_group_IT_number",
        "_space_group_symop_operation_xyz",
    ),
}


def parameters(lattice: FloatArray) -> list[float]:
    """a, b, c in Å and alpha, beta, gamma in degrees."""
    lengths = np.linalg.norm(lattice, axis=1)
    cosines = lattice @ lattice.T / np.outer(lengths, lengths)
    angles = np.degrees(np.arccos([cosines[1, 2], cosines[0, 2], cosines[0, 1]]))
    return [*lengths.tolist(), *angles.tolist()]


def digits(value: float, decimals: int, cut: bool = False) -> str:
    """A coordinate as a file gives it; `cut` leaves further digits away instead of rounding."""
    if cut:
        value = math.trunc(value * 10**decimals + math.copysign(1e-7, value)) / 10**decimals
    return f"{value + 0.0:.{decimals}f}"


def formula_of(counts: dict[str, int], units: int) -> str:
    return " ".join(f"{element}{count // units}" for element, count in sorted(counts.items()))


def write(crystal: Crystal, statement: Statement) -> str:
    """The text of a CIF."""
    hm, hall, number, operators = _TAGS[statement.tags]
    lines = ["data_crystal"]
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    dot = "." if statement.tags == "dotted" else "_"
    for name, value in zip(names, parameters(crystal.lattice), strict=True):
        lines.append(f"_cell{dot}{name} {value:.5f}")
    if statement.hm is not None:
        lines.append(f"{hm} '{statement.hm}'")
    if statement.hall is not None:
        lines.append(f"{hall} '{statement.hall}'" if '"' in statement.hall else f'{hall} "{statement.hall}"')
    if statement.number is not None:
        lines.append(f"{number} {statement.number}")
    units = math.gcd(*crystal.counts.values())
    if statement.formula is not None:
        divisor = 1 if statement.formula == "cell" else units
        lines.append(f"_chemical_formula{dot}sum '{formula_of(crystal.counts, divisor)}'")
        if statement.formula != "unit":
            lines.append(f"_cell{dot}formula_units_Z {units}")
    if statement.density is not None:
        lines.append(f"_exptl_crystal{dot}density_diffrn {statement.density:.3f}")
    if statement.operators is not None:
        lines += ["loop_", operators, *(f"'{operator}'" for operator in statement.operators)]
    columns = ["label", "type_symbol", "fract_x", "fract_y", "fract_z"]
    rows = []
    for i, site in enumerate(crystal.sites):
        if statement.coordinates is not None:
            values = list(statement.coordinates[i])
        else:
            values = [digits(value, statement.decimals, statement.cut) for value in site.position]
        rows.append([f"{site.element}{i + 1}", site.element, *values])
    if statement.multiplicities is not None:
        columns.append("symmetry_multiplicity" if statement.tags == "old" else "site_symmetry_multiplicity")
        rows = [[*row, str(m)] for row, m in zip(rows, statement.multiplicities, strict=True)]
    if statement.letters is not None:
        columns.append("Wyckoff_symbol")
        rows = [[*row, letter] for row, letter in zip(rows, statement.letters, strict=True)]
    lines += ["loop_", *(f"_atom_site{dot}{column}" for column in columns), *map(" ".join, rows), ""]
    return "\n".join(lines)


# Spellings of symbols.


def icsd_suffix(group: gemmi.SpaceGroup) -> str | None:
    """ICSD's letter of an origin or of axes: S and Z for origins 1 and 2, H and R."""
    return {"1": "S", "2": "Z", "H": "H", "R": "R"}.get(group.ext)


def spellings(setting: Setting) -> Iterator[tuple[str, str]]:
    """(kind, symbol): ways to write the symbol with its setting."""
    group = setting.table
    hm, ext = group.hm, group.ext
    colon = f":{ext}" if ext in ("1", "2", "H", "R") else ""
    yield "gemmi", f"{hm}{colon}"
    yield "blank before the colon", f"{hm} {colon}".strip()
    yield "unspaced", f"{hm}{colon}".replace(" ", "")
    yield "underscores", f"{hm} {colon}".strip().replace(" ", "_")
    yield "upper case", f"{hm} {colon}".strip().upper()
    yield "lower case", f"{hm} {colon}".strip().lower()
    yield "unspaced upper case", f"{hm}{colon}".replace(" ", "").upper()
    if suffix := icsd_suffix(group):
        yield "ICSD", f"{hm} {suffix}"
        yield "ICSD unspaced", f"{hm}{suffix}".replace(" ", "")
        yield "ICSD half spaced", f"{hm.replace(' ', '')} {suffix}"
    if subscripted := _subscripts(hm):
        yield "screws as 2_1", f"{subscripted}{colon}"
        yield "screws as 2(1)", f"{_subscripts(hm, '({})')}{colon}"
    if (old := _old(group)) is not None:
        yield "old", f"{old} {colon}".strip()
        yield "old unspaced", f"{old}{colon}".replace(" ", "")
    if (full := _full(setting)) is not None:
        yield "full", f"{full} {colon}".strip()
    short = group.short_name()
    if group.crystal_system_str() == "monoclinic" and _is_standard(setting):
        yield "short monoclinic", _spaced(short)
        yield "short monoclinic unspaced", short


def _subscripts(hm: str, form: str = "_{}") -> str | None:
    """'P 21/c' → 'P 2_1/c'; None where the symbol has no screw axis."""
    text = re.sub(r"(?<= )([2346])([1-5])(?=[ /]|$)", lambda found: found[1] + form.format(found[2]), hm)
    return text if text != hm else None


def _old(group: gemmi.SpaceGroup) -> str | None:
    """Cubic symbols before 1983 had no bar: F m 3 m for F m -3 m."""
    words = group.hm.split()
    if group.crystal_system_str() == "cubic" and len(words) > 2 and words[2] == "-3":
        return " ".join([*words[:2], "3", *words[3:]])
    return None


def _full(setting: Setting) -> str | None:
    """spglib's full symbol, spaced; only of settings that it has."""
    if setting.hall_number is None or setting.table.ext not in ("", "\0", "1", "2", "H"):
        return None
    if not _is_standard(setting) or setting.table.crystal_system_str() == "monoclinic":
        return None
    full = spglib.get_spacegroup_type(setting.hall_number).international_full.replace("_", "")
    return None if full == setting.table.hm else str(full)


def _is_standard(setting: Setting) -> bool:
    """Whether the symbol, with its origin, is the one that International Tables list first."""
    reference = gemmi.get_spacegroup_reference_setting(setting.number)
    return bool(reference.hm == setting.table.hm)


def _spaced(short: str) -> str:
    """'P21/c' → 'P 21/c'."""
    return f"{short[0]} {short[1:]}"
