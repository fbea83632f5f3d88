"""Keywords of JSON schemas that no grammar enforces: omitted and reported, or refused if strict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from collections.abc import Iterator

_NEVER: Final = frozenset(
    {
        "contains", "dependencies", "dependentRequired", "dependentSchemas", "else", "if",
        "maxContains", "minContains", "not", "propertyNames", "then", "unevaluatedItems",
        "unevaluatedProperties", "uniqueItems",
    }
)  # fmt: skip
"""Keywords that llguidance ignores in a schema that is not strict."""

_FORMATS: Final = frozenset(
    {
        "date",
        "date-time",
        "duration",
        "email",
        "hostname",
        "ipv4",
        "ipv6",
        "time",
        "uri",
        "unknown",
        "uuid",
    }
)
"""Values of `format` that llguidance enforces."""

_GROUPS: Final = ("?=", "?!", "?<=", "?<!")
_BY_NAME: Final = frozenset(
    {"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"}
)
_VALUES: Final = frozenset({"const", "default", "enum", "examples"})
"""Keywords whose value is data, not a schema."""

MOST: Final = 16
"""Most keywords that are reported."""


def unenforced(schema: Any) -> list[str]:
    """Return the paths of omitted keywords, such as `properties.email.pattern`; at most `MOST`."""
    paths: list[str] = []
    for path, keywords in _schemas(schema):
        for key, value in keywords.items():
            if len(paths) >= MOST:
                return paths
            names = [key]
            if key == "patternProperties" and isinstance(value, dict):
                patterns = cast("dict[str, Any]", value)
                names = [
                    f"{key}.{pattern_[:40]}" for pattern_ in patterns if needs_look_around(pattern_)
                ]
            elif not _is_left_out(key, value):
                names = []
            paths += [".".join((*path, name)) for name in names]
    return paths[:MOST]


def enforceable(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema without patterns that use look-around: no grammar can express them."""
    return cast("dict[str, Any]", _without(schema, is_schema=True))


def needs_look_around(pattern: object) -> bool:
    """Return whether a regular expression has look-around, a word boundary or a back-reference."""
    if not isinstance(pattern, str):
        return False
    position, in_class = 0, False
    while position < len(pattern):
        character = pattern[position]
        if character == "\\":
            following = pattern[position + 1 : position + 2]
            if (
                not in_class
                and (following in ("b", "B", "k") or following in "123456789")
                and following
            ):
                return True
            position += 2
            continue
        if in_class:
            in_class = character != "]"
        elif character == "[":
            in_class = True
        elif character == "(" and pattern.startswith(_GROUPS, position + 1):
            return True
        position += 1
    return False


def _is_left_out(key: str, value: object) -> bool:
    if key == "pattern":
        return needs_look_around(value)
    if key == "format":
        return isinstance(value, str) and value not in _FORMATS
    return key in _NEVER and value is not False


def _schemas(schema: Any) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yield each schema within a schema, with its path."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), schema)]
    while waiting:
        path, value = waiting.pop(0)
        if isinstance(value, list):
            members = enumerate(cast("list[Any]", value))
            waiting += [((*path, str(number)), member) for number, member in members]
            continue
        if not isinstance(value, dict):
            continue
        keywords = cast("dict[str, Any]", value)
        yield path, keywords
        for key, inner in keywords.items():
            if key in _BY_NAME and isinstance(inner, dict):
                named = cast("dict[str, Any]", inner)
                waiting += [((*path, key, name), member) for name, member in named.items()]
            elif key not in _VALUES:
                waiting.append(((*path, key), inner))


def _without(value: Any, *, is_schema: bool) -> Any:
    if isinstance(value, list):
        return [_without(member, is_schema=is_schema) for member in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    keywords = cast("dict[str, Any]", value)
    if not is_schema:
        return {name: _without(inner, is_schema=True) for name, inner in keywords.items()}
    keywords_left: dict[str, Any] = {
        key: inner
        for key, inner in keywords.items()
        if key != "pattern" or not needs_look_around(inner)
    }
    patterns = keywords_left.get("patternProperties")
    if isinstance(patterns, dict):
        named = cast("dict[str, Any]", patterns)
        enforced: dict[str, Any] = {
            name: inner for name, inner in named.items() if not needs_look_around(name)
        }
        if len(enforced) < len(named):  # properties of such names may come
            keywords_left["patternProperties"] = enforced
            keywords_left["additionalProperties"] = True
    return {
        key: inner if key in _VALUES else _without(inner, is_schema=key not in _BY_NAME)
        for key, inner in keywords_left.items()
    }
