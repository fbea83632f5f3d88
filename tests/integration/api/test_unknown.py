"""What is left out and reported; custom tools and older functions; by the SDKs where they can."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anthropic
import httpx
import openai
import pytest

from penstock.contract.events import Finished, FinishReason, Tokens, Usage
from penstock.contract.structure import ToolStructure
from tests.fixtures.api import WORDS, chat_of, speak

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from penstock.contract.job import Job
    from tests.fixtures.api import ApiServer, Fleet, Script

CARD: Any = {"tool_parser": "hermes", "capabilities": ("generate", "structure")}
TEXT = "".join(WORDS)
HELLO: Any = [{"role": "user", "content": "hello"}]
PATCH = '*** Begin Patch\n+"é"\n*** End Patch\n'
GRAMMAR = 'start: "*** Begin Patch" LF "+" /.*/ LF "*** End Patch" LF\n%import common.LF'
FUNCTION: Any = {"name": "clock", "description": "the time", "parameters": {"type": "object"}}


def call(name: str, **arguments: Any) -> str:
    written = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>\n{written}\n</tool_call>"


def writes(text: str, size: int = 3) -> Callable[[Job], Script]:
    """Return a script that writes a text in pieces; it speaks where a tool has answered."""

    def script(job: Job) -> Script:
        if chat_of(job).messages[-1]["role"] == "tool":
            yield from speak(job)
            return
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        for index, piece in enumerate(pieces):
            yield Tokens(job.id, index, (index,), piece, prompt_tokens=None if index else 3)
        yield Finished(job.id, len(pieces), FinishReason.STOP, Usage(3, len(pieces)))

    return script


@pytest.fixture
def server(fleet: Fleet) -> ApiServer:
    return fleet.api()


@pytest.fixture
def http(server: ApiServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url) as http:
        yield http


@pytest.fixture
def client(server: ApiServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": HELLO, "tools": [{"type": "web_search"}]}),
        ("/v1/completions", {"prompt": "x", "of_tomorrow": 1}),
        ("/v1/responses", {"input": "x", "tools": [{"type": "web_search"}]}),
        ("/v1/messages", {"messages": HELLO, "max_tokens": 9, "context_management": {"edits": []}}),
    ],
)
def test_what_is_left_out_is_reported(
    fleet: Fleet, http: httpx.Client, path: str, body: dict[str, Any]
) -> None:
    fleet.worker()
    answer = http.post(path, json={"model": "tiny", **body})
    assert answer.status_code == 200, answer.text
    warnings = json.loads(answer.headers["x-penstock-warnings"])
    assert len(warnings) == 1
    assert answer.json()["warnings"] == warnings
    streamed = http.post(path, json={"model": "tiny", **body, "stream": True})
    assert json.loads(streamed.headers["x-penstock-warnings"]) == warnings
    body = {"model": "tiny", "messages": HELLO}
    clean = http.post("/v1/chat/completions", json=body)
    assert "x-penstock-warnings" not in clean.headers
    assert "warnings" not in clean.json()


def test_a_kept_response_has_its_warnings(fleet: Fleet, http: httpx.Client) -> None:
    fleet.worker()
    body = {"model": "tiny", "input": "x", "truncation": "auto"}
    made = http.post("/v1/responses", json=body).json()
    again = http.get(f"/v1/responses/{made['id']}").json()
    assert again["warnings"] == made["warnings"] == [
        "truncation: not supported by this server, left out"
    ]  # fmt: skip


def test_counting_leaves_out_too(fleet: Fleet, http: httpx.Client) -> None:
    fleet.worker()
    # Nobody answers the question, but the body is taken.
    body = {"model": "tiny", "messages": [], "max_tokens": 5, "mcp_servers": [{}]}
    answer = http.post("/v1/messages/count_tokens", json=body)
    assert answer.json()["error"]["param"] == "messages"
    assert "mcp_servers" in answer.headers["x-penstock-warnings"]


# -- custom tools

CUSTOM: Any = {
    "type": "custom",
    "custom": {
        "name": "apply_patch", "description": "patch",
        "format": {"type": "grammar", "grammar": {"syntax": "lark", "definition": GRAMMAR}},
    },
}  # fmt: skip
OF_RESPONSES: Any = {
    "type": "custom", "name": "apply_patch", "description": "patch",
    "format": {"type": "grammar", "syntax": "lark", "definition": GRAMMAR},
}  # fmt: skip


def test_a_custom_tool_of_a_chat(fleet: Fleet, client: openai.OpenAI) -> None:
    worker = fleet.worker(writes(f"Hm.\n{call('apply_patch', input=PATCH)}"), **CARD)
    asked: Any = {"model": "tiny", "messages": HELLO, "tools": [CUSTOM]}
    choice = client.chat.completions.create(**asked).choices[0]
    assert choice.finish_reason == "tool_calls"
    [made] = choice.message.tool_calls or []
    assert made.type == "custom"
    assert (made.custom.name, made.custom.input) == ("apply_patch", PATCH)
    [shown] = chat_of(worker.jobs[-1]).tools
    assert shown["function"]["parameters"]["properties"] == {"input": {"type": "string"}}
    assert GRAMMAR in shown["function"]["description"]
    history = [
        *HELLO, choice.message.model_dump(),
        {"role": "tool", "tool_call_id": made.id, "content": "done"},
    ]  # fmt: skip
    again = client.chat.completions.create(**{**asked, "messages": history})
    assert again.choices[0].message.content == TEXT
    told = chat_of(worker.jobs[-1]).messages[1]["tool_calls"][0]["function"]
    assert json.loads(told["arguments"]) == {"input": PATCH}


def test_a_streamed_custom_call_of_a_chat(fleet: Fleet, http: httpx.Client) -> None:
    fleet.worker(writes(call("apply_patch", input=PATCH) + call("clock", zone="x")), **CARD)
    tools = [CUSTOM, {"type": "function", "function": FUNCTION}]
    body = {"model": "tiny", "messages": HELLO, "tools": tools, "stream": True}
    lines = http.post("/v1/chat/completions", json=body).text.splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    deltas = [
        one for chunk in chunks for one in chunk["choices"][0]["delta"].get("tool_calls") or ()
    ]
    custom = [one for one in deltas if one["index"] == 0]
    assert custom[0]["type"] == "custom"
    assert custom[0]["custom"]["name"] == "apply_patch"
    assert "".join(one["custom"]["input"] for one in custom) == PATCH
    assert len(custom) > 5
    function = [one for one in deltas if one["index"] == 1]
    assert function[0]["type"] == "function"
    assert "".join(one["function"]["arguments"] for one in function) == '{"zone": "x"}'


def test_a_custom_tool_of_responses(fleet: Fleet, client: openai.OpenAI) -> None:
    worker = fleet.worker(writes(call("apply_patch", input=PATCH)), **CARD)
    asked: Any = {"model": "tiny", "input": "x", "tools": [OF_RESPONSES]}
    with client.responses.stream(**asked) as stream:
        events = list(stream)
        first = stream.get_final_response()
    pieces = [event for event in events if event.type == "response.custom_tool_call_input.delta"]
    assert "".join(event.delta for event in pieces) == PATCH
    [done] = [event for event in events if event.type == "response.custom_tool_call_input.done"]
    assert done.input == PATCH
    [made] = first.output
    assert made.type == "custom_tool_call"
    assert (made.name, made.input) == ("apply_patch", PATCH)
    output: Any = {"type": "custom_tool_call_output", "call_id": made.call_id, "output": "done"}
    again = client.responses.create(
        model="tiny", previous_response_id=first.id, tools=[OF_RESPONSES], input=[output]
    )
    assert again.output_text == TEXT
    messages = chat_of(worker.jobs[-1]).messages
    assert messages[1]["tool_calls"][0]["id"] == messages[2]["tool_call_id"] == made.call_id


def test_calls_within_a_namespace(fleet: Fleet, client: openai.OpenAI) -> None:
    fleet.worker(writes(call("mcp__x__clock", zone="x")), **CARD)
    inner: Any = {"type": "function", **FUNCTION}
    tools: Any = [{"type": "namespace", "name": "mcp__x", "description": "", "tools": [inner]}]
    [made] = client.responses.create(model="tiny", input="x", tools=tools).output
    assert made.type == "function_call"
    assert (made.namespace, made.name) == ("mcp__x", "clock")


@pytest.mark.parametrize("choice", ["required", {"type": "custom", "name": "apply_patch"}])
def test_a_custom_call_that_must_be_made_is_held_to_its_grammar(
    fleet: Fleet, client: openai.OpenAI, choice: Any
) -> None:
    worker = fleet.worker(writes(call("apply_patch", input=PATCH)), **CARD)
    client.responses.create(model="tiny", input="x", tools=[OF_RESPONSES], tool_choice=choice)
    structure = worker.jobs[-1].work.sampling.structure
    assert isinstance(structure, ToolStructure)
    [function] = structure.functions
    assert function.strict
    assert "Begin Patch" in function.parameters["properties"]["input"]["pattern"]


def test_a_grammar_that_cannot_be_enforced(fleet: Fleet, client: openai.OpenAI) -> None:
    fleet.worker(writes(call("apply_patch", input=PATCH)), **CARD)
    grammar = {"type": "grammar", "syntax": "lark", "definition": 'start: "(" start ")" | "x"'}
    tools: Any = [{**OF_RESPONSES, "format": grammar}]
    assert client.responses.create(model="tiny", input="x", tools=tools).output
    with pytest.raises(openai.BadRequestError, match="leads to itself") as caught:
        client.responses.create(model="tiny", input="x", tools=tools, tool_choice="required")
    assert caught.value.param == "tools"


def test_grammars_that_are_too_long(fleet: Fleet, client: openai.OpenAI) -> None:
    fleet.worker(writes(call("apply_patch", input=PATCH)), **CARD)
    grammar = {"type": "grammar", "syntax": "regex", "definition": "a" * 60_000}
    tools: Any = [{**OF_RESPONSES, "name": name, "format": grammar} for name in ("a", "b")]
    asked: Any = {"model": "tiny", "input": "x", "tool_choice": "required"}
    assert client.responses.create(**asked, tools=tools[:1]).output
    with pytest.raises(openai.BadRequestError, match="100000 characters together"):
        client.responses.create(**asked, tools=tools)


# -- older functions


def test_older_functions(fleet: Fleet, client: openai.OpenAI) -> None:
    worker = fleet.worker(writes(call("clock", zone="x") + call("clock", zone="y")), **CARD)
    asked: Any = {"model": "tiny", "messages": HELLO, "functions": [FUNCTION]}
    choice = client.chat.completions.create(**asked).choices[0]
    assert choice.finish_reason == "function_call"
    assert choice.message.tool_calls is None
    made = choice.message.function_call
    assert made is not None
    assert (made.name, made.arguments) == ("clock", '{"zone": "x"}')
    with client.chat.completions.create(**asked, stream=True) as stream:
        deltas = [chunk.choices[0] for chunk in stream]
    calls = [one.delta.function_call for one in deltas if one.delta.function_call]
    assert calls[0].name == "clock"
    assert "".join(one.arguments or "" for one in calls) == '{"zone": "x"}'
    assert deltas[-1].finish_reason == "function_call"
    history: Any = [
        *HELLO, {"role": "assistant", "content": None, "function_call": made.model_dump()},
        {"role": "function", "name": "clock", "content": "noon"},
    ]  # fmt: skip
    again = client.chat.completions.create(**{**asked, "messages": history})
    assert again.choices[0].message.content == TEXT
    messages = chat_of(worker.jobs[-1]).messages
    assert messages[1]["tool_calls"][0]["id"] == messages[2]["tool_call_id"] == "call00001"
    client.chat.completions.create(**asked, function_call={"name": "clock"})
    assert worker.jobs[-1].work.sampling.structure is not None
    client.chat.completions.create(**asked, function_call="none")
    assert chat_of(worker.jobs[-1]).tools == ()


def test_both_forms_of_tools_exclude_each_other(fleet: Fleet, client: openai.OpenAI) -> None:
    fleet.worker(**CARD)
    tools: Any = [{"type": "function", "function": FUNCTION}]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="tiny", messages=HELLO, functions=[FUNCTION], tools=tools
        )
    assert caught.value.param == "functions"


# -- agents on the Messages API


def test_an_answer_that_the_context_cuts_off(fleet: Fleet, server: ApiServer) -> None:
    def cut(job: Job) -> Script:
        yield Tokens(job.id, 0, (0,), "so", prompt_tokens=3)
        yield Finished(job.id, 1, FinishReason.LENGTH, Usage(3, 1))

    worker = fleet.worker(cut)
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        asked: Any = {"model": "tiny", "messages": HELLO}
        answer = client.messages.create(**asked, max_tokens=2_000)
        assert answer.stop_reason == "model_context_window_exceeded"
        assert client.messages.create(**asked, max_tokens=1).stop_reason == "max_tokens"
    assert all(job.work.fit_context for job in worker.jobs)


def test_a_session_with_a_picture_goes_on(fleet: Fleet, server: ApiServer) -> None:
    worker = fleet.worker(**CARD)
    picture: Any = {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": ""},
    }
    messages: Any = [
        *HELLO,
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "f", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": [picture]}]},
    ]  # fmt: skip
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        answer: Any = client.messages.create(model="tiny", messages=messages, max_tokens=9)
    assert answer.content[0].text == TEXT
    assert "image was left out" in chat_of(worker.jobs[-1]).messages[-1]["content"]
