"""Bodies of /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field

from api.openai.schema import INT64, MAX_STOPS, Fields, Whole

MOST_MESSAGES: Final = 100_000

Block = dict[str, Any]
Content = str | list[Block]


class AnthropicMessage(Fields):
    """One message; a block is looked at where it becomes a chat's."""

    role: Literal["user", "assistant"]
    content: Content


class Thinking(Fields):
    """`thinking`: whether the model's reasoning is wanted."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Whole | None = Field(default=None, ge=1)


class AnthropicToolChoice(Fields):
    """`tool_choice`."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class OutputConfig(Fields):
    """`output_config`: the form of the answer, and the effort."""

    format: dict[str, Any] | None = None
    effort: str | None = None


class CountTokensRequest(Fields):
    """Body of POST /v1/messages/count_tokens."""

    model: str = Field(min_length=1, max_length=500)
    messages: Annotated[list[AnthropicMessage], Field(min_length=1, max_length=MOST_MESSAGES)]
    system: Content | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: AnthropicToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None


class MessagesRequest(CountTokensRequest):
    """Body of POST /v1/messages; the last line is an extension."""

    max_tokens: Whole = Field(ge=1, lt=INT64)
    stop_sequences: (
        list[Annotated[str, Field(min_length=1, max_length=1_000)]] | None
    ) = Field(default=None, max_length=MAX_STOPS)  # fmt: skip
    stream: bool | None = None
    temperature: float | None = Field(default=None, ge=0, le=1)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: Whole | None = Field(default=None, ge=0, lt=INT64)
    metadata: dict[str, Any] | None = None
    priority: Whole | None = Field(default=None, ge=0, le=9)


UNSUPPORTED: Final = {
    "container": (None,),
    "context_management": (None, {}),
    "mcp_servers": (None, []),
}
