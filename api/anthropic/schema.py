"""Bodies of /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field

from api.openai.schema import INT64, MAX_STOPS, Fields, Whole
from api.openai.unsupported import NOTHING, Rule

MOST_MESSAGES: Final = 100_000

Block = dict[str, Any]
Content = str | list[Block]


class AnthropicMessage(Fields):
    """One message; its blocks are checked when they become a chat's."""

    role: Literal["user", "assistant", "system"]
    content: Content


class Thinking(Fields):
    """`thinking`: whether the model's reasoning is wanted. Types that are not known ask for it."""

    type: str = Field(max_length=100)


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
    output_format: dict[str, Any] | None = None
    """The older form of `output_config.format`."""

    @property
    def thinks(self) -> bool:
        """Whether the model's reasoning is wanted."""
        return self.thinking is not None and self.thinking.type != "disabled"

    @property
    def effort(self) -> str | None:
        """How much the model should think, if the client states it."""
        return self.output_config.effort if self.output_config else None

    @property
    def answer_format(self) -> dict[str, Any] | None:
        """The form of the answer, if one is requested."""
        newer = self.output_config.format if self.output_config else None
        return self.output_format if newer is None else newer


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


RULE: Final = Rule(
    left_out={
        "compaction": NOTHING,
        "container": NOTHING,
        "context_management": NOTHING,
        "fallbacks": NOTHING,
        "mcp_servers": NOTHING,
        "thread": (None,),
    },
    without_effect=frozenset(
        {
            "betas", "billing_policy", "cache_control", "diagnostics", "fallback_credit_token",
            "inference_geo", "metadata", "service_tier", "speed", "user_profile_id", "workspace_id",
        }
    ),
)  # fmt: skip
COUNTING: Final = Rule(
    left_out=RULE.left_out,
    without_effect=RULE.without_effect | frozenset(MessagesRequest.model_fields),
)
"""Of count_tokens, which some clients send the whole body of a message."""
