"""The native decoder as an engine's `Model`."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from penstock.engine.model import KVLayout, Mutual
from penstock.models import devices
from penstock.models.backends.native import adapters, library, pages
from penstock.models.backends.native.drafting.following import FollowedStep, Sizes
from penstock.models.backends.native.drafting.step_hidden import PLAIN
from penstock.models.backends.native.drafting.trails import Trails
from penstock.models.backends.native.images import StepImages
from penstock.models.backends.native.packing import aligned
from penstock.models.backends.paging import Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from penstock.engine.model import Batch
    from penstock.models.adapters.adapter import LowRank
    from penstock.models.backends.native.adapters import NativeAdapter, OwnPairs
    from penstock.models.backends.native.decoder import Decoder
    from penstock.models.backends.native.drafting.head import NativeHead
    from penstock.models.backends.native.drafting.step_hidden import StepHidden
    from penstock.models.backends.native.layout import Phase
    from penstock.models.backends.native.packing import Plan

BLOCK_SIZE = 16


class NativeModel:
    """Owns the KV cache, and the decoder with its threads. The engine's thread calls it."""

    def __init__(
        self,
        decoder: Decoder,
        context_length: int,
        window: int = 0,
        plans: Sequence[Plan] = (),
        head: str = "",
        *,
        own: OwnPairs | None = None,
    ) -> None:
        """`window` is that of the layers that slide, or of all layers; 0: some layers see all, and none slides.

        `plans` are the matrices that adapters may change; `head` is the name of the head; `own` are
        the model's own pairs, which every sequence has.
        """
        self._decoder = decoder
        self._pairs = own or {}
        self._own = adapters.of_model(decoder.handle, plans, self._pairs) if own else None
        self._plans, self._head = plans, head
        self.vocab_size = decoder.shape.vocab
        self.context_length = context_length
        self._full_bytes = decoder.cache_block_bytes
        self._window_bytes = decoder.window_block_bytes
        block_bytes = self._full_bytes + self._window_bytes
        window_bytes = (self._window_bytes or block_bytes) if window else 0
        self.kv_layout = KVLayout(BLOCK_SIZE, block_bytes, window, window_bytes)
        self.shows_hidden = True
        self.state_bytes = decoder.state_bytes
        self._cache = aligned(0).reshape(0, self._full_bytes)
        self._windows = aligned(0).reshape(0, max(1, self._window_bytes))
        self._slides = False
        self._states: NDArray[np.uint8] | None = None
        self._thread: int | None = None  # the engine's, once it is known
        self._rotary: Any | None = None
        self._head_that_drafts: NativeHead | None = None
        self._trails: Trails | None = None
        self._head_cache = aligned(0).reshape(0, 1)

    @property
    def decoder(self) -> Decoder:
        """The layers in the library."""
        return self._decoder

    def take_head(self, head: NativeHead) -> None:
        """Have a head draft, whose keys and values lie beside the model's; comes before `allocate`."""
        self._head_that_drafts = head
        whole = self.kv_layout.bytes_per_block + head.block_bytes
        self.kv_layout = replace(self.kv_layout, bytes_per_block=whole)

    @property
    def draft_kind(self) -> str:
        """See `penstock.engine.model.HeadedModel`."""
        return "" if self._head_that_drafts is None else self._head_that_drafts.kind

    def draft(self, batch: Batch, count: int) -> list[list[int]]:
        """See `penstock.engine.model.HeadedModel`."""
        return [] if self._trails is None else self._trails.draft(batch.slices, count)

    def rest(self, *, resting: bool) -> None:
        """See `penstock.engine.model.HeadedModel`."""
        if self._trails is not None:
            self._trails.resting = resting

    def allocate(self, blocks: int) -> None:
        """See `penstock.engine.model.Model`.

        :raises MemoryError: the machine has not enough memory.
        """
        self._cache = _taken(blocks * self._full_bytes).reshape(blocks, self._full_bytes)
        if self._window_bytes and not self._slides:
            self._windows = _taken(blocks * self._window_bytes).reshape(blocks, -1)
        head = self._head_that_drafts
        if head is not None:
            self._head_cache = _taken(blocks * head.block_bytes).reshape(blocks, head.block_bytes)
            self._trails = Trails(head, self._head_cache)

    def allocate_windows(self, blocks: int) -> None:
        """See `penstock.engine.model.WindowedModel`.

        :raises MemoryError: the machine has not enough memory.
        """
        self._windows = _taken(blocks * self._window_bytes).reshape(blocks, self._window_bytes)
        self._slides = True

    def allocate_states(self, count: int) -> None:
        """See `penstock.engine.model.StatefulModel`.

        :raises MemoryError: the machine has not enough memory.
        """
        self._states = _taken(count * self.state_bytes).reshape(count, self.state_bytes)

    def copy_state(self, source: int, target: int) -> None:
        """See `penstock.engine.model.StatefulModel`."""
        if self._states is not None:
            self._states[target] = self._states[source]

    @property
    def block_format(self) -> str:
        """See `penstock.engine.model.StorableModel`."""
        return f"native {library.ABI} {self.kv_layout.bytes_per_block}"

    def read_block(self, block: int) -> bytes:
        """See `penstock.engine.model.StorableModel`."""
        content = self._cache[block].tobytes()
        if self._trails is not None:
            content += self._head_cache[block].tobytes()
        return content if self._slides else content + self.read_window_block(block)

    def write_block(self, block: int, content: bytes) -> bool:
        """See `penstock.engine.model.StorableModel`."""
        own = self._full_bytes
        both = own if self._trails is None else own + self._head_cache.shape[1]
        rest = content[both:]
        if len(content) - len(rest) != both or (self._slides and rest):
            return False
        self._cache[block] = np.frombuffer(content, np.uint8, own)
        if self._trails is not None:
            self._head_cache[block] = np.frombuffer(content, np.uint8, both - own, own)
        return self._slides or self.write_window_block(block, rest)

    def read_window_block(self, block: int) -> bytes:
        """See `penstock.engine.model.StorableWindows`."""
        return self._windows[block].tobytes() if self._window_bytes else b""

    def write_window_block(self, block: int, content: bytes) -> bool:
        """See `penstock.engine.model.StorableWindows`."""
        if len(content) != self._window_bytes:
            return False
        if content:
            self._windows[block] = np.frombuffer(content, np.uint8)
        return True

    def read_state(self, place: int) -> bytes:
        """See `penstock.engine.model.StorableStates`."""
        return b"" if self._states is None else self._states[place].tobytes()

    def write_state(self, place: int, content: bytes) -> bool:
        """See `penstock.engine.model.StorableStates`."""
        if self._states is None or len(content) != self.state_bytes:
            return False
        self._states[place] = np.frombuffer(content, np.uint8)
        return True

    def take_images(self, rotary: Any | None, *, mutual: Mutual) -> bool:
        """See `penstock.engine.model.ImageModel`."""
        self._rotary = rotary
        return mutual is Mutual.NOWHERE

    def take_adapter(self, adapter: LowRank) -> NativeAdapter:
        """See `penstock.models.adapters.adapter.AdapterModel`."""
        return adapters.placed(self._decoder.handle, self._plans, self._head, adapter, self._pairs)

    def forward(self, batch: Batch) -> torch.Tensor:
        """See `penstock.engine.model.Model`: (rows, vocab) float32."""
        step = self._step_of(batch)
        if self._trails is not None:
            return self._followed(self._trails, batch, step)[0]
        logits = torch.empty((len(step.rows), self.vocab_size))
        self._compute(batch, step, logits.numpy(), None)
        return logits

    def forward_hidden(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """See `penstock.engine.model.HiddenModel`: (rows, vocab) and (rows, hidden), float32."""
        step = self._step_of(batch)
        if self._trails is not None:
            return self._followed(self._trails, batch, step)
        logits = torch.empty((len(step.rows), self.vocab_size))
        hidden = torch.empty((len(step.rows), self._decoder.shape.hidden))
        self._compute(batch, step, logits.numpy(), hidden.numpy())
        return logits, hidden

    def _followed(
        self, trails: Trails, batch: Batch, step: Step
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute a step that a head follows."""

        def compute(
            rows: NDArray[np.int32],
            logits: NDArray[np.float32],
            hidden: NDArray[np.float32],
            inner: StepHidden,
        ) -> None:
            self._compute(batch, replace(step, rows=rows), logits, hidden, inner)

        sizes = Sizes(self.vocab_size, self._decoder.shape.hidden)
        logits, hidden = FollowedStep(compute, trails, batch, step.rows, sizes).run()
        return torch.as_tensor(logits), torch.as_tensor(hidden)

    def phases_s(self) -> dict[Phase, float]:
        """Seconds of all steps so far, by what they went into."""
        return self._decoder.phases_s()

    def release(self, key: int) -> None:
        """Have the head forget a sequence; there is no other state of it."""
        if self._trails is not None:
            self._trails.forget(key)

    def _step_of(self, batch: Batch) -> Step:
        if self._thread != threading.get_ident():
            # torch's own threads wait for work by spinning, on the cores that the kernels' threads need.
            self._thread = threading.get_ident()
            devices.compute_alone()
        return Step.of(batch, BLOCK_SIZE)

    def _compute(
        self,
        batch: Batch,
        step: Step,
        logits: NDArray[np.float32],
        hidden: NDArray[np.float32] | None,
        inner: StepHidden = PLAIN,
    ) -> None:
        paging = step.paging
        places = None
        if self.state_bytes:
            places = np.array([part.state for part in batch.slices], np.int32)
        self._decoder.step(
            token_ids=step.token_ids,
            past_lens=paging["past_lens"],
            subsequence_begins=paging["subsequence_begins"],
            block_indices=paging["block_indices"],
            block_indices_begins=paging["block_indices_begins"],
            rows=step.rows,
            cache=self._cache,
            window_indices=Step.windows(batch, BLOCK_SIZE) if self._window_bytes else None,
            window_cache=self._windows if self._window_bytes else None,
            states=self._states,
            places=places,
            images=StepImages.of(batch, step.token_ids.size, self._rotary),
            adapters=adapters.addresses([part.adapter or self._own for part in batch.slices]),
            inner=inner,
            hidden=hidden,
            logits=logits,
        )


def _taken(size: int) -> NDArray[np.uint8]:
    """Bytes, in large pages where the kernel has them."""
    return (pages.zeros if pages.available() else aligned)(size)
