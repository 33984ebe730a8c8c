"""The sites of a CIF block under each symmetry that it may mean, and the reading that all it says fits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from cloud_core.structures.cell import FloatArray
from cloud_core.structures.cif_block import Block
from cloud_core.structures.cif_sites import Site
from cloud_core.structures.cif_symmetry import StatedSymmetry
from cloud_core.structures.distances import OVERLAP, OVERLAP_OF_HYDROGEN, close_pairs
from cloud_core.structures.elements import ISOTOPES
from cloud_core.structures.errors import Reason, StructureError
from cloud_core.structures.formula import Amount, Comparison, compare, parse_formula
from cloud_core.structures.numbers import parse_number
from cloud_core.structures.orbits import Orbit, orbit
from cloud_core.structures.space_group import CLOSE_FIT, Operators, wyckoff_multiplicities

MAX_IMAGES = 500_000  # of all sites under all operators
_GRAMS = 1.66053907  # g/cm³ of one dalton in one Å³


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a block says of its contents beside sites and symmetry.

    formula: element → amount, D and T as hydrogen. units: formula units in the cell (Z). density: g/cm³.
    """

    formula: Mapping[str, Amount] | None
    formula_text: str
    units: float | None
    density: float | None

    @property
    def may_be_whole_cell(self) -> bool:
        """Whether the formula can be the sum of all atoms in the cell, as pymatgen writes it with Z beside:
        then its amounts are multiples of Z, unless they are no whole numbers."""
        if not self.units or not self.formula:
            return True
        amounts = [amount for amount in self.formula.values() if not amount.uncertainty]
        return all(amount.value % self.units == 0 for amount in amounts)


def evidence_of(block: Block) -> Evidence:
    """The stated formula, Z and density of a block, as far as they can be read."""
    text = block.one("_chemical_formula_sum")
    units = parse_number(block.one("_cell_formula_units_z") or "")
    density = parse_number(block.one("_exptl_crystal_density_diffrn") or "")
    return Evidence(
        parse_formula(text) if text else None,
        text or "",
        units.value if units is not None and units.value > 0 else None,
        density.value if density is not None and density.value > 0 else None,
    )


@dataclass(frozen=True)
class Reading:
    """The sites of a block under one group of operators."""

    operators: Operators
    sites: Sequence[Site]
    orbits: Sequence[Orbit]
    lattice: FloatArray
    evidence: Evidence = field(repr=False)

    @cached_property
    def amounts(self) -> dict[str, Amount]:
        """Element → amount in the cell, D and T as hydrogen."""
        amounts: dict[str, Amount] = {}
        for site, found in zip(self.sites, self.orbits, strict=True):
            element = ISOTOPES.get(site.element, site.element)
            count = len(found.images)
            amount = Amount(count * site.occupancy.value, count * site.occupancy.half_unit)
            amounts[element] = amounts.get(element, Amount(0.0)) + amount
        return amounts

    @cached_property
    def attached(self) -> float:
        """Hydrogen atoms in the cell that have no coordinates."""
        return sum(
            site.hydrogens * site.occupancy.value * len(found.images)
            for site, found in zip(self.sites, self.orbits, strict=True)
        )

    @cached_property
    def comparison(self) -> Comparison | None:
        """The sites beside the formula; None where there is none to compare with."""
        if not self.evidence.formula:
            return None
        amounts = dict(self.amounts)
        if self.attached:
            amounts["H"] = amounts.get("H", Amount(0.0)) + Amount(self.attached)
        return compare(self.evidence.formula, amounts)

    @property
    def has_right_ratio(self) -> bool:
        return self.comparison is None or self.comparison.agrees

    @cached_property
    def has_right_count(self) -> bool:
        """Whether as many atoms are there as formula and Z, the formula alone, or the density say; True where
        nothing is said of it."""
        evidence = self.evidence
        if evidence.units is None and evidence.density is None:
            return True
        if self.has_right_density:
            return True
        if self.comparison is None or not self.comparison.agrees:
            return evidence.density is None
        least, most = self.comparison.units
        if evidence.units is not None and least <= evidence.units <= most:
            return True
        return least <= 1 <= most and self.evidence.may_be_whole_cell

    @property
    def has_right_density(self) -> bool:
        """Whether a density is stated and the contents of the cell give it within 3 %."""
        stated = self.evidence.density
        return stated is not None and abs(self.density / stated - 1) <= 0.03

    @cached_property
    def density(self) -> float:
        """g/cm³."""
        import gemmi

        mass = sum(gemmi.Element(e).weight * amount.value for e, amount in self.amounts.items())
        return float(_GRAMS * (mass + 1.008 * self.attached) / abs(np.linalg.det(self.lattice)))

    @cached_property
    def has_stated_multiplicities(self) -> bool:
        """Whether each site has as many images as its multiplicity or Wyckoff symbol says."""
        known = [
            (count, len(found.images))
            for site, found in zip(self.sites, self.orbits, strict=True)
            if (count := self._stated_multiplicity(site)) is not None
        ]
        if not known or all(count == 1 for count, _ in known):
            return False
        return all(count == images for count, images in known)

    def _stated_multiplicity(self, site: Site) -> float | None:
        if site.multiplicity is not None or not site.letter:
            return site.multiplicity
        letters = wyckoff_multiplicities().get(self.operators.number or 0, {})
        if site.letter not in letters:
            return None
        # The table is of the conventional cell; there may be fewer operators (rhombohedral axes).
        return letters[site.letter] * len(self.operators) / max(letters.values())

    @cached_property
    def has_clash(self) -> bool:
        """Whether atoms stand closer than they can."""
        images = np.concatenate([found.images for found in self.orbits])
        owners = np.repeat(np.arange(len(self.sites)), [len(found.images) for found in self.orbits])
        for i, j, distance in close_pairs(self.lattice, images, OVERLAP):
            first, second = self.sites[owners[i]], self.sites[owners[j]]
            has_hydrogen = not {first.element, second.element}.isdisjoint(("H", "D", "T"))
            if distance >= OVERLAP_OF_HYDROGEN and has_hydrogen:
                continue
            if first.occupancy.value + second.occupancy.value > 1.0101:
                return True
        return False

    @cached_property
    def is_confirmed(self) -> bool:
        """Whether the contents of the cell are those that are stated, and enough is stated to tell."""
        if self.has_stated_multiplicities:
            return True
        counted = self.evidence.units is not None or self.evidence.density is not None
        return counted and self.comparison is not None and self.has_right_ratio and self.has_right_count


def read_under(
    sites: Sequence[Site], operators: Operators, lattice: FloatArray, evidence: Evidence
) -> Reading:
    """The sites under operators. Sites that are partly occupied stay split where the contents say so."""
    if len(sites) * len(operators) > MAX_IMAGES:
        message = f"CIF: {len(sites)} sites under {len(operators)} operators"
        raise StructureError(Reason.TOO_MANY_SITES, message)
    orbits = [orbit(site.position, site.reach, operators, lattice) for site in sites]
    reading = Reading(operators, sites, orbits, lattice, evidence)
    moved = [
        place
        for place, (site, found) in enumerate(zip(sites, orbits, strict=True))
        if found.merged > 1 and site.occupancy.value * found.merged <= 1.0101
    ]
    if moved and not (
        reading.has_stated_multiplicities or (reading.has_right_ratio and reading.has_right_count)
    ):
        split = list(orbits)
        for place in moved:
            site = sites[place]
            split[place] = orbit(site.position, site.reach, operators, lattice, merge=False)
        other = Reading(operators, sites, split, lattice, evidence)
        if other.has_stated_multiplicities or (other.has_right_ratio and other.has_right_count):
            return other
    return reading


def choose(
    stated: StatedSymmetry, sites: Sequence[Site], lattice: FloatArray, evidence: Evidence
) -> tuple[list[Reading], str]:
    """The readings that nothing in the block excludes, the preferred first; one, where it is certain. And in
    words what decided between several.

    Raises StructureError where the operators do not fit the cell, or the statements contradict each other and
    nothing decides.
    """

    def readings(groups: Sequence[Operators]) -> list[Reading]:
        return [read_under(sites, group, lattice, evidence) for group in groups if group.fit(lattice)]

    candidates = stated.candidates
    if not any(group.fit(lattice, CLOSE_FIT) for group in candidates):
        candidates = tuple(g for g in stated.others if g.fit(lattice, CLOSE_FIT)) or candidates
    found = readings(candidates)
    if len(stated.candidates) == 1 and not stated.others and not stated.conflict:
        if not found:
            raise StructureError(
                Reason.CONTRADICTORY_SYMMETRY,
                f"CIF: the axes of the cell do not fit {stated.statement}; check lengths, angles and setting",
            )
        return found, ""
    if stated.others and not any(map(_fits, found)):
        others = [reading for reading in readings(stated.others) if _fits(reading)]
        found = others or found or readings(stated.others)
    if not found:
        raise StructureError(
            Reason.CONTRADICTORY_SYMMETRY,
            f"CIF: the axes of the cell fit no setting of {stated.statement}; check lengths and angles",
        )
    decided = []
    for name, criterion in _CRITERIA.items():
        kept = [reading for reading in found if criterion(reading)]
        if kept and len(kept) < len(found):
            found = kept
            decided.append(name)
    if stated.conflict and len(found) == 1 and not (stated.is_supported or found[0].is_confirmed):
        raise StructureError(
            Reason.CONTRADICTORY_SYMMETRY, f"CIF: {stated.conflict}, and nothing else says what is right"
        )
    return found, " and ".join(decided) or ("the formula" if found[0].is_confirmed else "most statements")


_CRITERIA: Mapping[str, Callable[[Reading], bool]] = {
    "the multiplicities": lambda reading: reading.has_stated_multiplicities,
    "the distances": lambda reading: not reading.has_clash,
    "the formula": lambda reading: reading.has_right_ratio,
    "the density": lambda reading: reading.has_right_density,
    "the formula with Z": lambda reading: reading.has_right_count,
}


def _fits(reading: Reading) -> bool:
    if reading.has_stated_multiplicities:
        return True
    return not reading.has_clash and reading.has_right_ratio and reading.has_right_count
