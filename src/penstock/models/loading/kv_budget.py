"""How much KV cache, and how many states, fit: by a rule on a CPU, by measurement on a GPU."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

import torch

from penstock.engine.model import Batch, SequenceSlice, WindowedModel, stateful
from penstock.errors import ModelNotLoadable
from penstock.models.loading import checkpoint

if TYPE_CHECKING:
    from penstock.engine.model import KVLayout, Model
    from penstock.models.devices.device import Device

logger = logging.getLogger(__name__)

CPU_SHARE: Final = 0.4
MOST_CPU_BYTES: Final = 16 * 1024**3
GPU_SHARE: Final = 0.97
_GRAPHS_BYTES: Final = 512 * 1024**2
"""Memory of captured graphs and libraries, beyond what is measured."""

_WINDOWS: Final = 2
"""Most windows of keys and values for each slot: its own, and one for the prefix cache."""

_KEPT_STATES: Final = 4
"""Most states for each slot besides its own: at the ends of prompts and answers, for reuse."""
_KEPT_SHARE: Final = 0.25
"""Share of the budget for those."""

_SAMPLER_ROWS: Final = 4
"""Copies of the logits that sampling may have at once."""

_RETRY_SHARE: Final = 0.9
_RETRIES: Final = 3


@dataclass(frozen=True, slots=True)
class Room:
    """What was allocated: blocks of KV cache, and places for the states of a model that has them.

    `window_blocks` are those of layers with a window; if all have one, there are no others, and
    `blocks` is what a sequence can be as long as.
    """

    blocks: int
    states: int = 0
    window_blocks: int = 0


@runtime_checkable
class Warmable(Protocol):
    """A model that captures its steps before serving, for a given number of sequences."""

    max_sequences: int

    def free_bytes(self) -> int:
        """Return the free memory on each device of the model, in bytes."""
        ...

    def capture(self) -> None:
        """Capture the steps of all batch sizes."""
        ...


def allocate(
    model: Model,
    device: Device,
    *,
    slots: int,
    spare_slots: int = 0,
    step_tokens: int,
    budget_bytes: int,
    where: str,
    windows: bool = True,
) -> Room:
    """Allocate the KV cache, as much as the slots can fill within the budget; return what fits.

    Sequences in `spare_slots` share those blocks, but add to the steps' batches. The sequences'
    states are allocated first, if the model has states.
    `step_tokens` is the longest prefill that the engine requests at once. If the budget is 0, a
    GPU's budget is the memory that such a step leaves, measured by running one. With `windows`,
    layers with a window get the blocks that their windows take, for the engine to release those
    behind: on CPUs, and on GPUs in models that capture their steps.

    :raises ModelNotLoadable: not even one block fits.
    """
    layout = model.kv_layout
    at_once = slots + spare_slots
    if isinstance(model, Warmable):
        model.max_sequences = at_once
    if not budget_bytes:
        budget_bytes = _budget(model, device, at_once, step_tokens)
    states = _allocate_states(model, at_once, budget_bytes, where)
    keeping = stateful(model)
    budget_bytes -= 0 if keeping is None else states * keeping.state_bytes
    per_slot = -(-model.context_length // layout.block_size)
    most = slots * per_slot
    room = Room(min(most, budget_bytes // max(1, layout.bytes_per_block)), states)
    slides = device.kind == "cpu" or isinstance(model, Warmable)
    if windows and layout.window and slides:
        step_blocks = -(-step_tokens // layout.block_size)
        sliding = _with_windows(layout, most, at_once, step_blocks, budget_bytes)
        room = room if sliding is None else replace(sliding, states=states)
    if room.blocks < 1:
        raise ModelNotLoadable(
            f"{where}: a KV cache of {budget_bytes} bytes holds nothing; "
            f"{layout.block_size} tokens take {layout.bytes_per_block}"
        )
    if device.kind != "cpu":
        for _ in range(_RETRIES):
            try:
                return _proven(model, room, at_once, step_tokens)
            except (MemoryError, torch.OutOfMemoryError) as error:
                logger.warning("%s: %d blocks were too many: %s", where, room.blocks, error)
                model.allocate(0)
                room = _smaller(room, layout)
    try:
        _take(model, room)
    except MemoryError as error:
        raise ModelNotLoadable(f"{where}: {checkpoint.first_line(error)}") from error
    return room


def _with_windows(
    layout: KVLayout, most: int, sequences: int, step_blocks: int, budget_bytes: int
) -> Room | None:
    """Return how many blocks of each kind to allocate; None if windows of so many tokens do not fit.

    Up to `most` blocks of tokens, and for layers with a window as many as the windows of all
    sequences take, and what a step adds to one.
    """
    window = -(-layout.window // layout.block_size) + 2
    full_bytes = layout.bytes_per_block - layout.window_bytes
    for each in range(_WINDOWS, 0, -1):
        wanted = min(most, each * sequences * window + step_blocks)
        left_bytes = budget_bytes - wanted * layout.window_bytes
        if full_bytes == 0:
            blocks = most if left_bytes >= 0 else 0
        else:
            blocks = min(most, left_bytes // full_bytes)
        if blocks >= wanted:
            return Room(blocks, window_blocks=wanted)
    # Not all windows fit at once. Sequences wait for each other then.
    wanted = min(most, budget_bytes // layout.bytes_per_block)
    if wanted < window + step_blocks:
        return None
    return Room(most if full_bytes == 0 else wanted, window_blocks=wanted)


def _smaller(room: Room, layout: KVLayout) -> Room:
    """Return a room for a device that had too little memory for this one."""
    if room.window_blocks and not layout.has_full_layers:
        return replace(room, window_blocks=max(1, int(room.window_blocks * _RETRY_SHARE)))
    return replace(room, blocks=max(1, int(room.blocks * _RETRY_SHARE)))


def _take(model: Model, room: Room) -> None:
    """Allocate the blocks of a room.

    :raises MemoryError: the device has not enough memory.
    """
    if not room.window_blocks:
        model.allocate(room.blocks)
    elif isinstance(model, WindowedModel) and model.kv_layout.has_full_layers:
        model.allocate_windows(room.window_blocks)
        model.allocate(room.blocks)
    else:
        model.allocate(room.window_blocks)


def _allocate_states(model: Model, at_once: int, budget_bytes: int, where: str) -> int:
    """Allocate states for the sequences, and for reuse; return how many.

    :raises ModelNotLoadable: those of the sequences do not fit.
    """
    keeping = stateful(model)
    if keeping is None:
        return 0
    size = keeping.state_bytes
    if at_once * size >= budget_bytes:
        raise ModelNotLoadable(
            f"{where}: a KV cache of {budget_bytes} bytes has no room for the states of "
            f"{at_once} slots, {size} bytes each; lower PENSTOCK_SLOTS"
        )
    left = budget_bytes - at_once * size
    count = at_once + min(_KEPT_STATES * at_once, int(left * _KEPT_SHARE) // size)
    try:
        keeping.allocate_states(count)
    except MemoryError as error:
        raise ModelNotLoadable(f"{where}: {checkpoint.first_line(error)}") from error
    return count


def _proven(model: Model, room: Room, slots: int, step_tokens: int) -> Room:
    """Allocate, then run the largest step and capture the others, as proof that they fit."""
    _take(model, room)
    if isinstance(model, Warmable):
        model.capture()
    fewest = min(room.blocks, room.window_blocks or room.blocks)
    _largest_step(model, slots, min(step_tokens, fewest * model.kv_layout.block_size))
    return room


def _budget(model: Model, device: Device, slots: int, step_tokens: int) -> int:
    """Return the bytes for the KV cache."""
    if device.kind == "cpu":
        return min(int(device.free_bytes() * CPU_SHARE), MOST_CPU_BYTES)
    size = model.kv_layout.block_size
    model.allocate(-(-min(step_tokens, model.context_length) // size) + slots)
    peak = device.peak_bytes(lambda: _largest_step(model, slots, step_tokens))
    model.allocate(0)
    sampling = _SAMPLER_ROWS * slots * model.vocab_size * torch.float32.itemsize
    if isinstance(model, Warmable):
        free = model.free_bytes()
        peak *= 2  # captured steps have separate memory
    else:
        free = device.free_bytes()
    return int(free * GPU_SHARE) - peak - sampling - _GRAPHS_BYTES


def _largest_step(model: Model, slots: int, step_tokens: int) -> None:
    """Run a prefill of `step_tokens` with one token of every other slot; the result is unused."""
    size = model.kv_layout.block_size
    tokens = min(step_tokens, model.context_length)
    first = -(-tokens // size)
    table = list(range(first))
    parts = [SequenceSlice(0, [0] * tokens, 0, table, tokens - 1, window_table=table)]
    parts += [SequenceSlice(key, [0], 0, [0], 0, window_table=[0]) for key in range(1, slots)]
    model.forward(Batch(parts))
    for key in range(slots):
        model.release(key)
