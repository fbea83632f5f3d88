"""Ollama's request, translated into the body of a chat completion that means the same."""

from __future__ import annotations

import json
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from api.openai.chat_images import as_url
from penstock.errors import UnsupportedFeature

if TYPE_CHECKING:
    from collections.abc import Sequence

    from api.ollama.schema import (
        Asked,
        GenerateRequest,
        OllamaChatRequest,
        OllamaMessage,
        OllamaOptions,
    )

Json = dict[str, Any]

SAME_NAMES: Final = (
    *("top_k", "top_p", "min_p", "seed", "stop"),
    *("presence_penalty", "frequency_penalty"),
)
MOST_TEMPERATURE: Final = 2.0
"""OpenAI's bound; Ollama has none, and above it every text is noise."""
OWN_NAMES: Final = {
    "max_tokens": "options.num_predict",
    "repetition_penalty": "options.repeat_penalty",
    "response_format": "format",
    "reasoning_effort": "think",
    "chat_template_kwargs": "think",
    **{name: f"options.{name}" for name in ("temperature", *SAME_NAMES)},
}


def blamed(param: str | None) -> str | None:
    """Return Ollama's name of a chat completion's field."""
    return OWN_NAMES.get(param, param) if param else param


def chat_body(asked: OllamaChatRequest) -> Json:
    """Return the body of a chat."""
    body: Json = {"model": asked.model, "messages": _messages(asked.messages), **_common(asked)}
    if asked.tools:
        body["tools"] = asked.tools
    return body


def chat_body_of_prompt(asked: GenerateRequest) -> Json:
    """Return the body of a chat of one turn, as Ollama's templates make of a prompt.

    :raises UnsupportedFeature: a template of the request's own.
    """
    if asked.template:
        raise UnsupportedFeature(
            "template: a model's own chat template is used; send raw=true with the whole text",
            param="template",
        )
    messages: list[Json] = [
        {"role": "user", "content": _content(asked.prompt or "", asked.images)},
    ]
    if asked.system:
        messages.insert(0, {"role": "system", "content": asked.system})
    return {"model": asked.model, "messages": messages, **_common(asked)}


def completion_body(asked: GenerateRequest) -> Json:
    """Return the body of a completion: the prompt as is, or with the text after the gap.

    :raises UnsupportedFeature: images.
    """
    if asked.images:
        raise UnsupportedFeature(
            "images: the model's own chat template is needed, not raw or suffix", param="images"
        )
    body = {"model": asked.model, "prompt": asked.prompt, **_common(asked)}
    for of_chats in ("reasoning_effort", "chat_template_kwargs"):
        body.pop(of_chats, None)
    return body | ({"suffix": asked.suffix} if asked.suffix else {})


def _content(text: str, images: Sequence[str] | None) -> str | list[Json]:
    """Return a message's content; Ollama's images come before its text, in bare base64."""
    if not images:
        return text
    parts: list[Json] = [
        {"type": "image_url", "image_url": {"url": as_url(image)}} for image in images
    ]
    return [*parts, {"type": "text", "text": text}]


def _common(asked: Asked) -> Json:
    body = _sampling(asked.options) if asked.options else {}
    if asked.format == "json":
        body["response_format"] = {"type": "json_object"}
    elif asked.format:
        wanted = {"name": "answer", "schema": asked.format}
        body["response_format"] = {"type": "json_schema", "json_schema": wanted}
    if isinstance(asked.think, str):
        body["reasoning_effort"] = asked.think
    elif asked.think is not None:
        body["chat_template_kwargs"] = {"enable_thinking": asked.think, "thinking": asked.think}
    return body


def _sampling(options: OllamaOptions) -> Json:
    """Return OpenAI's fields; a negative `num_predict` is no bound."""
    body = {name: value for name in SAME_NAMES if (value := getattr(options, name)) is not None}
    if options.temperature is not None:
        body["temperature"] = min(options.temperature, MOST_TEMPERATURE)
    if options.repeat_penalty is not None:
        body["repetition_penalty"] = options.repeat_penalty
    if options.num_predict is not None and options.num_predict > 0:
        body["max_tokens"] = options.num_predict
    return body


def _messages(messages: Sequence[OllamaMessage]) -> list[Json]:
    """Return OpenAI's messages. Ollama's calls have no ids: results follow in their order."""
    made: list[Json] = []
    open_calls: deque[tuple[str, str]] = deque()
    for position, message in enumerate(messages):
        content = _content(message.content or "", message.images)
        body: Json = {"role": message.role, "content": content}
        if message.thinking:
            body["reasoning_content"] = message.thinking
        if message.tool_calls:
            calls: list[Json] = [
                {
                    "id": call.id or f"call_{position}_{index}",
                    "type": "function",
                    "function": {
                        "name": call.function.name,
                        "arguments": json.dumps(call.function.arguments, ensure_ascii=False),
                    },
                }
                for index, call in enumerate(message.tool_calls)
            ]
            body["tool_calls"] = calls
            open_calls.extend((call["id"], call["function"]["name"]) for call in calls)
        if message.role == "tool":
            body["tool_call_id"] = message.tool_call_id or _answered(open_calls, message.tool_name)
        made.append(body)
    return made


def _answered(open_calls: deque[tuple[str, str]], name: str | None) -> str:
    """Return the id of the call that a result belongs to, which is open no longer."""
    call = next((call for call in open_calls if name in (None, call[1])), None)
    if call is None:
        return f"call_{name or 'unknown'}"
    open_calls.remove(call)
    return call[0]
