"""Prompts that cannot fit into a model's context, refused before they are queued."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from penstock.contract.job import WHOLE, FillPrompt, PairPrompt, TextPrompt, TokenPrompt
from penstock.errors import ContextOverflow

if TYPE_CHECKING:
    from penstock.contract.job import Prompt
    from penstock.contract.worker import ModelCard

LEAST_CHARACTERS: Final = 4_096
"""A text of so many is left to the worker, however small the context is."""


def check(prompt: Prompt, card: ModelCard, param: str) -> None:
    """Check that a prompt may fit; a chat is left to the worker, whose template makes its text.

    :raises ContextOverflow: it cannot, whatever its tokens are; `param` is blamed.
    """
    match prompt:
        case TextPrompt(text, truncate=truncate) if truncate == WHOLE:
            length = len(text)
        case PairPrompt(first, second, truncate) if truncate == WHOLE:
            length = len(first) + len(second)
        case FillPrompt(before, after):
            length = len(before) + len(after)
        case TokenPrompt(token_ids, truncate) if truncate == WHOLE:
            if len(token_ids) > card.context_length:
                raise ContextOverflow(
                    f"{param}: {len(token_ids)} tokens; the context of {card.name} has room for "
                    f"{card.context_length}",
                    param=param,
                )
            return
        case _:
            return
    most = max(card.context_length * card.longest_token_chars, LEAST_CHARACTERS)
    if card.longest_token_chars and length > most:
        raise ContextOverflow(
            f"{param}: {length} characters; the context of {card.context_length} tokens has room "
            f"for {most} at most",
            param=param,
        )
