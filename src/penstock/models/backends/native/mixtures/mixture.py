"""A layer's experts in the native library, for models whose other parts torch computes."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from penstock.models.backends.native.attention import torch_threads
from penstock.models.backends.native.library import Isa, address_of, check, library, pointer
from penstock.models.backends.native.matrix import native_packing, packed_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from penstock.models.backends.native.layout import Vector, Which
    from penstock.models.backends.native.matrix import Packing
    from penstock.models.backends.native.mixtures.experts import Experts


class Mixture:
    """Packed experts, computed by torch's own threads. Not thread-safe."""

    def __init__(self, hidden: int, experts: Experts, isa: Isa = Isa.BEST) -> None:
        """:raises ValueError: the sizes make no sense. :raises RuntimeError: this CPU lacks `isa`.

        :raises ModelNotLoadable: the library is not there.
        """
        self._library = library()
        self._mixture = ctypes.c_void_p()
        self._kept: list[NDArray[Any]] = []
        self.experts, self.hidden = experts, hidden
        check(
            self._library.pn_mixture_create(
                int(isa),
                ctypes.c_void_p(torch_threads()),
                hidden,
                ctypes.byref(experts.native()),
                ctypes.byref(self._mixture),
            )
        )

    def __del__(self) -> None:
        if getattr(self, "_mixture", None):
            self._library.pn_mixture_destroy(self._mixture)

    def set_matrix(self, which: Which, packing: Packing, packed: NDArray[np.uint8]) -> None:
        """The matrices of all experts, one after another; see `decoder.Decoder.set_matrix`.

        :raises ValueError: they do not fit the sizes.
        """
        expected = self.experts.experts * packed_bytes(packing)
        if packed.nbytes != expected:
            raise ValueError(f"{packed.nbytes} bytes for matrices of {expected}")
        packing_of = ctypes.byref(native_packing(packing))
        check(
            self._library.pn_mixture_set_matrix(
                self._mixture, int(which), packing_of, pointer(packed)
            )
        )
        self._kept.append(packed)

    def set_vector(self, which: Vector, values: NDArray[np.float32]) -> None:
        """:raises ValueError: its length does not fit the sizes."""
        values = np.ascontiguousarray(values, np.float32).reshape(-1)
        check(
            self._library.pn_mixture_set_vector(
                self._mixture, int(which), pointer(values), values.size
            )
        )
        self._kept.append(values)

    def compute(
        self, inputs: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """(T, hidden) of any float type, with (T, chosen) experts and weights -> the same as inputs.

        :raises ValueError: there is no such expert, or sizes do not fit.
        :raises MemoryError: no room for so many rows.
        """
        rows = len(inputs)
        choices = (rows, self.experts.chosen)
        if (
            inputs.shape != (rows, self.hidden)
            or chosen.shape != choices
            or weights.shape != choices
        ):
            raise ValueError(f"{tuple(inputs.shape)} with experts {tuple(chosen.shape)}")
        if rows == 0:
            return torch.empty_like(inputs)
        out = torch.empty((rows, self.hidden))
        given = np.ascontiguousarray(inputs.detach().float().numpy())
        which = np.ascontiguousarray(chosen.detach().to(torch.int32).numpy())
        by = np.ascontiguousarray(weights.detach().float().numpy())
        check(
            self._library.pn_mixture_compute(
                self._mixture,
                rows,
                ctypes.c_void_p(address_of(given, np.float32)),
                ctypes.c_void_p(address_of(which, np.int32)),
                ctypes.c_void_p(address_of(by, np.float32)),
                ctypes.c_void_p(out.data_ptr()),
                torch.get_num_threads(),
            )
        )
        return out.to(inputs.dtype)
