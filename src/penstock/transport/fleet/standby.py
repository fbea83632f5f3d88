"""Queues that take jobs while no worker lives, because something will start one."""

from __future__ import annotations

from typing import Final

from penstock.contract.worker import ModelCard

UNKNOWN_CONTEXT: Final = 32_768
UNKNOWN_VOCABULARY: Final = 2**31 - 1
"""Assumed until a worker lives; the worker then refuses what its model cannot take."""


def plain_card(queue: str) -> ModelCard:
    """Return a card made from a queue's name, for a model that no worker has announced yet."""
    name, _, device = queue.rpartition("-")
    return ModelCard(
        name=name,
        queue=queue,
        device=device,
        backend="",
        format="",
        architecture="",
        parameters=0,
        weights_bytes=0,
        context_length=UNKNOWN_CONTEXT,
        vocab_size=UNKNOWN_VOCABULARY,
        slots=0,
        kv_cache_tokens=0,
        has_chat_template=True,
    )
