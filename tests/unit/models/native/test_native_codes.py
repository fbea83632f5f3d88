"""Published codes in the kernels: zeros, offsets, bytes, small groups, columns in an order of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from penstock.models.backends.native.layout import Which
from penstock.models.backends.native.library import Isa
from penstock.models.backends.native.matrix import Kind, Layout, Packing, Part, pack, packed_bytes
from tests.unit.models.native.test_native_library import (
    MODELS,
    Native,
    Sequence,
    aligned,
    error_of,
    some_ids,
)

WIDE = (Kind.A4, Kind.A8)
SMALL = (Kind.Z4, Kind.A4)
NEW = [Kind.Z4, Kind.Z8, Kind.A4, Kind.A8]


class Codes(Native):
    """A twin whose codes are of one kind. `zero` None: each group has its own.

    `order`: of a matrix with so many columns, if its columns lie in another one.
    """

    def __init__(
        self, kind: Kind, group: int, *, zero: int | None = 8, order: Any = None, **more: Any
    ) -> None:
        self.kind, self.zero, self.order = kind, zero, order
        torch.manual_seed(3)
        super().__init__(MODELS["llama"](), group, **more)

    def _matrix(self, which: Which, layer: int, linears: list[Any]) -> None:
        if self.kind is Kind.I4:
            return super()._matrix(which, layer, linears)
        assert self.group is not None
        columns = linears[0].weight.shape[1]
        order = np.arange(columns) if self.order is None else self.order(columns, self.group)
        parts: list[Part] = []
        for linear in linears:
            codes, scales, zeros = self._coded(linear.weight.detach().numpy()[:, order])
            spread = [np.repeat(one, self.group, axis=1) for one in (scales, zeros)]
            meant = np.empty(codes.shape, np.float32)
            meant[:, order] = spread[0] * (codes - spread[1])
            linear.weight.data = torch.from_numpy(meant)
            second = -scales * zeros if self.kind in WIDE else zeros
            both = np.stack((scales, second), axis=-1)
            values = codes.astype(np.uint8)
            if self.kind in SMALL:
                values = values[:, 0::2] | (values[:, 1::2] << 4)
            parts.append(Part(values, both.astype(np.float32 if self.kind in WIDE else np.float16)))
        layout = Layout.PAIRED if which is Which.GATE_UP else Layout.STACKED
        rows = sum(len(part.values) for part in parts)
        packing = Packing(self.kind, layout, rows, columns, self.group)
        packed = aligned(packed_bytes(packing))
        pack(packing, parts, packed)
        self.decoder.set_matrix(which, layer, packing, packed)
        if self.order is not None:
            self.decoder.set_order(which, layer, order.astype(np.int32))
        return None

    def _coded(self, weight: Any) -> tuple[Any, Any, Any]:
        """Codes, and scales and zeros by group, the former exact in fp16."""
        most = 15 if self.kind in SMALL or self.zero == 8 else 255
        grouped = weight.reshape(len(weight), -1, self.group)
        if self.zero is not None:
            extreme = np.take_along_axis(grouped, np.abs(grouped).argmax(-1)[..., None], -1)[..., 0]
            scales = (extreme / -8).astype(np.float16).astype(np.float32)
            zeros = np.full(scales.shape, np.float32(self.zero))
        else:
            scales = ((grouped.max(-1) - grouped.min(-1)) / most).astype(np.float16)
            scales = scales.astype(np.float32)
            zeros = np.round(-grouped.min(-1) / scales)
        codes = np.round(grouped / scales[..., None] + zeros[..., None]).clip(0, most)
        return codes.reshape(weight.shape), scales, zeros


def logits_of(native: Native, count: int = 40) -> Any:
    ids = some_ids(count)
    return native.step([Sequence(ids, 0, len(ids), [1, 2])])


@pytest.mark.parametrize("group", [16, 32, 64])
@pytest.mark.parametrize("kind", NEW)
def test_logits_are_those_of_the_values(kind: Kind, group: int) -> None:
    own = Codes(kind, group, zero=None)
    assert error_of(logits_of(own), own.expected(some_ids(40))) < 0.05  # activations of 8 bits


@pytest.mark.parametrize("group", [16, 64])
def test_zeros_and_offsets_of_the_same_values_are_the_same(group: int) -> None:
    for small, other in ((Kind.Z4, Kind.A4), (Kind.Z8, Kind.A8)):
        first, second = (logits_of(Codes(kind, group, zero=None)) for kind in (small, other))
        assert error_of(second, first) < 2e-3  # an activation may round to its neighbour


def test_codes_around_the_middle_are_those_of_int4() -> None:
    plain = logits_of(Codes(Kind.Z4, 64))
    for kind in NEW[1:]:
        assert error_of(logits_of(Codes(kind, 64)), plain) < 2e-3


@pytest.mark.parametrize("kind", NEW)
def test_every_instruction_set_and_any_neighbour_give_the_same_bits(kind: Kind) -> None:
    order = _within_groups
    best = logits_of(Codes(kind, 32, zero=None, order=order))
    assert np.array_equal(logits_of(Codes(kind, 32, zero=None, order=order, isa=Isa.AVX2)), best)
    native = Codes(kind, 32, zero=None, order=order, threads=3)
    ids = some_ids(40)
    other = Sequence(some_ids(150, 5), 0, 150, [7, 8, 9, 10, 11])
    first = native.step([other, Sequence(ids, 0, 17, [1, 2])])[150:]
    second = native.step([Sequence(ids, 17, 23, [1, 2])])
    assert np.array_equal(np.concatenate((first, second)), best)


def _within_groups(columns: int, group: int) -> Any:
    drawn = np.random.default_rng(columns).random((columns // group, group)).argsort(1)
    return (drawn + np.arange(columns // group)[:, None] * group).reshape(-1)


def _anywhere(columns: int, group: int) -> Any:
    return np.random.default_rng(columns).permutation(columns)


@pytest.mark.parametrize("kind", [Kind.Z4, Kind.A8])
def test_an_order_within_groups_changes_no_bit(kind: Kind) -> None:
    assert np.array_equal(
        logits_of(Codes(kind, 32, zero=None, order=_within_groups)),
        logits_of(Codes(kind, 32, zero=None)),
    )


@pytest.mark.parametrize("kind", NEW)
def test_columns_of_any_order_are_read_from_where_they_are(kind: Kind) -> None:
    own = Codes(kind, 32, zero=None, order=_anywhere)
    assert error_of(logits_of(own), own.expected(some_ids(40))) < 0.05


def test_an_order_that_is_none_is_refused() -> None:
    native = Codes(Kind.Z4, 32)
    for order in (np.zeros(128, np.int32), np.arange(1, 129), np.arange(64)):
        with pytest.raises(ValueError, match="order"):
            native.decoder.set_order(Which.QKV, 0, order.astype(np.int32))
    with pytest.raises(ValueError, match="no such matrix"):
        native.decoder.set_order(Which.EXPERTS_DOWN, 0, np.arange(128, dtype=np.int32))


def test_a_packing_that_cannot_be_is_refused() -> None:
    for kind, columns, group in ((Kind.Z4, 100, 32), (Kind.I4, 64, 16), (Kind.A8, 128, 256)):
        with pytest.raises(ValueError, match="group"):
            packed_bytes(Packing(kind, Layout.STACKED, 32, columns, group))
