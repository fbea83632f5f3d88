"""A compiled graph with paged attention behind the `Model` protocol."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from penstock.engine.model import Batch, KVLayout, Mutual, SequenceSlice
from penstock.models import devices
from penstock.models.architecture.windows import Sliding
from penstock.models.backends.openvino import images
from penstock.models.backends.openvino.caches import Caches
from penstock.models.backends.openvino.runtime_library import openvino
from penstock.models.backends.paging import Step

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from penstock.models.backends.openvino.options import CompileOptions

_NONE: Final = Sliding()
Tables = tuple["NDArray[np.float32]", "NDArray[np.float32]"]


class OpenVinoModel:
    """Owns the compiled model, its one request and the KV cache. The engine's thread calls it.

    `rotary` holds cosines and sines by position for graphs that take them; a graph that takes
    `position_ids` computes them itself. `keep` owns the memory of the graph's constants; `laid_out`
    is called when the plugin has its own copy of them. `image_sizes` are the graph's hidden size and
    layers that add features of images; None if it takes none. Layers that `sliding` has apart take
    `window_indices` in place of `block_indices`.
    """

    def __init__(
        self,
        graph: Any,
        options: CompileOptions,
        *,
        vocab_size: int,
        context_length: int,
        rotary: Tables | None,
        keep: object,
        sliding: Sliding = _NONE,
        laid_out: Callable[[], None] | None = None,
        image_sizes: tuple[int, int] | None = None,
    ) -> None:
        library = openvino()
        self.vocab_size = vocab_size
        self.context_length = context_length
        self._compiled = library.Core().compile_model(graph, options.device, options.properties())
        self._keep = keep
        self._laid_out = laid_out
        self._request = self._compiled.create_infer_request()
        self._caches = Caches(self._compiled, options.device, sliding.apart)
        self._rotary = None if rotary is None else [_per_head(table) for table in rotary]
        self._image_sizes = image_sizes
        self._turning: Any | None = None  # by time, height and width, of prompts with images
        self._tensor = library.Tensor
        self.shows_hidden = True
        self._thread: int | None = None  # the engine's, once it is known
        size, caches = self._caches.block_size, self._caches
        window_bytes = caches.window_bytes or caches.bytes_per_block
        self.kv_layout = KVLayout(
            size, caches.bytes_per_block, sliding.size, window_bytes if sliding.size else 0
        )

    @property
    def compiled(self) -> Any:
        """OpenVINO's compiled model, for inspection."""
        return self._compiled

    def allocate(self, blocks: int) -> None:
        """See `penstock.engine.model.Model`.

        :raises MemoryError: the device has not enough memory.
        """
        self._caches.allocate(blocks, self._request)
        # The plugin rearranges its weights at the first inference; these seconds are spent here.
        self._infer(Batch((SequenceSlice(0, (0,), 0, (0,), 1),)))
        if self._laid_out is not None:
            self._laid_out()

    def take_images(self, rotary: Any | None, *, mutual: Mutual) -> bool:
        """See `penstock.engine.model.ImageModel`."""
        self._turning = rotary
        return self._image_sizes is not None and mutual is Mutual.NOWHERE

    def allocate_windows(self, blocks: int) -> None:
        """See `penstock.engine.model.WindowedModel`."""
        self._caches.allocate_windows(blocks)

    def forward(self, batch: Batch) -> torch.Tensor:
        """See `penstock.engine.model.Model`: (rows, vocab) float32.

        :raises RuntimeError: OpenVINO failed.
        """
        self._claim_cores()
        return self._output("logits", self._infer(batch))

    def forward_hidden(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """See `penstock.engine.model.HiddenModel`: (rows, vocab) and (rows, hidden), float32.

        :raises RuntimeError: OpenVINO failed.
        """
        self._claim_cores()
        wanted = self._infer(batch)
        return self._output("logits", wanted), self._output("hidden", wanted)

    def _claim_cores(self) -> None:
        """Stop torch's own threads at the first step: they wait for work by spinning.

        The engine does little with logits between two steps, and OpenVINO's threads would
        find the cores occupied.
        """
        if self._thread != threading.get_ident():
            self._thread = threading.get_ident()
            devices.compute_alone()

    def _infer(self, batch: Batch) -> int:
        """Compute a step; returns how many rows of its outputs are wanted."""
        step = Step.of(batch, self._caches.block_size)
        inputs: dict[str, NDArray[Any]] = dict(step.paging)
        inputs["input_ids"] = step.token_ids
        if self._caches.window_bytes:
            inputs["window_indices"] = Step.windows(batch, self._caches.block_size)
        # A product needs at least one row: the first token's logits are discarded.
        wanted = len(step.rows)
        inputs["rows"] = step.rows if wanted else np.zeros(1, np.int32)
        if self._rotary is None:
            inputs["position_ids"] = step.positions
        else:
            inputs["cos"], inputs["sin"] = (table[step.positions] for table in self._rotary)
        if self._image_sizes is not None:
            hidden_size, layers = self._image_sizes
            first_rows = step.paging["subsequence_begins"][:-1].tolist()
            inputs |= images.inputs_of(
                batch, first_rows, len(step.token_ids), hidden_size=hidden_size, layers=layers
            )
            if self._turning is not None:
                images.turn(batch, first_rows, self._turning, (inputs["cos"], inputs["sin"]))
        request = self._request
        for name, array in inputs.items():
            request.set_tensor(name, self._tensor(array, shared_memory=True))
        # Not `infer()`: with one thread, OpenVINO 2026.4.1 loses the exception of a failed step
        # there, and the output of the step before would stand.
        request.start_async()
        request.wait()
        return wanted

    def _output(self, name: str, rows: int) -> torch.Tensor:
        """The first rows of an output, copied: the next step writes into the same memory."""
        found: NDArray[np.float32] = self._request.get_tensor(name).data
        return torch.tensor(found.reshape(-1, found.shape[-1])[:rows])

    def release(self, key: int) -> None:
        """Do nothing: there is no state by sequence."""


def _per_head(table: NDArray[np.float32]) -> NDArray[np.float32]:
    """(positions, size) as (positions, 1, 1, size), which a step's rows are taken from."""
    return np.ascontiguousarray(table[:, None, None, :])
