"""The weights and tables of a decoder in the native library."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.models.backends.native.layout import Which
from penstock.models.backends.native.library import check, element_of, library, pointer
from penstock.models.backends.native.matrix import native_packing, packed_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from penstock.models.backends.native.latent import NativeLatent
    from penstock.models.backends.native.layout import Shape, Vector
    from penstock.models.backends.native.matrix import Packing


class DecoderArrays:
    """Sets a model's arrays and holds references to them: the library points into them."""

    def __init__(self, shape: Shape) -> None:
        """:raises ModelNotLoadable: the library is missing, or has another version."""
        self.shape = shape
        self._experts: dict[int, int] = {}  # by layer: how many
        self._latent: dict[int, NativeLatent] = {}
        self._library = library()
        self._kept: dict[Any, Any] = {}
        self._packings: dict[tuple[Which, int], Packing] = {}
        self._model = ctypes.c_void_p()

    def set_embeddings(self, table: NDArray[Any]) -> None:
        """(vocab, hidden); 16-bit integers are bf16.

        :raises ValueError: another shape, or another type.
        """
        shape = (self.shape.vocab, self.shape.hidden)
        self._set_table("embeddings", self._library.pn_set_embeddings, table, shape)

    def set_input_embeddings(self, table: NDArray[Any], layer_inputs: int) -> None:
        """(vocab, layers * layer_inputs); 16-bit integers are bf16.

        :raises ValueError: another shape, or another type.
        """
        shape = (self.shape.vocab, self.shape.layers * layer_inputs)
        self._set_table("input embeddings", self._library.pn_set_input_embeddings, table, shape)

    def set_router(self, layer: int, weights: NDArray[Any]) -> None:
        """(experts, hidden); 16-bit integers are bf16.

        :raises ValueError: another shape, or another type.
        """
        shape = (self._experts.get(layer), self.shape.hidden)
        self._set_table("router", self._library.pn_set_router, weights, shape, layer)

    def set_matrix(
        self, which: Which, layer: int, packing: Packing, packed: NDArray[np.uint8]
    ) -> None:
        """Set a matrix; for experts, `packed` contains the matrices of all, one after another.

        :raises ValueError: its size differs from the shape's, or it is not aligned to 64 bytes.
        """
        each = which in {Which.EXPERTS_GATE_UP, Which.EXPERTS_DOWN}
        count = self._experts.get(layer, 0) if each else 1
        if packed.nbytes != count * packed_bytes(packing):
            raise ValueError(
                f"{packed.nbytes} bytes for {count} matrices of {packed_bytes(packing)}"
            )
        packing_of = ctypes.byref(native_packing(packing))
        check(
            self._library.pn_set_matrix(self._model, int(which), layer, packing_of, pointer(packed))
        )
        self._kept[which, layer] = packed
        self._packings[which, layer] = packing

    def share_head(self, other: DecoderArrays) -> None:
        """Have the head of another model, without a copy.

        :raises ValueError: its size differs.
        """
        place = (Which.HEAD, 0)
        self.set_matrix(*place, other._packings[place], other._kept[place])
        order = other._kept.get(("order", *place))
        if order is not None:
            self.set_order(*place, order)

    @property
    def embeddings(self) -> NDArray[Any]:
        """(vocab, hidden), as it was set; 16-bit integers are bf16."""
        table: NDArray[Any] = self._kept["embeddings",]
        return table

    def set_order(self, which: Which, layer: int, order: NDArray[np.int32]) -> None:
        """Column i of a matrix that is set, but none of experts', is the input's column order[i].

        :raises ValueError: it is no order of the matrix's columns, or there is no such matrix.
        """
        order = np.ascontiguousarray(order, np.int32)
        check(
            self._library.pn_set_order(self._model, int(which), layer, pointer(order), order.size)
        )
        self._kept["order", which, layer] = order

    def set_vector(self, which: Vector, layer: int, values: NDArray[np.float32]) -> None:
        """:raises ValueError: its length differs from the shape's."""
        values = np.ascontiguousarray(values, np.float32).reshape(-1)
        check(
            self._library.pn_set_vector(
                self._model, int(which), layer, pointer(values), values.size
            )
        )
        self._kept["vector", which, layer] = values

    def set_latent_matrices(self, layer: int, keys: NDArray[Any], values: NDArray[Any]) -> None:
        """(heads, rank, plain) and (heads, value, rank), of one type; 16-bit integers are bf16.

        :raises ValueError: another shape or type, or the layer is not latent.
        """
        if layer not in self._latent:
            raise ValueError(f"layer {layer} is not latent")
        self._latent[layer].check_matrices(keys, values)
        both = [np.ascontiguousarray(matrix) for matrix in (keys, values)]
        element = element_of(keys)
        check(
            self._library.pn_set_latent_matrices(self._model, layer, element, *map(pointer, both))
        )
        self._kept["latent", layer] = both

    def set_rotary(
        self, cosines: NDArray[np.float32], sines: NDArray[np.float32], table: int = 0
    ) -> None:
        """(positions, size) each, of the first `size` elements of a head, as `rotation.tables`.

        :raises ValueError: another shape, or no such table.
        """
        if cosines.shape != sines.shape or cosines.ndim != 2:  # noqa: PLR2004  a matrix
            raise ValueError(f"rotary tables {cosines.shape}, {sines.shape}")
        tables = [np.ascontiguousarray(table, np.float32) for table in (cosines, sines)]
        positions, size = cosines.shape
        own = map(pointer, tables)
        check(self._library.pn_set_rotary(self._model, table, *own, positions, size))
        self._kept["rotary", table] = tables

    def set_growth(self, growth: NDArray[np.float32]) -> None:
        """(positions,): what queries of a layer that grows are multiplied by."""
        growth = np.ascontiguousarray(growth, np.float32).reshape(-1)
        check(self._library.pn_set_growth(self._model, pointer(growth), growth.size))
        self._kept["growth"] = growth

    def _set_table(
        self,
        name: str,
        setter: Callable[..., int],
        table: NDArray[Any],
        shape: tuple[int | None, int],
        *layer: int,
    ) -> None:
        if table.shape != shape:
            raise ValueError(f"{name} {table.shape}: not the shape's, {shape}")
        table = np.ascontiguousarray(table)
        check(setter(self._model, *layer, element_of(table), pointer(table)))
        self._kept[name, *layer] = table
