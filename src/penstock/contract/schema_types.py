"""The JSON types that a schema allows, as needed to read and write values without quotes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

_DEEPEST: Final = 8
"""Most nested references and alternatives that are followed."""

_TYPES: Final[Mapping[type, tuple[str, ...]]] = {
    bool: ("boolean",),
    int: ("integer", "number"),
    float: ("number",),
    str: ("string",),
    list: ("array",),
    dict: ("object",),
    type(None): ("null",),
}


def of_value(value: Any) -> tuple[str, ...]:
    """Return the JSON types of a value that Python's `json` has read."""
    kind = cast("type[Any]", type(value))
    return _TYPES.get(kind, ())


def of_schema(
    schema: Any, root: Mapping[str, Any] | None = None, depth: int = _DEEPEST
) -> set[str] | None:
    """Return the types that a schema within `root` allows; None for any type."""
    if not isinstance(schema, dict) or not depth:
        return None
    fields = resolved(cast("dict[str, Any]", schema), root or {})
    kind: Any = fields.get("type")
    if isinstance(kind, str):
        return {kind, *(("null",) if fields.get("nullable") is True else ())}
    if isinstance(kind, list):
        return {name for name in cast("list[Any]", kind) if isinstance(name, str)}
    if isinstance(fields.get("enum"), list):
        return {name for value in fields["enum"] for name in of_value(value)}
    if "const" in fields:
        return set(of_value(fields["const"]))
    return _of_alternatives(fields, root or {}, depth)


def resolved(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of `root` that the schema's `$ref` names; the schema itself if it has none."""
    for _ in range(_DEEPEST):
        reference = schema.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#/"):
            return schema
        target: Any = root
        for part in reference[2:].split("/"):
            key = part.replace("~1", "/").replace("~0", "~")
            target = cast("dict[str, Any]", target).get(key) if isinstance(target, dict) else None
        if not isinstance(target, dict):
            return schema
        schema = cast("dict[str, Any]", target)
    return schema


def _of_alternatives(
    fields: Mapping[str, Any], root: Mapping[str, Any], depth: int
) -> set[str] | None:
    for key in ("anyOf", "oneOf"):
        members = fields.get(key)
        if isinstance(members, list):
            parts = [of_schema(member, root, depth - 1) for member in cast("list[Any]", members)]
            return None if None in parts else set[str]().union(*(part or () for part in parts))
    return None
