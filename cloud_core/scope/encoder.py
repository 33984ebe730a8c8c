"""Structure in, SCOPE out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cloud_core.scope.canonical import canonical_head
from cloud_core.scope.checks import checked
from cloud_core.scope.kinds import Kinds, canonical_composition, element_of, fraction_text
from cloud_core.scope.resolved import key_and_head
from cloud_core.scope.settings import EncoderSettings
from cloud_core.scope.symmetry import moyo_symmetry, spglib_symmetry
from cloud_core.scope.tables import ATOMIC_NUMBERS, ISOTOPES, space_groups
from cloud_core.structures.cell import Cell, Note
from cloud_core.structures.errors import READER_FLAGS, Reason, StructureError


@dataclass(frozen=True, slots=True)
class Scope:
    """The SCOPE strings of one structure and what they were made of.

    A form that was not asked for is None; the canonical one comes with the resolved one.

    space_group: the true one by moyo; by spglib where only official forms were asked for.
    space_group_official: spglib's, where an official form was asked for.
    wyckoff: the symbols of the canonical string (of the official one where that alone was asked for).
    composition: element → unrounded fraction.
    n_sites: sites of the input cell; n_atoms_primitive and n_atoms_conventional: sites of moyo's
        standard cells, None where only official forms were asked for.
    flags: what a reader of the string should know, out of `FLAGS`. message: the words of those flags that
    have some.
    """

    canonical: str | None
    resolved: str | None
    official: str | None
    full: str | None
    element_key: str | None
    space_group: int
    space_group_official: int | None
    wyckoff: tuple[str, ...]
    composition: Mapping[str, float]
    n_sites: int
    n_atoms_primitive: int | None
    n_atoms_conventional: int | None
    flags: tuple[str, ...]
    message: str = ""


FLAGS = READER_FLAGS | {
    "disordered": "a site holds more than one element, or less than a whole atom",
    "zero_fraction": 'an element\'s fraction rounds to "0.0"',
    "not_in_vocabulary": "the published vocabulary lacks an element; it falls apart into word pieces",
    "engines_disagree": "spglib and moyo see another space group",
    "tolerance_sensitive": "the space group or a letter moves at symprec/2 or 2·symprec",
    "tolerance_changed": "the symmetry engine found a symmetry at another tolerance than symprec alone",
    "overlapping_sites": "atoms are closer than 0.5 Å (hydrogen: 0.3 Å)",
    "official_missing": "an official form was asked for and is not there",
    "label_left_out": "a label of the source is not a finite number",
}


def encode(
    structure: Any, forms: Sequence[str] = ("canonical",), settings: EncoderSettings | None = None
) -> Scope:
    """The SCOPE of one structure.

    structure: content as text or bytes; a `Path` of a file; a JSON object; a pymatgen Structure; ASE Atoms; a
    Cell. A text is never taken for a path.
    forms: what to compute, out of "canonical", "resolved", "official", "full". settings: tolerances; its own
    `forms` rule where forms are left at the default. Raises StructureError with a reason code for a
    structure that cannot be read or has no symmetry at the tolerance, and for an input of several structures.
    """
    from cloud_core.structures.formats import read

    return encode_cell(
        structure if isinstance(structure, Cell) else read(structure), _settings(forms, settings)
    )


def encode_all(
    structures: Any, forms: Sequence[str] = ("canonical",), settings: EncoderSettings | None = None
) -> Iterator[tuple[str, Scope | StructureError]]:
    """(name, SCOPE or why it was refused) of each structure of an input, in order.

    structures, forms, settings: as of `encode`. The name is "" for a single structure, `#name` of a CIF's
    block, `#index` (from 0) of a frame, a list's item or a line. Raises StructureError where nothing can be
    read.
    """
    from cloud_core.structures.formats import read_all

    settings = _settings(forms, settings)
    for name, cell in read_all(structures):
        if isinstance(cell, StructureError):
            yield name, cell
            continue
        try:
            yield name, encode_cell(cell, settings)
        except StructureError as error:
            yield name, error


def _settings(forms: Sequence[str], settings: EncoderSettings | None) -> EncoderSettings:
    if isinstance(forms, str):
        raise TypeError(f"forms is a tuple of names: forms=({forms!r},)")
    if isinstance(forms, EncoderSettings):
        raise TypeError("settings go by name: encode(structure, settings=EncoderSettings(…))")
    if settings is None:
        return EncoderSettings(forms=tuple(forms))
    return settings if tuple(forms) == ("canonical",) else replace(settings, forms=tuple(forms))


def encode_cell(cell: Cell, settings: EncoderSettings) -> Scope:
    """The SCOPE of a cell; see `encode`."""
    kinds, notes = checked(cell, settings)
    if cell.alternatives:
        _check_alternatives(cell, settings)
        notes = tuple(note for note in notes if note.flag != "ambiguous_setting")
    flags = list(kinds.flags)
    canonical = resolved = official = full = key = official_group = n_primitive = n_conventional = None
    wyckoff: tuple[str, ...] = ()
    if settings.moyo_forms:
        composition = canonical_composition(kinds.fractions)
        symmetry = moyo_symmetry(cell, kinds.numbers, settings.symprec)
        notes += symmetry.notes
        n_primitive = symmetry.n_primitive
        n_conventional = n_primitive * space_groups()[symmetry.number].lattice_points
        head, wyckoff = canonical_head(symmetry.number, frozenset(symmetry.letters))
        canonical = head + composition
        key, resolved_head = key_and_head(symmetry.number, symmetry.occupation(kinds.names))
        resolved = resolved_head + composition if "resolved" in settings.forms else None
        if settings.check_tolerance and _is_sensitive(cell, kinds, settings, symmetry.number, canonical):
            flags.append("tolerance_sensitive")
    if "official" in settings.forms or "full" in settings.forms:
        try:
            found = spglib_symmetry(cell, _official_numbers(cell), settings.symprec, settings.angle_tolerance)
        except StructureError as error:
            if canonical is None:
                raise
            return without_official(
                encode_cell(cell, replace(settings, forms=settings.moyo_forms)), str(error)
            )
        official_group = found.number
        group = space_groups()[found.number]
        if "official" in settings.forms:
            unique = " ".join([group.symbols[letter] for letter in dict.fromkeys(found.letters)])
            official = f"{group.generators} | {unique} | {_official_composition(cell)}"
        if "full" in settings.forms:
            symbols = " ".join([group.symbols[letter] for letter in found.letters])
            full = f"{group.generators} | {symbols} | {' '.join(_site_elements(cell))}"
        if canonical is None:
            symmetry = found
            wyckoff = tuple(group.symbols[letter] for letter in sorted(set(found.letters)))
        elif symmetry.number != found.number:
            flags.append("engines_disagree")
    if kinds.flags:
        notes += _notes_of_kinds(cell, kinds, notes)
    message = ""
    if notes:
        flags = [*dict.fromkeys([*flags, *[note.flag for note in notes]])]
        message = "; ".join([note.text for note in notes])
    return Scope(
        canonical, resolved, official, full, key, symmetry.number, official_group, wyckoff, kinds.fractions,
        len(cell.species), n_primitive, n_conventional, tuple(flags), message,
    )  # fmt: skip


def _notes_of_kinds(cell: Cell, kinds: Kinds, notes: Sequence[Note]) -> tuple[Note, ...]:
    """Words for flags of the sites' species."""
    found: tuple[Note, ...] = ()
    if "isotope" in kinds.flags and all(note.flag != "isotope" for note in notes):
        found += (Note("isotope", "D or T is written as H"),)
    if "disordered" in kinds.flags:
        mixed = sum(name not in ATOMIC_NUMBERS for name in kinds.names)
        found += (Note("disordered", f"mixed or partly occupied sites: {mixed} of {len(cell)}"),)
    return found


def without_official(scope: Scope, why: str) -> Scope:
    """The other forms of a structure whose official forms were asked for and cannot be had."""
    return replace(
        scope,
        flags=(*scope.flags, "official_missing"),
        message="; ".join(filter(None, [scope.message, f"no official form: {why}"])),
    )


def _check_alternatives(cell: Cell, settings: EncoderSettings) -> None:
    """Raise StructureError where the readings of an input are not one crystal by the element-resolved key."""
    settings = replace(settings, forms=("canonical",), check_tolerance=False)
    keys = set()
    for reading in (replace(cell, alternatives=()), *cell.alternatives):
        try:
            keys.add(encode_cell(reading, settings).element_key)
        except StructureError as error:
            keys.add(str(error))
    if len(keys) > 1:
        note = next((note for note in cell.notes if note.flag in _SEVERAL_READINGS), None)
        if note is None:
            note = Note("ambiguous_setting", f"{len(keys)} readings, which are different crystals")
        raise StructureError(_SEVERAL_READINGS[note.flag], note.text)


# Notes of an input that has several readings, and the reason where these are several crystals.
_SEVERAL_READINGS = {
    "ambiguous_setting": Reason.AMBIGUOUS_SETTING,
    "symmetry_contradicted": Reason.CONTRADICTORY_SYMMETRY,
}


def _is_sensitive(cell: Cell, kinds: Kinds, settings: EncoderSettings, number: int, canonical: str) -> bool:
    """Whether the space group or the string moves at half or double the tolerance."""
    for symprec in (settings.symprec / 2, settings.symprec * 2):
        try:
            symmetry = moyo_symmetry(cell, kinds.numbers, symprec)
        except StructureError:
            return True
        head, _ = canonical_head(symmetry.number, frozenset(symmetry.letters))
        if symmetry.number != number or not canonical.startswith(head):
            return True
    return False


def _official_numbers(cell: Cell) -> list[int]:
    """Species numbered by first appearance, as the published route does."""
    numbers = {label: i for i, label in enumerate(dict.fromkeys(cell.species), start=1)}
    return [numbers[label] for label in cell.species]


def _official_composition(cell: Cell) -> str:
    """Elements in order of appearance; fractions in the order of arithmetic of pymatgen's Composition."""
    totals: dict[str, float] = {}
    if cell.occupancies is None:
        for species in cell.species:
            totals[species] = totals.get(species, 0.0) + 1.0
    else:
        for occupancy in cell.occupancies:
            for species, amount in occupancy.items():
                totals[species] = totals.get(species, 0.0) + amount
    total = sum(totals.values())
    fractions: dict[str, float] = {}
    for species, amount in totals.items():
        element = _published_symbol(species if cell.occupancies is None else element_of(species))
        fractions[element] = fractions.get(element, 0.0) + amount / total
    return " ".join([f"{element} {fraction_text(x)}" for element, x in fractions.items()])


def _site_elements(cell: Cell) -> Sequence[str]:
    """The element of each site; the first one of a mixture."""
    if cell.occupancies is None:
        return [_published_symbol(species) for species in cell.species]
    return [_published_symbol(element_of(next(iter(occupancy)))) for occupancy in cell.occupancies]


def _published_symbol(element: str) -> str:
    """The published encoder writes D and T as H."""
    return ISOTOPES.get(element, element)
