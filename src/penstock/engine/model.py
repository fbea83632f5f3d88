"""The model boundary: the input of a backend for one step, and its output.

A backend owns the KV cache's storage; the engine owns its bookkeeping (which block holds what).
Block ids count from 0; block 0 is an ordinary block. A sequence's token at position `p` lives in
block `block_table[p // block_size]` at offset `p % block_size`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import torch

    from penstock.engine.image_inputs import ImageInputs, ImageSpan


@dataclass(frozen=True, slots=True)
class SequenceSlice:
    """The part of one sequence that this step computes.

    Positions `start .. start + len(token_ids) - 1`; everything before `start` is in the KV cache.
    `block_table` covers every position up to the last of this slice. `key` identifies the sequence
    for as long as it runs (backends that keep state of their own, such as grouped fallback or
    recurrent layers, key it by this). `logits_from` is the offset within the slice from which
    logits are returned: `len(token_ids) - 1` for ordinary decoding, 0 for all (prompt logprobs,
    verification of speculated tokens), `len(token_ids)` for none (a prefill chunk that is not
    the last). `adapter` is what the sequence's adapter is in a model that takes some, None for the
    model as it is. `window_table` is the block table of the layers with a window, if they have blocks
    of their own, else empty. Blocks wholly behind the window of position `start` are not in the tables
    of such layers: another block of the sequence stands in their place. `state` is the place of the sequence's state in a model that keeps states, which is
    empty at `start` 0 whatever the place holds; -1 in other models. `images` are those of the whole
    prompt, for an `ImageModel`.
    """

    key: int
    token_ids: Sequence[int]
    start: int
    block_table: Sequence[int]
    logits_from: int
    state: int = -1
    images: ImageInputs | None = None
    adapter: Any | None = None
    window_table: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's work, prefill chunks and decode tokens mixed."""

    slices: Sequence[SequenceSlice]

    @property
    def has_images(self) -> bool:
        """Whether a slice belongs to a prompt with images."""
        return any(part.images is not None for part in self.slices)

    def image_spans(self, first_rows: Iterable[int]) -> Iterator[tuple[ImageSpan, slice, slice]]:
        """Yield the images that the step computes: the span, its rows, and those of the step.

        `first_rows` are the rows of the step at which its slices begin.
        """
        for part, first in zip(self.slices, first_rows, strict=True):
            if part.images is not None:
                end = part.start + len(part.token_ids)
                for span, own, rows in part.images.within(part.start, end):
                    yield span, own, slice(first + rows.start, first + rows.stop)

    def image_turns(self, first_rows: Iterable[int]) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield the rows of each slice with images, and their rotary positions (3, rows).

        `first_rows` are the rows of the step at which its slices begin.
        """
        for part, first in zip(self.slices, first_rows, strict=True):
            if part.images is not None:
                count = len(part.token_ids)
                turns = part.images.turns(part.start, part.start + count)
                yield slice(first, first + count), turns


@dataclass(frozen=True, slots=True)
class KVLayout:
    """What one block of the cache holds and costs. `bytes_per_block` counts all layers.

    `window_bytes` of them are of layers in which a token sees only the last `window` tokens, itself
    included: blocks behind that may be released. If some layers see all, the model is a
    `WindowedModel`.
    """

    block_size: int
    bytes_per_block: int
    window: int = 0
    window_bytes: int = 0

    @property
    def has_full_layers(self) -> bool:
        """Whether some layers see all of a sequence."""
        return self.window_bytes < self.bytes_per_block


@runtime_checkable
class HiddenModel(Protocol):
    """A model that returns its last hidden states, for embeddings, if `shows_hidden`."""

    shows_hidden: bool

    def forward_hidden(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute as `Model.forward` does.

        Returns its logits and, for the same rows, the last hidden states, (rows, hidden).
        """
        ...


@runtime_checkable
class Watched(Protocol):
    """A model with parts in processes of their own, which can die."""

    @property
    def failure(self) -> BaseException | None:
        """The error after which it cannot compute; any thread may read it."""
        ...

    def watched(self) -> None:
        """Note that `failure` is checked from now on."""
        ...


@runtime_checkable
class StatefulModel(Protocol):
    """A model whose layers keep a state of each sequence beside keys and values, if `state_bytes`.

    `forward` moves the states of its slices to the end of each. One that raises may have moved some.
    """

    state_bytes: int

    def allocate_states(self, count: int) -> None:
        """Allocate `count` places; called once, before the first `forward`.

        :raises MemoryError: the device has not enough memory.
        """
        ...

    def copy_state(self, source: int, target: int) -> None:
        """Copy the state at one place to another."""
        ...


@runtime_checkable
class WindowedModel(Protocol):
    """A model that can hold keys and values of layers with a window in blocks of their own."""

    kv_layout: KVLayout

    def allocate_windows(self, blocks: int) -> None:
        """Allocate `blocks` blocks for these layers, before `allocate`, which leaves them out then.

        Otherwise a slice's `block_table` is that of all layers.

        :raises MemoryError: the device has not enough memory.
        """
        ...


@runtime_checkable
class StorableWindows(Protocol):
    """A `WindowedModel` whose blocks of these layers can be kept elsewhere too, as bytes."""

    def read_window_block(self, block: int) -> bytes:
        """Return what such a block holds, `kv_layout.window_bytes` bytes."""
        ...

    def write_window_block(self, block: int, content: bytes) -> bool:
        """Write such a block; False if the content is not of this format."""
        ...


@runtime_checkable
class StorableModel(Protocol):
    """A model whose blocks of KV cache can be kept elsewhere, as bytes."""

    kv_layout: KVLayout
    block_format: str
    """What the bytes of a block are; blocks of another format are never read. Empty if they
    cannot be kept elsewhere."""

    def read_block(self, block: int) -> bytes:
        """Return a block's keys and values, `kv_layout.bytes_per_block` bytes.

        Those of layers with blocks of their own (`StorableWindows`) are left out.
        """
        ...

    def write_block(self, block: int, content: bytes) -> bool:
        """Write a block's keys and values; False if they are not of this format."""
        ...


class Mutual(Enum):
    """The layers in which the tokens of an image see each other, later ones too."""

    NOWHERE = "nowhere"
    IN_WINDOWS = "in windows"
    """In the layers that see a window of the text, and within it."""
    EVERYWHERE = "everywhere"

    @property
    def somewhere(self) -> bool:
        """Whether there are such layers."""
        return self is not Mutual.NOWHERE


@runtime_checkable
class StorableStates(Protocol):
    """A model with states that can be kept elsewhere too, as bytes."""

    def read_state(self, place: int) -> bytes:
        """Return the state at one place, `state_bytes` bytes."""
        ...

    def write_state(self, place: int, content: bytes) -> bool:
        """Write the state of one place; False if it is not of this model, and nothing is written."""
        ...


@runtime_checkable
class ImageModel(Protocol):
    """A model that reads the images of its slices once `take_images` has been called."""

    def take_images(self, rotary: Any | None, *, mutual: Mutual) -> bool:
        """Get ready; return False if this model cannot read them.

        `rotary` is the rotary embedding that turns tokens by three positions, None if the model
        turns them by their position alone.
        """
        ...


class Model(Protocol):
    """A loaded model on one device. Only the engine's thread calls it."""

    vocab_size: int
    context_length: int
    kv_layout: KVLayout

    def allocate(self, blocks: int) -> None:
        """Allocate `blocks` blocks of KV cache; called once, before the first `forward`.

        :raises MemoryError: the device has not enough memory.
        """
        ...

    def forward(self, batch: Batch) -> torch.Tensor:
        """Compute the slices, and write their keys and values into the cache.

        Returns logits, (rows, vocab) float32, rows in the order of the slices and, within a
        slice, of its positions from `logits_from` on. It may be on the model's device.
        """
        ...

    def release(self, key: int) -> None:
        """Drop the state of a sequence (its blocks are the engine's)."""
        ...


def shows_hidden(model: object) -> bool:
    """Return whether a model returns its hidden states."""
    return isinstance(model, HiddenModel) and model.shows_hidden


def stateful(model: object) -> StatefulModel | None:
    """Return a model that keeps states of sequences, as such; None if it does not."""
    return model if isinstance(model, StatefulModel) and model.state_bytes else None


def storable(model: object) -> StorableModel | None:
    """Return a model whose blocks can be kept elsewhere, as such; None if they cannot.

    Blocks are not all that a model with states keeps of a sequence: its states must be storable too.
    """
    whole = stateful(model) is None or isinstance(model, StorableStates)
    return model if isinstance(model, StorableModel) and whole and model.block_format else None


def can_take_images(model: object) -> TypeGuard[ImageModel]:
    """Return whether a model can read images."""
    return isinstance(model, ImageModel)
