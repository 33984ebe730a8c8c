"""`open_source`: from a path, a name or a configuration to a source."""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from pydantic import ValidationError

from cloud_core.sources.files import TAR, FilesSpec
from cloud_core.sources.materials_project import MaterialsProjectSpec
from cloud_core.sources.opening import COMPRESSIONS, locate, open_bytes
from cloud_core.sources.optimade import OptimadeSpec
from cloud_core.sources.record import Source, SourceError
from cloud_core.sources.remote import SecretLookup, from_environment
from cloud_core.sources.sets import SetSpec, catalogue
from cloud_core.sources.tables import TableSpec
from cloud_core.sources.validation import explain

AnySpec = FilesSpec | TableSpec | SetSpec | MaterialsProjectSpec | OptimadeSpec
_KINDS: dict[str, type[AnySpec]] = {
    "files": FilesSpec,
    "table": TableSpec,
    "set": SetSpec,
    "materials_project": MaterialsProjectSpec,
    "optimade": OptimadeSpec,
}


def open_source(spec: str | Mapping[str, Any], secrets: SecretLookup = from_environment) -> Source:
    """The source that `spec` names.

    Args:
        secrets: finds a key by its name, when a source needs one (`MP_API_KEY`).
        spec: a path or fsspec URI (a folder, glob, archive, structure file or table), the name of a public
            set (`matbench:phonons`), or a mapping `{"kind": …}` as in docs/sources.md.

    Raises:
        SourceError: the kind is unknown, a key is wrong, or the path cannot be opened.
    """
    return parse_spec(spec).open(secrets)


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
    lower = text.lower()
    for suffix in (*COMPRESSIONS, ".zip"):
        lower = lower.removesuffix(suffix)
    suffix = PurePosixPath(lower).suffix
    is_glob = any(c in text for c in "*?[")
    if is_glob or suffix not in (".csv", ".jsonl", ".ndjson", ".json", ".parquet", ".pq"):
        fs, path = locate(text)
        if not is_glob and not fs.exists(path):
            raise SourceError(
                f"{text}: no such file or folder, and no public set of that name ({', '.join(catalogue())})"
            )
        return {"kind": "files", "path": text}
    if suffix == ".json" and not text.lower().endswith(TAR) and _is_one_structure(text):
        return {"kind": "files", "path": text}
    return {"kind": "table", "path": text}


def _is_one_structure(path: str) -> bool:
    """Whether a JSON file is one pymatgen structure and no table: its first key tells."""
    with open_bytes(path) as stream:
        head = stream.read(4096)
    key = re.match(rb"""\s*\{\s*"([^"]+)\"""", head)
    return key is not None and (
        key[1].startswith(b"@") or key[1] in (b"lattice", b"sites", b"charge", b"properties")
    )
