"""Small CIFs, one of each kind that went wrong once or may, and what must come out of each."""

from collections.abc import Callable, Iterator

from tests.structures.site_cases import (
    atoms,
    coordinates,
    hydrogens,
    lattices,
    occupancies,
    overlaps,
    special_positions,
)
from tests.structures.small_cif import Case
from tests.structures.symmetry_cases import formulas, origins_and_axes, symmetry
from tests.structures.syntax_cases import other_dialects, syntax

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
