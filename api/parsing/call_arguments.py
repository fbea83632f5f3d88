"""A call's arguments as an object, for protocols that do not hand out their text."""

from __future__ import annotations

from typing import Any, cast

from penstock.foreign import parse_json


def as_object(arguments: str) -> dict[str, Any]:
    """Return a call's arguments; what a cut-off answer has left of them is no object: {}."""
    try:
        value: object = parse_json(arguments or "{}")
    except ValueError:
        return {}
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
