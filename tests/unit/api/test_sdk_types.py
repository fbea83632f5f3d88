"""Every kind of item, tool, block and event of the installed SDKs is served, or left out by name.

A newer SDK's new kinds fail here until somebody has looked at them. They are left out meanwhile.
"""

from __future__ import annotations

import types
import typing
from typing import Any, Literal, Union

import pydantic
import pytest
from anthropic.types import (
    ContentBlock,
    ContentBlockParam,
    RawContentBlockDelta,
    RawMessageStreamEvent,
    StopReason,
    ToolUnionParam,
)
from anthropic.types.beta import (
    BetaContentBlock,
    BetaContentBlockParam,
    BetaRawContentBlockDelta,
    BetaRawMessageStreamEvent,
    BetaThinkingConfigParam,
    BetaToolUnionParam,
)
from anthropic.types.beta import message_create_params as beta_message
from anthropic.types.beta.beta_tool_result_block_param import Content as ResultContent
from openai.types.beta import (
    BetaResponseInputItem,
    BetaResponseOutputItem,
    BetaResponseStreamEvent,
    BetaTool,
)
from openai.types.chat import completion_create_params
from openai.types.chat.chat_completion_content_part_param import ChatCompletionContentPartParam
from openai.types.chat.chat_completion_tool_union_param import ChatCompletionToolUnionParam
from openai.types.responses import (
    ResponseIncludable,
    ResponseInputItemParam,
    ResponseItem,
    ResponseOutputItem,
    ResponseStreamEvent,
    ToolParam,
    response_create_params,
)

from api.anthropic import input_blocks
from api.anthropic import tools as anthropic_tools
from api.anthropic.client_tools import CLIENT_TOOLS
from api.anthropic.schema import RULE as MESSAGES_RULE
from api.anthropic.schema import MessagesRequest
from api.openai.chat.tool_forms import SERVED as CHAT_TOOLS
from api.openai.responses import item_kinds
from api.openai.responses.schema import RULE as RESPONSES_RULE
from api.openai.responses.schema import SERVED_INCLUDES, ResponseRequest
from api.openai.schema import ChatRequest
from api.openai.unsupported import CHAT

KINDS_WITHOUT_TYPE = {"message", "custom"}
"""What a message of the Responses API and a tool of Anthropic's are without a `type`."""


def members(union: Any) -> set[Any]:
    """Return the classes of a union, of unions within it too."""
    origin = typing.get_origin(union)
    if origin is typing.Annotated:
        return members(typing.get_args(union)[0])
    if origin in (Union, types.UnionType):
        return {one for part in typing.get_args(union) for one in members(part)}
    return {union} if isinstance(union, type) else set()


def literals(hint: Any) -> set[str]:
    """Return the texts of the literals in a type."""
    if typing.get_origin(hint) is Literal:
        return {str(text) for text in typing.get_args(hint)}
    return {text for part in typing.get_args(hint) for text in literals(part)}


def _hint(one: Any) -> Any:
    if issubclass(one, pydantic.BaseModel):
        field = one.model_fields.get("type")
        return field.annotation if field is not None else None
    return typing.get_type_hints(one, include_extras=True).get("type")


def kinds(union: Any) -> set[str]:
    """Return the values of `type` of a union's classes."""
    found: set[str] = set()
    for one in members(union):
        found |= literals(_hint(one))
    return found


def fields(params: Any) -> set[str]:
    """Return the names of a body's fields, as they are sent."""
    return {name.removesuffix("_") for name in typing.get_type_hints(params)}


@pytest.mark.parametrize(
    "items",
    [
        ResponseInputItemParam, ResponseItem, ResponseOutputItem,
        BetaResponseInputItem, BetaResponseOutputItem,
    ],
)  # fmt: skip
def test_items_of_responses(items: Any) -> None:
    """What an answer may hold comes back in the next request."""
    known = item_kinds.SERVED | item_kinds.LEFT_OUT | item_kinds.OUTPUTS | set(item_kinds.CALLS)
    assert len(kinds(items)) > 20
    assert kinds(items) - known == set()
    assert not item_kinds.SERVED & item_kinds.LEFT_OUT


def test_tools() -> None:
    responses = item_kinds.TOOLS_SERVED | item_kinds.TOOLS_LEFT_OUT
    assert kinds(ToolParam) | kinds(BetaTool) <= responses
    assert kinds(ChatCompletionToolUnionParam) == set(CHAT_TOOLS)
    anthropic = set(CLIENT_TOOLS) | anthropic_tools.LEFT_OUT | KINDS_WITHOUT_TYPE
    assert kinds(BetaToolUnionParam) | kinds(ToolUnionParam) <= anthropic


def test_blocks() -> None:
    known = input_blocks.SERVED | input_blocks.LEFT_OUT
    assert kinds(BetaContentBlockParam) | kinds(ResultContent) <= known
    assert kinds(ContentBlockParam) | kinds(ContentBlock) | kinds(BetaContentBlock) <= known
    assert not input_blocks.SERVED & input_blocks.LEFT_OUT
    assert kinds(ChatCompletionContentPartParam) == {
        "file", "image_url", "input_audio", "text",
    }  # fmt: skip
    assert kinds(BetaThinkingConfigParam) == {"adaptive", "between_tools", "disabled", "enabled"}


EVENTS_OF_OTHERS = (
    "response.audio", "response.code_interpreter_call", "response.compaction",
    "response.file_search_call", "response.image_generation_call", "response.mcp_",
    "response.output_text.annotation", "response.reasoning_summary", "response.refusal",
    "response.reasoning_text", "response.shell_call", "response.steer", "response.web_search_call",
)  # fmt: skip
"""Events of what this server does not run; reasoning is shown as its whole text."""
EVENTS = {
    "error", "response.created", "response.queued", "response.in_progress", "response.completed",
    "response.incomplete", "response.failed", "response.output_item.added",
    "response.output_item.done", "response.content_part.added", "response.content_part.done",
    "response.output_text.delta", "response.output_text.done",
    "response.function_call_arguments.delta", "response.function_call_arguments.done",
    "response.custom_tool_call_input.delta", "response.custom_tool_call_input.done",
}  # fmt: skip


def test_events() -> None:
    for events in (ResponseStreamEvent, BetaResponseStreamEvent):
        unknown = {kind for kind in kinds(events) - EVENTS if not kind.startswith(EVENTS_OF_OTHERS)}
        assert unknown == set()
        assert kinds(events) >= EVENTS
    assert kinds(RawMessageStreamEvent) == kinds(BetaRawMessageStreamEvent) == {
        "message_start", "message_delta", "message_stop",
        "content_block_start", "content_block_delta", "content_block_stop",
    }  # fmt: skip
    assert kinds(RawContentBlockDelta) == {
        "text_delta", "input_json_delta", "citations_delta", "thinking_delta", "signature_delta",
    }  # fmt: skip
    assert kinds(BetaRawContentBlockDelta) - kinds(RawContentBlockDelta) == {"compaction_delta"}
    assert literals(StopReason) == {
        "end_turn", "max_tokens", "model_context_window_exceeded", "pause_turn", "refusal",
        "stop_sequence", "tool_use",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("params", "schema", "rule"),
    [
        (completion_create_params.CompletionCreateParamsBase, ChatRequest, CHAT),
        (response_create_params.ResponseCreateParamsBase, ResponseRequest, RESPONSES_RULE),
        (beta_message.MessageCreateParamsBase, MessagesRequest, MESSAGES_RULE),
    ],
)
def test_fields(params: Any, schema: Any, rule: Any) -> None:
    known = {*schema.model_fields, *rule.refused, *rule.left_out, *rule.without_effect}
    assert fields(params) - known == set()


def test_includes() -> None:
    assert literals(ResponseIncludable) >= SERVED_INCLUDES
