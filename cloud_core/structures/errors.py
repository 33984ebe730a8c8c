"""Why a structure was refused, and what to do about it."""

from enum import StrEnum


class Reason(StrEnum):
    """Reason codes of the quarantine; `remedy` says what a person can do."""

    PARSE_ERROR = "parse_error"
    UNKNOWN_FORMAT = "unknown_format"
    FILE_NOT_FOUND = "file_not_found"
    UNSUPPORTED = "unsupported"
    NO_ATOMS = "no_atoms"
    INVALID_LATTICE = "invalid_lattice"
    INVALID_POSITIONS = "invalid_positions"
    INVALID_OCCUPANCY = "invalid_occupancy"
    UNKNOWN_ELEMENT = "unknown_element"
    OVERLAPPING_SITES = "overlapping_sites"
    TOO_MANY_SITES = "too_many_sites"
    SYMMETRY_FAILED = "symmetry_failed"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    CRASHED = "crashed"

    @property
    def remedy(self) -> str:
        """What to do about a structure refused for this reason."""
        return _REMEDIES[self]


_REMEDIES = {
    Reason.PARSE_ERROR: "open the file in a CIF validator and mend what the message names",
    Reason.UNKNOWN_FORMAT: "name the format: cif, poscar, pymatgen or optimade",
    Reason.FILE_NOT_FOUND: "check the path and that this process may read it",
    Reason.UNSUPPORTED: "convert to a plain structure, periodic in three dimensions",
    Reason.NO_ATOMS: "give atom sites with fractional coordinates; this input holds none",
    Reason.INVALID_LATTICE: "check cell lengths and angles: finite, positive, with a volume",
    Reason.INVALID_POSITIONS: "give three finite fractional coordinates for every site",
    Reason.INVALID_OCCUPANCY: "give occupancies above 0 that sum to at most 1 on each site",
    Reason.UNKNOWN_ELEMENT: "replace dummy or unknown species by elements of the periodic table",
    Reason.OVERLAPPING_SITES: "remove duplicate sites, or merge alternatives of one site as occupancies",
    Reason.TOO_MANY_SITES: "reduce to the primitive cell, or raise the limit on sites",
    Reason.SYMMETRY_FAILED: "raise or lower symprec; check for atoms closer than the tolerance",
    Reason.TIMEOUT: "raise timeout_s, reduce to the primitive cell, or leave the structure out",
    Reason.OUT_OF_MEMORY: "raise memory_mb, or reduce to the primitive cell",
    Reason.CRASHED: "report the structure to the library named in the message; it ended its process",
}


class StructureError(ValueError):
    """A structure that cannot be read or encoded.

    `reason` is the code; the message names the input and the remedy.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(f"{message} ({reason.value}: {reason.remedy})")
        self.reason = reason
