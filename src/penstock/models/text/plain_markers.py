"""Keeps text of users and tools that looks like a control token from becoming one.

A chat template writes a model's control tokens (`<|im_start|>`) into the same text as messages. A
message with such a marker could otherwise speak for another role. Markers within those messages are
therefore altered before the template sees them; afterwards every intact marker is the template's
own, and everything else is tokenised as text.
"""

from __future__ import annotations

import json
import re
import threading
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from penstock.errors import InvalidParameter
from penstock.models.text import vocabulary

if TYPE_CHECKING:
    from penstock.contract.job import ChatPrompt

ROLES: Final = frozenset({"user", "tool"})
"""Roles whose texts are not trusted: a system message is the client's own, and an assistant's is the
model's."""

_SIGNS: Final = tuple(chr(0x10FFF0 + place) for place in range(12))
"""Noncharacters of Unicode; one that a chat does not contain is used to mark its places."""

_SPLIT: Final = chr(0x10FFFD)
"""Placed within a marker that is text."""


class PlainMarkers:
    """Encodes with one tokenizer so that only the template's markers become tokens."""

    def __init__(self, tokenizer: Any) -> None:
        """Read the tokens; for a tokenizer written in Python nothing is altered."""
        self._backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        added: dict[int, Any] = tokenizer.added_tokens_decoder if self._backend is not None else {}
        self._markers = {
            str(token.content): int(number)
            for number, token in added.items()
            if len(token.content) > 1 and (token.special or vocabulary.looks_special(token.content))
        }
        ordered = sorted(self._markers, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, ordered))) if ordered else None
        self._lock = threading.Lock()
        self._encoders: dict[str, _Encoder] = {}

    def masked(self, prompt: ChatPrompt) -> ChatPrompt | None:
        """Return a chat in which users' and tools' markers are split; None if they have none.

        :raises InvalidParameter: a message contains the character that splits them.
        """
        if self._pattern is None:
            return None
        messages = tuple(
            self._message(message) if message.get("role") in ROLES else message
            for message in prompt.messages
        )
        if messages == tuple(prompt.messages):
            return None
        if any(_SPLIT in json.dumps(message_, ensure_ascii=False) for message_ in prompt.messages):
            raise InvalidParameter(
                f"a message holds the character U+{ord(_SPLIT):X}, which has no meaning",
                param="messages",
            )
        return msgspec.structs.replace(prompt, messages=messages)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text that was rendered from a masked chat.

        :raises InvalidParameter: it contains every character that could mark its places.
        """
        sign = next((character for character in _SIGNS if character not in text), None)
        if sign is None or self._pattern is None:
            raise InvalidParameter(
                "the messages hold characters without a meaning", param="messages"
            )
        with self._lock:
            encoder = self._encoders.get(sign)
            if encoder is None:
                encoder = self._encoders[sign] = _Encoder(
                    self._backend.to_str(), self._markers, sign
                )
        numbers = self._markers
        marked = self._pattern.sub(lambda found: f"{sign}{numbers[found[0]]}{sign}", text)
        escaped = json.dumps(_SPLIT)[1:-1]  # in the form that a template may have written
        return encoder.encode(marked.replace(_SPLIT, "").replace(escaped, ""))

    def _message(self, message: dict[str, Any]) -> dict[str, Any]:
        return {
            key: value if key in ("role", "tool_call_id") else self._split(value)
            for key, value in message.items()
        }

    def _split(self, value: Any) -> Any:
        if isinstance(value, str) and self._pattern is not None:
            return self._pattern.sub(lambda found: f"{found[0][0]}{_SPLIT}{found[0][1:]}", value)
        if isinstance(value, (list, tuple)):
            return [self._split(member) for member in cast("list[Any]", value)]
        if isinstance(value, dict):
            fields = cast("dict[str, Any]", value)
            return {
                key: member if key == "type" else self._split(member)
                for key, member in fields.items()
            }
        return value


class _Encoder:
    """The tokenizer with renamed markers: a sign, the id, and the sign again."""

    def __init__(self, source: str, markers: dict[str, int], sign: str) -> None:
        from tokenizers import Tokenizer  # noqa: PLC0415 - heavy, and needed only here

        document = cast("dict[str, Any]", json.loads(source))
        document["truncation"] = document["padding"] = document["post_processor"] = None
        renamed: dict[str, int] = {}
        for token in document["added_tokens"]:
            number = int(token["id"])
            if token["content"] in markers:
                token["content"] = f"{sign}{number}{sign}"
            renamed[token["content"]] = number
        self._tokenizer: Any = cast("Any", Tokenizer).from_str(json.dumps(document))
        self._encode: Any = getattr(
            self._tokenizer, "encode_batch_fast", self._tokenizer.encode_batch
        )
        ids = {name: self._tokenizer.token_to_id(name) for name in renamed}
        # A token may have another number in the copy: numbers follow from the order of addition.
        self._numbers: dict[int, int] = {ids[name]: number for name, number in renamed.items()}

    def encode(self, text: str) -> list[int]:
        """Return token ids; other threads continue meanwhile."""
        ids: list[int] = self._encode([text], add_special_tokens=False)[0].ids
        return [self._numbers.get(token, token) for token in ids]
