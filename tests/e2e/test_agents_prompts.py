"""Prompts and tools of coding agents, over the three protocols, through real processes.

60 tools with long descriptions and deep schemas, a long system text, a conversation of 200 messages:
some 40,000 tokens of the demo model's tokenizer. No bound of ours may be in the way.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import anthropic
import openai
import pytest

from tests.fixtures.forced.fleet import MODEL, ForcedFleet, forced_fleet
from tests.fixtures.forced.script import RESULT, Line, call

if TYPE_CHECKING:
    from collections.abc import Iterator

DONE = "All done."
COMMAND = "ls -la"
SYSTEM = "You are a coding agent. Keep to the rules of this repository. " * 300
DESCRIPTION = "Runs something, and returns what it has written. Use it with care. " * 8
EDITS: dict[str, Any] = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "path": {"type": "string", "description": "The file's path. " * 4},
            "range": {"type": "array", "items": {"type": "integer"}, "maxItems": 2},
            "kind": {"enum": ["insert", "replace", "delete"]},
        },
        "required": ["path"],
    },
}
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"command": {"type": "string"}, "edits": EDITS},
    "required": ["command"],
    "additionalProperties": False,
}
NAMES = [f"tool_{place}" for place in range(59)] + ["bash"]
TURNS = [("user", "Look again."), ("assistant", "I have looked at it, and it is as it was.")] * 100
LEAST_TOKENS = 30_000


SCRIPT = [
    Line("So: " + call("plan", input="no number"), tool="plan", results=0),
    Line(call("bash", command=COMMAND), tool="bash", results=0),
    Line(DONE),
]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForcedFleet]:
    with forced_fleet(tmp_path_factory.mktemp("agents")) as fleet:
        fleet.script.write(SCRIPT)
        yield fleet


def history() -> list[Any]:
    return [{"role": role, "content": text} for role, text in (*TURNS, ("user", "List it."))]


def test_chat_completions(fleet: ForcedFleet) -> None:
    tools: Any = [
        {
            "type": "function",
            "function": {"name": name, "description": DESCRIPTION, "parameters": PARAMETERS},
        }
        for name in NAMES
    ]
    messages: list[Any] = [{"role": "system", "content": SYSTEM}, *history()]
    with openai.OpenAI(base_url=f"{fleet.url}/v1", api_key="none", max_retries=0) as client:
        first = client.chat.completions.create(model=MODEL, messages=messages, tools=tools)
        message = first.choices[0].message
        assert message.tool_calls
        made: Any = message.tool_calls[0]
        assert json.loads(made.function.arguments) == {"command": COMMAND}
        messages += [message, {"role": "tool", "tool_call_id": made.id, "content": "a\nb"}]
        second: Any = client.chat.completions.create(model=MODEL, messages=messages, tools=tools)
    assert second.choices[0].message.content == DONE
    usage = second.usage
    as_an_agent_needs_it(usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens)
    assert "a\nb" in fleet.script.prompts()[-1].rpartition(RESULT)[2]


def test_responses(fleet: ForcedFleet) -> None:
    tools: Any = [
        {
            "type": "function",
            "name": name,
            "description": DESCRIPTION,
            "parameters": PARAMETERS,
            "strict": False,
        }
        for name in NAMES
    ]
    more: Any = {"model": MODEL, "instructions": SYSTEM, "tools": tools, "store": False}
    items: Any = history()
    with openai.OpenAI(base_url=f"{fleet.url}/v1", api_key="none", max_retries=0) as client:
        [made] = client.responses.create(input=items, **more).output
        assert made.type == "function_call"
        assert json.loads(made.arguments) == {"command": COMMAND}
        output = {"type": "function_call_output", "call_id": made.call_id, "output": "a\nb"}
        turns: Any = [*items, made.to_dict(), output]
        second = client.responses.create(input=turns, **more)
    assert second.output_text == DONE
    assert second.usage
    as_an_agent_needs_it(second.usage.input_tokens, second.usage.input_tokens_details.cached_tokens)


def test_messages(fleet: ForcedFleet) -> None:
    tools: Any = [
        {"name": name, "description": DESCRIPTION, "input_schema": PARAMETERS} for name in NAMES
    ]
    more: Any = {"model": MODEL, "system": SYSTEM, "tools": tools, "max_tokens": 8_000}
    messages: Any = history()
    with anthropic.Anthropic(base_url=fleet.url, api_key="none", max_retries=0) as client:
        first = client.messages.create(messages=messages, **more)
        [made] = first.content
        assert made.type == "tool_use"
        assert made.input == {"command": COMMAND}
        result = {"type": "tool_result", "tool_use_id": made.id, "content": "a\nb"}
        messages += [
            {"role": "assistant", "content": first.content},
            {"role": "user", "content": [result]},
        ]
        second = client.messages.create(messages=messages, **more)
    assert second.content[0].type == "text"
    assert second.content[0].text == DONE
    usage = second.usage
    cached = usage.cache_read_input_tokens or 0
    as_an_agent_needs_it(usage.input_tokens + cached, cached)


def as_an_agent_needs_it(prompt_tokens: int, cached_tokens: int) -> None:
    """The prompt was as long as it should be, and the second turn computed its end alone."""
    assert prompt_tokens > LEAST_TOKENS
    assert cached_tokens > 0.98 * prompt_tokens


def test_a_model_that_calls_a_custom_tool_wrongly_is_held_to_its_grammar(
    fleet: ForcedFleet,
) -> None:
    """No call is required: the answer is free until the call's input begins."""
    form = {"type": "grammar", "grammar": {"syntax": "regex", "definition": "[0-9]{3}"}}
    tools: Any = [{"type": "custom", "custom": {"name": "plan", "format": form}}]
    with openai.OpenAI(base_url=f"{fleet.url}/v1", api_key="none", max_retries=0) as client:
        answer = client.chat.completions.create(
            model=MODEL, messages=history()[-1:], tools=tools, temperature=0, max_tokens=200
        )
    message = answer.choices[0].message
    assert (message.content or "").strip() == "So:"
    assert message.tool_calls
    made: Any = message.tool_calls[0]
    assert re.fullmatch("[0-9]{3}", made.custom.input)
