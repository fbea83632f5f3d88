"""Products with published codes beside torch's: groups of 4 bit, FP8 in blocks, MXFP4, experts.

On a GPU, or by Triton's interpreter where that is on (`make test-kernels`).
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from penstock.models.backends.lean import adoption, shape
from penstock.models.backends.lean.operations.torch_ops import TorchOps
from penstock.models.backends.lean.products import fp8, published
from penstock.models.backends.lean.products.linear import (
    Dense,
    Fp8Blocks,
    Int4,
    pack,
    pack_experts,
    quantize_experts,
)
from tests.fixtures.lean import gpu, module_of
from tests.integration.models.lean.test_lean_kernels import moved

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning"),
]
CPU = torch.device("cpu")


def in_groups(
    size: tuple[int, ...],
    group: int,
    place: torch.device,
    *,
    zeros: torch.dtype | None = None,
    ordered: bool = False,
    biased: bool = False,
) -> Int4:
    """Random codes of (rows, columns), or of experts'."""
    generator = torch.Generator().manual_seed(sum(size) + group)
    *outer, columns = size
    codes = torch.randint(0, 16, size, generator=generator).to(torch.uint8)
    scales = torch.rand(*outer, columns // group, generator=generator) * 0.05 + 0.01
    off = torch.randint(-8, 9, scales.shape, generator=generator).float()
    if zeros == torch.float32:
        off += 0.25
    bias = torch.randn(size[0], generator=generator).to(place) if biased else None
    order = torch.randperm(columns, generator=generator).to(place, torch.int32)
    return Int4(
        (pack(codes, min(group, 64)) if len(size) == 2 else pack_experts(codes)).to(place),
        scales.to(place, torch.bfloat16),
        bias,
        group=group,
        zeros=None if zeros is None else off.to(place, zeros),
        order=order if ordered else None,
    )


def rows_of(count: int, columns: int, place: torch.device) -> torch.Tensor:
    return torch.randn(count, columns, generator=torch.Generator().manual_seed(count)).to(place)


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("zeros", [None, torch.int8, torch.float32], ids=str)
@pytest.mark.parametrize("tokens", [1, 2, 40, 200])
def test_products_with_groups(place, ops, group, zeros, tokens):
    ordered, biased = group == 64 or tokens == 2, tokens < 40
    linear = in_groups((72, 384), group, place, zeros=zeros, ordered=ordered, biased=biased)
    x = rows_of(tokens, 384, place)
    expected, computed = TorchOps().product(x, linear), ops.product(x, linear)
    assert (computed - expected).norm() < 1e-5 * expected.norm()
    wide = replace(linear, wide=linear.widen(torch.float32))
    assert (ops.product(x, wide) - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("tokens", [1, 2, 150])
def test_products_that_read_some_of_the_columns(place, ops, tokens):
    """As those of attention's result, whose heads end in zeros."""
    linear = in_groups((72, 192), 64, place)
    places = torch.arange(192, dtype=torch.int32, device=place)
    linear = replace(linear, order=places // 48 * 64 + places % 48, inputs=256)
    x = rows_of(tokens, 256, place)
    expected = TorchOps().product(x, linear)
    computed = ops.product(x, linear)
    assert (computed - expected).norm() < 1e-5 * expected.norm()
    unpadded = x.view(tokens, 4, 64)[:, :, :48].reshape(tokens, 192).contiguous()
    alone = TorchOps().product(unpadded, replace(linear, order=None, inputs=0))
    assert torch.allclose(expected, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("group", [32, 128])
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("mean", [0, 4])
def test_one_row_of_16_bits_with_groups(place, ops, group, kind, mean):
    linear = in_groups((96, 1152), group, place, zeros=torch.int8)
    x = (rows_of(1, 1152, place) + mean).to(kind)
    expected = TorchOps().product(x.double(), linear)
    computed = ops.product(x, linear)
    rounding = (expected.to(kind) - expected).norm()
    cut = place.type == "cpu" and kind == torch.bfloat16  # the interpreter rounds down
    assert (computed - expected).norm() < (2.5 if cut else 1.1) * rounding + 1e-4 * expected.norm()


def test_rows_are_written_in_the_order_of_small_groups(place, ops):
    linear = in_groups((40, 192), 32, place, zeros=torch.int8)
    other = in_groups((40, 192), 32, place, ordered=True)
    x, weight = rows_of(1, 192, place), torch.linspace(0.5, 1.5, 192, device=place)
    for own in (linear, other):
        plain = ops.norm(x, weight, 1e-5, Dense(weight, None))
        assert torch.equal(
            ops.product(ops.norm(x, weight, 1e-5, own), own), ops.product(plain, own)
        )


@pytest.mark.parametrize("size", [(72, 384), (200, 200)])
@pytest.mark.parametrize("tokens", [1, 17, 150])
def test_products_with_blocks_in_fp8(place, ops, size, tokens):
    held = fp8.hold_experts(torch.randn(1, *size, generator=torch.Generator().manual_seed(3)), place, torch.float32)  # fmt: skip
    assert isinstance(held, Fp8Blocks)
    linear = replace(held.expert(0), bias=rows_of(1, size[0], place)[0])
    x = rows_of(tokens, size[1], place)
    expected, computed = TorchOps().product(x, linear), ops.product(x, linear)
    assert (computed - expected).norm() < 1e-5 * expected.norm()
    wide = replace(linear, wide=linear.widen(torch.float32))
    assert (ops.product(x, wide) - expected).norm() < 1e-5 * expected.norm()


def mxfp4_of(count: int, rows: int, columns: int, place: torch.device) -> Int4:
    generator = torch.Generator().manual_seed(rows)
    blocks = torch.randint(0, 256, (count, rows, columns // 32, 16), generator=generator)
    scales = torch.randint(120, 126, blocks.shape[:-1], generator=generator)
    return published.mxfp4(blocks.to(torch.uint8), scales.to(torch.uint8), place)


def held_as(form: str, dense: torch.Tensor, place: torch.device) -> Any:
    """Experts' matrices in a format: rounded to it, or random codes."""
    count, rows, columns = dense.shape
    if form == "sym_int4":
        return quantize_experts(dense, place, torch.float32)
    if form == "fp8":
        return fp8.hold_experts(dense, place, torch.float32)
    if form == "mxfp4":
        return mxfp4_of(count, rows, columns, place)
    group = 32 if form == "32" else 64
    return in_groups((count, rows, columns), group, place, zeros=torch.int8)


@pytest.mark.parametrize("name", ["qwen3-moe, 64 each", "gpt-oss, 64 each"])
@pytest.mark.parametrize("form", ["sym_int4", "fp8", "mxfp4", "32", "64"])
@pytest.mark.parametrize("tokens", [1, 40])
def test_experts_of_codes(place, ops, name, form, tokens):
    module = module_of(name)
    dense = adoption.adopt(module, shape.read(module, 64)).layers[1].experts
    assert dense is not None
    assert isinstance(dense.gate_up, torch.Tensor)
    assert isinstance(dense.down, torch.Tensor)
    made = [held_as(form, own, place) for own in (dense.gate_up, dense.down)]
    weights = moved(dense, place).to(place, torch.float32, *made)
    x = rows_of(tokens, 64, place)
    step: Any = SimpleNamespace(positions=torch.zeros(tokens, dtype=torch.int32, device=place))
    expected = TorchOps().experts(x, step, weights, None)
    computed = ops.experts(x, step, weights, None)
    assert (computed - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize("form", ["sym_int4", "fp8", "mxfp4", "32"])
@pytest.mark.parametrize("tokens", [1, 3, 60, 700])
def test_experts_of_codes_in_16_bits(place, ops, form, tokens):
    """Each way of tiling; on a GPU alone."""
    device = gpu()
    if device is None:
        pytest.skip("torch sees no GPU here")
    module = module_of("qwen3-moe, 64 each", torch.bfloat16)
    dense = adoption.adopt(module, shape.read(module, 64)).layers[1].experts
    assert dense is not None
    assert isinstance(dense.gate_up, torch.Tensor)
    assert isinstance(dense.down, torch.Tensor)
    made = [held_as(form, own, place) for own in (dense.gate_up, dense.down)]
    weights = moved(dense, place).to(place, torch.bfloat16, *made)
    x = rows_of(tokens, 64, place).bfloat16()
    step: Any = SimpleNamespace(positions=torch.zeros(tokens, dtype=torch.int32, device=place))
    expected = TorchOps().experts(x, step, weights, None).float()
    computed = ops.experts(x, step, weights, None).float()
    assert (computed - expected).norm() < 2e-2 * expected.norm()


def test_orders_and_experts_are_parts_of_what_codes_stand_for():
    linear = in_groups((8, 128), 32, CPU, zeros=torch.int8, ordered=True)
    unordered = replace(linear, order=None).widen(torch.float32)
    assert linear.order is not None
    assert torch.equal(linear.widen(torch.float32)[:, linear.order.long()], unordered)
    stack = in_groups((3, 8, 128), 64, CPU, zeros=torch.int8)
    whole = stack.widen(torch.float32)
    for number in range(3):
        assert torch.equal(stack.expert(number).widen(torch.float32), whole[number])


Registers = np.ndarray[Any, np.dtype[np.uint32]]


def permuted(low: Registers, high: Registers, chosen: Registers) -> Registers:
    parts = [(one >> np.uint32(8 * at)) & np.uint32(255) for one in (low, high) for at in range(4)]
    taken = [parts[int(chosen) >> 4 * at & 7] << np.uint32(8 * at) for at in range(4)]
    return taken[0] | taken[1] | taken[2] | taken[3]


def bits_of(result: torch.Tensor) -> Registers:
    assert torch.equal(result, result.bfloat16().float())  # it is exact
    bits = result.bfloat16().view(torch.int16).numpy().view(np.uint16).astype(np.uint32)
    return bits[:, 0] | (bits[:, 1] << np.uint32(16))


INSTRUCTIONS: dict[str, Any] = {
    "mov.b32": lambda one: one,
    "shl.b32": lambda one, by: one << by,
    "shr.b32": lambda one, by: one >> by,
    "and.b32": lambda one, other: one & other,
    "lop3.b32": lambda one, other, third, table: (one & other) | third if table == 0xEA else None,
    "prmt.b32": permuted,
    "sub.rn.bf16x2": lambda one, other: bits_of(halves(one) - halves(other)),
    "mul.rn.bf16x2": lambda one, other: bits_of(halves(one) * halves(other)),
}


def computed(ptx: str, *inputs: Registers) -> torch.Tensor:
    """The two bf16 of each register that PTX of a few instructions makes of others, float32."""
    named = {f"${at + 1}": tensor for at, tensor in enumerate(inputs)}
    for line in ptx.strip(" {}\n").split(";"):
        if not line.strip() or ".reg" in line:
            continue
        operation, rest = line.strip().split(None, 1)
        target, *sources = (name.strip() for name in rest.split(","))
        own = [named[name] if name in named else np.uint32(int(name, 0)) for name in sources]
        named[target] = INSTRUCTIONS[operation](*own)
    return halves(named["$0"])


def halves(register: Registers) -> torch.Tensor:
    """(n, 2) float32 of registers with two bf16."""
    register = np.atleast_1d(register)
    words = np.stack((register & np.uint32(0xFFFF), register >> np.uint32(16)), axis=-1)
    return torch.as_tensor(words.astype(np.uint16).view(np.int16)).view(torch.bfloat16).float()


def test_instructions_of_nvidia_give_what_codes_stand_for():
    """They are no part of Triton's language, so its interpreter has none: here for every input."""
    pytest.importorskip("triton")
    from penstock.models.backends.lean.kernels import unpacking
    from penstock.models.weights.published.floats import E2M1

    words = np.arange(1 << 16, dtype=np.uint32)
    both = words | (words[::-1] << np.uint32(16))
    pairs = np.stack((words, words[::-1]), axis=-1).astype(np.int64)
    excess = np.full_like(both, 0x430B430B)  # 136 and a zero of 3 more
    for k in range(4):
        codes = torch.as_tensor(pairs >> 4 * k & 15)
        integers = getattr(unpacking, f"CODES_{k}").value
        assert torch.equal(computed(integers, both, excess), codes.float() - 11)
        floats = computed(getattr(unpacking, f"FLOATS_{k}").value, both)
        assert torch.equal(floats, 2 * torch.tensor(E2M1)[codes])
    numbers = torch.as_tensor(words.astype(np.uint16).view(np.uint8)).view(torch.float8_e4m3fn)
    expected = numbers.float().view(-1, 2)
    real = expected.isfinite().all(1)  # of NaN there is none in weights
    assert torch.equal(computed(unpacking.BYTES.value, words)[real], expected[real])
