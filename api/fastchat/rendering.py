"""Renders a chat for a FastChat worker's model, with the conversation template that it returns."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from penstock.errors import EngineFailed, InvalidParameter, UnsupportedFeature

if TYPE_CHECKING:
    from penstock.contract.job import ChatPrompt


@dataclass(frozen=True)
class Rendered:
    """A prompt, and where its answer ends by the template."""

    prompt: str
    stop: tuple[str, ...]
    stop_token_ids: tuple[int, ...]


def render(template: Any, chat: ChatPrompt) -> Rendered:
    """Return the chat's prompt, rendered by FastChat's own library as its OpenAI server does.

    :raises UnsupportedFeature: the library is not installed, or the chat has tools.
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
    return Rendered(
        conversation.get_prompt(),
        (stop,) if isinstance(stop, str) else tuple(stop),
        tuple(conversation.stop_token_ids or ()),
    )


def _add(conversation: Any, message: dict[str, Any], param: str) -> None:
    content = message.get("content")
    if isinstance(content, list):
        parts = cast("list[dict[str, Any]]", content)
        if any(part.get("type") != "text" for part in parts):
            raise UnsupportedFeature("FastChat's workers take text alone here", param=param)
        content = "\n".join(part["text"] for part in parts)
    match message.get("role"):
        case "system" | "developer":
            conversation.set_system_message(content)
        case "user":
            conversation.append_message(conversation.roles[0], content)
        case "assistant":
            conversation.append_message(conversation.roles[1], content)
        case role:
            raise InvalidParameter(f"{param}: FastChat knows no role {role!r}", param=param)
