"""Numbers as they are written, and what their digits allow."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cloud_core.structures.cell import Note
from cloud_core.structures.errors import Reason, StructureError, shown

_NUMBER = re.compile(r"([+-]?)(\d+\.?(\d*)|\.(\d+))(?:[eE]([+-]?\d{1,3}))?(?:\(\d*\)?)?")
_RATIO = re.compile(r"([+-]?\d{1,6})/(\d{1,6})")


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it is written: its value, and half a unit of its last digit (0 for an integer)."""

    value: float
    half_unit: float
    decimals: int


def parse_number(text: str) -> Number | None:
    """The number that a text is, its standard uncertainty left aside; None where it is none."""
    text = text.strip()
    if len(text) > 60:
        return None
    if found := _NUMBER.fullmatch(text):
        decimals = len(found[3] or found[4] or "") - int(found[5] or 0)
        value = float(text.partition("(")[0])
        if not math.isfinite(value):
            return None
        return Number(value, 0.5 * 10.0**-decimals if decimals > 0 else 0.0, max(decimals, 0))
    if (found := _RATIO.fullmatch(text)) and int(found[2]):
        return Number(int(found[1]) / int(found[2]), 0.0, 15)
    return None


def to_float(word: str) -> float:
    """The number that a word is. Raises ValueError, also for "1_000", which only Python reads as one."""
    if "_" in word:
        raise ValueError(f"{shown(word)} is no number")
    return float(word)


def scale_to_one(
    amounts: Mapping[str, float], written: Sequence[Number], where: str
) -> tuple[float, Note | None]:
    """What the amounts on one site are to be divided by: 1, or their sum where that is above 1 by no more
    than their digits allow; then with a note.

    where: names the format and the site in messages. Raises StructureError where the sum is higher.
    """
    total = sum(amounts.values())
    if total <= 1.0:
        return 1.0, None
    fractions = [number for number in written if number.decimals]
    allowed = max(
        sum(number.half_unit for number in fractions), max((2 * n.half_unit for n in fractions), default=0.0)
    )
    if total > 1.0 + allowed + 1e-9:
        if all(number.value == 1.0 for number in written):
            raise StructureError(
                Reason.OVERLAPPING_SITES,
                f"{where}: {len(written)} whole atoms ({', '.join(amounts)}) on one site",
            )
        raise StructureError(Reason.INVALID_OCCUPANCY, f"{where}: occupancies that sum to {total:.6g}")
    if total < 1.0 + 1e-9:
        return total, None
    return total, Note("occupancy_rounded", f"{where}: occupancies of {total:.6g} were taken as 1")
