"""A second, smaller model that drafts for another one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from penstock.engine.drafting.draft_model import READ_TOKENS, DraftModel
from penstock.engine.model import stateful
from penstock.errors import ModelNotLoadable
from penstock.models.loading import kv_budget
from penstock.models.text import tokenizer_files

if TYPE_CHECKING:
    from penstock.models.devices.device import Device
    from penstock.models.loading.assembled import Assembled
    from penstock.models.spec import ModelSpec
    from penstock.models.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

_SHARE: Final = 0.1
"""Of the free memory, what the cache of a model that drafts may take."""


def prepare(
    spec: ModelSpec,
    draft: Assembled,
    words: Tokenizer,
    device: Device,
    *,
    sequences: int,
) -> DraftModel:
    """Return the model that drafts for `spec`, whose tokenizer is `words`, with its KV cache.

    :raises ModelNotLoadable: it has other tokens, or cannot take wrong drafts back.
    """
    assert spec.draft is not None  # noqa: S101 - the caller has looked
    where = f"queue {spec.queue!r}: draft {spec.draft.name!r}"
    if draft.batching != "continuous" or stateful(draft.model) is not None:
        raise ModelNotLoadable(f"{where}: its way of running ({draft.running}) takes no draft back")
    _check_tokens(where, words, tokenizer_files.load(spec.draft, draft.model.vocab_size))
    share = min(int(device.free_bytes() * _SHARE), kv_budget.MOST_CPU_BYTES)
    room = kv_budget.allocate(
        draft.model,
        device,
        slots=sequences,
        step_tokens=READ_TOKENS,
        budget_bytes=share,
        where=where,
    )
    logger.info("%s drafts for %s: %d blocks of cache", spec.draft.name, spec.queue, room.blocks)
    return DraftModel(draft.model, room.blocks, words.vocab_size, room.window_blocks)


def _check_tokens(where: str, words: Tokenizer, others: Tokenizer) -> None:
    """Make sure that both models have the same tokens, as far as both vocabularies go.

    :raises ModelNotLoadable: they have not.
    """
    own, other = words.pieces(), others.pieces()
    size = min(words.vocab_size, others.vocab_size)
    differing = [
        token
        for token in own.keys() | other.keys()
        if token < size and own.get(token) != other.get(token)
    ]
    if differing:
        raise ModelNotLoadable(
            f"{where}: {len(differing)} of its tokens are others, the first is {min(differing)}"
        )
