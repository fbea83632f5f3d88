"""The parameters of the functions that may be called, for dialects that write values without types."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, cast

from api.parsing import python_values
from api.parsing.arriving_text import Malformed
from api.parsing.source import Source
from penstock.contract import schema_types
from penstock.foreign import parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STRING: Final = "string"

_PYTHON: Final = {"True": "true", "False": "false", "None": "null"}


def types_of(schema: Mapping[str, Any] | None) -> dict[str, list[str]]:
    """Return the parameters of a function and the JSON types that each allows; [] is any."""
    root = schema or {}
    properties = schema_types.resolved(root, root).get("properties")
    if not isinstance(properties, dict):
        return {}
    named = cast("dict[str, Any]", properties)
    return {
        name: sorted(schema_types.of_schema(inner, root) or ()) for name, inner in named.items()
    }


def as_json(text: str, types: Sequence[str] | None) -> str:
    """Return the JSON of a value that was written without quotes, as its parameter's types read it.

    Text that is not JSON of an allowed type is a string, whatever the schema demands: the
    client sees what the model wrote. Python's words for true, false and null are understood, and
    its lists and dicts for a parameter that is no string.
    """
    raw = text.strip()
    raw = _PYTHON.get(raw, raw)
    quoted = json.dumps(text, ensure_ascii=False)
    try:
        value = parse_json(raw)
    except ValueError:
        return _of_python(raw, types) or quoted
    if isinstance(value, str) and (not types or STRING in types):
        return quoted
    if types and not set(schema_types.of_value(value)) & set(types):
        return quoted
    return raw


def _of_python(raw: str, types: Sequence[str] | None) -> str:
    """Return the JSON of a list or a dict of Python's, which some templates write; else nothing."""
    if not types or STRING in types or not raw.startswith(("[", "{")):
        return ""
    source, pieces = Source(), list[str]()
    source.feed(raw)
    source.ended = True
    try:
        for _ in python_values.value(source, pieces.append):
            pass
    except Malformed:
        return ""
    return "" if source.unread.strip() else "".join(pieces)
