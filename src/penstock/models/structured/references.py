"""Whether a JSON schema's references end: a schema that requires itself allows no text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_PASSES: Final = 50
"""Most passes over the references; real schemas need two. Beyond, the compiler decides."""
_ALTERNATIVES: Final = ("anyOf", "oneOf")


def is_endless(schema: object) -> bool:
    """Return whether a schema requires itself, so that every text of it would be infinite.

    References to other documents, or to nothing, are left to the compiler.
    """
    targets = {reference: _target(schema, reference) for reference in _references(schema)}
    if not targets:
        return False
    ends = dict.fromkeys(targets, False)
    for _ in range(MOST_PASSES):
        changed = False
        for reference, target in targets.items():
            if not ends[reference] and _ends(target, ends):
                ends[reference] = changed = True
        if not changed:
            return not _ends(schema, ends)
    return False


def _references(schema: object) -> list[str]:
    """Return a schema's local references, innermost first."""
    references: dict[str, None] = {}
    waiting = [schema]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            keywords = cast("dict[str, object]", value)
            reference = keywords.get("$ref")
            if isinstance(reference, str) and reference.startswith("#"):
                references[reference] = None
            waiting += keywords.values()
        elif isinstance(value, list):
            waiting += cast("list[object]", value)
    return list(reversed(references))


def _target(schema: object, reference: str) -> object:
    """Return the target of a local reference, or True (which allows anything) if there is none."""
    here: Any = schema
    for part in reference[1:].split("/")[1:]:
        key = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(here, dict) and key in here:
            here = cast("dict[str, object]", here)[key]
        elif isinstance(here, list) and re.fullmatch(r"[0-9]{1,9}", key):
            members = cast("list[object]", here)
            if int(key) >= len(members):
                return True
            here = members[int(key)]
        else:
            return True
    return here


def _ends(schema: object, ends: dict[str, bool]) -> bool:
    """Return whether some finite text fits, given what is known about the references."""
    if not isinstance(schema, dict):
        return True
    keywords = cast("dict[str, Any]", schema)
    if ends.get(str(keywords.get("$ref"))) is False:
        return False
    if not all(_ends(part, ends) for part in _needed(keywords)):
        return False
    return all(
        any(_ends(member, ends) for member in cast("list[object]", members))
        for key in _ALTERNATIVES
        if isinstance(members := keywords.get(key), list) and members
    )


def _needed(keywords: dict[str, Any]) -> Iterator[object]:
    """Yield the schemas of the parts that every text has."""
    members = keywords.get("allOf")
    if isinstance(members, list):
        yield from cast("list[object]", members)
    named, required = keywords.get("properties"), keywords.get("required")
    is_object = keywords.get("type", "object") == "object"
    if is_object and isinstance(named, dict) and isinstance(required, list):
        by_name = cast("dict[object, object]", named)
        names = cast("list[object]", required)
        yield from (by_name[name] for name in names if isinstance(name, str) and name in by_name)
    least = keywords.get("minItems", 0)
    is_array = keywords.get("type") == "array"
    if is_array and isinstance(least, int) and least > 0 and "prefixItems" not in keywords:
        yield keywords.get("items")
