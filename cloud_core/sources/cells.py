"""The structures in one cell of a table, as text for the reader."""

import io
import json
import re
from collections.abc import Iterator
from typing import Any

from cloud_core.sources.json_rows import JsonText
from cloud_core.structures.cell import Cell
from cloud_core.structures.errors import Reason, StructureError
from cloud_core.structures.formats import DOCUMENTS, format_of_text, split_text
from cloud_core.structures.text import check_size, text_of

_LITERAL = re.compile(r"[\s\[{]*'")
_TOKEN = re.compile(
    r"""'[^'\\\n]*+(?:\\.[^'\\\n]*+)*+'"""  # strings in either quotes
    r"""|"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+\""""
    r"""|[\[\](){},:]|\s++|[^\s'"\[\](){},:]++"""
)
_IN_JSON = {"True": "true", "False": "false", "None": "null", "(": "[", ")": "]"}
_ESCAPE = re.compile(r"\\(x[\da-f]{2}|u[\da-f]{4}|U[\da-f]{8}|.)")
_CHARACTERS = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", "'": "'", '"': '"'}


def structures_in(value: Any, format: str | None) -> Iterator[tuple[str, str | Cell, str]]:
    """(suffix of the id, text, format) of each structure that a value of a table holds.

    value: text or bytes in any format, compressed or not; an object or a list of objects. format: None to
    tell by each value. Nothing and an empty text hold none.

    Raises StructureError where the value is none, or above the limit.
    """
    if value is None:
        return
    if isinstance(value, bytes):
        value = text_of(io.BytesIO(value), "a cell of the table")
    elif isinstance(value, dict | list):
        value = JsonText(_dumped(value))
    if not isinstance(value, str):
        raise StructureError(
            Reason.UNKNOWN_FORMAT, f"a structure is text or a JSON object, not {type(value).__name__}"
        )
    if not value or value.isspace():
        return
    check_size(value)
    if isinstance(value, JsonText):
        value, told = str(value), "json"
    elif _LITERAL.match(value) and value.lstrip()[:1] in ("{", "["):
        value, told = _literal(value), "json"
    else:
        told = format or format_of_text(value)
    if told == "json" and format in DOCUMENTS:
        told = format
    yield from split_text(value, told)


def _dumped(value: Any) -> str:
    try:
        return json.dumps(value, default=str)
    except (ValueError, TypeError, RecursionError) as error:
        raise StructureError(Reason.PARSE_ERROR, f"structure JSON: {str(error)[:80]}") from error


def _literal(text: str) -> str:
    """The JSON of a Python literal, as `str(dict)` writes it (matminer's CSV files): token by token, so that
    nothing is evaluated and depth costs nothing."""
    written = io.StringIO()
    comma = ""
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            message = f"neither JSON nor a Python literal: {text[at : at + 20]!r}"
            raise StructureError(Reason.PARSE_ERROR, message)
        token, at = found[0], found.end()
        if token == "," and not comma:
            comma = token
        elif not token.isspace():
            if token[0] in "'\"":
                token = json.dumps(_ESCAPE.sub(_unescaped, token[1:-1]))
            written.write("" if token in (")", "]", "}") else comma)  # none after the last element
            written.write(_IN_JSON.get(token, token))
            comma = ""
    return written.getvalue()


def _unescaped(found: re.Match[str]) -> str:
    kind = found[1]
    if len(kind) > 1:
        return chr(min(int(kind[1:], 16), 0x10FFFF))
    return _CHARACTERS.get(kind, found[0])
