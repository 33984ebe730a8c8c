"""The structures in one cell of a table, as text for the reader."""

import ast
import io
import json
import re
from collections.abc import Iterator
from typing import Any

from cloud_core.sources.json_rows import JsonText
from cloud_core.structures.cell import Cell
from cloud_core.structures.errors import Reason, StructureError
from cloud_core.structures.formats import DOCUMENTS, format_of_text, split_text
from cloud_core.structures.text import check_size, decode, decompressed

_MAX_LITERAL = 1_000_000  # characters; the parser of Python takes some 200 bytes for each
_LITERAL = re.compile(r"[\s\[{]*'")


def structures_in(value: Any, format: str | None) -> Iterator[tuple[str, str | Cell, str]]:
    """(suffix of the id, text, format) of each structure that a value of a table holds.

    value: text or bytes in any format, compressed or not; an object or a list of objects. format: None to
    tell by each value. Nothing and an empty text hold none.

    Raises StructureError where the value is none, or above the limit.
    """
    if value is None:
        return
    if isinstance(value, bytes):
        value = decode(decompressed(io.BytesIO(value), "a cell of the table"))
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
    """The JSON of a Python literal, as `str(dict)` writes it (matminer's CSV files). Nothing but literals is
    evaluated."""
    if len(text) > _MAX_LITERAL:
        raise StructureError(
            Reason.TOO_LARGE, f"a Python literal of more than {_MAX_LITERAL} characters; write JSON"
        )
    try:
        return _dumped(ast.literal_eval(text.strip()))
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        if isinstance(error, StructureError):
            raise
        raise StructureError(
            Reason.PARSE_ERROR, f"neither JSON nor a Python literal: {str(error)[:80]}"
        ) from error
