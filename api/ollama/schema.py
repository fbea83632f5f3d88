"""What Ollama's clients send. Unknown fields are left out, and reported (`api.ollama.left_out`)."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field

from api.openai.schema import INT64, Fields, Stops, Whole

MAX_MESSAGES: Final = 10_000
MAX_TOOLS: Final = 512
MAX_INPUTS: Final = 2_048

Name = Annotated[str, Field(min_length=1, max_length=500)]
Images = Annotated[list[str], Field(max_length=1_000)]


class OllamaOptions(Fields):
    """The options that are served."""

    num_predict: Whole | None = Field(default=None, ge=-2, lt=INT64)
    temperature: float | None = Field(default=None, ge=0)
    top_k: Whole | None = Field(default=None, ge=-1, lt=INT64)
    top_p: float | None = Field(default=None, ge=0, le=1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    seed: Whole | None = Field(default=None, ge=-INT64, lt=INT64)
    stop: Stops | None = None
    repeat_penalty: float | None = Field(default=None, gt=0, le=10)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)


class Asked(Fields):
    """What all requests for text share. `keep_alive` is taken and changes nothing."""

    model: Name
    stream: bool | None = None
    options: OllamaOptions | None = None
    format: Literal["", "json"] | dict[str, Any] | None = None
    think: bool | Literal["low", "medium", "high"] | None = None
    keep_alive: str | float | None = None


class OllamaCalledFunction(Fields):
    """The function of a call; its arguments are an object here, not text."""

    name: Name
    arguments: dict[str, Any] = Field(default_factory=dict)


class OllamaToolCall(Fields):
    """A call in an assistant's message."""

    id: str | None = None
    function: OllamaCalledFunction


class OllamaMessage(Fields):
    """One message of a chat."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: Images | None = None
    tool_calls: list[OllamaToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class OllamaChatRequest(Asked):
    """Body of POST /api/chat."""

    messages: list[OllamaMessage] = Field(
        default_factory=list[OllamaMessage], max_length=MAX_MESSAGES
    )
    tools: list[dict[str, Any]] | None = Field(default=None, max_length=MAX_TOOLS)


class GenerateRequest(Asked):
    """Body of POST /api/generate."""

    prompt: str = ""
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    raw: bool | None = None
    images: Images | None = None


class EmbedRequest(Fields):
    """Body of POST /api/embed."""

    model: Name
    input: str | Annotated[list[str], Field(max_length=MAX_INPUTS)]
    truncate: bool | None = None
    dimensions: Whole | None = Field(default=None, ge=1)
    keep_alive: str | float | None = None


class EmbeddingsRequest(Fields):
    """Body of POST /api/embeddings, the older form of `/api/embed`."""

    model: Name
    prompt: str
    keep_alive: str | float | None = None


class ShowRequest(Fields):
    """Body of POST /api/show; `name` is the older word."""

    model: Name | None = None
    name: Name | None = None
    verbose: bool | None = None
