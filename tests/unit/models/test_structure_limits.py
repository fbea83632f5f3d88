"""Forms at their bounds and just past them: refused in plain words, or served."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from penstock.contract.structure import (
    GrammarStructure,
    JsonStructure,
    RegexStructure,
    ToolFunction,
    ToolStructure,
)
from penstock.errors import InvalidParameter, UnsupportedFeature
from penstock.models.structured.limits import SCHEMA_NESTING, SCHEMA_PROPERTIES
from penstock.models.structured.references import is_endless
from penstock.models.text.dialect import Dialect, Reasoning
from tests.unit.models.test_grammar import Vocabulary

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.models.structured.grammar import GrammarConstraint


@pytest.fixture(scope="module")
def tiny(tiny_llama: Path) -> Vocabulary:
    return Vocabulary(tiny_llama, Dialect("hermes", None))


def play(constraint: GrammarConstraint, tokens: list[int]) -> None:
    for token in tokens:
        constraint.mask()
        constraint.advance(token)


def refusal(tiny: Vocabulary, structure: Any) -> str:
    with pytest.raises(InvalidParameter) as caught:
        tiny.begin(structure, Reasoning.NONE)
    assert "\n" not in caught.value.message
    assert "non-verbose" not in caught.value.message
    return caught.value.message


def optional(count: int) -> dict[str, Any]:
    names = {f"property_{index}": {"type": "string"} for index in range(count)}
    return {"type": "object", "properties": names}


@pytest.mark.parametrize("count", [600, SCHEMA_PROPERTIES])
def test_an_object_of_many_optional_properties(tiny: Vocabulary, count: int) -> None:
    text = f'{{"property_3": "x", "property_70": "y", "property_{count - 1}": ""}}'
    assert tiny.fits(JsonStructure(optional(count)), text)


def test_an_object_of_too_many_properties_is_refused_before_it_is_compiled(
    tiny: Vocabulary,
) -> None:
    schema = optional(SCHEMA_PROPERTIES + 1)
    assert "more than 2000 properties" in refusal(tiny, JsonStructure(schema))
    assert "more than 2000 properties" in refusal(tiny, JsonStructure({"items": schema}))
    tool = ToolStructure((ToolFunction("f", schema),))
    assert "more than 2000 properties" in refusal(tiny, tool)


def nested(levels: int) -> dict[str, Any]:
    """A schema of so many levels; the innermost array is one."""
    schema: dict[str, Any] = {"enum": [1]}
    for _ in range(levels - 2):
        schema = {"items": schema, "type": "array"}
    return schema


def test_a_schemas_nesting(tiny: Vocabulary) -> None:
    tiny.begin(JsonStructure(nested(SCHEMA_NESTING)), Reasoning.NONE)
    message = refusal(tiny, JsonStructure(nested(SCHEMA_NESTING + 1)))
    assert message == "the schema is nested deeper than 100 levels"


CIRCLE = {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}


@pytest.mark.parametrize(
    ("structure", "noun"),
    [
        (JsonStructure(CIRCLE), "the schema"),
        (JsonStructure({"$ref": "#"}), "the schema"),
        (
            JsonStructure(
                {"$ref": "#/$defs/A",
                 "$defs": {"A": {"$ref": "#/$defs/B"}, "B": {"anyOf": [{"$ref": "#/$defs/A"}]}}}
            ),
            "the schema",
        ),
        (ToolStructure((ToolFunction("f", CIRCLE),)), "the schema"),
        (
            JsonStructure(
                {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}
            ),
            "the schema",
        ),
        (GrammarStructure("start: x\nx: x\n"), "the grammar"),
        (GrammarStructure('start: x\nx: y "a"\ny: x\n'), "the grammar"),
    ],
)  # fmt: skip
def test_what_refers_to_itself_without_an_end(tiny: Vocabulary, structure: Any, noun: str) -> None:
    message = refusal(tiny, structure)
    assert message == f"{noun} refers to itself without an end, so that no text fits it"


def test_a_schema_may_refer_to_itself(tiny: Vocabulary) -> None:
    tree = {"type": "array", "items": {"$ref": "#"}}
    assert tiny.fits(JsonStructure(tree), "[[], [[]]]")
    link = {
        "type": "object",
        "properties": {"next": {"anyOf": [{"$ref": "#/$defs/link"}, {"type": "null"}]}},
        "required": ["next"],
    }
    chain = {"$ref": "#/$defs/link", "$defs": {"link": link}}
    assert tiny.fits(JsonStructure(chain), '{"next": {"next": null}}')


def test_many_references_are_looked_through_quickly() -> None:
    def chained(last: dict[str, Any]) -> dict[str, Any]:
        names = [f"r{index}" for index in range(3_000)]
        defs: dict[str, Any] = {
            name: {"anyOf": [{"$ref": f"#/$defs/{after}"}] * 2} for name, after in pairwise(names)
        }
        return {"$ref": "#/$defs/r0", "$defs": {**defs, names[-1]: last}}

    began_s = time.monotonic()
    assert is_endless(chained({"$ref": "#/$defs/r0"}))
    assert not is_endless(chained({"type": "null"}))
    assert time.monotonic() - began_s < 5


def doubling(rules: int) -> GrammarStructure:
    lines = ["start: r0", *(f"r{n}: r{n + 1} r{n + 1}" for n in range(rules)), f'r{rules}: "a"']
    return GrammarStructure("\n".join(lines) + "\n")


def test_a_grammar_that_doubles(tiny: Vocabulary) -> None:
    assert tiny.fits(doubling(5), "a" * 32)
    constraint = tiny.begin(doubling(40), Reasoning.NONE)
    began_s = time.monotonic()
    with pytest.raises(UnsupportedFeature) as caught:
        play(constraint, tiny.ids("a" * 10))
    assert time.monotonic() - began_s < 10
    assert caught.value.message.startswith("the grammar is too complex: ")
    assert "limit 200000" in caught.value.message
    assert caught.value.param == "structure"


def test_a_regular_expression_that_takes_for_ever(tiny: Vocabulary) -> None:
    tiny.begin(RegexStructure("(a{100}){100}"), Reasoning.NONE)
    began_s = time.monotonic()
    constraint = tiny.begin(RegexStructure("(a{1000}){1000}"), Reasoning.NONE)
    with pytest.raises(UnsupportedFeature, match="the regular expression is too complex"):
        play(constraint, tiny.ids("a" * 300))
    assert time.monotonic() - began_s < 10
