"""Body of POST /v1/responses, and what of it becomes a chat."""

from __future__ import annotations

from typing import Annotated, Any, Final, Self

from pydantic import Field, model_validator

from api.openai.schema import INT64, MAX_LOGPROBS, Fields, Whole, inconsistent
from api.openai.unsupported import NOTHING, Rule

MOST_ITEMS: Final = 10_000
MOST_METADATA: Final = 16

Metadata = Annotated[
    dict[str, Annotated[str, Field(max_length=512)]], Field(max_length=MOST_METADATA)
]


class TextOptions(Fields):
    """`text`: the form that the answer must have."""

    format: dict[str, Any] | None = None
    verbosity: str | None = None


class ReasoningOptions(Fields):
    """`reasoning`: how much the model thinks."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


class ResponseRequest(Fields):
    """Body of POST /v1/responses; the last lines are extensions, as in chat completions."""

    model: str = Field(min_length=1, max_length=500)
    input: str | Annotated[list[dict[str, Any]], Field(max_length=MOST_ITEMS)]
    instructions: str | None = None
    previous_response_id: str | None = Field(default=None, max_length=200)
    store: bool | None = None
    background: bool | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    metadata: Metadata | None = None
    max_output_tokens: Whole | None = Field(default=None, ge=1, lt=INT64)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: Whole | None = Field(default=None, ge=1)
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    include: list[str] | None = None
    top_logprobs: Whole | None = Field(default=None, ge=0, le=MAX_LOGPROBS)
    service_tier: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    seed: Whole | None = Field(default=None, ge=-INT64, lt=INT64)
    priority: Whole | None = Field(default=None, ge=0, le=9)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.background and self.store is False:
            raise inconsistent("background", "needs store: the answer is fetched later")
        return self

    @property
    def wants_logprobs(self) -> bool:
        """Whether the answer's text comes with log probabilities."""
        return bool(self.top_logprobs) or LOGPROBS_INCLUDE in (self.include or ())

    @property
    def stores(self) -> bool:
        """Whether the answer is kept; OpenAI's default is yes."""
        return self.store is not False


RULE: Final = Rule(
    refused={"conversation": (None,), "prompt": (None,)},  # both hold a part of the prompt
    left_out={
        "context_management": NOTHING,
        "image": (None,),
        "moderation": NOTHING,
        "multi_agent": NOTHING,
        "truncation": (None, "disabled"),
    },
    without_effect=frozenset(
        {
            "access_programs", "background_options", "betas", "client_metadata",
            "prompt_cache_options", "prompt_cache_retention",
        }
    ),
)  # fmt: skip

PASSED_ON: Final = (
    "model",
    "temperature",
    "top_p",
    "user",
    "seed",
    "priority",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "min_tokens",
    "ignore_eos",
    "stop",
    "stop_token_ids",
    "logit_bias",
    "chat_template_kwargs",
)
"""Fields that mean the same in a chat completion."""
EXTENSIONS: Final = dict.fromkeys(PASSED_ON, None)

LOGPROBS_INCLUDE: Final = "message.output_text.logprobs"
SERVED_INCLUDES: Final = frozenset({"reasoning.encrypted_content", LOGPROBS_INCLUDE})
"""The first one has no effect: reasoning is shown whole."""
