"""LoRA adapters in the kernels' layout: low-rank products beside the fused, quantised matrices."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from penstock.errors import ModelNotLoadable
from penstock.models.backends.native.layout import Which
from penstock.models.backends.native.library import check, library
from penstock.models.catalogue.text_part import plain_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from penstock.models.adapters.adapter import LowRank, Pair
    from penstock.models.backends.native.packing import Plan, Source

_LARGEST_HALF = 65_504.0
_ELEMENTS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


class _LowRank(ctypes.Structure):
    """`pn_low_rank`."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("rank", "columns", "first", "outputs")),
        ("element", ctypes.c_int32),
        ("scale", ctypes.c_float),
        ("down", ctypes.c_void_p),
        ("up", ctypes.c_void_p),
    )


class NativeAdapter:
    """An adapter in the library, which copies its matrices to its own order."""

    def __init__(self, model: ctypes.c_void_p) -> None:
        self._model = model
        self._library = library()
        self._adapter = ctypes.c_void_p()
        check(self._library.pn_adapter_create(model, ctypes.byref(self._adapter)))

    def __del__(self) -> None:
        adapter = getattr(self, "_adapter", None)
        if adapter:
            self._library.pn_adapter_destroy(adapter)

    @property
    def address(self) -> int:
        """For a step's input."""
        return self._adapter.value or 0

    def add(self, which: Which, layer: int, first: int, pair: Pair, up: torch.Tensor) -> None:
        """Add a pair's product to outputs `first` and on; `up` (outputs, rank) are its own rows.

        :raises ValueError: its sizes are not the matrix's.
        :raises RuntimeError: the kernels do not compute adapters of this matrix.
        """
        outputs, rank = up.shape
        down, own = _as_bits(pair.down), _as_bits(up)
        native = _LowRank(
            rank, pair.down.shape[1], first, outputs, _ELEMENTS[pair.down.dtype], pair.scale,
            down.ctypes.data, own.ctypes.data,
        )  # fmt: skip
        check(
            self._library.pn_adapter_add(
                self._model, self._adapter, int(which), layer, ctypes.byref(native)
            )
        )


def _as_bits(tensor: torch.Tensor) -> NDArray[Any]:
    """The tensor's memory; 16-bit values as integers."""
    whole = tensor.contiguous()
    bits = whole.view(torch.int16) if whole.dtype == torch.bfloat16 else whole
    return bits.numpy()


def placed(
    model: ctypes.c_void_p, plans: Iterable[Plan], head: str, adapter: LowRank
) -> NativeAdapter:
    """Put an adapter's pairs where the fused matrices have their parts; `head` names the head.

    :raises ModelNotLoadable: a pair belongs to no matrix that is computed apart, or does not fit.
    """
    native = NativeAdapter(model)
    pairs = {name: _narrow(pair) for name, pair in _by_plain_name(adapter).items()}
    used: set[str] = set()
    for plan in plans:
        first = 0
        for source in plan.parts:
            name = head if plan.which is Which.HEAD else source.rows.name
            pair = pairs.get(name)
            if pair is not None:
                used.add(name)
                try:
                    native.add(plan.which, plan.layer, first, pair, _rows(pair, source))
                except (ValueError, RuntimeError, IndexError) as error:
                    raise ModelNotLoadable(f"{adapter.path}: {name}: {error}") from error
            first += source.rows.rows
    unknown = sorted(pairs.keys() - used)
    if unknown:
        raise ModelNotLoadable(
            f"{adapter.path}: {unknown[0]}: the base has no such matrix that an adapter may change"
        )
    return native


def _narrow(pair: Pair) -> Pair:
    """A pair in 16 bit, which costs less than the rounding of activations here; else in fp32."""
    kind = torch.float16
    if pair.down.dtype == pair.up.dtype == torch.bfloat16:
        kind = torch.bfloat16
    elif max(float(tensor.abs().max()) for tensor in (pair.down, pair.up)) > _LARGEST_HALF:
        kind = torch.float32
    return type(pair)(pair.down.to(kind), pair.up.to(kind), pair.scale)


def _rows(pair: Pair, source: Source) -> torch.Tensor:
    """A pair's rows for one part of a fused matrix, in the kernels' order.

    :raises ValueError: the pair has another number of rows than the checkpoint's matrix.
    """
    if len(pair.up) != source.rows.tensor_rows:
        raise ValueError(f"{len(pair.up)} outputs, the base has {source.rows.tensor_rows}")
    order = source.of(np.arange(len(pair.up)))
    return pair.up[torch.tensor(order)]


def _by_plain_name(adapter: LowRank) -> dict[str, Pair]:
    """The pairs by the names that a plain language model gives its modules."""
    names = plain_names([*adapter.pairs, "model.language_model.embed_tokens.weight"])
    plain = {own: name for name, own in names.items() if own in adapter.pairs}
    return {plain.get(name, name): pair for name, pair in adapter.pairs.items()}


def addresses(adapters: Sequence[NativeAdapter | None]) -> NDArray[np.uint64] | None:
    """The adapters of a step's sequences, by address; None if none has one."""
    if not any(adapter is not None for adapter in adapters):
        return None
    return np.array([0 if one is None else one.address for one in adapters], np.uint64)
