"""Structures compiled for real vocabularies, and what they let through."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from penstock import demo_model
from penstock.contract.structure import (
    ChoiceStructure,
    GrammarStructure,
    JsonStructure,
    RegexStructure,
    ToolFunction,
    ToolStructure,
)
from penstock.errors import EngineFailed, InvalidParameter, UnsupportedFeature
from penstock.models.structured.grammar import GrammarCompiler
from penstock.models.text.dialect import Dialect, Reasoning, ToolParser, of_template

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.contract.structure import Structure
    from penstock.models.structured.grammar import GrammarConstraint

POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer"}, "tag": {"enum": ["a", "b"]}},
    "required": ["x"],
    "additionalProperties": False,
}
MOVE = ToolFunction(
    "move",
    {
        "type": "object",
        "properties": {"by": {"$ref": "#/$defs/step"}},
        "required": ["by"],
        "$defs": {"step": {"type": "integer"}},
        "additionalProperties": False,
    },
)
HALT = ToolFunction("halt")


class Vocabulary:
    """A compiler and its tokenizer; `fits` plays a text through a structure."""

    def __init__(self, folder: Path, dialect: Dialect) -> None:
        from tokenizers import Tokenizer

        source = (folder / "tokenizer.json").read_text(encoding="utf-8")
        self.tokenizer = Tokenizer.from_str(source)
        self.vocab_size = self.tokenizer.get_vocab_size()
        self.compiler = GrammarCompiler(
            source, vocab_size=self.vocab_size, eos_token_ids=[0, 2], dialect=dialect
        )

    def begin(self, structure: Structure, reasoning: Reasoning) -> GrammarConstraint:
        return self.compiler.begin(structure, reasoning=reasoning)

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def allowed(self, constraint: GrammarConstraint) -> set[int]:
        bits = np.unpackbits(np.frombuffer(constraint.mask(), np.uint8), bitorder="little")
        return set(np.flatnonzero(bits).tolist())

    def fits(self, structure: Structure, text: str, reasoning: Reasoning = Reasoning.NONE) -> bool:
        """Whether the text may be the whole answer.

        The mask must agree with what is taken, but where only one way to go on is left: it then
        holds the one token with which the tokenizer itself begins the text that is to come.
        """
        constraint = self.begin(structure, reasoning)
        for token in self.ids(text):
            allowed = self.allowed(constraint)
            try:
                constraint.advance(token)
            except EngineFailed:
                assert token not in allowed
                return False
            assert token in allowed or len(allowed) == 1
        return {0, 2} <= self.allowed(constraint)


@pytest.fixture(scope="module")
def tiny(tiny_llama: Path) -> Vocabulary:
    return Vocabulary(tiny_llama, Dialect("hermes", ("<think>", "</think>")))


@pytest.fixture(scope="module")
def demo() -> Vocabulary:
    folder = demo_model.path()
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    return Vocabulary(folder, of_template(template))


@pytest.mark.parametrize(
    ("structure", "good", "bad"),
    [
        (JsonStructure({"type": "object"}), '{"a": [1, null]}', "[1]"),
        (JsonStructure(True), "[1, 2]", "[1, 2"),
        (JsonStructure(POINT), '{\n  "x": 12, "tag": "b"}', '{"tag": "b"}'),
        (JsonStructure(POINT), '{"x":12}', '{"x": 1.5}'),
        (RegexStructure(r"\d{2}/[a-z]+"), "12/abc", "1/abc"),
        (RegexStructure(r"\d+"), "12", "١٢"),
        (RegexStructure(r"(?i)ja|nein"), "JA", "ja nein"),
        (ChoiceStructure(('a "quoted" one', "Größe 🙂")), "Größe 🙂", "Größe"),
        (ChoiceStructure(('a "quoted" one', "Größe 🙂")), 'a "quoted" one', "a"),
        (GrammarStructure('start: "yes" | "no" "pe"?'), "nope", "yespe"),
        (GrammarStructure('root ::= ("yes" | "no") "!"+'), "no!!", "no"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("vocabulary", ["tiny", "demo"])
def test_a_structure_takes_what_fits_it_alone(
    vocabulary: str, structure: Structure, good: str, bad: str, request: pytest.FixtureRequest
) -> None:
    words: Vocabulary = request.getfixturevalue(vocabulary)
    assert words.fits(structure, good)
    assert not words.fits(structure, bad)


def test_blanks_between_jsons_tokens_are_bounded(tiny: Vocabulary) -> None:
    structure = JsonStructure(POINT)
    assert tiny.fits(structure, '{"x":\n                1}')
    assert not tiny.fits(structure, '{"x":\n\n\n1}')
    assert not tiny.fits(structure, '{"x": \t \t \t 1}')


def test_what_is_complete_takes_nothing_but_the_end(tiny: Vocabulary) -> None:
    constraint = tiny.begin(ChoiceStructure(("12", "123")), Reasoning.NONE)
    one, two, three = (tiny.ids(digit)[0] for digit in "123")
    for token in (one, two):
        assert not tiny.allowed(constraint) & {0, 2}
        constraint.advance(token)
    assert not constraint.complete
    assert tiny.allowed(constraint) == {0, 2, three}
    constraint.advance(three)
    assert constraint.complete
    assert tiny.allowed(constraint) == {0, 2}


def test_each_sequence_has_a_state_of_its_own(tiny: Vocabulary) -> None:
    structure = ChoiceStructure(("one", "two"))
    first, second = (tiny.begin(structure, Reasoning.NONE) for _ in range(2))
    first.advance(tiny.ids("one")[0])
    assert tiny.allowed(second) >= {tiny.ids("one")[0], tiny.ids("two")[0]}
    assert tiny.ids("two")[0] not in tiny.allowed(first)


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        (JsonStructure({"type": "objec"}), "objec"),
        (JsonStructure({"type": "string", "not": {}}), 'Unimplemented keys: ["not"]'),
        (JsonStructure({"$ref": "http://127.0.0.1:1/x"}), "not present"),
        (JsonStructure(False), "allows nothing"),
        (JsonStructure({"enum": []}), "Unsatisfiable"),
        (RegexStructure("(ab"), "unclosed group"),
        (RegexStructure(""), "empty"),
        (RegexStructure(r"[^\s\S]"), "the regular expression"),
        (GrammarStructure("begin: yes"), "the grammar"),
        (GrammarStructure('start: "a" nowhere'), "nowhere"),
        (ToolStructure((ToolFunction("f", {"type": "objec"}),)), "objec"),
    ],
)
def test_what_is_not_valid_is_refused_with_a_reason(
    tiny: Vocabulary, structure: Structure, message: str
) -> None:
    with pytest.raises(InvalidParameter) as caught:
        tiny.begin(structure, Reasoning.NONE)
    assert message in caught.value.message
    assert "\n" not in caught.value.message


def test_a_lenient_schema_may_hold_what_cannot_be_enforced(tiny: Vocabulary) -> None:
    schema = {"type": "string", "not": {"const": "x"}, "format": "of-our-house"}
    assert tiny.fits(JsonStructure(schema, lenient=True), '"y"')


ONE_CALL = '<tool_call>\n{"name": "move", "arguments": {"by": -3}}\n</tool_call>'
TWO_CALLS = ONE_CALL + '\n<tool_call>\n{"name": "halt", "arguments": {}}\n</tool_call>'


@pytest.mark.parametrize("vocabulary", ["tiny", "demo"])
def test_tool_calls_of_hermes(vocabulary: str, request: pytest.FixtureRequest) -> None:
    """Their markers are tokens in the demo model and plain text in the tiny one."""
    words: Vocabulary = request.getfixturevalue(vocabulary)
    assert len(words.ids("<tool_call>")) == 1 or vocabulary == "tiny"
    functions = (MOVE, HALT)
    assert words.fits(ToolStructure(functions), ONE_CALL)
    assert not words.fits(ToolStructure(functions), TWO_CALLS)
    assert words.fits(ToolStructure(functions, parallel=True), TWO_CALLS)
    assert not words.fits(ToolStructure((HALT,)), ONE_CALL)
    assert not words.fits(ToolStructure(functions), ONE_CALL.replace("-3", '"3"'))


@pytest.mark.parametrize(
    ("parser", "text"),
    [
        ("llama3_json", '{"name": "move", "parameters": {"by": 1}}; {"name": "halt", "parameters": {}}'),
        ("mistral", '[TOOL_CALLS][{"name": "move", "arguments": {"by": 1}}, {"name": "halt", "arguments": {}}]'),
    ],
)  # fmt: skip
def test_tool_calls_of_others(tiny_llama: Path, parser: ToolParser, text: str) -> None:
    words = Vocabulary(tiny_llama, Dialect(parser))
    assert words.fits(ToolStructure((MOVE, HALT), parallel=True), text)
    assert not words.fits(ToolStructure((MOVE, HALT)), text)


def test_a_model_whose_calls_are_unknown_cannot_be_made_to_call(tiny_llama: Path) -> None:
    words = Vocabulary(tiny_llama, Dialect())
    with pytest.raises(UnsupportedFeature, match="is unknown"):
        words.begin(ToolStructure((MOVE,)), Reasoning.NONE)


def test_a_markers_text_in_a_literal_is_text(demo: Vocabulary) -> None:
    """Else a schema that quotes `<tool_call>` could never be met: the token is not its text."""
    constraint = demo.begin(ChoiceStructure(("<tool_call>",)), Reasoning.NONE)
    allowed = demo.allowed(constraint)
    assert demo.ids("<tool_call>")[0] not in allowed
    constraint.advance(allowed.pop())


def test_the_structure_holds_after_the_reasoning(tiny_llama: Path) -> None:
    words = Vocabulary(tiny_llama, Dialect("", ("<think>", "</think>")))
    yes = ChoiceStructure(("yes",))
    assert words.fits(yes, "so, no </t… </think>\n\nyes", Reasoning.OPENED)
    assert not words.fits(yes, "yes", Reasoning.OPENED)
    assert words.fits(yes, "yes", Reasoning.POSSIBLE)
    demo_folder = demo_model.path()
    marked = Vocabulary(demo_folder, Dialect("", ("<tool_response>", "</tool_response>")))
    assert marked.fits(yes, "<tool_response>hm</tool_response>\n\nyes", Reasoning.POSSIBLE)
    assert marked.fits(yes, "hm</tool_response>yes", Reasoning.OPENED)
    assert marked.fits(yes, "yes", Reasoning.POSSIBLE)
    assert not marked.fits(yes, "<tool_response>hm</tool_response>yes", Reasoning.NONE)
