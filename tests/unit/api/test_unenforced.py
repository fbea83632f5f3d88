"""Keywords that are left out of a form are reported, line by line."""

from __future__ import annotations

from typing import Any

from api.jobs.unenforced import unenforced_keywords
from penstock.contract.structure import (
    ChoiceStructure,
    EitherStructure,
    JsonStructure,
    ToolFunction,
    ToolStructure,
)

SCHEMA: dict[str, Any] = {"properties": {"mail": {"type": "string", "pattern": "^(?!x).+$"}}}
CALLS = ToolStructure((ToolFunction("f", SCHEMA), ToolFunction("g", SCHEMA, strict=True)))


def test_what_is_left_out_is_named_with_its_function() -> None:
    assert unenforced_keywords(CALLS) == ["tools: f: properties.mail.pattern is not enforced"]
    form = JsonStructure({"not": {}}, lenient=True)
    assert unenforced_keywords(form) == ["the schema: not is not enforced"]
    assert len(unenforced_keywords(EitherStructure(CALLS, form))) == 2


def test_what_is_strict_or_no_schema_is_not() -> None:
    for structure in (None, JsonStructure(SCHEMA), ChoiceStructure(("a",)), JsonStructure(True)):
        assert unenforced_keywords(structure) == []
