"""Bodies -> schema: what is taken, what is refused, and which field is blamed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from api.http.json_body import validated
from api.http.warnings import Warnings
from api.openai import unsupported
from api.openai.chat.messages import chat_prompt
from api.openai.chat_images import ChatImages
from api.openai.schema import ChatRequest, CompletionRequest
from penstock.errors import InvalidParameter, UnsupportedFeature
from tests.fixtures.api import model_card

if TYPE_CHECKING:
    from penstock.contract.job import ChatPrompt

HELLO = [{"role": "user", "content": "hello"}]


def chat(**fields: Any) -> ChatRequest:
    return validated({"model": "m", "messages": HELLO, **fields}, ChatRequest)


def completion(**fields: Any) -> CompletionRequest:
    return validated({"model": "m", "prompt": "once", **fields}, CompletionRequest)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "0.7"}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"n": True}, "n"),
        ({"n": 1.5}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"seed": 2**63}, "seed"),
        ({"stream": "yes"}, "stream"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": [1]}, "stop[0]"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"frequency_penalty": -2.5}, "frequency_penalty"),
        ({"logit_bias": {"cat": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"top_logprobs": 5}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": 3}, "logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"priority": 10}, "priority"),
        ({"model": ""}, "model"),
        ({"model": None}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [{"content": "hello"}]}, "messages[0].role"),
        ({"messages": [*HELLO, {"role": "wizard", "content": "x"}]}, "messages[1].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
    ],
)  # fmt: skip
def test_chat_refuses_and_blames(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        chat(**fields)
    assert caught.value.param == param
    assert caught.value.message.startswith(param)


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_missing_fields_are_named(missing: str) -> None:
    body = {"model": "m", "messages": HELLO}
    del body[missing]
    with pytest.raises(InvalidParameter) as caught:
        validated(body, ChatRequest)
    assert caught.value.param == missing


def test_unknown_fields_and_nulls_pass() -> None:
    asked = chat(
        temperature=None, stop=None, tools=None, an_invention={"of": "mine"}, user="me",
        metadata={"a": "b"}, store=False, service_tier="auto",
    )  # fmt: skip
    assert asked.temperature is None


def test_types_that_mean_the_same_pass() -> None:
    asked = chat(temperature=1, stop="end", logit_bias={"7": -100, "8": 1.5})
    assert asked.temperature == 1.0
    assert asked.stop == ["end"]
    assert asked.logit_bias == {7: -100.0, 8: 1.5}


def test_newer_name_of_max_tokens_wins() -> None:
    assert chat(max_tokens=5, max_completion_tokens=7).answer_tokens == 7
    assert chat(max_tokens=5).answer_tokens == 5
    assert chat().answer_tokens is None


def test_logprobs() -> None:
    assert chat().wanted_logprobs is None
    assert chat(logprobs=False).wanted_logprobs is None
    assert chat(logprobs=True).wanted_logprobs == 0
    assert chat(logprobs=True, top_logprobs=3).wanted_logprobs == 3
    assert completion(logprobs=0).wanted_logprobs == 0


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ["a"]),
        ("", [""]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
)
def test_prompt_shapes(prompt: object, prompts: object) -> None:
    assert completion(prompt=prompt).prompts == prompts


@pytest.mark.parametrize("prompt", [None, 5, [], [[]], [True], [1, "a"], [-1], [[1], [2.5]], {}])
def test_prompts_refused(prompt: object) -> None:
    with pytest.raises(InvalidParameter) as caught:
        completion(prompt=prompt)
    assert caught.value.param == "prompt"


RULES = {ChatRequest: unsupported.CHAT, CompletionRequest: unsupported.COMPLETION}


def applied(fields: dict[str, Any], schema: type[ChatRequest | CompletionRequest]) -> list[str]:
    warnings = Warnings()
    RULES[schema].apply(fields, schema.model_fields, warnings)
    return warnings.texts


@pytest.mark.parametrize(
    ("fields", "schema"),
    [
        ({"documents": [{}]}, ChatRequest),
        ({"modalities": ["text", "audio"]}, ChatRequest),
        ({"truncate_prompt_tokens": 0}, ChatRequest),
        ({"skip_special_tokens": False}, CompletionRequest),
        ({"bad_words": ["end"]}, CompletionRequest),
    ],
)
def test_what_would_make_another_answer_is_refused_by_name(
    fields: dict[str, Any], schema: Any
) -> None:
    with pytest.raises(UnsupportedFeature) as caught:
        applied(fields, schema)
    assert caught.value.param == list(fields)[-1]
    assert str(caught.value.param) in caught.value.message


@pytest.mark.parametrize(
    ("fields", "schema", "words"),
    [
        ({"prompt_logprobs": 0}, ChatRequest, "prompt_logprobs: not supported"),
        ({"audio": {"voice": "x"}}, ChatRequest, "audio: not supported"),
        ({"tools": [{}]}, CompletionRequest, "tools: not supported"),
        ({"max_token": 5}, ChatRequest, "max_token: unknown field"),
        ({"x" * 500: 5}, CompletionRequest, "x" * 60 + ": unknown field"),
    ],
)
def test_what_is_seen_to_be_missing_is_left_out_and_reported(
    fields: dict[str, Any], schema: Any, words: str
) -> None:
    [warning] = applied(fields, schema)
    assert warning.startswith(words)


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [], "tool_choice": "auto", "response_format": {"type": "text"}},
        {"tools": None, "tool_choice": "none", "functions": None},
        {"use_beam_search": False, "skip_special_tokens": True, "suffix": ""},
        {"user": "me", "metadata": {"a": "b"}, "store": True, "prompt_cache_retention": "24h"},
    ],
)
def test_asking_for_nothing_is_neither(fields: dict[str, Any]) -> None:
    assert applied({**fields, "modalities": ["text"]}, ChatRequest) == []
    assert applied(fields, CompletionRequest) == []


def prompt_of(asked: ChatRequest, *capabilities: str) -> ChatPrompt:
    return chat_prompt(asked, ChatImages(model_card(capabilities=capabilities), Warnings()))


def test_messages_for_the_template() -> None:
    prompt = prompt_of(
        chat(
            messages=[
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "name": "ann", "content": [
                    {"type": "text", "text": "one"}, {"type": "text", "text": "two"},
                ]},
                {"role": "assistant", "content": None, "refusal": "no"},
                {"role": "user", "content": "why?"},
            ],
            chat_template_kwargs={"enable_thinking": False},
            reasoning_effort="low",
        )
    )  # fmt: skip
    assert prompt.messages == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one\ntwo", "name": "ann"},
        {"role": "assistant", "content": "no"},
        {"role": "user", "content": "why?"},
    )
    assert prompt.template_kwargs == {"enable_thinking": False, "reasoning_effort": "low"}
    assert prompt.add_generation_prompt
    assert not prompt.continue_final_message


def test_continuing_a_message_opens_no_new_one() -> None:
    prompt = prompt_of(chat(continue_final_message=True))
    assert prompt.continue_final_message
    assert not prompt.add_generation_prompt


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]},
         "messages[0].content[0]"),
    ],
)  # fmt: skip
def test_messages_that_are_not_served(message: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedFeature) as caught:
        prompt_of(chat(messages=[message]))
    assert caught.value.param == param


def test_a_chat_needs_a_user_message() -> None:
    with pytest.raises(InvalidParameter) as caught:
        prompt_of(chat(messages=[{"role": "user"}]))
    assert caught.value.param == "messages[0].content"


def test_allowed_tools_are_the_only_ones() -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("a", "b", "c")]

    def choice(*names: str, mode: str = "auto") -> dict[str, Any]:
        named = [{"type": "function", "function": {"name": name}} for name in names]
        return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": named}}

    asked = chat(tools=tools, tool_choice=choice("c", "a", mode="required"))
    assert [tool.name for tool in asked.tools or ()] == ["c", "a"]
    assert asked.tool_choice == "required"
    for wrong in (choice("d"), choice(), choice("a", mode="none"), {"allowed_tools": []}):
        with pytest.raises(InvalidParameter) as caught:
            chat(tools=tools, tool_choice=wrong)
        assert caught.value.param == "tool_choice"
