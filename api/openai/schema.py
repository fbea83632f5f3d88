"""What clients may send to the two completion endpoints.

Types are strict (a number in quotes is an error). What becomes of fields beyond these is decided by
`api.openai.unsupported`. docs/compatibility.md has the table.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from api.openai.chat.message_schema import Message
from api.openai.chat.structure_schema import (
    MAX_TOOLS,
    Choices,
    FunctionDefinition,
    JsonSchema,
    Pattern,
    ResponseFormat,
    StructuredOutputs,
    Tool,
    ToolChoice,
    ToolName,
)
from api.openai.chat.tool_forms import inconsistent, newer_form, only_allowed

MAX_CHOICES: Final = 16
"""`n`: sequences of one prompt."""
MAX_BEST_OF: Final = 20
MAX_SEQUENCES: Final = 128
"""Prompts times answers of one request."""
MAX_STOPS: Final = 16
MAX_LOGIT_BIAS: Final = 1024
MAX_MESSAGES: Final = 10_000
LONGEST_STOP: Final = 1_000
"""Characters of one stop string."""
LONGEST_MODEL: Final = 500
"""Characters of a model's name."""
MAX_LOGPROBS: Final = 20
INT64: Final = 2**63
MOST_WHOLE_FLOAT: Final = 2**53
"""Up to here a float stands for one whole number."""


def _texts(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _token_biases(value: object) -> object:
    """JSON's keys are strings; take those that are token ids."""
    if not isinstance(value, dict):
        return value
    biases: dict[object, object] = {}
    for key, bias in cast("dict[object, object]", value).items():
        if not (isinstance(key, str) and key.isascii() and key.isdigit()):
            raise ValueError(f"keys must be token ids, not {str(key)[:40]!r}")
        biases[int(key[:18])] = bias
    return biases


Stops = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]],
    BeforeValidator(_texts),
    Field(max_length=MAX_STOPS),
]
LogitBias = Annotated[
    dict[int, Annotated[float, Field(ge=-100, le=100)]],
    BeforeValidator(_token_biases),
    Field(max_length=MAX_LOGIT_BIAS),
]


def _whole(value: object) -> object:
    """Take 5.0 for 5, as OpenAI's server does: some clients know no other numbers."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= MOST_WHOLE_FLOAT:
        return int(value)
    return value


Whole = Annotated[int, BeforeValidator(_whole)]
"""A whole number, however it is written."""
OlderChoice = Literal["none", "auto"] | ToolName
"""`function_call`, the older form of `tool_choice`."""
Truncate = Annotated[int, Field(ge=-1, lt=INT64)]
"""Tokens that are kept of a prompt; -1: as many as the model reads, 0: all or an error."""


class Fields(BaseModel):
    """How every body is read."""

    model_config = ConfigDict(
        extra="ignore", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=()
    )


class StreamOptions(Fields):
    """Options of a streamed answer."""

    include_usage: bool | None = None


class GenerationRequest(Fields):
    """What both endpoints share; the lower half is extensions that vLLM's clients send too."""

    model: str = Field(min_length=1, max_length=LONGEST_MODEL)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Whole | None = Field(default=None, ge=1, le=MAX_CHOICES)
    best_of: Whole | None = Field(default=None, ge=1, le=MAX_BEST_OF)
    max_tokens: Whole | None = Field(default=None, ge=1, lt=INT64)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    stop: Stops | None = None
    seed: Whole | None = Field(default=None, ge=-INT64, lt=INT64)
    logit_bias: LogitBias | None = None
    user: str | None = None

    top_k: Whole | None = Field(default=None, ge=-1, lt=INT64)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, gt=0, le=10)
    min_tokens: Whole | None = Field(default=None, ge=0, lt=INT64)
    ignore_eos: bool | None = None
    stop_token_ids: (
        list[Annotated[int, Field(ge=0, lt=INT64)]] | None
    ) = Field(default=None, max_length=MAX_STOPS)  # fmt: skip
    priority: Whole | None = Field(default=None, ge=0, le=9)

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: JsonSchema | None = None
    guided_regex: Pattern | None = None
    guided_choice: Choices | None = None
    guided_grammar: Pattern | None = None
    json_schema: JsonSchema | None = None
    grammar: Pattern | None = None

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise inconsistent("stream_options", "is allowed only when stream is true")
        return self

    @property
    def answer_tokens(self) -> int | None:
        """The client's bound on an answer, in tokens."""
        return self.max_tokens

    @property
    def wanted_logprobs(self) -> int | None:
        """How many alternatives a position's log probabilities list; None for none at all."""
        return None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk of usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatRequest(GenerationRequest):
    """Body of POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: Whole | None = Field(default=None, ge=1, lt=INT64)
    logprobs: bool | None = None
    top_logprobs: Whole | None = Field(default=None, ge=0, le=MAX_LOGPROBS)
    reasoning_effort: str | None = None

    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    include_reasoning: bool | None = None

    tools: list[Tool] | None = Field(default=None, max_length=MAX_TOOLS)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: list[FunctionDefinition] | None = Field(default=None, max_length=MAX_TOOLS)
    function_call: OlderChoice | None = None

    @model_validator(mode="before")
    @classmethod
    def _newer_tools(cls, body: object) -> object:
        return only_allowed(newer_form(body))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise inconsistent("top_logprobs", "is allowed only when logprobs is true")
        if self.continue_final_message and self.add_generation_prompt:
            raise inconsistent("continue_final_message", "excludes add_generation_prompt")
        return self

    @property
    def is_older(self) -> bool:
        """Whether it has the older form of tools, so that the answer has it too."""
        return self.functions is not None

    @property
    def answer_tokens(self) -> int | None:
        """`max_completion_tokens` is the newer name of `max_tokens`, and wins."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def wanted_logprobs(self) -> int | None:
        """0 if `logprobs` is requested without `top_logprobs`."""
        return (self.top_logprobs or 0) if self.logprobs else None


def _prompts(value: object) -> object:
    """Make a list of prompts of the four shapes: text, texts, token ids, lists of token ids."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise ValueError("must be a string, a list of strings, or (lists of) token ids")
    items = cast("list[object]", value)
    if all(_is_token_id(item) for item in items):
        return [items]
    for item in items:
        tokens = cast("list[object]", item) if isinstance(item, list) else None
        if not isinstance(item, str) and (not tokens or not all(map(_is_token_id, tokens))):
            raise ValueError("must be a string, a list of strings, or (lists of) token ids")
    return items


def _is_token_id(value: object) -> bool:
    return type(value) is int and 0 <= value < INT64


Prompts = Annotated[
    # Checked by `_prompts`: a million token ids need no second look.
    list[Any],
    BeforeValidator(_prompts),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}},
                {"type": "array", "items": {"type": "integer"}},
                {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
            ]
        }
    ),
]


class CompletionRequest(GenerationRequest):
    """Body of POST /v1/completions."""

    prompt: Prompts
    max_tokens: Whole | None = Field(default=None, ge=0, lt=INT64)
    logprobs: Whole | None = Field(default=None, ge=0, le=MAX_LOGPROBS)
    echo: bool | None = None
    suffix: str | None = None
    add_special_tokens: bool | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """Every prompt, each as text or as token ids."""
        return cast("list[str | list[int]]", self.prompt)

    @property
    def wanted_logprobs(self) -> int | None:
        """As asked for."""
        return self.logprobs
