"""JSON schemas in the form in which they are enforced."""

from __future__ import annotations

from typing import Any, Final, cast

_BY_NAME: Final = ("properties", "$defs", "definitions")
_SINGLE: Final = ("items", "additionalProperties")
_LISTS: Final = ("prefixItems", "anyOf", "oneOf")
_LAID_ON: Final = frozenset(
    {"allOf", "dependentSchemas", "if", "minProperties", "propertyNames", "unevaluatedProperties"}
)
"""Keywords that may allow other properties, or require more than are named."""
_OF_AN_OBJECT: Final = frozenset(
    {"$schema", "description", "properties", "required", "title", "type"}
)
_BESIDE: Final = frozenset({"$ref", "anyOf", "not", "oneOf"})
"""Keywords that do so in addition to `properties`."""


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema whose objects have only the properties that it names.

    Whatever fits it also fits `schema`. An explicit `additionalProperties` is respected, and a
    schema that combines schemas is left as it is. Without this, a confused model invents properties
    until its tokens run out; vLLM and llama.cpp interpret schemas in the same way.
    """
    return schema if is_laid_on(schema) else cast("dict[str, Any]", _closed(schema))


def names_nothing(schema: dict[str, Any]) -> bool:
    """Return whether a function's parameters are an object without any properties."""
    return not schema or (schema.get("properties") == {} and schema.keys() <= _OF_AN_OBJECT)


def is_laid_on(schema: object) -> bool:
    """Return whether a schema, or one within it, combines schemas."""
    if not isinstance(schema, dict):
        return False
    keywords = cast("dict[str, object]", schema)
    if _LAID_ON & keywords.keys() or ("properties" in keywords and _BESIDE & keywords.keys()):
        return True
    return any(map(is_laid_on, _parts(keywords)))


def _parts(schema: dict[str, object]) -> list[object]:
    parts = [schema[key] for key in _SINGLE if key in schema]
    for key in _LISTS:
        if isinstance(members := schema.get(key), list):
            parts += cast("list[object]", members)
    for key in _BY_NAME:
        if isinstance(named := schema.get(key), dict):
            parts += cast("dict[str, object]", named).values()
    return parts


def _closed(schema: object) -> object:
    if not isinstance(schema, dict):
        return schema
    keywords = dict(cast("dict[str, object]", schema))
    for key in _SINGLE:
        if key in keywords:
            keywords[key] = _closed(keywords[key])
    for key in _LISTS:
        if isinstance(members := keywords.get(key), list):
            keywords[key] = [_closed(member) for member in cast("list[object]", members)]
    for key in _BY_NAME:
        if isinstance(named := keywords.get(key), dict):
            members_by_name = cast("dict[str, object]", named)
            keywords[key] = {name: _closed(member) for name, member in members_by_name.items()}
    if _may_close(keywords):
        keywords["additionalProperties"] = False
    return keywords


def _may_close(keywords: dict[str, object]) -> bool:
    named, required = keywords.get("properties"), keywords.get("required", [])
    if not isinstance(named, dict) or not isinstance(required, list) or not named:
        return False
    if keywords.keys() & {"additionalProperties", "patternProperties"}:
        return False
    return set(cast("list[str]", required)) <= set(cast("dict[str, object]", named))
