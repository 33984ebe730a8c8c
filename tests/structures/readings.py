"""What a text can mean: the crystal of its few digits, and what its sites give in other settings."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from cloud_core.scope import encode
from cloud_core.structures import StructureError
from tests.structures.cif_text import digits
from tests.structures.crystals import (
    Crystal,
    FloatArray,
    Setting,
    expand,
    fingerprint,
    images,
    mass,
    on_all,
    settings,
    shortest,
    stabiliser,
)


def as_written(crystal: Crystal, decimals: int, cut: bool) -> Crystal | None:
    """The crystal of coordinates with so few digits, each site moved back to its special position; None where
    the digits bring a site to another position than its own, or atoms together."""
    sites = []
    for site in crystal.sites:
        position = np.array([float(digits(value, decimals, cut)) for value in site.position])
        written = on_all(stabiliser(crystal, site), position)
        assert written is not None
        if len(images(crystal.setting, written)) != site.multiplicity:
            return None
        sites.append(replace(site, position=written))
    moved = replace(crystal, sites=tuple(sites))
    if shortest(moved.cell) < 1.2:
        return None
    found = encode(moved.cell)
    sure = found.space_group == crystal.setting.number and "tolerance_sensitive" not in found.flags
    return moved if sure else None


def farthest_move(crystal: Crystal, decimals: int, cut: bool) -> float:
    """How far the digits put a site from its special position, in Å."""
    farthest = 0.0
    for site in crystal.sites:
        position = np.array([float(digits(value, decimals, cut)) for value in site.position])
        settled_at = on_all(stabiliser(crystal, site), position)
        assert settled_at is not None
        farthest = max(farthest, float(np.linalg.norm((settled_at - position) @ crystal.lattice)))
    return farthest


@dataclass(frozen=True)
class Readings:
    """What the sites of a file give in the settings that its symbol or number may mean.

    keys: the element-resolved keys of those that nothing excludes for certain; clear: whether each of the
    others is excluded for certain.
    """

    keys: frozenset[str]
    clear: bool


def readings(crystal: Crystal, candidates: Iterable[Setting], evidence: str) -> Readings:
    """What the sites give in each setting that neither the lattice nor the evidence nor a clash excludes.

    evidence: "nothing", or what a file states: "unit" (a formula), "sum" (a formula and Z), "cell" (the sum
    of the cell, with Z), "density", "multiplicities".
    """
    keys: set[str] = set()
    clear = True
    for setting in candidates:
        if not fits(setting, crystal.lattice):
            continue
        orders = [len(images(setting, site.position)) for site in crystal.sites]
        counts: dict[str, int] = {}
        for site, order in zip(crystal.sites, orders, strict=True):
            counts[site.element] = counts.get(site.element, 0) + order
        if not _allowed(crystal, evidence, counts, orders):
            continue
        cell = expand(setting, crystal.lattice, [(site.element, site.position) for site in crystal.sites])
        near = shortest(cell)
        if near < 0.45:
            continue
        if near < 1.3:
            clear = False
        try:
            keys.add(str(encode(cell).element_key))
        except StructureError:
            clear = False
    return Readings(frozenset(keys), clear)


def _allowed(crystal: Crystal, evidence: str, counts: dict[str, int], orders: list[int]) -> bool:
    """Whether the atoms in the cell are what the evidence says of the crystal."""
    truth = crystal.counts
    units = math.gcd(*truth.values())
    if evidence == "multiplicities":
        return orders == [site.multiplicity for site in crystal.sites]
    if evidence == "density":
        return abs(mass(counts) / mass(truth) - 1) < 0.03
    if evidence == "nothing" or _reduced(counts) != _reduced(truth):
        return evidence == "nothing"
    times = sum(counts.values()) / sum(truth.values()) * units  # how many formulas are in the cell
    # The cell's own sum, written beside Z, reads as that of a formula too; a reduced one is none of a cell.
    return times in {"unit": {times}, "sum": {units}, "cell": {units, units**2}}[evidence]


def _reduced(counts: dict[str, int]) -> dict[str, int]:
    units = math.gcd(*counts.values())
    return {element: count // units for element, count in counts.items()}


def fits(setting: Setting, lattice: FloatArray) -> bool:
    """Whether the rotations of a setting leave the metric of a lattice alone."""
    metric = lattice @ lattice.T
    scale = float(np.trace(metric))
    return all(np.abs(turn.T @ metric @ turn - metric).max() < 1e-4 * scale for turn in setting.rotations)


def same_symbol(setting: Setting) -> list[Setting]:
    """The settings that the symbol without its origin or axes may mean."""
    return [other for other in settings() if other.table.hm == setting.table.hm]


def same_number(setting: Setting) -> list[Setting]:
    return [other for other in settings() if other.number == setting.number]


def differ_by_origin(one: Setting, other: Setting) -> bool:
    """Whether two settings have the same operators about two origins."""
    if one.number != other.number or len(one.rotations) != len(other.rotations):
        return False
    grid = np.array(list(product(range(8), repeat=3))) / 8
    for origin in grid:
        shifts = one.translations + (np.eye(3) - one.rotations) @ origin
        if fingerprint(one.rotations, shifts) == fingerprint(other.rotations, other.translations):
            return True
    return False
