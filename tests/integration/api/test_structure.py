"""Forms, tools and reasoning at the API: shapes as OpenAI's SDK reads them, over a scripted worker."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest

from penstock.contract.events import Failed, Finished, FinishReason, Tokens, Usage
from penstock.contract.structure import (
    ChoiceStructure,
    EitherStructure,
    GrammarStructure,
    JsonStructure,
    RegexStructure,
    ToolFunction,
    ToolStructure,
)
from tests.unit.api.parsing.written import written

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from penstock.contract.job import Job
    from tests.fixtures.api import ApiServer, Fleet, Script

ASK: Any = [{"role": "user", "content": "weather in Paris?"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: Any = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
TIME: Any = {"type": "function", "function": {"name": "time", "strict": True}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
CARD: Any = {
    "capabilities": ("generate", "structure"),
    "tool_parser": "hermes",
    "reasoning": ("<think>", "</think>"),
}


def writes(text: str, size: int = 3, reason: str = "stop") -> Callable[[Job], Script]:
    """Write a text in pieces of a few characters."""

    def script(job: Job) -> Script:
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        for index, piece in enumerate(pieces):
            yield Tokens(job.id, index, (index,), piece, prompt_tokens=None if index else 3)
        yield Finished(job.id, len(pieces), FinishReason(reason), Usage(3, len(pieces)))

    return script


@pytest.fixture
def server(fleet: Fleet) -> ApiServer:
    return fleet.api()


@pytest.fixture
def client(server: ApiServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


# -- forms

SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("fields", "structure"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, JsonStructure({"type": "object"})),
        (
            {"response_format": {"type": "json_schema",
                                 "json_schema": {"name": "n", "schema": SCHEMA}}},
            JsonStructure(SCHEMA, lenient=True),
        ),
        (
            {"response_format": {"type": "json_schema",
                                 "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}},
            JsonStructure(SCHEMA),
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
            JsonStructure(SCHEMA, lenient=True),
        ),
        (
            {"response_format": {"type": "json_object", "schema": SCHEMA}},
            JsonStructure(SCHEMA),
        ),
        ({"json_schema": SCHEMA}, JsonStructure(SCHEMA)),
        ({"grammar": 'root ::= "a"'}, GrammarStructure('root ::= "a"')),
        ({"guided_json": SCHEMA}, JsonStructure(SCHEMA)),
        ({"guided_json": json.dumps(SCHEMA)}, JsonStructure(SCHEMA)),
        ({"guided_regex": "a+"}, RegexStructure("a+")),
        ({"guided_choice": ["a", "b"]}, ChoiceStructure(("a", "b"))),
        ({"guided_grammar": 'start: "a"'}, GrammarStructure('start: "a"')),
        ({"structured_outputs": {"json": SCHEMA}}, JsonStructure(SCHEMA)),
        ({"structured_outputs": {"regex": "a+"}}, RegexStructure("a+")),
        ({"structured_outputs": {"choice": ["a"]}}, ChoiceStructure(("a",))),
        ({"structured_outputs": {"grammar": "x"}}, GrammarStructure("x")),
        ({"structured_outputs": {"json_object": True}}, JsonStructure({"type": "object"})),
    ],
)  # fmt: skip
@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_forms_reach_the_worker(fleet, client, endpoint, fields, structure) -> None:
    worker = fleet.worker(writes("{}"), **CARD)
    if endpoint == "chat":
        client.chat.completions.create(model="tiny", messages=ASK, extra_body=fields)
    else:
        client.completions.create(model="tiny", prompt="a", extra_body=fields)
    assert worker.jobs[0].work.sampling.structure == structure


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"response_format": {"type": "json"}}, "response_format", "invalid_parameter"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema",
         "invalid_parameter"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": 3}}},
         "response_format.json_schema.schema", "invalid_parameter"),
        ({"guided_json": "{"}, "guided_json", "invalid_parameter"),
        ({"guided_json": "[]"}, "guided_json", "invalid_parameter"),
        ({"guided_choice": []}, "guided_choice", "invalid_parameter"),
        ({"structured_outputs": {}}, "structured_outputs", "invalid_parameter"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice", "invalid_parameter"),
        ({"guided_regex": "a", "ignore_eos": True}, "ignore_eos", "invalid_parameter"),
        ({"tools": [{"name": "f"}]}, "tools[0]", "invalid_parameter"),
        ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]},
         "tools[0].function.name", "invalid_parameter"),
        ({"tools": [WEATHER, WEATHER]}, "tools", "invalid_parameter"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_parameter"),
        ({"tools": [WEATHER], "tool_choice": "sometimes"}, "tool_choice", "invalid_parameter"),
        ({"tools": [WEATHER],
          "tool_choice": {"type": "function", "function": {"name": "other"}}},
         "tool_choice", "invalid_parameter"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_400_with_its_field(fleet, client, fields, param, code) -> None:
    worker = fleet.worker(writes("{}"), **CARD)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=ASK, extra_body=fields)
    assert (caught.value.param, caught.value.code) == (param, code)
    assert not worker.jobs


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"structured_outputs": {"regex": "a"}}, "structured_outputs.regex"),
        ({"tools": [WEATHER]}, "tools"),
    ],
)
def test_a_model_that_cannot_refuses(fleet, client, fields, param) -> None:
    fleet.worker()
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=ASK, extra_body=fields)
    assert (caught.value.param, caught.value.code) == (param, "unsupported_feature")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"guided_regex": "("}, "guided_regex"),
        ({"tools": [WEATHER], "tool_choice": "required"}, "tools"),
    ],
)
def test_a_form_that_the_worker_refuses_is_blamed_on_its_field(
    fleet, client, fields, param
) -> None:
    def refuse(job: Job) -> Script:
        yield Failed(job.id, 0, "invalid_parameter", "no such form", "structure")

    fleet.worker(refuse, **CARD)
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(
                model="tiny", messages=ASK, stream=stream, extra_body=fields
            )
        assert caught.value.param == param


# -- tools


def test_tools_are_rendered_and_calls_come_back(fleet, client) -> None:
    worker = fleet.worker(writes("Let me see.\n" + CALL), **CARD)
    answer = client.chat.completions.create(model="tiny", messages=ASK, tools=[WEATHER, TIME])
    prompt = worker.jobs[0].work.prompt
    assert prompt.tools == (WEATHER, TIME)
    assert worker.jobs[0].work.sampling.structure is None
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me see."
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name) == ("function", "weather")
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    assert call.id.startswith("call_")


def test_a_conversation_with_calls_goes_back_to_the_model(fleet, client) -> None:
    worker = fleet.worker(writes(CALL), **CARD)
    first = client.chat.completions.create(model="tiny", messages=ASK, tools=[WEATHER])
    message = first.choices[0].message
    assert message.content is None
    messages = [
        *ASK,
        message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "21 degrees"},
    ]
    client.chat.completions.create(model="tiny", messages=messages, tools=[WEATHER])
    sent = worker.jobs[1].work.prompt.messages
    assert sent[1]["tool_calls"][0]["function"]["name"] == "weather"
    assert sent[1]["content"] == ""
    assert sent[2] == {
        "role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "21 degrees",
    }  # fmt: skip


def test_streamed_calls(fleet, client) -> None:
    fleet.worker(writes(f"Hm.\n{CALL}\n{CALL}"), **CARD)
    with client.chat.completions.stream(model="tiny", messages=ASK, tools=[WEATHER]) as stream:
        whole = stream.get_final_completion()
    calls = whole.choices[0].message.tool_calls
    assert [call.function.name for call in calls] == ["weather", "weather"]
    assert [json.loads(call.function.arguments) for call in calls] == [{"city": "Paris"}] * 2
    assert len({call.id for call in calls}) == 2
    assert whole.choices[0].message.content == "Hm."
    assert whole.choices[0].finish_reason == "tool_calls"
    chunks = list(
        client.chat.completions.create(model="tiny", messages=ASK, tools=[WEATHER], stream=True)
    )
    deltas = [
        call for chunk in chunks for choice in chunk.choices for call in choice.delta.tool_calls or ()
    ]  # fmt: skip
    first = next(delta for delta in deltas if delta.index == 1)
    assert (first.function.name, first.type) == ("weather", "function")
    assert sum(delta.index == 0 for delta in deltas) > 5
    assert all(delta.id is None for delta in deltas if not delta.function.name)
    assert chunks[0].choices[0].delta.role == "assistant"


def test_whole_and_streamed_answers_agree(fleet, client) -> None:
    fleet.worker(writes(f"<think>so\n</think>\n\nHm.\n{CALL} end"), **CARD)
    asked: Any = {"model": "tiny", "messages": ASK, "tools": [WEATHER], "n": 2}
    whole = client.chat.completions.create(**asked)
    with client.chat.completions.stream(**asked) as stream:
        streamed = stream.get_final_completion()
    for one, other in zip(whole.choices, streamed.choices, strict=True):
        assert one.message.content == other.message.content == "Hm. end"
        assert one.finish_reason == other.finish_reason
        assert [c.function.arguments for c in one.message.tool_calls] == [
            c.function.arguments for c in other.message.tool_calls
        ]
        assert one.message.reasoning_content == "so"


def test_malformed_calls_are_content(fleet, client) -> None:
    text = "<tool_call>weather(Paris)</tool_call>"
    fleet.worker(writes(text), **CARD)
    answer = client.chat.completions.create(model="tiny", messages=ASK, tools=[WEATHER])
    assert answer.choices[0].message.content == text
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].finish_reason == "stop"


def test_a_call_cut_by_max_tokens_is_length(fleet, client) -> None:
    fleet.worker(writes(CALL[:50], reason="length"), **CARD)
    answer = client.chat.completions.create(model="tiny", messages=ASK, tools=[WEATHER])
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].message.tool_calls[0].function.arguments == '{"cit'


def test_without_tools_markers_are_text(fleet, client) -> None:
    worker = fleet.worker(writes(CALL), **CARD)
    answer = client.chat.completions.create(model="tiny", messages=ASK)
    assert answer.choices[0].message.content == CALL
    none = client.chat.completions.create(
        model="tiny", messages=ASK, tools=[WEATHER], tool_choice="none"
    )
    assert none.choices[0].message.content == CALL
    assert worker.jobs[1].work.prompt.tools == ()


def test_tool_choice_becomes_a_structure(fleet, client) -> None:
    worker = fleet.worker(writes(CALL), **CARD)
    weather, time = ToolFunction("weather", CITY), ToolFunction("time", {}, strict=True)
    named: Any = {"type": "function", "function": {"name": "time"}}
    asked: Any = {"model": "tiny", "messages": ASK, "tools": [WEATHER, TIME]}
    client.chat.completions.create(**asked, tool_choice="required")
    client.chat.completions.create(**asked, tool_choice="required", parallel_tool_calls=False)
    client.chat.completions.create(**asked, tool_choice=named)
    client.chat.completions.create(**asked, response_format={"type": "json_object"})
    assert [job.work.sampling.structure for job in worker.jobs] == [
        ToolStructure((weather, time), parallel=True),
        ToolStructure((weather, time)),
        ToolStructure((time,)),
        EitherStructure(
            ToolStructure((weather, time), parallel=True), JsonStructure({"type": "object"})
        ),
    ]


@pytest.mark.parametrize("dialect", ["qwen3_coder", "glm45", "harmony", "deepseek_v31"])
def test_calls_in_other_dialects(fleet, client, dialect: str) -> None:
    """Whole and streamed: names, arguments and content as the SDK reads them."""
    text = "Hm.\n" + written(dialect, [("weather", {"city": "Zürich"})])
    if dialect == "harmony":
        text = "<|channel|>commentary<|message|>Hm.<|end|><|start|>assistant" + text[4:]
    fleet.worker(writes(text), **{**CARD, "tool_parser": dialect})
    asked: Any = {"model": "tiny", "messages": ASK, "tools": [WEATHER]}
    message = client.chat.completions.create(**asked).choices[0].message
    assert message.content == "Hm."
    assert message.tool_calls[0].function.name == "weather"
    assert json.loads(message.tool_calls[0].function.arguments) == {"city": "Zürich"}
    chunks = list(client.chat.completions.create(**asked, stream=True))
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    calls = [call.function for delta in deltas for call in delta.tool_calls or []]
    assert "".join(delta.content or "" for delta in deltas) == "Hm."
    assert [call.name for call in calls if call.name] == ["weather"]
    assert json.loads("".join(call.arguments or "" for call in calls)) == {"city": "Zürich"}
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_calls_one_at_a_time(fleet, client) -> None:
    fleet.worker(writes(f"{CALL}\n{CALL}"), **CARD)
    answer = client.chat.completions.create(
        model="tiny", messages=ASK, tools=[WEATHER], parallel_tool_calls=False
    )
    assert len(answer.choices[0].message.tool_calls) == 1


# -- reasoning


def test_reasoning_is_split_off(fleet, client) -> None:
    fleet.worker(writes("<think>\nParis is\nin France\n</think>\n\nSunny."), **CARD)
    answer = client.chat.completions.create(model="tiny", messages=ASK)
    assert answer.choices[0].message.content == "Sunny."
    assert answer.choices[0].message.reasoning_content == "Paris is\nin France"
    chunks = list(client.chat.completions.create(model="tiny", messages=ASK, stream=True))
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    thoughts = [getattr(delta, "reasoning_content", None) for delta in deltas]
    assert "".join(thought for thought in thoughts if thought) == "Paris is\nin France"
    assert sum(map(bool, thoughts)) > 4
    assert "".join(delta.content or "" for delta in deltas) == "Sunny."
    hidden = client.chat.completions.create(
        model="tiny", messages=ASK, extra_body={"include_reasoning": False}
    )
    assert not hasattr(hidden.choices[0].message, "reasoning_content")


def test_a_resumed_stream_goes_on_within_a_call(fleet, server) -> None:
    fleet.worker(writes(CALL), **CARD)
    body = {"model": "tiny", "messages": ASK, "tools": [WEATHER], "stream": True}
    headers = {"Idempotency-Key": "k1"}
    with httpx.Client(base_url=server.url, timeout=20.0) as http:
        whole = http.post("/v1/chat/completions", json=body, headers=headers).text
        events = [block for block in whole.split("\n\n") if block.startswith("id: ")]
        for cut in (0, len(events) // 2, len(events) - 2):
            last_id = events[cut].split("\n")[0].removeprefix("id: ")
            rest = http.post(
                "/v1/chat/completions", json=body, headers={**headers, "Last-Event-ID": last_id}
            ).text
            again = [block for block in rest.split("\n\n") if block.startswith("id: ")]
            assert [json.loads(block.split("data: ")[1])["choices"] for block in again] == [
                json.loads(block.split("data: ")[1])["choices"] for block in events[cut + 1 :]
            ]


LOOK_AHEAD: Any = {
    "type": "function",
    "function": {
        "name": "mail",
        "parameters": {
            "type": "object",
            "properties": {"to": {"type": "string", "pattern": "^(?!x).+@.+$"}},
        },
    },
}


@pytest.mark.parametrize("stream", [False, True])
def test_a_keyword_that_is_left_out_is_reported(fleet, server, stream: bool) -> None:
    """zod's e-mail pattern looks ahead: the call is held to the rest, and the client hears of it."""
    worker = fleet.worker(writes(CALL), **CARD)
    body = {"model": "tiny", "messages": ASK, "tools": [LOOK_AHEAD], "stream": stream}
    with httpx.Client(base_url=server.url, timeout=20.0) as http:
        forced = http.post("/v1/chat/completions", json={**body, "tool_choice": "required"})
        free = http.post("/v1/chat/completions", json=body)
    assert forced.status_code == free.status_code == 200
    warning = "tools: mail: properties.to.pattern is not enforced"
    assert json.loads(forced.headers["x-penstock-warnings"]) == [warning]
    assert "x-penstock-warnings" not in free.headers
    assert worker.jobs[0].work.sampling.structure.functions[0].name == "mail"
    if not stream:
        assert forced.json()["warnings"] == [warning]
