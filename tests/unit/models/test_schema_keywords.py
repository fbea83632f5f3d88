"""Keywords that cannot be enforced: left out and named unless a schema is strict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from penstock.contract.schema_keywords import MOST, enforceable, needs_look_around, unenforced
from penstock.contract.structure import JsonStructure, ToolFunction, ToolStructure
from penstock.errors import InvalidParameter
from penstock.models.text.dialect import Dialect, Reasoning
from tests.unit.models.test_grammar import Vocabulary

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.models.structured.grammar import GrammarCompiler

ZOD_EMAIL = r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
EMAIL = {"type": "string", "format": "email", "pattern": ZOD_EMAIL}
CONTACT = {"type": "object", "properties": {"email": EMAIL}, "required": ["email"]}


@pytest.fixture(scope="module")
def words(tiny_llama: Path) -> Vocabulary:
    return Vocabulary(tiny_llama, Dialect("hermes"))


@pytest.mark.parametrize(
    ("pattern", "needs"),
    [
        (ZOD_EMAIL, True), ("(?<=a)b", True), ("(?<!a)b", True), (r"\bfoo", True), (r"(a)\1", True),
        (r"(?<y>a)\k<y>", True), ("^[a-z]+$", False), (r"[\b(?=]", False), (r"\(?=", False),
        ("(?:a)", False), ("(?<year>[0-9]+)", False), (r"\\b", False), (r"[\]\b]x", False),
        ("trailing\\", False), (3, False),
    ],
)  # fmt: skip
def test_patterns_that_look_around(pattern: object, needs: bool) -> None:
    assert needs_look_around(pattern) is needs


def test_keywords_are_named_by_their_place() -> None:
    schema = {
        "properties": {
            "email": EMAIL,
            "not": {"type": "string", "format": "cuid2"},
            "tags": {"type": "array", "uniqueItems": True, "items": {"not": {"const": "x"}}},
            "pattern": {"type": "string", "enum": ["not"]},
            "flags": {"type": "array", "uniqueItems": False},
        },
        "patternProperties": {"^(?!x)": {}, "^a": {"if": {}, "then": {}}},
        "anyOf": [{"propertyNames": {"pattern": "a"}}],
        "default": {"not": 1},
    }
    assert sorted(unenforced(schema)) == [
        "anyOf.0.propertyNames",
        "patternProperties.^(?!x)",
        "patternProperties.^a.if",
        "patternProperties.^a.then",
        "properties.email.pattern",
        "properties.not.format",
        "properties.tags.items.not",
        "properties.tags.uniqueItems",
    ]
    assert unenforced({"type": "object"}) == []
    assert unenforced(True) == []
    many = {"properties": {f"p{place}": {"not": {}} for place in range(99)}}
    assert len(unenforced(many)) == MOST


def test_only_patterns_are_taken_out() -> None:
    schema: dict[str, Any] = {
        "properties": {"email": EMAIL, "pattern": {"pattern": "^a$"}},
        "patternProperties": {"^(?!x)": {}, "^a": {}},
        "additionalProperties": False,
        "default": {"pattern": "(?!x)"},
    }
    assert enforceable(schema) == {
        "properties": {
            "email": {"type": "string", "format": "email"},
            "pattern": {"pattern": "^a$"},
        },
        "patternProperties": {"^a": {}},
        "additionalProperties": True,
        "default": {"pattern": "(?!x)"},
    }


def test_a_call_with_such_a_pattern_is_held_to_the_rest(words: Vocabulary) -> None:
    call = '<tool_call>\n{"name": "f", "arguments": {"email": "a@b.org"}}\n</tool_call>'
    assert words.fits(ToolStructure((ToolFunction("f", CONTACT),)), call)
    assert not words.fits(ToolStructure((ToolFunction("f", CONTACT),)), call.replace("@", "#"))
    with pytest.raises(InvalidParameter, match="look-around"):
        words.begin(ToolStructure((ToolFunction("f", CONTACT, strict=True),)), Reasoning.NONE)
    assert words.fits(JsonStructure(CONTACT, lenient=True), '{"email": "a@b.org"}')
    with pytest.raises(InvalidParameter, match="look-around"):
        words.begin(JsonStructure(CONTACT), Reasoning.NONE)


@pytest.mark.parametrize(
    "keywords",
    [
        {"not": {"type": "string"}}, {"uniqueItems": True, "type": "array"}, {"if": {}, "then": {}},
        {"contains": {}, "type": "array"}, {"type": "object", "propertyNames": {}},
        {"type": "object", "dependentRequired": {}}, {"type": "string", "format": "regex"},
        {"type": "object", "unevaluatedProperties": False},
    ],
)  # fmt: skip
def test_what_is_named_is_what_the_compiler_leaves_out(
    words: Vocabulary, keywords: dict[str, Any]
) -> None:
    compiler: GrammarCompiler = words.compiler
    with pytest.raises(InvalidParameter):
        compiler.begin(JsonStructure(keywords), reasoning=Reasoning.NONE)
    compiler.begin(JsonStructure(keywords, lenient=True), reasoning=Reasoning.NONE)
    assert unenforced(keywords) or keywords.get("unevaluatedProperties") is False


@pytest.mark.parametrize("name", ["email", "date-time", "uuid", "ipv6", "uri", "duration"])
def test_formats_that_are_enforced_are_not_named(words: Vocabulary, name: str) -> None:
    schema = {"type": "string", "format": name}
    words.begin(JsonStructure(schema), Reasoning.NONE)
    assert unenforced(schema) == []
