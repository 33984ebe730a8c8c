"""A small CIF in a line, and what must come out of it."""

import re
import zlib
from collections.abc import Mapping, Sequence
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
