"""GGUF's Q4_K, Q5_K and Q6_K in the kernels: scales as whole numbers times those of 256 columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from penstock.models.backends.native.layout import Which
from penstock.models.backends.native.library import Isa
from penstock.models.backends.native.matrix import Kind, Layout, Packing, Part, pack, packed_bytes
from tests.unit.models.native.test_native_library import (
    WIDE,
    Native,
    Sequence,
    aligned,
    error_of,
    some_ids,
)

SUPERBLOCK = 256
BITS = {Kind.K4: 4, Kind.K5: 5, Kind.K6: 6}


def drawn(kind: Kind, rows: int, columns: int, seed: int) -> tuple[Part, Any]:
    """Return a matrix's bytes, drawn at random, and its values."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 1 << BITS[kind], (rows, columns)).astype(np.uint8)
    supers = columns // SUPERBLOCK
    step = rng.uniform(0.5, 1.5, (rows, supers, 1)).astype(np.float32)
    if kind is Kind.K6:
        d = (step * 1e-5 * 8).astype(np.float16)
        levels = rng.integers(-127, 128, (rows, supers, 16)).astype(np.int8)
        scales = d.astype(np.float32) * levels
        scales, least = np.repeat(scales, 16, axis=2), 32 * np.repeat(scales, 16, axis=2)
        stored = np.concatenate((d.view(np.uint8), levels.view(np.uint8)), axis=2)
    else:
        half = (1 << BITS[kind]) / 2
        d = (step * 1e-3 / half).astype(np.float16)
        m = (d.astype(np.float32) * half).astype(np.float16)
        levels, lows = (rng.integers(0, 64, (rows, supers, 8)).astype(np.uint8) for _ in range(2))
        scales = np.repeat(d.astype(np.float32) * levels, 32, axis=2)
        least = np.repeat(m.astype(np.float32) * lows, 32, axis=2)
        stored = np.concatenate((d.view(np.uint8), m.view(np.uint8), levels, lows), axis=2)
    values = (scales * codes.reshape(rows, supers, -1) - least).reshape(rows, columns)
    own = codes[:, 0::2] | (codes[:, 1::2] << 4) if kind is Kind.K4 else codes
    return Part(own, stored.astype(np.uint8)), values.astype(np.float32)


class Nested(Native):
    """A twin whose matrices are of one kind, and of another one in the rows of values."""

    def __init__(self, kind: Kind, tail: Kind | None = None, **more: Any) -> None:
        self.kind, self.tail = kind, tail
        torch.manual_seed(3)
        super().__init__(LlamaForCausalLM(LlamaConfig(**WIDE)), None, **more)

    def _matrix(self, which: Which, layer: int, linears: list[Any]) -> None:
        rows, columns = [len(linear.weight) for linear in linears], linears[0].weight.shape[1]
        has_tail = self.tail is not None and which is Which.QKV
        parts: list[Part] = []
        for number, linear in enumerate(linears):
            last = has_tail and number == len(linears) - 1
            kind = self.tail if last and self.tail is not None else self.kind
            part, values = drawn(kind, rows[number], columns, 10 * layer + number + 100 * which)
            linear.weight.data = torch.from_numpy(values)
            parts.append(part)
        layout = Layout.PAIRED if which is Which.GATE_UP else Layout.STACKED
        packing = Packing(
            self.kind, layout, sum(rows), columns, 32,
            self.tail if has_tail else None, rows[-1] if has_tail else 0,
        )  # fmt: skip
        packed = aligned(packed_bytes(packing))
        pack(packing, parts, packed)
        self.decoder.set_matrix(which, layer, packing, packed)


CASES = [
    (Kind.K4, None),
    (Kind.K5, None),
    (Kind.K6, None),
    (Kind.K4, Kind.K6),
    (Kind.K5, Kind.K6),
]


@pytest.mark.parametrize(("kind", "tail"), CASES)
def test_logits_are_those_of_the_values_and_have_the_same_bits_everywhere(
    kind: Kind, tail: Kind | None
) -> None:
    ids = some_ids(40)
    step = [Sequence(ids, 0, len(ids), [1, 2])]
    own = Nested(kind, tail)
    found = own.step(step)
    assert error_of(found, own.expected(ids)) < 0.05  # activations of 8 bits
    assert np.array_equal(Nested(kind, tail, isa=Isa.AVX2).step(step), found)
    native = Nested(kind, tail, threads=3)
    other = Sequence(some_ids(150, 5), 0, 150, [7, 8, 9, 10, 11])
    first = native.step([other, Sequence(ids, 0, 17, [1, 2])])[150:]
    second = native.step([Sequence(ids, 17, 23, [1, 2])])
    assert np.array_equal(np.concatenate((first, second)), found)


def test_a_packing_that_cannot_be_is_refused() -> None:
    for packing, line in (
        (Packing(Kind.K4, Layout.STACKED, 64, 128, 32), "256"),
        (Packing(Kind.K5, Layout.STACKED, 64, 256, 64), "group is 32"),
        (Packing(Kind.K4, Layout.STACKED, 64, 256, 32, Kind.A4, 32), "a tail is of"),
        (Packing(Kind.I4, Layout.STACKED, 64, 256, 32, Kind.K4, 32), "a tail is of"),
        (Packing(Kind.K4, Layout.PAIRED, 64, 256, 32, Kind.K6, 32), "a tail is of"),
        (Packing(Kind.K4, Layout.STACKED, 64, 256, 32, Kind.K6, 24), "whole panels"),
    ):
        with pytest.raises(ValueError, match=line):
            packed_bytes(packing)
