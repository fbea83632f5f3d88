"""How an engine runs a model: from the settings, the model's entry and its backend's strengths."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from penstock.engine.options import EngineOptions

if TYPE_CHECKING:
    from penstock.contract.worker import ModelCard
    from penstock.models.devices.device import Device
    from penstock.models.loading.assembled import Assembled
    from penstock.models.loading.kv_budget import Room
    from penstock.models.spec import ModelSpec
    from penstock.settings import Settings

_SPECULATION_TOKENS: Final = 8
"""Most draft tokens a sequence and step; the engine tries fewer if they do not pay."""

_GAINS: Final = frozenset({("native", "cpu")})
"""Where `auto` drafts: where it measurably helps, see ADR 0009."""

_LEAST_PARAMETERS: Final = 500_000_000
"""Least weights of a model that `auto` drafts for. One of 1.1 billion gained; the demo model, whose
step takes a millisecond, as long as drafting, lost three quarters at eight sampled streams."""

MOST_CHUNK_TOKENS: Final = 2048

LONE_CHUNK_TOKENS: Final = 8192
"""Chunk of a prompt that nothing runs beside: at 32,768 tokens an H200 is 4 % faster than with 2,048."""

_LONE_FREE_BYTES: Final = 32 << 30
"""A GPU's free memory, without its KV cache, of which such a chunk's activations are a small part."""


def lone_chunk_tokens(assembled: Assembled, device: Device, settings: Settings) -> int:
    """Return the chunk of a prompt that is computed alone; 0 if it is like others'."""
    if settings.prefill_chunk_tokens or assembled.running != "lean" or device.kind != "cuda":
        return 0
    return LONE_CHUNK_TOKENS if device.free_bytes() >= _LONE_FREE_BYTES else 0


def engine_options(
    spec: ModelSpec,
    settings: Settings,
    card: ModelCard,
    room: Room,
    *,
    chunk_tokens: int,
    lone_tokens: int = 0,
    headed: bool = False,
) -> EngineOptions:
    """Return the options for a model with `room` for its cache; its entry overrides the settings.

    `chunk_tokens` is the longest prefill in a step that memory allows, or `lone_tokens` of a prompt
    that is computed alone. `headed`: a head of the model drafts. For models that keep states `auto`
    drafts only then: a wrong draft costs them twice.
    """
    target_step_ms = settings.target_step_ms if spec.target_step_ms is None else spec.target_step_ms
    drafts = speculates(
        spec, settings, backend=card.backend, device=card.device, parameters=card.parameters
    )
    paged = card.batching == "continuous"
    if room.states and not headed and (spec.speculation or settings.speculation) != "on":
        drafts = False
    return EngineOptions(
        slots=card.slots + card.spare_slots,
        num_blocks=room.blocks,
        prefill_chunk_tokens=chunk_tokens,
        max_chunk_tokens=max(MOST_CHUNK_TOKENS, chunk_tokens),
        lone_chunk_tokens=lone_tokens,
        prefix_caching=paged,
        target_step_ms=target_step_ms or None,
        speculation_tokens=_SPECULATION_TOKENS if drafts and paged else 0,
        num_states=room.states,
        num_window_blocks=room.window_blocks,
    )


def speculates(
    spec: ModelSpec, settings: Settings, *, backend: str, device: str, parameters: int
) -> bool:
    """Return whether tokens are drafted for a model, if its backend can verify them."""
    mode = spec.speculation or settings.speculation
    pays = (backend, device) in _GAINS and parameters >= _LEAST_PARAMETERS
    stated = spec.draft is not None or spec.eagle3 is not None
    return mode == "on" or (mode == "auto" and (pays or stated))
