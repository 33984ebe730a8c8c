"""Structures: readers of CIF, POSCAR and JSON, and the reasons for refusing one."""

from cloud_core.structures.cell import Cell
from cloud_core.structures.errors import Reason, StructureError

__all__ = ["Cell", "Reason", "StructureError", "read"]


def __getattr__(name: str) -> object:
    # Readers import numpy only, but pull in gemmi and pymatgen when called.
    if name == "read":
        from cloud_core.structures.formats import read

        return read
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
