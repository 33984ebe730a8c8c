"""The keys of a configuration, as a list to read."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

_MOST = 40  # characters of a default


def keys_of(schema: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """(key, type, default, description) of each key of a JSON schema; those of a section after it, `a.b`."""
    definitions = schema.get("$defs", {})
    required = set(schema.get("required", ()))
    for name, given in schema.get("properties", {}).items():
        kinds = [_resolved(option, definitions) for option in given.get("anyOf", [given])]
        default = "required" if name in required else _default(given)
        meaning = " ".join(str(given.get("description", "")).split())
        yield f"{prefix}{name}", " or ".join(dict.fromkeys(map(_kind, kinds))), default, meaning
        for section in kinds:
            if "properties" in section:
                yield from keys_of({**section, "$defs": definitions}, f"{prefix}{name}.")


def _resolved(option: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = option.get("$ref") or next((each.get("$ref") for each in option.get("allOf", ())), None)
    return definitions[reference.rpartition("/")[2]] if reference else option


def _kind(option: Mapping[str, Any]) -> str:
    if "enum" in option or "const" in option:
        return "|".join(map(str, option.get("enum", [option.get("const")])))
    if "properties" in option:
        return "section"
    return {"array": "list", "object": "mapping"}.get(option.get("type", "any"), option.get("type", "any"))


def _default(given: Mapping[str, Any]) -> str:
    if "default" not in given or isinstance(given["default"], dict):
        return ""
    text = json.dumps(given["default"], ensure_ascii=False)
    return text if len(text) <= _MOST else text[: _MOST - 1] + "…"
