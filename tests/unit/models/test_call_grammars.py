"""Calls that must be: the grammar of each dialect takes what its template writes and the API reads."""

from __future__ import annotations

import json
import random
from functools import cache
from typing import TYPE_CHECKING, Any, cast, get_args

import pytest

from api.openai.chat.custom_tools import constrained_parameters, shown_function
from api.openai.chat.structure_schema import CustomTool
from api.parsing.answer import functions_of
from api.parsing.dialects import DIALECTS as PARSERS
from penstock import demo_model
from penstock.contract.job import TextPrompt
from penstock.contract.structure import (
    EitherStructure,
    FreeToolStructure,
    JsonStructure,
    ToolFunction,
    ToolStructure,
)
from penstock.errors import InvalidParameter
from penstock.models.structured.calls import CALLS as GRAMMARS
from penstock.models.text.dialect import FAMILIES, Dialect, Reasoning, ToolParser, of_template
from penstock.models.text.tokenizer import Tokenizer
from tests.unit.api.parsing.cuts import parsed, tool
from tests.unit.api.parsing.written import dumped, written
from tests.unit.models.test_grammar import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DIALECTS = tuple(name for name in get_args(ToolParser) if name)

ORDER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "metric": {"type": "boolean"},
        "ratio": {"type": "number"},
        "unit": {"enum": ["°C", "°F"]},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "places": {"type": "array", "items": {"$ref": "#/$defs/place"}},
    },
    "required": ["city", "days"],
    "$defs": {
        "place": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "at": {"type": "array", "items": {}}},
            "required": ["name"],
        }
    },
}
FUNCTIONS = (ToolFunction("get_weather", ORDER), ToolFunction("now"))
TOOLS = (tool("get_weather", **ORDER["properties"]), tool("now"))
TOOLS[0]["function"]["parameters"]["$defs"] = ORDER["$defs"]

TEXT = 'Zürich 🙂\n  "x" \\ <b>1 & 2</b> {a: [1]}'
ALL = {
    "city": TEXT,
    "days": -3,
    "metric": True,
    "ratio": 2.5,
    "unit": "°F",
    "note": None,
    "places": [{"name": "a", "at": [1, [], {}]}, {"name": ""}],
}
SOME: dict[str, Any] = {"city": "", "days": 0, "note": "x"}
WRITTEN_IN_ONE = ("glm4", "harmony")


def dialect_of(name: str) -> Dialect:
    return (
        of_template("<|channel|><|message|>") if name == "harmony" else Dialect(cast("Any", name))
    )


@pytest.fixture(scope="module")
def with_tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model's tokenizer, with every family's markers as special tokens."""
    source = json.loads((demo_model.path() / "tokenizer.json").read_text(encoding="utf-8"))
    known = {token["content"] for token in source["added_tokens"]}
    first = 1 + max(
        *(token["id"] for token in source["added_tokens"]), *source["model"]["vocab"].values()
    )
    tokens = {token for family in FAMILIES for token in family.tokens} - known
    source["added_tokens"] += [
        {
            "id": first + place, "content": token, "special": True, "single_word": False,
            "lstrip": False, "rstrip": False, "normalized": False,
        }
        for place, token in enumerate(sorted(tokens))
    ]  # fmt: skip
    folder = tmp_path_factory.mktemp("with-tokens")
    (folder / "tokenizer.json").write_text(json.dumps(source), encoding="utf-8")
    return folder


@pytest.fixture(params=["text", "tokens"])
def folder(request: pytest.FixtureRequest, with_tokens: Path) -> Path:
    return demo_model.path() if request.param == "text" else with_tokens


@pytest.fixture(scope="module")
def vocabulary() -> Callable[[Path, str], Vocabulary]:
    """Vocabularies by folder and dialect, each read once."""
    return cache(lambda folder, name: Vocabulary(folder, dialect_of(name)))


def arguments(name: str, text: str, tools: Any = TOOLS) -> list[tuple[str, Any]]:
    message = parsed([text], format_name=name, functions=functions_of(tools, name))
    assert not message.content
    return [(call.name, json.loads(call.arguments)) for call in message.calls]


def test_every_dialect_is_seen_read_and_written() -> None:
    assert set(DIALECTS) == set(PARSERS) == set(GRAMMARS) == {family.name for family in FAMILIES}


@pytest.mark.parametrize("name", DIALECTS)
def test_what_the_template_writes_is_taken_and_read(vocabulary, folder: Path, name: str) -> None:
    words = vocabulary(folder, name)
    for calls in ([("get_weather", ALL)], [("get_weather", SOME)], [("now", {})]):
        text = written(name, calls)
        assert words.fits(ToolStructure(FUNCTIONS), text), text
        assert arguments(name, text) == calls
    both = [("get_weather", ALL), ("now", {}), ("get_weather", SOME)]
    if name not in WRITTEN_IN_ONE:
        text = written(name, both)
        assert words.fits(ToolStructure(FUNCTIONS, parallel=True), text)
        assert not words.fits(ToolStructure(FUNCTIONS), text)
        assert arguments(name, text) == both


@pytest.mark.parametrize("name", DIALECTS)
def test_what_does_not_fit_the_schema_is_not_taken(vocabulary, folder: Path, name: str) -> None:
    words = vocabulary(folder, name)
    structure = ToolStructure(FUNCTIONS)
    for calls in (
        [("get_weather", {"city": "a"})],  # one is missing
        [("get_weather", {"city": "a", "days": 1.5})],
        [("get_weather", {**SOME, "unit": "K"})],
        [("get_weather", {**SOME, "places": [{"at": []}]})],
        [("get_weather", {**SOME, "more": 1})],
        [("now", {"x": 1})],
        [("nobody", {})],
    ):
        assert not words.fits(structure, written(name, calls)), calls
    assert not words.fits(ToolStructure(FUNCTIONS[1:]), written(name, [("get_weather", SOME)]))
    assert not words.fits(structure, "It rains.")


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("schema", [{"type": "object"}, {"additionalProperties": True}])
def test_a_function_without_named_parameters_takes_any(
    vocabulary, with_tokens: Path, name: str, schema: dict[str, Any]
) -> None:
    words = vocabulary(with_tokens, name)
    structure = ToolStructure((ToolFunction("note", schema),))
    text = written(name, [("note", {"a": "b"})])
    assert words.fits(structure, text)
    assert arguments(name, text, [tool("note")]) == [("note", {"a": "b"})]


def with_text(strict: bool, **said: Any) -> ToolStructure:
    schema = {"type": "object", "properties": {"zip": {"type": "string", **said}}}
    return ToolStructure((ToolFunction("f", schema, strict=strict),))


WITHOUT_QUOTES = ["qwen3_coder", "seed_oss", "glm45", "minimax_m2", "deepseek_v32", "gemma4"]


@pytest.mark.parametrize("name", [*WITHOUT_QUOTES, "pythonic", "hermes"])
@pytest.mark.parametrize("strict", [True, False])
def test_text_is_held_to_a_pattern_or_a_length(
    vocabulary, folder: Path, name: str, strict: bool
) -> None:
    words = vocabulary(folder, name)
    for said, good, bad in (
        ({"pattern": "^[0-9]+(/[a-z]|\n.)*$"}, "12/a\nx", "1/2"),
        ({"pattern": "^(?:a|b<c>)$"}, "b<c>", "ab"),
        ({"maxLength": 3}, "äöü", "abcd"),
        ({"minLength": 2, "maxLength": 3}, "ab", "a"),
    ):
        structure = with_text(strict, **said)
        write = json_quoted if name == "pythonic" else written
        assert words.fits(structure, write(name, [("f", {"zip": good})])), said
        assert not words.fits(structure, write(name, [("f", {"zip": bad})])), said


def json_quoted(name: str, calls: list[tuple[str, dict[str, Any]]]) -> str:
    return written(name, calls).replace("'", '"')


@pytest.mark.parametrize("name", WITHOUT_QUOTES)
def test_text_without_quotes_cannot_be_held_to_everything(
    vocabulary, with_tokens: Path, name: str
) -> None:
    words = vocabulary(with_tokens, name)
    for said in (
        {"pattern": "[0-9]"},
        {"format": "date"},
        {"pattern": "^a$|^b$"},
        {"minLength": 3},
    ):
        assert words.fits(with_text(False, **said), written(name, [("f", {"zip": "x"})]))
        with pytest.raises(InvalidParameter, match=f"{next(iter(said))} of 'zip' cannot be"):
            words.begin(with_text(True, **said), Reasoning.NONE)


def test_harmony_puts_each_form_into_its_channel(vocabulary, with_tokens: Path) -> None:
    words = vocabulary(with_tokens, "harmony")
    thought = "<|channel|>analysis<|message|>So <it> is.<|end|><|start|>assistant"
    call, answer = written("harmony", [("now", {})]), '<|channel|>final<|message|>{"a":1}'
    calls, form = ToolStructure(FUNCTIONS), JsonStructure({"type": "object"})
    for structure, text in ((calls, call), (form, answer)):
        assert words.fits(structure, text, Reasoning.POSSIBLE)
        assert words.fits(structure, thought + text, Reasoning.POSSIBLE)
        assert words.fits(EitherStructure(calls, form), thought + text, Reasoning.POSSIBLE)
    assert not words.fits(form, '{"a":1}', Reasoning.POSSIBLE)
    assert not words.fits(calls, thought + answer, Reasoning.POSSIBLE)


def test_an_answer_may_stand_between_markers_of_its_own(with_tokens: Path) -> None:
    template = "{{ tools }}<|START_ACTION|><|START_THINKING|><|END_THINKING|><|END_RESPONSE|>"
    words = Vocabulary(with_tokens, of_template(template))
    form = JsonStructure({"type": "object"})
    thought = "<|START_THINKING|>So.<|END_THINKING|>"
    for text in ("{}", "<|START_RESPONSE|>{}<|END_RESPONSE|>"):
        assert words.fits(form, text, Reasoning.POSSIBLE)
        assert words.fits(form, f"So.<|END_THINKING|>{text}", Reasoning.OPENED)
    call = written("command", [("now", {})])
    assert words.fits(ToolStructure(FUNCTIONS), f"So.<|END_THINKING|>{call}", Reasoning.OPENED)
    assert not words.fits(form, "<|START_RESPONSE|>{}", Reasoning.POSSIBLE)
    assert thought  # its first marker is no token of this vocabulary


SIGNS = {family.name: family for family in reversed(FAMILIES)}


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("listed", [True, False])
def test_a_familys_markers_stay_in_the_text_and_other_special_tokens_do_not(
    with_tokens: Path, name: str, listed: bool
) -> None:
    """Also where the tokenizer's file marks them as special and its configuration lists none."""
    from transformers import PreTrainedTokenizerFast

    markers = {"extra_special_tokens": list(SIGNS[name].tokens)} if listed else {}
    own = PreTrainedTokenizerFast(
        tokenizer_file=str(with_tokens / "tokenizer.json"), eos_token="<|im_end|>", **markers
    )
    own.chat_template = "{{ tools }}" + "".join(SIGNS[name].signs)
    words = Tokenizer(own, vocab_size=len(own), model_type=(SIGNS[name].model_types or ("",))[0])
    assert words.dialect.tool_parser == name
    text = written(name, [("get_weather", SOME), ("now", {})]).replace("<|call|>", "")
    ids = words.encode(TextPrompt(text + "<|im_end|>", add_special_tokens=False))
    assert words.decode(ids) == text


BOUNDED: dict[str, Any] = {
    "type": "object",
    "properties": {
        "n": {"type": "integer", "minimum": 0, "maximum": 99},
        "flag": {"type": "boolean"},
        "unit": {"enum": ["km", "mi"]},
        "list": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
        "maybe": {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 3}, {"type": "null"}]},
    },
    "required": ["n", "list"],
}


@pytest.mark.parametrize("name", DIALECTS)
def test_whatever_the_grammar_lets_through_is_read_as_calls_that_fit(
    vocabulary, folder: Path, name: str
) -> None:
    """A model without any sense, held to the grammar, calls the functions rightly."""
    words = vocabulary(folder, name)
    structure = ToolStructure((ToolFunction("go", BOUNDED), ToolFunction("now")), parallel=True)
    tools = [tool("go", **BOUNDED["properties"]), tool("now")]
    dice = random.Random(name)
    for _ in range(4):
        calls = arguments(name, walked(words, structure, dice), tools)
        assert calls
        for called, given in calls:
            assert called in ("go", "now")
            if called == "go":
                check(given)
            else:
                assert given == {}


def check(given: dict[str, Any]) -> None:
    assert {"n", "list"} <= set(given) <= set(BOUNDED["properties"])
    assert type(given["n"]) is int
    assert 0 <= given["n"] <= 99
    assert 1 <= len(given["list"]) <= 3
    assert all(type(one) is bool for one in (*given["list"], given.get("flag", True)))
    assert given.get("unit", "km") in ("km", "mi")
    assert given.get("maybe") in (None, 1, 2, 3)


def walked(words: Vocabulary, structure: ToolStructure, dice: random.Random) -> str:
    """Return a text of tokens that the grammar allows, drawn without a model."""
    constraint = words.begin(structure, Reasoning.NONE)
    ids: list[int] = []
    while not constraint.complete:
        allowed = sorted(words.allowed(constraint))
        if {0, 2} & set(allowed) and (len(allowed) == 2 or dice.random() < 0.7):
            break
        token = dice.choice([one for one in allowed if one not in (0, 2)])
        constraint.advance(token)
        ids.append(token)
        assert len(ids) < 2_000
    return words.tokenizer.decode(ids, skip_special_tokens=False)


PATCH_RULES = r"""
start: "*** Begin Patch" LF hunk+ "*** End Patch" LF?
hunk: "*** Add File: " /(.+)/ LF ("+" /(.*)/ LF)+
%import common.LF
"""
PATCH = '*** Begin Patch\n*** Add File: a "é".txt\n+</x> \\ {\n+\n*** End Patch\n'
CUSTOM = CustomTool.model_validate({
    "type": "custom",
    "custom": {
        "name": "patch",
        "format": {
            "type": "grammar", "grammar": {"syntax": "lark", "definition": PATCH_RULES},
        },
    },
})  # fmt: skip


@pytest.mark.parametrize("name", DIALECTS)
def test_a_custom_tools_grammar_holds_within_a_call(vocabulary, folder: Path, name: str) -> None:
    function = ToolFunction("patch", constrained_parameters(CUSTOM), strict=True)
    words, structure = vocabulary(folder, name), ToolStructure((function,))
    good = patching(name, PATCH)
    assert words.fits(structure, good), good
    assert arguments(name, good, [shown_function(CUSTOM)]) == [("patch", {"input": PATCH})]
    for wrong in (PATCH.replace("+</x>", "</x>"), PATCH[:-20], ""):
        assert not words.fits(structure, patching(name, wrong))


def patching(name: str, *patches: str) -> str:
    """Return calls with texts in the quotes of JSON, in which alone a pattern is held."""
    text = written(name, [("patch", {"input": patch}) for patch in patches])
    for patch in patches:
        text = text.replace(repr(patch), json.dumps(patch, ensure_ascii=False))
    return text


FIRST_IN_THE_ANSWER = ("pythonic", "glm4")


@pytest.mark.parametrize(
    ("folder", "name"),
    [*(("tokens", name) for name in DIALECTS), *(("text", name) for name in ("hermes", "gemma3"))],
    indirect=["folder"],
)
def test_a_call_that_free_text_begins_keeps_to_a_custom_tools_grammar(
    vocabulary, folder: Path, name: str
) -> None:
    function = ToolFunction("patch", constrained_parameters(CUSTOM), strict=True)
    words, free = vocabulary(folder, name), FreeToolStructure((function,))
    wrong = PATCH.replace("+</x>", "</x>")
    before = "" if name in FIRST_IN_THE_ANSWER else "A patch\n\n"
    for text in ("No call: patch, [x] {}\n", written(name, [("other", {"input": wrong})])):
        assert words.fits(free, text), text
    assert words.fits(free, before + patching(name, PATCH) + " Done.")
    assert not words.fits(free, before + patching(name, wrong))
    if name not in WRITTEN_IN_ONE:
        assert words.fits(free, patching(name, PATCH, PATCH))
        assert not words.fits(free, patching(name, PATCH, wrong))


def test_a_call_with_other_blanks_is_held_too(vocabulary, with_tokens: Path) -> None:
    function = ToolFunction("patch", constrained_parameters(CUSTOM), strict=True)
    words, free = vocabulary(with_tokens, "hermes"), FreeToolStructure((function,))
    for patch, holds in ((PATCH, True), (PATCH[:-20], False)):
        call = f'<tool_call>{{"name":"patch",\n "arguments":{{"input": {dumped(patch)}}}}}\n'
        assert words.fits(free, f"{call}</tool_call>") is holds


def test_reasoning_before_free_text_is_not_held(vocabulary, with_tokens: Path) -> None:
    function = ToolFunction("patch", constrained_parameters(CUSTOM), strict=True)
    words = Vocabulary(with_tokens, Dialect("hermes", ("<think>", "</think>")))
    free = FreeToolStructure((function,))
    for reasoning, begin in ((Reasoning.POSSIBLE, "<think>"), (Reasoning.OPENED, "")):
        thought = f"{begin}I patch.</think>\n\n"
        assert words.fits(free, f"{thought}Well: {patching('hermes', PATCH)}", reasoning)
        assert not words.fits(free, thought + patching("hermes", PATCH[:-20]), reasoning)
    assert words.fits(free, patching("hermes", PATCH), Reasoning.POSSIBLE)
