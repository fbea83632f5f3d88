"""The options of an engine."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.errors import BadSettings


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Limits and choices of one engine.

    `slots` sequences run at once; `num_blocks` is what the model has allocated. Layers with a window
    have `num_window_blocks` of their own, 0 if they have none; if all layers have a window, these are
    all that is allocated, and `num_blocks` bounds the length of sequences.
    `prefill_chunk_tokens` prompt tokens are computed a step beside the running sequences; with
    `target_step_ms` the chunk follows the measured step times instead, between
    `min_chunk_tokens` and `max_chunk_tokens`. While a sequence is alone, up to `lone_chunk_tokens` of
    its prompt are computed a step, if that is more. `prefix_caching` gains nothing, and should be off,
    for backends that keep their state by sequence and not in blocks (the grouped fallback).
    Up to `speculation_tokens` tokens are drafted for each sequence and step and verified; 0 turns
    that off, as the same backends need. `num_states` places a model has allocated that keeps a
    state of each sequence: one for each slot, the rest keep states for the prefix cache, and
    those before drafts.

    :raises BadSettings: a value is out of range.
    """

    slots: int
    num_blocks: int
    prefill_chunk_tokens: int = 256
    prefix_caching: bool = True
    target_step_ms: float | None = None
    min_chunk_tokens: int = 8
    max_chunk_tokens: int = 2048
    lone_chunk_tokens: int = 0
    speculation_tokens: int = 0
    num_states: int = 0
    num_window_blocks: int = 0

    def __post_init__(self) -> None:
        for name in ("slots", "num_blocks", "prefill_chunk_tokens", "min_chunk_tokens"):
            if getattr(self, name) < 1:
                raise BadSettings(f"engine: {name} must be 1 or more (it is {getattr(self, name)})")
        if self.max_chunk_tokens < self.min_chunk_tokens:
            raise BadSettings("engine: max_chunk_tokens is less than min_chunk_tokens")
        if self.lone_chunk_tokens < 0:
            raise BadSettings("engine: lone_chunk_tokens must be 0 or more")
        if self.num_states and self.num_states < self.slots:
            raise BadSettings("engine: num_states must be slots or more")
        if self.speculation_tokens < 0:
            raise BadSettings("engine: speculation_tokens must be 0 or more")
        if self.target_step_ms is not None and self.target_step_ms <= 0:
            raise BadSettings("engine: target_step_ms must be above 0")
