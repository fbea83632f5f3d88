"""A chat inside of FastChat's prompt string.

FastChat's OpenAI server renders a prompt by itself, from the conversation template that the
worker returns. Those templates cannot express most models' own chat templates. So ours does not
render, it quotes: every message becomes RECORD nonce role ": " text, behind a head that no model's
text has. What comes back in `prompt` is read into messages again, and the worker renders them with
the model's own template, exactly.

The nonce is drawn for each template that is handed out, and stands in its head, before any text
of a user. So the reader needs to remember nothing, and a message's text that holds the separators
cannot pass for a further message.
"""

from __future__ import annotations

import re
import secrets
from typing import Any, Final

from penstock.contract.job import ChatPrompt, TextPrompt

RECORD: Final = "\x1e"  # ASCII's own separators of records and of fields
FIELD: Final = "\x1f"
HEAD: Final = f"{RECORD}penstock-chat{FIELD}"
NONCE_BYTES: Final = 8
ROLES: Final = ("system", "user", "assistant")

ADD_COLON_TWO: Final = 2
"""FastChat's separator style `<system><sep> (<role>: <message><sep or sep2>)... <role>:`.

It has the same number in all versions, and is the only one that takes OpenAI's lists of content.
"""

_head = re.compile(f"{HEAD}([0-9a-f]{{{2 * NONCE_BYTES}}}){FIELD}")


def conversation(name: str) -> dict[str, Any]:
    """Return FastChat's conversation template, as `/worker_get_conv_template` has it."""
    nonce = secrets.token_hex(NONCE_BYTES)
    record = f"{RECORD}{nonce}"
    return {
        "name": name,
        "system_template": f"{HEAD}{nonce}{FIELD}{record}system: {{system_message}}",
        "system_message": "",
        "roles": [f"{record}user", f"{record}assistant"],
        "messages": [],
        "offset": 0,
        "sep_style": ADD_COLON_TWO,
        "sep": "",
        "sep2": "",
        "stop_str": None,
        "stop_token_ids": None,
    }


def opened(prompt: str) -> ChatPrompt | TextPrompt:
    """Return the chat that a prompt quotes, or the prompt as the text that it is."""
    head = _head.match(prompt)
    if head is None:
        return TextPrompt(prompt)
    messages: list[dict[str, Any]] = []
    for record in prompt[head.end() :].split(f"{RECORD}{head[1]}")[1:]:
        role, colon, text = record.partition(":")
        if role not in ROLES or not colon:
            return TextPrompt(prompt)
        messages.append({"role": role, "content": text.removeprefix(" ")})
    if messages and messages[-1] == {"role": "assistant", "content": ""}:
        messages.pop()  # the answer's place
    if messages and messages[0] == {"role": "system", "content": ""}:
        messages.pop(0)
    return ChatPrompt(tuple(messages))
