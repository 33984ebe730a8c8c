"""`open_source`: from a path, a name or a configuration to a source."""

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import ValidationError

from cloud_core.config import explain
from cloud_core.sources.files import FilesSpec, holds_structures, is_sidecar
from cloud_core.sources.materials_project import MaterialsProjectSpec
from cloud_core.sources.opening import locate, open_text
from cloud_core.sources.optimade import OptimadeSpec
from cloud_core.sources.part import Part
from cloud_core.sources.record import Source, SourceError
from cloud_core.sources.remote import SecretLookup, from_environment
from cloud_core.sources.sets import SetSpec, catalogue
from cloud_core.sources.shards import format_by_name
from cloud_core.sources.tables import IDS, TableSpec
from cloud_core.structures.json_text import Scanner, is_structure, members_of

AnySpec = FilesSpec | TableSpec | SetSpec | MaterialsProjectSpec | OptimadeSpec
_HEAD = 1 << 18  # characters of a JSON file that tell what it holds
_KINDS: dict[str, type[AnySpec]] = {spec.model_fields["kind"].default: spec for spec in get_args(AnySpec)}


def open_source(spec: str | Mapping[str, Any], secrets: SecretLookup = from_environment) -> Source:
    """The source that `spec` names.

    Args:
        secrets: finds a key by its name, when a source needs one (`MP_API_KEY`).
        spec: a path or fsspec URI (a folder, glob, archive, structure file or table), the name of a public
            set (`matbench:phonons`), or a mapping `{"kind": …}` as in docs/sources.md.

    Raises:
        SourceError: the kind is unknown, a key is wrong, or the path cannot be opened.
    """
    checked = parse_spec(spec)
    source = checked.open(secrets)
    return source if checked.limit is checked.sample is None else Part(source, checked.limit, checked.sample)


def parse_spec(spec: str | Mapping[str, Any]) -> AnySpec:
    """`open_source` without opening: the checked configuration."""
    values = _from_text(spec) if isinstance(spec, str) else dict(spec)
    if values.get("kind") not in _KINDS:
        raise SourceError(f"unknown kind of source {values.get('kind')!r}; there are: {', '.join(_KINDS)}")
    kind = _KINDS[values["kind"]]
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        name = values.get("name") or values.get("path") or values["kind"]
        raise SourceError(f"source {name}: {explain(error, kind)}") from error


def _from_text(text: str) -> dict[str, Any]:
    if not text.strip():
        raise SourceError("an empty source; give a path, a name or a configuration")
    family = text.partition(":")[0]
    if text in catalogue() or (":" in text and any(name.partition(":")[0] == family for name in catalogue())):
        return {"kind": "set", "set": text}
    format = format_by_name(text)
    is_glob = any(c in text for c in "*?[")
    if is_glob and format in ("parquet", "csv"):
        return {"kind": "table", "path": text}
    if is_glob or format is None:
        fs, path = locate(text)
        if not is_glob and not fs.exists(path):
            raise SourceError(
                f"{text}: no such file or folder, and no public set of that name ({', '.join(catalogue())})"
            )
        is_table = not is_glob and fs.isdir(path) and _is_table_folder(text)
        return {"kind": "table" if is_table else "files", "path": text}
    is_json = format in ("json", "jsonl") and not text.lower().endswith(".zip")
    if is_json and _holds_structures(text):
        return {"kind": "files", "path": text}
    return {"kind": "table", "path": text}


def _is_table_folder(path: str) -> bool:
    """Whether a folder is a Delta table, or holds Parquet or CSV files and no structures."""
    fs, plain = locate(path)
    if fs.exists(f"{plain.rstrip('/')}/_delta_log"):
        return True
    is_table = False
    for folder, _, files in fs.walk(plain):  # a folder of structures is told by its first one
        names = [name for name in files if not is_sidecar(f"{folder}/{name}")]
        if any(map(holds_structures, names)):
            return False
        is_table |= any(format_by_name(name) in ("parquet", "csv") for name in names)
    return is_table


def _holds_structures(path: str) -> bool:
    """Whether a JSON file (or JSON lines) is of structures and no table: the first object in its head tells.

    An object of a structure that has a column of ids beside it is a row of a table.
    """
    with open_text(path) as text:
        head = text.read(_HEAD)
    members = members_of(head) if Scanner.of(head).peek() == "{" else members_of(_inside(head))
    for key in ("entries", "data", "structures"):
        if not is_structure(members) and members.get(key, "")[:1] == "[":
            members = members_of(_inside(members[key]))
    if members.get("structure", "")[:1] == "{" or members.get("atoms", "")[:1] == "{":
        return "@class" in members  # a ComputedStructureEntry; else a row with a column of structures
    is_row = any(name in members for name in IDS) and "attributes" not in members
    return is_structure(members) and not is_row


def _inside(text: str) -> str:
    """What is in a list, from its first element on."""
    return text.partition("[")[2]
