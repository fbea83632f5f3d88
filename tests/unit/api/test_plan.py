"""A chat request and a model's card -> the plan of the request."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from api.http.json_body import validated
from api.http.warnings import Warnings
from api.jobs.blame import Blame
from api.openai.chat import structures
from api.openai.chat.as_chat import plan_of
from api.openai.chat.plan import ChatPlan
from api.openai.chat.structure_schema import FunctionTool
from api.openai.chat_images import ChatImages
from api.openai.schema import ChatRequest
from penstock.contract.structure import (
    EitherStructure,
    FreeToolStructure,
    JsonStructure,
    ToolStructure,
)
from penstock.contract.worker import ModelCard
from penstock.errors import InvalidParameter, UnsupportedFeature

if TYPE_CHECKING:
    from collections.abc import Callable

BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}}


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": SCHEMA}}


TOOLS = [tool("add"), tool("look_up")]


def card(**fields: Any) -> ModelCard:
    chosen = {
        "capabilities": ("generate", "structure"), "tool_parser": "hermes", **fields,
    }  # fmt: skip
    return ModelCard(
        name="m", queue="m-cpu", device="cpu", backend="transformers", format="fp32",
        architecture="Llama", parameters=1, weights_bytes=4, context_length=128, vocab_size=100,
        slots=4, kv_cache_tokens=512, **chosen,
    )  # fmt: skip


def planned(served: ModelCard | None = None, **fields: Any) -> ChatPlan:
    own = served or card()
    return ChatPlan.of(validated(BODY | fields, ChatRequest), own, ChatImages(own, Warnings()))


def translated(
    body: dict[str, Any],
    served: ModelCard,
    blamed: Callable[[str | None], str | None] = lambda name: name,
    warnings: Warnings | None = None,
) -> ChatPlan:
    noted = Warnings() if warnings is None else warnings

    async def gathered(_asked: ChatRequest) -> ChatImages:
        return ChatImages(served, noted)

    return asyncio.run(plan_of(body, served, blamed, noted, gathered))


def test_a_plain_chat() -> None:
    plan = planned(seed=3, priority=2, stop_token_ids=[7])
    assert plan.reading.plain
    assert plan.choices.made == plan.choices.returned == 1
    assert plan.works == (plan.first,)
    assert plan.first.sampling.structure is None
    assert plan.first.sampling.seed == 3
    assert plan.priority == 2
    assert plan.hidden_token_ids == {7}
    assert plan.blame == Blame("messages", {"structure": "response_format"})


def test_tools_are_shown_to_the_model_and_read_from_its_answer() -> None:
    plan = planned(tools=TOOLS, parallel_tool_calls=False)
    assert [shown["function"]["name"] for shown in plan.prompt.tools] == ["add", "look_up"]
    assert tuple(plan.reading.functions) == ("add", "look_up")
    assert plan.reading.most_calls == 1
    assert plan.first.sampling.structure is None  # the model may answer without a call


def custom(definition: str) -> dict[str, Any]:
    grammar = {"syntax": "lark", "definition": definition}
    form = {"type": "grammar", "grammar": grammar}
    return {"type": "custom", "custom": {"name": "patch", "format": form}}


def test_a_custom_tools_grammar_holds_in_the_calls_that_a_model_may_make() -> None:
    tools = [*TOOLS, custom('start: "a"+ "b"')]
    plan = planned(tools=tools)
    structure = plan.first.sampling.structure
    assert isinstance(structure, FreeToolStructure)
    assert [function.name for function in structure.functions] == ["patch"]
    assert plan.unenforced == ()
    other: dict[str, Any]
    for other in ({"tool_choice": "none"}, {"ignore_eos": True}):
        assert planned(tools=tools, **other).first.sampling.structure is None
    assert planned(card(capabilities=("generate",)), tools=tools).first.sampling.structure is None


def test_a_custom_tools_grammar_that_cannot_be_enforced_is_reported_unless_a_call_is_required() -> (
    None
):
    tools = [custom('start: "(" start? ")"')]
    body, warnings = BODY | {"tools": tools}, Warnings()
    plan = translated(body, card(), warnings=warnings)
    assert plan.first.sampling.structure is None
    assert [text.partition(": its grammar is not enforced: ")[0] for text in warnings.texts] == [
        "tools: patch"
    ]
    with pytest.raises(InvalidParameter):
        planned(tools=tools, tool_choice="required")


def test_tools_that_must_not_be_called_are_not_shown() -> None:
    plan = planned(tools=TOOLS, tool_choice="none")
    assert plan.prompt.tools == ()
    assert plan.reading.plain


def test_a_call_that_must_be_made_is_the_structure() -> None:
    plan = planned(tools=TOOLS, tool_choice="required")
    structure = plan.first.sampling.structure
    assert isinstance(structure, ToolStructure)
    assert [function.name for function in structure.functions] == ["add", "look_up"]
    assert structure.parallel
    assert plan.blame.param("structure") == "tools"
    named = planned(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "add"}})
    structure = named.first.sampling.structure
    assert isinstance(structure, ToolStructure)
    assert [function.name for function in structure.functions] == ["add"]
    assert not structure.parallel


def test_a_response_format_beside_tools_is_either() -> None:
    alone = planned(response_format=FORMAT)
    assert alone.first.sampling.structure == JsonStructure(SCHEMA)
    assert alone.blame.param("structure") == "response_format"
    both = planned(response_format=FORMAT, tools=TOOLS)
    structure = both.first.sampling.structure
    assert isinstance(structure, EitherStructure)
    assert both.blame.param("structure") == "response_format"
    assert planned(guided_regex="a+").blame.param("structure") == "guided_regex"


def test_choices_differ_in_their_seeds_alone() -> None:
    plan = planned(n=3, seed=5, response_format=FORMAT)
    assert len({work.sampling.seed for work in plan.works}) == 3
    assert {work.prompt is plan.prompt for work in plan.works} == {True}
    assert all(work.sampling.structure == JsonStructure(SCHEMA) for work in plan.works)


def test_more_answers_than_are_returned_are_made_with_log_probabilities() -> None:
    plan = planned(n=2, best_of=4)
    assert (plan.choices.made, plan.choices.returned) == (4, 2)
    assert [work.sampling.logprobs for work in plan.works] == [0] * 4
    assert not plan.choices.with_logprobs
    asked = planned(n=2, best_of=4, logprobs=True, top_logprobs=3)
    assert [work.sampling.logprobs for work in asked.works] == [3] * 4
    assert asked.choices.with_logprobs


def test_tools_and_structure_are_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"tools": 0, "forms": 0}
    dump, form_of = FunctionTool.model_dump, structures.form_of

    def counted_dump(self: FunctionTool, **options: Any) -> dict[str, Any]:
        counts["tools"] += 1
        return dump(self, **options)

    def counted_form(asked: ChatRequest) -> structures.Form | None:
        counts["forms"] += 1
        return form_of(asked)

    monkeypatch.setattr(FunctionTool, "model_dump", counted_dump)
    monkeypatch.setattr(structures, "form_of", counted_form)
    planned(tools=TOOLS, response_format=FORMAT, n=4)
    assert counts == {"tools": len(TOOLS), "forms": 1}


@pytest.mark.parametrize(
    ("fields", "param", "error"),
    [
        ({"tool_choice": "required"}, "tool_choice", InvalidParameter),
        ({"tools": [tool("a"), tool("a")]}, "tools", InvalidParameter),
        (
            {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "b"}}},
            "tool_choice",
            InvalidParameter,
        ),
        ({"response_format": FORMAT, "guided_regex": "a"}, "guided_regex", InvalidParameter),
        ({"response_format": FORMAT, "ignore_eos": True}, "ignore_eos", InvalidParameter),
        ({"n": 3, "best_of": 2}, "best_of", InvalidParameter),
        ({"best_of": 2, "stream": True}, "best_of", InvalidParameter),
    ],
)
def test_what_contradicts_itself(
    fields: dict[str, Any], param: str, error: type[InvalidParameter]
) -> None:
    with pytest.raises(error) as caught:
        planned(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("served", "fields", "param"),
    [
        (card(tool_parser=""), {"tools": TOOLS}, "tools"),
        (card(capabilities=("generate",)), {"response_format": FORMAT}, "response_format"),
        (
            card(capabilities=("generate",)),
            {"tools": TOOLS, "tool_choice": "required"},
            "tool_choice",
        ),
    ],
)
def test_what_the_model_cannot_do(served: ModelCard, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedFeature) as caught:
        planned(served, **fields)
    assert caught.value.param == param


def test_a_translated_request_is_blamed_by_its_own_fields() -> None:
    def own(param: str | None) -> str | None:
        return {"messages": "input", "response_format": "text.format"}.get(param or "", param)

    plan = translated(BODY | {"response_format": FORMAT}, card(), own)
    assert plan.blame == Blame("input", {"structure": "text.format"})
    with pytest.raises(UnsupportedFeature) as caught:
        translated(BODY | {"response_format": FORMAT}, card(capabilities=("generate",)), own)
    assert caught.value.param == "text.format"


def test_what_a_worker_blames_gets_the_requests_names() -> None:
    blame = Blame("prompt", {"structure": "guided_json"})
    assert blame.param("messages") == "prompt"
    assert blame.param("structure") == "guided_json"
    assert blame.param("max_tokens") == "max_tokens"
    assert blame.param("") == "prompt"
