"""Renders a chat for a FastChat worker's model, with the conversation template that it returns."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from penstock.contract.job import IMAGE_PART
from penstock.errors import EngineFailed, InvalidParameter, UnsupportedFeature

if TYPE_CHECKING:
    from penstock.contract.job import ChatPrompt


@dataclass(frozen=True)
class Rendered:
    """A prompt, and where its answer ends by the template.

    `images` are the digests of those that it has a marker for, in their order.
    """

    prompt: str
    stop: tuple[str, ...]
    stop_token_ids: tuple[int, ...]
    images: tuple[str, ...] = ()


def render(template: Any, chat: ChatPrompt) -> Rendered:
    """Return the chat's prompt, rendered by FastChat's own library as its OpenAI server does.

    :raises UnsupportedFeature: the library is not installed, or the chat has tools, or it has
        images and the template no place for them.
    :raises InvalidParameter: a message that the template has no place for.
    :raises EngineFailed: the worker's template is none.
    """
    if chat.tools or chat.continue_final_message:
        raise UnsupportedFeature("FastChat's workers know no tools", param="tools")
    try:
        library: Any = importlib.import_module("fastchat.conversation")
    except ImportError as error:
        raise UnsupportedFeature(
            "chats with FastChat's workers need its library here: pip install --no-deps fschat",
            param="model",
        ) from error
    try:
        fields = {**template, "sep_style": library.SeparatorStyle(template["sep_style"])}
        fields["messages"] = list(template["messages"])
        conversation = library.Conversation(**fields)
    except (KeyError, TypeError, ValueError) as error:
        raise EngineFailed(f"the worker's conversation template is none: {error}") from error
    for position, message in enumerate(chat.messages):
        _add(conversation, message, f"messages[{position}]")
    conversation.append_message(conversation.roles[1], None)
    stop: Any = conversation.stop_str or ()
    images = tuple(chat.images)
    if images and conversation.sep_style != library.SeparatorStyle.ADD_COLON_TWO:
        raise UnsupportedFeature(
            "the conversation template of this model's FastChat workers has no place for images",
            param="messages",
        )
    return Rendered(
        conversation.get_prompt(),
        (stop,) if isinstance(stop, str) else tuple(stop),
        tuple(conversation.stop_token_ids or ()),
        images,
    )


def _add(conversation: Any, message: dict[str, Any], param: str) -> None:
    content = message.get("content")
    if isinstance(content, list):
        parts = cast("list[dict[str, Any]]", content)
        content = "\n".join(part["text"] for part in parts if part.get("type") == "text")
        if images := [part["digest"] for part in parts if part.get("type") == IMAGE_PART]:
            if message.get("role") != "user":
                raise UnsupportedFeature("FastChat's workers take users' images alone", param=param)
            content = (content, images)
    match message.get("role"):
        case "system" | "developer":
            conversation.set_system_message(content)
        case "user":
            conversation.append_message(conversation.roles[0], content)
        case "assistant":
            conversation.append_message(conversation.roles[1], content)
        case role:
            raise InvalidParameter(f"{param}: FastChat knows no role {role!r}", param=param)
