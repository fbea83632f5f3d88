"""OpenAI's messages -> the messages that the worker's chat template sees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from api.openai.chat.custom_tools import shown_function
from api.openai.chat_images import IMAGE_TYPES
from penstock.contract.job import IMAGE_PART, ChatPrompt
from penstock.errors import InvalidParameter, UnsupportedFeature

if TYPE_CHECKING:
    from api.openai.chat.message_schema import ContentPart, Message
    from api.openai.chat_images import ChatImages
    from api.openai.schema import ChatRequest

TEMPLATE_ROLES: Final = {"developer": "system"}
"""OpenAI's newer roles by the names that open models' templates know."""

PART_SEPARATOR: Final = "\n"
"""Between the text parts of one message; templates take one string."""


def chat_prompt(asked: ChatRequest, images: ChatImages) -> ChatPrompt:
    """Return the prompt for the worker to render; its `tools` are those that may be called.

    :raises UnsupportedFeature: content that the model does not take.
    :raises InvalidParameter: a message without content, or a bad image.
    """
    template_kwargs = dict(asked.chat_template_kwargs or {})
    if asked.reasoning_effort is not None:
        template_kwargs.setdefault("reasoning_effort", asked.reasoning_effort)
    messages = tuple(
        _template_message(message, f"messages[{position}]", images)
        for position, message in enumerate(asked.messages)
    )
    continues = bool(asked.continue_final_message)
    generates = asked.add_generation_prompt
    return ChatPrompt(
        messages=messages,
        tools=_tools(asked),
        add_generation_prompt=not continues if generates is None else generates,
        continue_final_message=continues,
        template_kwargs=template_kwargs,
    )


def _tools(asked: ChatRequest) -> tuple[dict[str, Any], ...]:
    """Return the tools that the model is shown: none if it must not call any."""
    if not asked.tools or asked.tool_choice == "none":
        return ()
    return tuple(
        shown_function(tool) if tool.type == "custom" else tool.model_dump(exclude_none=True)
        for tool in asked.tools
    )


def _template_message(message: Message, where: str, images: ChatImages) -> dict[str, Any]:
    rendered: dict[str, Any] = {
        "role": TEMPLATE_ROLES.get(message.role, message.role),
        "content": _content(message, where, images),
    }
    if message.name is not None:
        rendered["name"] = message.name
    if message.reasoning_content is not None:
        rendered["reasoning_content"] = message.reasoning_content
    if message.tool_calls:
        rendered["tool_calls"] = [call.rendered() for call in message.tool_calls]
    if message.tool_call_id is not None:
        rendered["tool_call_id"] = message.tool_call_id
    return rendered


def _content(message: Message, where: str, images: ChatImages) -> str | list[dict[str, Any]]:
    """Return a message's text, or its parts if there are images among them."""
    content = message.content
    if content is None:
        if "content" in message.model_fields_set or message.role == "assistant":
            return message.refusal or ""  # null, as OpenAI's server takes it
        raise InvalidParameter(f"{where}.content: Field required", param=f"{where}.content")
    if isinstance(content, str):
        return content
    parts = [
        _part(part, f"{where}.content[{position}]", message.role, images)
        for position, part in enumerate(content)
    ]
    if any(part["type"] == IMAGE_PART for part in parts):
        return parts
    return PART_SEPARATOR.join(part["text"] for part in parts)


def _part(part: ContentPart, where: str, role: str, images: ChatImages) -> dict[str, Any]:
    if part.type in IMAGE_TYPES and part.url is not None:
        return images.part(part.url, where, role)
    return {"type": "text", "text": _part_text(part, where)}


def _part_text(part: ContentPart, where: str) -> str:
    text = {"text": part.text, "refusal": part.refusal}.get(part.type)
    if text is not None:
        return text
    if part.type in ("text", "refusal", *IMAGE_TYPES):
        raise InvalidParameter(f"{where}.{part.type}: Field required", param=f"{where}.{part.type}")
    raise UnsupportedFeature(
        f"{where}: content of type {part.type[:40]!r} is not supported", param=where
    )
