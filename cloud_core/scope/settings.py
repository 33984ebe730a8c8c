"""What decides a string beside the structure: settings and their fingerprint."""

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version

# Raised by hand whenever a string, key or flag can change for any structure; tests/scope holds golden
# strings that fail otherwise.
ENCODER_VERSION = 1
FORMS = ("canonical", "official", "full")


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """symprec in Å, forms out of canonical, official, full.

    angle_tolerance: degrees, for the official forms; the canonical form judges angles by symprec.
    check_tolerance: look at the space group at symprec/2 and 2·symprec too, and flag structures whose
    space group moves; it triples the cost.
    max_sites: structures with more sites are refused.
    """

    symprec: float = 0.01
    angle_tolerance: float = 5.0
    forms: tuple[str, ...] = ("canonical",)
    check_tolerance: bool = False
    max_sites: int = 5000

    def __post_init__(self) -> None:
        if not 0 < self.symprec <= 1:
            raise ValueError(f"symprec is in Å, above 0 and at most 1, not {self.symprec}")
        if unknown := [form for form in self.forms if form not in FORMS]:
            raise ValueError(f"unknown form {unknown[0]!r}: choose from {', '.join(FORMS)}")


@cache
def fingerprint(settings: EncoderSettings) -> str:
    """What the strings depend on, hashed: encoder version, settings, versions of the libraries."""
    facts = {
        "encoder": ENCODER_VERSION,
        "engines": {"canonical": "moyo", "official": "spglib"},
        "symprec": settings.symprec,
        "angle_tolerance": settings.angle_tolerance,
        "forms": sorted(settings.forms),
        "check_tolerance": settings.check_tolerance,
        "libraries": {name: version(name) for name in ("spglib", "moyopy", "gemmi", "pymatgen", "numpy")},
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
