"""Low-rank products beside the fused, quantised matrices: of LoRA adapters, and of a model's own layers."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import torch

from penstock.errors import ModelNotLoadable
from penstock.models.adapters.adapter import Pair
from penstock.models.backends.native.layout import Which
from penstock.models.backends.native.library import check, library
from penstock.models.catalogue.text_part import plain_names
from penstock.models.weights.loss import widened
from penstock.models.weights.matrices import Packed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from penstock.models.adapters.adapter import LowRank
    from penstock.models.architecture.description import Architecture
    from penstock.models.architecture.side_paths import LowRankPart
    from penstock.models.backends.native.packing import Plan
    from penstock.models.backends.native.sources import Source
    from penstock.models.weights.checkpoint import Checkpoint
    from penstock.models.weights.matrices import Format
    from penstock.models.weights.source import Weights

OwnPairs: TypeAlias = "dict[tuple[int, str], Pair]"
"""A model's own pairs, by layer and the name of the matrix that they belong to."""

_LARGEST_HALF = 65_504.0
_PLAIN: Final[dict[Format, str]] = {"bf16": "bfloat16", "fp32": "float32"}
"""Types of what is not in low bit; all else is in fp16, of the values that it has in its format."""
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
    model: ctypes.c_void_p,
    plans: Iterable[Plan],
    head: str,
    adapter: LowRank,
    own: OwnPairs,
) -> NativeAdapter:
    """Put an adapter's pairs where the fused matrices have their parts; `head` names the head.

    The model's `own` pairs, by layer and the name of their matrix, are joined with these.

    :raises ModelNotLoadable: a pair belongs to no matrix that is computed apart, or does not fit.
    """
    native = NativeAdapter(model)
    pairs = {name: _narrow(pair) for name, pair in _by_plain_name(adapter).items()}
    used: set[str] = set()

    def pair_of(plan: Plan, source: Source) -> Pair | None:
        name = head if plan.which is Which.HEAD else source.rows.name
        pair = pairs.get(name)
        if pair is not None:
            used.add(name)
        return _joined(own.get((plan.layer, source.rows.name)), pair)

    try:
        _place(native, plans, pair_of)
    except ValueError as error:
        raise ModelNotLoadable(f"{adapter.path}: {error}") from error
    unknown = sorted(pairs.keys() - used)
    if unknown:
        raise ModelNotLoadable(
            f"{adapter.path}: {unknown[0]}: the base has no such matrix that an adapter may change"
        )
    return native


def of_model(model: ctypes.c_void_p, plans: Iterable[Plan], own: OwnPairs) -> NativeAdapter:
    """Put a model's own pairs, by layer and the name of their matrix, where its matrices are.

    :raises ValueError: one does not fit.
    """
    native = NativeAdapter(model)
    _place(native, plans, lambda plan, source: own.get((plan.layer, source.rows.name)))
    return native


def _place(
    native: NativeAdapter,
    plans: Iterable[Plan],
    pair_of: Callable[[Plan, Source], Pair | None],
) -> None:
    """Add the pair of each part of the fused matrices.

    :raises ValueError: one does not fit; the message names the matrix.
    """
    for plan in plans:
        first = 0
        for source in plan.parts:
            pair = pair_of(plan, source)
            if pair is not None:
                try:
                    native.add(plan.which, plan.layer, first, pair, _rows(pair, source))
                except (ValueError, RuntimeError, IndexError) as error:
                    raise ValueError(f"{source.rows.name}: {error}") from error
            first += source.rows.rows


def own_pairs(model: Architecture, weights: Weights, form: Format) -> OwnPairs:
    """Return what a model's layers themselves add to matrices that several of them share.

    :raises ModelNotLoadable: the checkpoint lacks one, or has one of another size.
    """
    pairs: OwnPairs = {}
    for index, layer in enumerate(model.layers):
        for number, part in enumerate(() if layer.detour is None else layer.detour.pairs):
            found = weights.packed(
                f"{index}.pair{number}", lambda own, of=part: _pack(own, of, form)
            )
            kind: torch.dtype = getattr(torch, found.facts["type"])
            both: torch.Tensor = torch.as_tensor(np.array(found.values)).view(kind)
            size, rank = part.down.rows * part.columns, part.down.rows
            down, up = both[:size].view(rank, part.columns), both[size:].view(part.up.rows, rank)
            pairs[index, part.matrix] = Pair(down, up, 1.0)
    return pairs


def _pack(checkpoint: Checkpoint, part: LowRankPart, form: Format) -> Packed:
    rank = part.down.rows
    shapes = {part.down.name: (rank, part.columns), part.up.name: (part.up.rows, rank)}
    both = torch.cat(
        [
            widened(checkpoint.matrix(f"{name}.weight", shape, form)).reshape(-1)
            for name, shape in shapes.items()
        ]
    )
    kind = _PLAIN.get(form, "float16")
    return Packed({"type": kind}, both.to(getattr(torch, kind)).view(torch.uint8).numpy())


def _joined(own: Pair | None, pair: Pair | None) -> Pair | None:
    """Return one pair that adds what both add."""
    if own is None or pair is None:
        return pair if own is None else own
    down = torch.cat((own.down.float(), pair.down.float()))
    ups = [part.up.float() * part.scale for part in (own, pair)]
    return _narrow(Pair(down, torch.cat(ups, dim=1), 1.0))


def _narrow(pair: Pair) -> Pair:
    """A pair in 16 bit, which costs less than the rounding of activations here; else in fp32."""
    kind = torch.float16
    if pair.down.dtype == pair.up.dtype == torch.bfloat16:
        kind = torch.bfloat16
    elif max(float(tensor.abs().max()) for tensor in (pair.down, pair.up)) > _LARGEST_HALF:
        kind = torch.float32
    return Pair(pair.down.to(kind), pair.up.to(kind), pair.scale)


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
