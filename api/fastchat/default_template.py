"""FastChat's default templates, turned back into the chat that they were rendered from.

FastChat's web UI picks a prompt template by the model's name, and for names that it does not know
`one_shot` or `zero_shot`: "Human: ...", "Assistant: ...", for `one_shot` after an example. That
does not depend on the model, so a model with its own chat template gets the messages instead,
rendered with that template. Only a prompt that is such a rendering from its first character to
its last is touched; any other goes to the model unchanged.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

SEPARATOR: Final = "\n### "
STOP: Final = "###"
"""What both templates ask to stop at; a heading of the third level to a model that knows neither."""
OPENING: Final = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the human's questions."
)
ROLES: Final = (("Human", "user"), ("Assistant", "assistant"))
EXAMPLE_TURNS: Final = 2
EXAMPLE_SHA256: Final = "2094bb92725afc74a32dd9cf3e25d5d25f01f649214af83d93c84a4c18909443"
"""The two turns of `one_shot`'s example, with their roles, joined by the separator."""


def messages_of(prompt: str) -> tuple[dict[str, Any], ...] | None:
    """Return the messages that a prompt of FastChat's default templates shows, else None."""
    head, foot = f"{OPENING}{SEPARATOR}", f"{SEPARATOR}Assistant:"
    if not (prompt.startswith(head) and prompt.endswith(foot) and len(prompt) > len(head + foot)):
        return None
    turns = _turns(prompt[len(head) : -len(foot)].split(SEPARATOR))
    if turns is None:
        return None
    if len(turns) > EXAMPLE_TURNS and _is_example(turns[:EXAMPLE_TURNS]):
        turns = turns[EXAMPLE_TURNS:]
    if len(turns) % 2 == 0:  # the one to be answered is the human's
        return None
    return tuple(
        {"role": ROLES[number % 2][1], "content": text.partition(": ")[2]}
        for number, text in enumerate(turns)
    )


def _turns(parts: Sequence[str]) -> list[str] | None:
    """Return `Role: text` of each turn; None if the roles do not alternate.

    A text may contain the separator: a part without a role continues the text before it.
    """
    turns: list[str] = []
    for part in parts:
        expected = ROLES[len(turns) % 2][0]
        if part.startswith(f"{expected}: "):
            turns.append(part)
        elif not turns or part.startswith(tuple(f"{name}:" for name, _ in ROLES)):
            return None
        else:
            turns[-1] += SEPARATOR + part
    return turns


def _is_example(turns: Sequence[str]) -> bool:
    digest = hashlib.sha256(SEPARATOR.join(turns).encode("utf-8", "surrogatepass")).hexdigest()
    return digest == EXAMPLE_SHA256
