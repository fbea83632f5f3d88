"""A decoder in the native library: its layers, its threads, its steps."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import numpy as np

from penstock.models.backends.native.decoder_arrays import DecoderArrays
from penstock.models.backends.native.drafting.step_hidden import PLAIN
from penstock.models.backends.native.layout import Phase, native_shape
from penstock.models.backends.native.library import Isa, StepInput, address_of, check, pointer
from penstock.models.backends.native.matrix import native_packing, packed_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from penstock.models.backends.native.drafting.step_hidden import StepHidden
    from penstock.models.backends.native.images import StepImages
    from penstock.models.backends.native.latent import NativeLatent
    from penstock.models.backends.native.layout import Shape
    from penstock.models.backends.native.matrix import Packing
    from penstock.models.backends.native.mixer import NativeMixer
    from penstock.models.backends.native.mixtures.experts import Experts
    from penstock.models.backends.native.traits import LayerTraits, Traits


class Decoder(DecoderArrays):
    """A model in the library."""

    def __init__(
        self,
        shape: Shape,
        threads: int,
        *,
        cpus: Sequence[int] | None = None,
        isa: Isa = Isa.BEST,
        beside: Decoder | None = None,
    ) -> None:
        """`cpus` has one entry a thread; the first is the caller's, which binds itself.

        With `beside` it has that one's threads and instruction set instead; the two compute by turns.

        :raises ValueError: the shape makes no sense.
        :raises RuntimeError: this CPU lacks `isa`.
        """
        super().__init__(shape)
        native, _windows = native_shape(shape)
        if cpus is not None and len(cpus) != threads:
            raise ValueError(f"{len(cpus)} CPUs for {threads} threads")
        if beside is not None:
            created = ctypes.byref(self._model)
            check(self._library.pn_create_beside(ctypes.byref(native), beside.handle, created))
            return
        bound = None if cpus is None else np.array(cpus, np.int32)
        check(
            self._library.pn_create(
                ctypes.byref(native),
                int(isa),
                threads,
                None if bound is None else pointer(bound),
                ctypes.byref(self._model),
            )
        )

    def close(self) -> None:
        """Stop its threads and free it; further calls have no effect."""
        model, self._model = self._model, ctypes.c_void_p()
        if model:
            self._library.pn_destroy(model)
        self._kept.clear()

    def __del__(self) -> None:
        if getattr(self, "_model", None):
            self.close()

    @property
    def handle(self) -> ctypes.c_void_p:
        """The model in the library."""
        return self._model

    def phases_s(self) -> dict[Phase, float]:
        """Return the seconds of all steps so far, by phase."""
        seconds = np.zeros(len(Phase))
        check(self._library.pn_phases(self._model, pointer(seconds)))
        return {phase: float(seconds[phase]) for phase in Phase}

    def set_experts(self, layer: int, experts: Experts) -> None:
        """Set a layer's experts; call it before setting their matrices and vectors.

        :raises ValueError: they are inconsistent.
        """
        check(self._library.pn_set_experts(self._model, layer, ctypes.byref(experts.native())))
        self._experts[layer] = experts.experts

    def set_mixer(self, layer: int, mixer: NativeMixer) -> None:
        """Give a layer a mixer; comes before its matrices and vectors.

        :raises ValueError: it makes no sense, or there is no such layer.
        """
        check(self._library.pn_set_mixer(self._model, layer, ctypes.byref(mixer.native())))

    @property
    def state_bytes(self) -> int:
        """Bytes of one sequence's state; 0 without mixers."""
        return int(self._library.pn_state_bytes(self._model))

    @property
    def cache_block_bytes(self) -> int:
        """Bytes of a block of the KV cache, of layers that do not slide, once all traits are set."""
        return int(self._library.pn_cache_block_bytes(self._model, 0))

    @property
    def window_block_bytes(self) -> int:
        """Bytes of a block of the window cache, of layers that slide; 0 without such layers."""
        return int(self._library.pn_cache_block_bytes(self._model, 1))

    def set_latent(self, layer: int, latent: NativeLatent) -> None:
        """Make a layer's attention latent; comes before its matrices and vectors.

        :raises ValueError: its sizes make no sense, or there is no such layer.
        """
        check(self._library.pn_set_latent(self._model, layer, ctypes.byref(latent.native())))
        self._latent[layer] = latent

    def set_traits(self, traits: Traits) -> None:
        """Set the model's traits; call it before setting matrices and vectors.

        :raises ValueError: they are inconsistent.
        """
        check(self._library.pn_set_traits(self._model, ctypes.byref(traits.native())))

    def set_layer(self, layer: int, traits: LayerTraits) -> None:
        """Set a layer's differences from Llama's; call it before setting its matrices and vectors.

        :raises ValueError: they are inconsistent, or there is no such layer.
        """
        check(self._library.pn_set_layer(self._model, layer, ctypes.byref(traits.native())))

    def step(
        self,
        *,
        token_ids: NDArray[np.int64],
        past_lens: NDArray[np.int32],
        subsequence_begins: NDArray[np.int32],
        block_indices: NDArray[np.int32],
        block_indices_begins: NDArray[np.int32],
        rows: NDArray[np.int32],
        cache: NDArray[np.uint8],
        window_indices: NDArray[np.int32] | None = None,
        window_cache: NDArray[np.uint8] | None = None,
        states: NDArray[np.uint8] | None = None,
        places: NDArray[np.int32] | None = None,
        images: StepImages | None = None,
        embedded: NDArray[np.uint64] | None = None,
        adapters: NDArray[np.uint64] | None = None,
        inner: StepHidden = PLAIN,
        hidden: NDArray[np.float32] | None = None,
        logits: NDArray[np.float32] | None = None,
    ) -> None:
        """Compute a step; see `pn_step`. `cache` is (blocks, bytes), `states` (places, bytes).

        Layers that slide have their blocks in `window_cache`, by `window_indices`. `images` are
        those of the step's tokens, or `embedded` the addresses of rows of `hidden` floats in place of
        the tokens' embeddings, `adapters` the addresses of the sequences' (`NativeAdapter`),
        0 for none. `places` are those of the sequences' states; in a model without mixers both are
        None. `inner` is what drafting takes and gives beside. Outputs, (rows, vocab) or as many rows
        as it has logits of, and (rows, hidden), are written in place.

        :raises ValueError: an id, a position or a block does not exist.
        :raises MemoryError: there is no memory for the step.
        """
        begins = (len(past_lens) + 1,)
        if subsequence_begins.shape != begins or block_indices_begins.shape != begins:
            raise ValueError("begins of another number of sequences")
        if block_indices_begins[-1] > len(block_indices):
            raise ValueError("fewer block indices than their begins need")
        if window_indices is not None and len(window_indices) != len(block_indices):
            raise ValueError("a window cache's blocks of another number")
        counted = len(rows) if inner.logit_rows is None else len(inner.logit_rows)
        sizes = ((logits, counted, self.shape.vocab), (hidden, len(rows), self.shape.hidden))
        for output, count, width in sizes:
            if output is not None and output.shape != (count, width):
                raise ValueError(f"an output of {output.shape} for {count} rows of {width}")
        if adapters is not None and len(adapters) != len(past_lens):
            raise ValueError(f"{len(adapters)} adapters for {len(past_lens)} sequences")
        if states is not None and places is not None and len(places) != len(past_lens):
            raise ValueError(f"{len(places)} places of states for {len(past_lens)} sequences")
        sequences = (past_lens, subsequence_begins, block_indices, block_indices_begins, rows)
        native = StepInput(
            *(len(token_ids), len(past_lens), len(rows)),
            address_of(token_ids, np.int64),
            *(address_of(array, np.int32) for array in sequences),
            None if places is None else address_of(places, np.int32),
            *(_embedded(embedded) if images is None else images.native()),
            None if adapters is None else address_of(adapters, np.uint64),
            None if window_indices is None else address_of(window_indices, np.int32),
            *inner.native(len(token_ids), self.shape.hidden),
        )
        check(
            self._library.pn_step(
                self._model,
                ctypes.byref(native),
                pointer(cache),
                len(cache),
                None if window_cache is None else pointer(window_cache),
                0 if window_cache is None else len(window_cache),
                None if states is None else pointer(states),
                0 if states is None else len(states),
                None if logits is None else ctypes.c_void_p(address_of(logits, np.float32)),
                None if hidden is None else ctypes.c_void_p(address_of(hidden, np.float32)),
            )
        )

    def project(
        self, packing: Packing, packed: NDArray[np.uint8], values: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """(rows, columns) times a stacked matrix that is no part of the model: (rows, packing.rows).

        :raises ValueError: their sizes differ.
        :raises MemoryError: there is no memory for it.
        """
        if values.ndim != 2 or values.shape[1] != packing.columns:  # noqa: PLR2004  a matrix
            raise ValueError(f"rows {values.shape} for {packing.columns} columns")
        if packed.nbytes != packed_bytes(packing):
            raise ValueError(f"{packed.nbytes} bytes for a matrix of {packed_bytes(packing)}")
        values = np.ascontiguousarray(values, np.float32)
        out = np.empty((len(values), packing.rows), np.float32)
        own = ctypes.byref(native_packing(packing))
        check(
            self._library.pn_project(
                self._model, own, pointer(packed), len(values), pointer(values), pointer(out)
            )
        )
        return out


def _embedded(rows: NDArray[np.uint64] | None) -> tuple[int | None, None, None, int]:
    """The fields of `StepInput` that images have too."""
    return (None if rows is None else address_of(rows, np.uint64), None, None, 0)
