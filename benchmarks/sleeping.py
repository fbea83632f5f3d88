"""A model that only sleeps, at the model boundary: a step costs a known time, whatever its batch.

Its queue's name says how long: `sleeper20-cpu` takes 20 ms a step, `sleeper20x300-cpu` 300 µs more
for each token of it.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import torch

from penstock.contract.job import ChatPrompt, TokenPrompt
from penstock.contract.worker import ModelCard
from penstock.engine.engine import Engine
from penstock.engine.model import Batch, KVLayout
from penstock.engine.options import EngineOptions
from penstock.errors import UnsupportedFeature
from penstock.models.text.dialect import Reasoning

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from penstock.contract.job import Prompt
    from penstock.contract.structure import Structure
    from penstock.engine.events import AttemptEvent
    from penstock.engine.sampling.constraint import Constraint

VOCABULARY = 1_000
ANSWER_TOKEN = 7
CONTEXT_LENGTH = 4_096
BLOCK_TOKENS = 16
_QUEUE = re.compile(r"sleeper(\d+)(?:x(\d+))?-cpu")


def queue_of(step_ms: int, token_us: int = 0) -> str:
    """Return the queue whose model takes `step_ms` a step, and `token_us` a token."""
    return f"sleeper{step_ms}{f'x{token_us}' if token_us else ''}-cpu"


def times_of(queue: str) -> tuple[int, int]:
    """Return the milliseconds a step and the microseconds a token that a queue's name asks for.

    :raises ValueError: it is no sleeper's.
    """
    match = _QUEUE.fullmatch(queue)
    if match is None:
        raise ValueError(f"{queue!r} is not a name like {queue_of(20)!r}")
    return int(match[1]), int(match[2] or 0)


class SleepingModel:
    """Always answers with the same token, after a while."""

    vocab_size = VOCABULARY
    context_length = CONTEXT_LENGTH
    kv_layout = KVLayout(block_size=BLOCK_TOKENS, bytes_per_block=1)

    def __init__(self, step_ms: int, token_us: int = 0) -> None:
        self._step_s = step_ms / 1000
        self._token_s = token_us / 1e6

    def allocate(self, blocks: int) -> None:
        """Need nothing."""

    def forward(self, batch: Batch) -> torch.Tensor:
        """Sleep, then give the same logits for every row."""
        tokens = sum(len(one.token_ids) for one in batch.slices)
        time.sleep(self._step_s + tokens * self._token_s)
        rows = sum(len(one.token_ids) - one.logits_from for one in batch.slices)
        logits = torch.zeros(rows, VOCABULARY)
        logits[:, ANSWER_TOKEN] = 1.0
        return logits

    def release(self, key: int) -> None:
        """Hold nothing to release."""


class WordTokenizer:
    """A token is a word of its own number."""

    eos_token_ids: frozenset[int] = frozenset()

    def encode(self, prompt: Prompt) -> list[int]:
        """Take token ids as they are; of a text, one id a word."""
        if isinstance(prompt, TokenPrompt):
            return list(prompt.token_ids)
        text = (
            self.render(prompt) if isinstance(prompt, ChatPrompt) else getattr(prompt, "text", "")
        )
        return [len(word) % VOCABULARY for word in text.split()] or [0]

    def render(self, prompt: ChatPrompt) -> str:
        """Put the messages' texts one after another."""
        return " ".join(str(message.get("content") or "") for message in prompt.messages)

    def tokens_of(self, _texts: Sequence[str]) -> dict[int, str]:
        """Know of no text that is a token of its own."""
        return {}

    def decode(self, token_ids: Sequence[int]) -> str:
        """Write each id as a word."""
        return "".join(f"w{token_id} " for token_id in token_ids)

    def token_text(self, token_id: int) -> str:
        """Write one id as a word."""
        return f"w{token_id} "

    def token_bytes(self, token_id: int) -> bytes:
        """Write it in UTF-8."""
        return self.token_text(token_id).encode()

    def reasoning(self, _prompt: Prompt, _prompt_token_ids: Sequence[int]) -> Reasoning:
        """Say that this model does not reason."""
        return Reasoning.NONE

    def constrain(self, _structure: Structure, _reasoning: Reasoning) -> Constraint:
        """Refuse: a sleeper has no vocabulary that a form could be made of."""
        raise UnsupportedFeature("the sleeping model takes no structure")


def card_of(queue: str, slots: int) -> ModelCard:
    """Describe the model of a sleeper's queue."""
    return ModelCard(
        name=queue.removesuffix("-cpu"),
        queue=queue,
        device="cpu",
        backend="sleeping",
        format="none",
        architecture="Sleeper",
        parameters=0,
        weights_bytes=0,
        context_length=CONTEXT_LENGTH,
        vocab_size=VOCABULARY,
        slots=slots,
        kv_cache_tokens=slots * CONTEXT_LENGTH,
    )


def make_engine(queue: str, slots: int, sink: Callable[[list[AttemptEvent]], None]) -> Engine:
    """Make the engine that the sleeper's worker runs, and that is measured in process."""
    blocks = slots * CONTEXT_LENGTH // BLOCK_TOKENS
    options = EngineOptions(slots=slots, num_blocks=blocks)
    return Engine(SleepingModel(*times_of(queue)), WordTokenizer(), options, sink)
