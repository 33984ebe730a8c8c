"""Numbers of a document as arrays: what is no number, not even a truth value, does not pass for one."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from cloud_core.structures.cell import FloatArray
from cloud_core.structures.errors import Reason, StructureError

_LISTS = (list, tuple, np.ndarray)


def vectors(value: Any, what: str, reason: Reason = Reason.INVALID_POSITIONS) -> FloatArray:
    """Rows of three numbers `[n, 3]`, from a list of rows, a flat list, or an array of either shape.

    what: names format and place in messages. Raises StructureError for anything else.
    """
    flat: Any = value
    if isinstance(value, np.ndarray) and value.ndim > 1 and value.shape[-1] != 3:
        raise StructureError(reason, f"{what}: rows of three numbers are expected")
    if isinstance(value, Sequence) and value and isinstance(value[0], _LISTS):
        if any(not isinstance(row, _LISTS) or len(row) != 3 for row in value):
            raise StructureError(reason, f"{what}: three numbers in each row are expected")
        flat = list(chain.from_iterable(value))
    array = numbers(flat, what, reason)
    if array.size % 3:
        raise StructureError(reason, f"{what}: {array.size} numbers, not three of each")
    return array.reshape(-1, 3)


def matrix(value: Any, what: str) -> FloatArray:
    """A lattice `[3, 3]`, from three rows or nine numbers. Raises StructureError."""
    array = vectors(value, what, Reason.INVALID_LATTICE)
    if array.shape != (3, 3):
        raise StructureError(Reason.INVALID_LATTICE, f"{what}: nine numbers are expected, not {array.size}")
    return array


def numbers(value: Any, what: str, reason: Reason = Reason.PARSE_ERROR) -> FloatArray:
    """A flat list, or an array, of numbers as floats. Raises StructureError."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "iuf":
            raise StructureError(reason, f"{what}: numbers are expected")
        return value.astype(np.float64)
    if not isinstance(value, list | tuple) or not all(map(_is_number_type, set(map(type, value)))):
        raise StructureError(reason, f"{what}: numbers are expected")
    try:
        return np.array(value, dtype=np.float64)
    except (OverflowError, ValueError) as error:  # an integer of more digits than a float can have
        raise StructureError(reason, f"{what}: a number that is not finite") from error


def number(value: Any, what: str, reason: Reason = Reason.PARSE_ERROR) -> float:
    """One number. Raises StructureError."""
    return float(numbers([value], what, reason)[0])


def _is_number_type(kind: type) -> bool:
    return issubclass(kind, int | float | np.integer | np.floating) and not issubclass(kind, bool)


def truths(value: Any, what: str) -> tuple[bool, ...]:
    """Three truth values, as such or as 0 and 1; one stands for all three. Raises StructureError."""
    if isinstance(value, np.ndarray):
        value = value.ravel().tolist()
    if isinstance(value, bool):
        value = [value] * 3
    if not isinstance(value, list | tuple) or len(value) != 3 or any(x not in (0, 1) for x in value):
        raise StructureError(Reason.PARSE_ERROR, f"{what}: three of true and false are expected")
    return tuple(map(bool, value))
