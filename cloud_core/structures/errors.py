"""Why a structure was refused, and what to do about it."""

from enum import StrEnum

from cloud_core.errors import CloudError


class Reason(StrEnum):
    """Reason codes of the quarantine; `remedy` says what a person can do."""

    PARSE_ERROR = "parse_error"
    UNKNOWN_FORMAT = "unknown_format"
    FILE_NOT_FOUND = "file_not_found"
    UNREADABLE = "unreadable"
    UNSUPPORTED = "unsupported"
    SEVERAL_STRUCTURES = "several_structures"
    TOO_LARGE = "too_large"
    NO_ATOMS = "no_atoms"
    INVALID_LATTICE = "invalid_lattice"
    INVALID_POSITIONS = "invalid_positions"
    INVALID_OCCUPANCY = "invalid_occupancy"
    UNKNOWN_ELEMENT = "unknown_element"
    UNKNOWN_SYMMETRY = "unknown_symmetry"
    AMBIGUOUS_SETTING = "ambiguous_setting"
    CONTRADICTORY_SYMMETRY = "contradictory_symmetry"
    FORMULA_MISMATCH = "formula_mismatch"
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
    Reason.PARSE_ERROR: "correct the input where the message says",
    Reason.UNKNOWN_FORMAT: "name the format: cif, poscar, extxyz, pymatgen, ase, jarvis, optimade",
    Reason.FILE_NOT_FOUND: "check the path and that this process may read it",
    Reason.UNREADABLE: "check that the file is whole; fetch it again",
    Reason.UNSUPPORTED: "convert to a plain structure, periodic in three dimensions",
    Reason.SEVERAL_STRUCTURES: "read it with encode_all(…), or give one structure alone",
    Reason.TOO_LARGE: "give structures in files or records of their own, each below the limit",
    Reason.NO_ATOMS: "give atom sites with coordinates; this input holds none",
    Reason.INVALID_LATTICE: "check the lattice: finite, positive lengths, with a volume",
    Reason.INVALID_POSITIONS: "give three finite coordinates for every site",
    Reason.INVALID_OCCUPANCY: "give occupancies above 0 that sum to at most 1 on each site",
    Reason.UNKNOWN_ELEMENT: "replace dummy or unknown species by elements of the periodic table",
    Reason.UNKNOWN_SYMMETRY: "give the symmetry operators, or a symbol of International Tables",
    Reason.AMBIGUOUS_SETTING: "give the operators, or a symbol with its origin or axes (:1 :2 :H :R)",
    Reason.CONTRADICTORY_SYMMETRY: "leave one statement of the symmetry that is right, best the operators",
    Reason.FORMULA_MISMATCH: "correct formula or sites; the setting formula=flag encodes the sites as given",
    Reason.OVERLAPPING_SITES: "remove duplicate sites, or merge alternatives of one site as occupancies; "
    "the setting overlaps=flag encodes the sites as given",
    Reason.TOO_MANY_SITES: "reduce to the primitive cell, or raise the setting max_sites",
    Reason.SYMMETRY_FAILED: "raise or lower symprec; check for atoms closer than the tolerance",
    Reason.TIMEOUT: "raise timeout_s, reduce to the primitive cell, or leave the structure out",
    Reason.OUT_OF_MEMORY: "raise memory_mb, or reduce to the primitive cell",
    Reason.CRASHED: "report the structure to the library named in the message; it ended its process",
}

# What a reader notes of an input that it could read; `Note.flag` is one of these.
READER_FLAGS = {
    "no_symmetry_given": "the file says nothing about symmetry; its sites were taken as the whole cell",
    "isotope": "D or T is written as H in the canonical form",
    "symmetry_contradicted": "statements of the symmetry contradict each other; formula and clashes decided",
    "hydrogen_missing": "hydrogen is in the formula, or attached to a site, and has no coordinates",
    "formula_mismatch": "the sites give another composition than the stated formula",
    "moments_ignored": "magnetic moments are left aside",
    "occupancy_rounded": "occupancies of a site summed to a little above 1, as their digits allow",
    "symbols_from_comment": "the elements were taken from the comment line of a VASP 4 POSCAR",
    "formula_not_understood": "the stated formula is not understood, and was compared with nothing",
    "not_periodic": "the input says that it is not periodic in three dimensions",
    "hydrogen_excess": "the sites hold more hydrogen than the stated formula",
    "ambiguous_setting": "the symmetry can be read in several ways; all give the same crystal",
}


def shown(text: str, most: int = 40) -> str:
    """A text for a message, in quotes; "…" where it was cut."""
    return repr(text) if len(text) <= most else f"{text[: most - 1]!r}…"


class StructureError(CloudError):
    """A structure that cannot be read or encoded.

    `reason` is the code; the message names the input and the remedy.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        # half a surrogate pair, which an input may hold, can be neither printed nor stored
        message = message.encode("utf-8", "backslashreplace").decode("utf-8")
        super().__init__(f"{message} ({reason.value}: {reason.remedy})")
        self.reason = reason
