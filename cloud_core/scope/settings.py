"""What decides a string beside the structure: settings and their fingerprint."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.metadata import version
from typing import Any, Literal, get_args

from cloud_core.errors import CloudError
from cloud_core.files import json_digest

# Raised by hand whenever a string, key or flag can change for any structure; tests/scope holds golden
# strings that fail otherwise.
ENCODER_VERSION = 2
Form = Literal["canonical", "resolved", "official", "full"]
FORMS: tuple[Form, ...] = get_args(Form)
_MOYO_FORMS = ("canonical", "resolved")
Judgement = Literal["refuse", "flag"]


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """symprec in Å, forms out of canonical, resolved, official, full.

    angle_tolerance: degrees, for the official forms; the others compare angles by symprec.
    check_tolerance: look at the space group at symprec/2 and 2·symprec too, and flag structures whose
    space group moves; it triples the cost.
    max_sites: structures with more sites are refused.
    formula: "refuse" or "flag" a structure whose sites give another composition than its stated formula.
    overlaps: "refuse" or "flag" atoms closer than 0.5 Å (0.3 Å where one is hydrogen) whose occupancies add
    up to more than 1.
    assume_periodic: encode an input that says it is a molecule, chain or layer as the crystal of its cell.
    moyo_forms: the forms whose symmetry is moyo's; the others take spglib's.
    """

    symprec: float = 0.01
    angle_tolerance: float = 5.0
    forms: tuple[str, ...] = ("canonical",)
    check_tolerance: bool = False
    max_sites: int = 5000
    formula: Judgement = "refuse"
    overlaps: Judgement = "refuse"
    assume_periodic: bool = False
    moyo_forms: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 < self.symprec <= 1:
            raise CloudError(f"symprec is in Å, above 0 and at most 1, not {self.symprec}")
        if unknown := [form for form in self.forms if form not in FORMS]:
            raise CloudError(f"unknown form {unknown[0]!r}: choose from {', '.join(FORMS)}")
        for name in ("formula", "overlaps"):
            if getattr(self, name) not in get_args(Judgement):
                raise CloudError(f"{name} is refuse or flag, not {getattr(self, name)!r}")
        object.__setattr__(self, "moyo_forms", tuple(form for form in self.forms if form in _MOYO_FORMS))


SETTINGS = tuple(each.name for each in fields(EncoderSettings) if each.init)


def settings_of(values: Mapping[str, Any]) -> EncoderSettings:
    """Settings from texts or YAML values: "0.05" is a number, "true" a truth value.

    Raises CloudError naming the setting that does not exist or whose value is not of its kind.
    """
    from pydantic import TypeAdapter, ValidationError

    if unknown := sorted(values.keys() - {*SETTINGS}):
        raise CloudError(f"no setting {unknown[0]!r}: choose from {', '.join(sorted(SETTINGS))}")
    try:
        return TypeAdapter(EncoderSettings).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        name = f"setting {first['loc'][0]}: " if first["loc"] else ""
        raise CloudError(f"{name}{first['msg'].removeprefix('Value error, ')}") from error


@cache
def fingerprint(settings: EncoderSettings) -> str:
    """What the strings depend on, hashed: encoder version, settings, versions of the libraries."""
    # The canonical form comes with the resolved one.
    forms = {*settings.forms, "canonical"} if "resolved" in settings.forms else {*settings.forms}
    # `max_sites` decides whether there is a string, not which one.
    facts: dict[str, Any] = {name: getattr(settings, name) for name in SETTINGS if name != "max_sites"}
    facts |= {
        "encoder": ENCODER_VERSION,
        "engines": {"canonical": "moyo", "official": "spglib"},
        "forms": sorted(forms),
        "libraries": {name: version(name) for name in ("spglib", "moyopy", "gemmi", "pymatgen", "numpy")},
    }
    return json_digest(facts)[:16]
