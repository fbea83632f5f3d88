"""Keywords of JSON schemas that no grammar enforces: left out, and named, unless a schema is strict."""

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
"""What llguidance ignores in a schema that is not strict."""

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
"""Those of `format` that it knows."""

_GROUPS: Final = ("?=", "?!", "?<=", "?<!")
_BY_NAME: Final = frozenset(
    {"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"}
)
_VALUES: Final = frozenset({"const", "default", "enum", "examples"})
"""Keywords that hold a value, not a schema."""

MOST: Final = 16
"""Keywords that are named; more are not looked for."""


def unenforced(schema: Any) -> list[str]:
    """Return where keywords stand that are left out: `properties.email.pattern`; at most `MOST`."""
    found: list[str] = []
    for path, keywords in _schemas(schema):
        for key, value in keywords.items():
            if len(found) >= MOST:
                return found
            names = [key]
            if key == "patternProperties" and isinstance(value, dict):
                patterns = cast("dict[str, Any]", value)
                names = [f"{key}.{one[:40]}" for one in patterns if needs_look_around(one)]
            elif not _is_left_out(key, value):
                names = []
            found += [".".join((*path, name)) for name in names]
    return found[:MOST]


def enforceable(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema without patterns that need looking around: no grammar could be made of it."""
    return cast("dict[str, Any]", _without(schema, is_schema=True))


def needs_look_around(pattern: object) -> bool:
    """Whether a regular expression looks around, at a word's edge, or back at a group."""
    if not isinstance(pattern, str):
        return False
    place, in_class = 0, False
    while place < len(pattern):
        character = pattern[place]
        if character == "\\":
            following = pattern[place + 1 : place + 2]
            if (
                not in_class
                and (following in ("b", "B", "k") or following in "123456789")
                and following
            ):
                return True
            place += 2
            continue
        if in_class:
            in_class = character != "]"
        elif character == "[":
            in_class = True
        elif character == "(" and pattern.startswith(_GROUPS, place + 1):
            return True
        place += 1
    return False


def _is_left_out(key: str, value: object) -> bool:
    if key == "pattern":
        return needs_look_around(value)
    if key == "format":
        return isinstance(value, str) and value not in _FORMATS
    return key in _NEVER and value is not False


def _schemas(schema: Any) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yield each schema within a schema, and where it stands."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), schema)]
    while waiting:
        path, value = waiting.pop(0)
        if isinstance(value, list):
            members = enumerate(cast("list[Any]", value))
            waiting += [((*path, str(place)), member) for place, member in members]
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
    kept: dict[str, Any] = {
        key: inner
        for key, inner in keywords.items()
        if key != "pattern" or not needs_look_around(inner)
    }
    patterns = kept.get("patternProperties")
    if isinstance(patterns, dict):
        named = cast("dict[str, Any]", patterns)
        known: dict[str, Any] = {
            name: inner for name, inner in named.items() if not needs_look_around(name)
        }
        if len(known) < len(named):  # properties of such names may come
            kept["patternProperties"] = known
            kept["additionalProperties"] = True
    return {
        key: inner if key in _VALUES else _without(inner, is_schema=key not in _BY_NAME)
        for key, inner in kept.items()
    }
