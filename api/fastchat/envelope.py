"""A chat inside of FastChat's prompt string.

FastChat's OpenAI server renders a prompt by itself, from the conversation template that the
worker returns. Those templates cannot express most models' own chat templates. So ours does not
render, it quotes: every message becomes RECORD role FIELD text, behind a head that no model's text
has. What comes back in `prompt` is read into messages again, and the worker renders them with the
model's own template, exactly.
"""

from __future__ import annotations

from typing import Any, Final

from penstock.contract.job import ChatPrompt, TextPrompt

RECORD: Final = "\x1e"  # ASCII's own separators of records and of fields
FIELD: Final = "\x1f"
HEAD: Final = f"{RECORD}penstock-chat{FIELD}"

NO_COLON_SINGLE: Final = 4
"""FastChat's separator style `<system><role><message><sep>...`; the same number in all versions."""


def conversation(name: str) -> dict[str, Any]:
    """Return FastChat's conversation template, as `/worker_get_conv_template` has it."""
    return {
        "name": name,
        "system_template": f"{HEAD}{RECORD}system{FIELD}{{system_message}}",
        "system_message": "",
        "roles": [f"{RECORD}user{FIELD}", f"{RECORD}assistant{FIELD}"],
        "messages": [],
        "offset": 0,
        "sep_style": NO_COLON_SINGLE,
        "sep": "",
        "sep2": "",
        "stop_str": None,
        "stop_token_ids": None,
    }


def opened(prompt: str) -> ChatPrompt | TextPrompt:
    """Return the chat that a prompt quotes, or the prompt as the text that it is."""
    if not prompt.startswith(HEAD):
        return TextPrompt(prompt)
    messages: list[dict[str, Any]] = []
    for record in prompt[len(HEAD) :].split(RECORD)[1:]:
        role, _, text = record.partition(FIELD)
        messages.append({"role": role, "content": text})
    if messages and messages[-1] == {"role": "assistant", "content": ""}:
        messages.pop()  # the answer's place
    if messages and messages[0] == {"role": "system", "content": ""}:
        messages.pop(0)
    return ChatPrompt(tuple(messages))
