"""Anthropic's request -> the body of a chat completion that means the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from api.anthropic.input_blocks import InputBlocks
from api.anthropic.tools import Tools
from penstock.errors import InvalidParameter, UnsupportedFeature

if TYPE_CHECKING:
    from api.anthropic.schema import CountTokensRequest
    from api.http.warnings import Warnings

Json = dict[str, Any]


def chat_body(asked: CountTokensRequest, body: Json, warnings: Warnings) -> Json:
    """Return the body; what is left out of it is in `warnings`.

    :raises InvalidParameter: a block lacks something.
    :raises UnsupportedFeature: a user's block that is no text, or an unknown form of the answer.
    """
    tools = Tools(warnings)
    tools.add(asked.tools or ())
    blocks = InputBlocks(tools, warnings)
    if asked.system:
        blocks.message("system", asked.system, "system")
    for position, message in enumerate(asked.messages):
        blocks.message(message.role, message.content, f"messages[{position}].content")
    messages = blocks.messages
    if not messages or messages[-1]["role"] == "system":
        raise InvalidParameter("messages: a user's message is needed", param="messages")
    chat: Json = {"model": asked.model, "messages": messages, **_options(asked, tools)}
    if messages[-1]["role"] == "assistant" and not messages[-1].get("tool_calls"):
        chat |= {"continue_final_message": True, "add_generation_prompt": False}
    for own, name in (
        ("max_tokens", "max_tokens"), ("stop_sequences", "stop"), ("temperature", "temperature"),
        ("top_p", "top_p"), ("top_k", "top_k"), ("priority", "priority"),
    ):  # fmt: skip
        if body.get(own) is not None:
            chat[name] = body[own]
    return chat


def _options(asked: CountTokensRequest, tools: Tools) -> Json:
    chat: Json = {}
    if asked.thinking is not None:
        # What the templates of reasoning models call it; others do not look.
        chat["chat_template_kwargs"] = {"enable_thinking": asked.thinks}
    if asked.effort is not None:
        chat["reasoning_effort"] = asked.effort
    if (form := asked.answer_format) is not None:
        chat["response_format"] = _response_format(form)
    if tools.functions:
        chat["tools"] = tools.functions
    if asked.tool_choice is not None:
        chat |= tools.choice(asked.tool_choice)
    return chat


def _response_format(form: Json) -> Json:
    if form.get("type") != "json_schema" or not isinstance(form.get("schema"), dict):
        raise UnsupportedFeature(
            "output_config.format: only json_schema with a schema is supported",
            param="output_config.format",
        )
    schema = {"name": "answer", "schema": form["schema"], "strict": True}
    return {"type": "json_schema", "json_schema": schema}


def blamed(param: str | None) -> str | None:
    """Return the field of this request for one of the chat completion that was made of it."""
    for chat, own in (
        ("messages", "messages"), ("stop", "stop_sequences"),
        ("response_format", "output_config.format"),
    ):  # fmt: skip
        if param is not None and (param == chat or param.startswith((f"{chat}[", f"{chat}."))):
            return own  # positions are not the same
    return param
