"""Images of FastChat's prompts: its text has a marker for each, its field `images` their bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from penstock.contract.job import IMAGE_PART, IMAGE_PLACE, ChatPrompt, TextPrompt
from penstock.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Sequence

PARAM = "images"


def filled(prompt: ChatPrompt | TextPrompt, digests: Sequence[str]) -> ChatPrompt | TextPrompt:
    """Return a prompt whose markers stand for images; without images, markers are words.

    :raises InvalidParameter: there are more or fewer markers than images.
    """
    if not digests:
        return prompt
    if isinstance(prompt, TextPrompt):
        _check(prompt.text.count(IMAGE_PLACE), len(digests))
        return msgspec.structs.replace(prompt, images=tuple(digests))
    _check(sum(m["content"].count(IMAGE_PLACE) for m in prompt.messages), len(digests))
    left = iter(digests)
    messages: list[dict[str, Any]] = []
    for message in prompt.messages:
        first, *others = message["content"].split(IMAGE_PLACE)
        parts = [{"type": "text", "text": first}] if first else []
        for text in others:
            parts.append({"type": IMAGE_PART, "digest": next(left)})
            if text:
                parts.append({"type": "text", "text": text})
        messages.append({**message, "content": parts} if others else message)
    return msgspec.structs.replace(prompt, messages=tuple(messages))


def _check(places: int, images: int) -> None:
    if places != images:
        raise InvalidParameter(
            f"{PARAM}: {images} for {places} places ({IMAGE_PLACE}) in the prompt", param=PARAM
        )
