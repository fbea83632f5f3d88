"""What a chat's messages may hold."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal, cast

from pydantic import Discriminator, Field, Tag

from api.openai.chat.custom_tools import INPUT
from api.openai.chat.structure_schema import Part

LONGEST_NAME: Final = 200


class ImageUrl(Part):
    """Where an image is; `detail` is left to the model's own processor."""

    url: str
    detail: str | None = None


class ContentPart(Part):
    """A part of a message: text, or an image."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: ImageUrl | str | None = None

    @property
    def url(self) -> str | None:
        """The URL of an image."""
        return self.image_url.url if isinstance(self.image_url, ImageUrl) else self.image_url


Content = str | list[ContentPart] | None


class CalledFunction(Part):
    """The function of a call, and its arguments as JSON text."""

    name: str = Field(min_length=1, max_length=LONGEST_NAME)
    arguments: str = "{}"


class FunctionCall(Part):
    """A call of a function that an assistant's message holds."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction

    def rendered(self) -> dict[str, Any]:
        """Return the call as chat templates know it."""
        return self.model_dump(exclude_none=True)


class CalledCustom(Part):
    """The custom tool of a call, and its input."""

    name: str = Field(min_length=1, max_length=LONGEST_NAME)
    input: str = ""


class CustomCall(Part):
    """A call of a custom tool that an assistant's message holds."""

    id: str | None = None
    type: Literal["custom"]
    custom: CalledCustom

    def rendered(self) -> dict[str, Any]:
        """Return the call as that of a function with one argument, which templates know."""
        arguments = json.dumps({INPUT: self.custom.input}, ensure_ascii=False)
        function = {"name": self.custom.name, "arguments": arguments}
        return {**({"id": self.id} if self.id else {}), "type": "function", "function": function}


def _kind(call: object) -> str:
    kind = (
        cast("dict[str, object]", call).get("type")
        if isinstance(call, dict)
        else getattr(call, "type", None)
    )
    return "custom" if kind == "custom" else "function"


ToolCall = Annotated[
    Annotated[FunctionCall, Tag("function")] | Annotated[CustomCall, Tag("custom")],
    Discriminator(_kind),
]


class Message(Part):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content = None
    name: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
