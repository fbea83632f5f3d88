"""Anthropic's request -> the body of a chat completion that means the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from penstock.errors import InvalidParameter, UnsupportedFeature

if TYPE_CHECKING:
    from collections.abc import Sequence

    from api.anthropic.schema import AnthropicToolChoice, Block, Content, CountTokensRequest

Json = dict[str, Any]

SEPARATOR: Final = "\n"
TOOL_CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}


def chat_body(asked: CountTokensRequest, body: Json) -> Json:
    """Return the body.

    :raises InvalidParameter: a block lacks something.
    :raises UnsupportedFeature: a block or a tool that is not served.
    """
    messages: list[Json] = []
    if asked.system:
        messages.append({"role": "system", "content": _words(asked.system, "system")})
    for position, message in enumerate(asked.messages):
        where = f"messages[{position}].content"
        make = _user if message.role == "user" else _assistant
        for made in make(message.content, where):
            _append(messages, made)
    chat: Json = {"model": asked.model, "messages": messages, **_options(asked)}
    if messages[-1]["role"] == "assistant" and not messages[-1].get("tool_calls"):
        chat |= {"continue_final_message": True, "add_generation_prompt": False}
    for own, name in (
        ("max_tokens", "max_tokens"), ("stop_sequences", "stop"), ("temperature", "temperature"),
        ("top_p", "top_p"), ("top_k", "top_k"), ("priority", "priority"),
    ):  # fmt: skip
        if body.get(own) is not None:
            chat[name] = body[own]
    return chat


def _append(messages: list[Json], message: Json) -> None:
    """Put a message behind the others; Anthropic takes neighbours of one role for one."""
    last = messages[-1] if messages else {}
    plain = {"role", "content"}
    if message["role"] == last.get("role") != "tool" and set(message) == set(last) == plain:
        last["content"] = SEPARATOR.join(filter(None, (last["content"], message["content"])))
    else:
        messages.append(message)


def _words(content: Content, where: str) -> str:
    """Return text, or the texts of blocks that may only be such."""
    if isinstance(content, str):
        return content
    return SEPARATOR.join(
        _text(block, f"{where}[{position}]") for position, block in enumerate(content)
    )


def _text(block: Block, where: str) -> str:
    if block.get("type") != "text":
        raise UnsupportedFeature(
            f"{where}: blocks of type {str(block.get('type'))[:40]!r} are not supported: text only",
            param=where,
        )
    return cast("str", _needed(block, "text", where, str))


def _needed(block: Block, name: str, where: str, kind: type[Any]) -> Any:
    value = block.get(name)
    if not isinstance(value, kind):
        raise InvalidParameter(
            f"{where}.{name}: a {kind.__name__} is needed", param=f"{where}.{name}"
        )
    return value


def _user(content: Content, where: str) -> Sequence[Json]:
    """Return the results of tools, each a message of its own, then the user's words."""
    if isinstance(content, str):
        return [{"role": "user", "content": content}]
    made: list[Json] = []
    words: list[str] = []
    for position, block in enumerate(content):
        at = f"{where}[{position}]"
        if block.get("type") != "tool_result":
            words.append(_text(block, at))
            continue
        result = _words(cast("Content", block.get("content") or ""), f"{at}.content")
        call_id = _needed(block, "tool_use_id", at, str)
        made.append({"role": "tool", "tool_call_id": call_id, "content": result})
    if words or not made:
        made.append({"role": "user", "content": SEPARATOR.join(words)})
    return made


def _assistant(content: Content, where: str) -> Sequence[Json]:
    if isinstance(content, str):
        return [{"role": "assistant", "content": content}]
    words: list[str] = []
    thoughts: list[str] = []
    calls: list[Json] = []
    for position, block in enumerate(content):
        at = f"{where}[{position}]"
        match block.get("type"):
            case "thinking":
                thoughts.append(str(block.get("thinking") or ""))
            case "redacted_thinking":
                continue
            case "tool_use":
                arguments = msgspec.json.encode(_needed(block, "input", at, dict)).decode()
                function = {"name": _needed(block, "name", at, str), "arguments": arguments}
                call_id = _needed(block, "id", at, str)
                calls.append({"id": call_id, "type": "function", "function": function})
            case _:
                words.append(_text(block, at))
    message: Json = {"role": "assistant", "content": SEPARATOR.join(words)}
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return [message]


def _options(asked: CountTokensRequest) -> Json:
    chat: Json = {}
    if asked.thinking is not None:
        # What the templates of reasoning models call it; others do not look.
        wanted = asked.thinking.type != "disabled"
        chat["chat_template_kwargs"] = {"enable_thinking": wanted}
    if asked.output_config is not None:
        if asked.output_config.effort is not None:
            chat["reasoning_effort"] = asked.output_config.effort
        if asked.output_config.format is not None:
            chat["response_format"] = _response_format(asked.output_config.format)
    if asked.tools:
        chat["tools"] = [_tool(tool, f"tools[{n}]") for n, tool in enumerate(asked.tools)]
        if asked.tool_choice is not None:
            chat |= _tool_choice(asked.tool_choice)
    return chat


def _response_format(form: Json) -> Json:
    if form.get("type") != "json_schema" or not isinstance(form.get("schema"), dict):
        raise UnsupportedFeature(
            "output_config.format: only json_schema with a schema is supported",
            param="output_config.format",
        )
    schema = {"name": "answer", "schema": form["schema"], "strict": True}
    return {"type": "json_schema", "json_schema": schema}


def _tool(tool: Json, where: str) -> Json:
    if tool.get("type") not in (None, "custom"):
        raise UnsupportedFeature(
            f"{where}: tools of type {str(tool['type'])[:40]!r} are not supported",
            param=f"{where}.type",
        )
    function = {"name": tool.get("name"), "parameters": _needed(tool, "input_schema", where, dict)}
    if tool.get("description") is not None:
        function["description"] = tool["description"]
    if tool.get("strict") is not None:
        function["strict"] = tool["strict"]
    return {"type": "function", "function": function}


def _tool_choice(choice: AnthropicToolChoice) -> Json:
    chat: Json = {}
    if choice.type == "tool":
        if choice.name is None:
            raise InvalidParameter("tool_choice.name: Field required", param="tool_choice.name")
        chat["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    else:
        chat["tool_choice"] = TOOL_CHOICES[choice.type]
    if choice.disable_parallel_tool_use is not None:
        chat["parallel_tool_calls"] = not choice.disable_parallel_tool_use
    return chat


def blamed(param: str | None) -> str | None:
    """Return the field of this request for one of the chat completion that was made of it."""
    for chat, own in (
        ("messages", "messages"), ("stop", "stop_sequences"),
        ("response_format", "output_config.format"),
    ):  # fmt: skip
        if param is not None and (param == chat or param.startswith((f"{chat}[", f"{chat}."))):
            return own  # positions are not the same
    return param
