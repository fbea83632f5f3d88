"""The Triton kernels beside torch's operations: on a GPU, or by Triton's interpreter where that is on.

`make test-kernels` has the latter.
"""

from __future__ import annotations

from dataclasses import fields, replace
from math import prod
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from penstock.contract.job import Sampling
from penstock.engine.pipelining import Draw
from penstock.engine.sampling.filters import draw_filtered
from penstock.models.backends.lean import adoption, shape
from penstock.models.backends.lean.operations import torch_rows
from penstock.models.backends.lean.operations.ops import Between
from penstock.models.backends.lean.operations.token_choice import packed_draws
from penstock.models.backends.lean.operations.torch_ops import TorchOps
from penstock.models.backends.lean.products import fp8
from penstock.models.backends.lean.products.linear import Dense, Fp8, Int4
from penstock.models.backends.lean.shape import Sizes
from penstock.models.backends.lean.weights import HeadNorms, Norm
from tests.fixtures.lean import gpu, module_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning"),
]


def blocks_of(rows: int, columns: int, place: torch.device, *, biased: bool) -> Int4:
    generator = torch.Generator().manual_seed(rows)
    packed = torch.randint(-(2**31), 2**31, (rows, columns // 8), generator=generator)
    scales = torch.rand(rows, columns // 64, generator=generator) * 0.05 + 0.01
    bias = torch.randn(rows, generator=generator) if biased else None
    return Int4(
        packed.to(place, torch.int32),
        scales.to(place, torch.float16),
        None if bias is None else bias.to(place),
    )


@pytest.mark.parametrize("rows", [96, 200])
@pytest.mark.parametrize("columns", [192, 512])
@pytest.mark.parametrize("tokens", [1, 2, 16, 32, 33, 64, 100, 300])
def test_products_with_four_bits(place, ops, rows, columns, tokens):
    linear = blocks_of(rows, columns, place, biased=rows == 96)
    x = torch.randn(tokens, columns, generator=torch.Generator().manual_seed(1)).to(place)
    wanted = TorchOps().product(x, linear)
    found = ops.product(x, linear)
    assert found.shape == wanted.shape
    assert (found - wanted).norm() < 1e-5 * wanted.norm()


@pytest.mark.parametrize("size", [(96, 192), (204, 512), (40, 11008)])
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mean", [0, 4])
def test_one_row_of_16_bits_with_four_bits(place, ops, size, kind, mean):
    """Such a sum holds more than its weights for a while: that may not show in its type."""
    rows, columns = size
    linear = blocks_of(rows, columns, place, biased=False)
    x = torch.randn(1, size[1], generator=torch.Generator().manual_seed(1)) + mean
    x = x.to(place, kind)
    wanted = TorchOps().product(x.double(), linear)
    found = ops.product(x, linear)
    assert found.dtype == kind
    rounding = (wanted.to(kind) - wanted).norm()
    cut = place.type == "cpu" and kind == torch.bfloat16  # the interpreter rounds down
    assert (found - wanted).norm() < (2.5 if cut else 1.1) * rounding + 1e-4 * wanted.norm()


@pytest.mark.parametrize("tokens", [1, 2, 40])
def test_products_with_four_bits_and_their_wide_copy(place, ops, tokens):
    linear = blocks_of(96, 192, place, biased=True)
    x = torch.randn(tokens, 192, generator=torch.Generator().manual_seed(1)).to(place)
    wanted = TorchOps().product(x, linear)
    found = ops.product(x, replace(linear, wide=linear.widen(torch.float32)))
    assert (found - wanted).norm() < 1e-5 * wanted.norm()


def activations(place: torch.device, rows: int, columns: int) -> torch.Tensor:
    """Random ones; for Triton's interpreter such as e4m3 has, as it rounds up to no power of two."""
    generator = torch.Generator().manual_seed(rows + columns)
    x = torch.randn(rows, columns, generator=generator) * torch.logspace(-6, 3, rows)[:, None]
    if place.type == "cpu":
        x = fp8.round_rows(x)[0].float() / 4
    return x.to(place)


@pytest.mark.parametrize("rows", [96, 208])
@pytest.mark.parametrize("columns", [192, 2048, 4112])
@pytest.mark.parametrize("tokens", [1, 3, 16])
def test_few_rows_with_fp8(place, ops, rows, columns, tokens):
    generator = torch.Generator().manual_seed(rows)
    bias = torch.randn(rows, generator=generator) if rows == 96 else None
    dense = Dense(torch.randn(rows, columns, generator=generator), bias)
    linear = fp8.hold(dense, place, torch.float32)
    assert isinstance(linear, Fp8)
    x = activations(place, tokens, columns)
    wanted, found = TorchOps().product(x, linear), ops.product(x, linear)
    size = wanted.norm(dim=1)  # each row by itself: they differ by powers of ten
    assert ((found - wanted).norm(dim=1) < 4e-3 * size).all()  # units sum up in fewer bits


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_rows_are_rounded_to_fp8_as_torch_does_it(place, overlap, kind):
    from penstock.models.backends.lean.products.fp8_products import round_rows

    x = activations(place, 9, 1000).to(kind)
    x[4] = 0
    x[6, 7] = float("nan")
    rounded = round_rows(x, overlap)
    values, scales = rounded.values, rounded.scales
    wanted, wanted_scales = fp8.round_rows(x)
    good = [row for row in range(9) if row != 6]
    assert torch.equal(values[good].float(), wanted[good].float())
    assert torch.allclose(scales[good], wanted_scales[good], rtol=1e-6, atol=0)
    assert place.type == "cpu" or values[6, 7].isnan()  # the interpreter knows none


@pytest.mark.parametrize("held", ["sym_int4", "fp8"])
@pytest.mark.parametrize("tokens", [1, 3])
def test_norms_and_gates_give_what_a_product_takes(place, ops, held, tokens):
    """In the form of the next matrix at once, or as they are and then brought into it."""
    size = 192
    if held == "fp8":
        dense = Dense(torch.randn(96, size, generator=torch.Generator().manual_seed(2)), None)
        linear: Any = fp8.hold(dense, place, torch.float32)
    else:
        linear = blocks_of(96, size, place, biased=False)
    x = activations(place, tokens, size)
    residual = activations(place, tokens + 1, size)[:tokens].contiguous()
    gate_up = activations(place, tokens, 2 * size)
    weight = torch.linspace(0.5, 1.5, size, device=place)
    for of in (
        lambda into: ops.norm(x, weight, 1e-5, into),
        lambda into: ops.add_norm(x, residual.clone(), weight, 1e-5, into),
        lambda into: ops.gated(gate_up, into, "silu", has_gate=True),
    ):
        plain = of(Dense(weight, None))
        assert isinstance(plain, torch.Tensor)
        assert torch.equal(ops.product(of(linear), linear), ops.product(plain, linear))


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh", "relu", "relu2"])
@pytest.mark.parametrize("has_gate", [False, True])
def test_activations(place, ops, activation, has_gate):
    x = torch.randn(3, 2 * 1500, generator=torch.Generator().manual_seed(4)).to(place) * 3
    expected = TorchOps().gated(x, None, activation, has_gate=has_gate)
    computed = ops.gated(x, None, activation, has_gate=has_gate)
    assert torch.allclose(computed, expected, rtol=1e-5, atol=1e-5)


NORMS = {
    "none": None,
    "rms": Norm(torch.linspace(0.5, 1.5, 200), 1e-5),
    "layer": Norm(torch.linspace(0.5, 1.5, 200), 1e-5, centred=True),
    "layer, biased": Norm(
        torch.linspace(0.5, 1.5, 200), 1e-5, torch.linspace(-1, 1, 200), centred=True
    ),
}


@pytest.mark.parametrize("after", NORMS)
@pytest.mark.parametrize("before", NORMS)
@pytest.mark.parametrize("adds", [False, True])
def test_norms_between_products(place, ops, after, before, adds):
    first, second = (
        None if own is None else own.to(place) for own in (NORMS[after], NORMS[before])
    )
    between = Between(first, 0.5, second)
    x = torch.randn(3, 200, generator=torch.Generator().manual_seed(5)).to(place) + 1
    streams = [x.flip(1).contiguous() for _ in range(2)]
    expected, computed = (
        own.merge(x if adds else None, stream, between, None)
        for own, stream in zip((TorchOps(), ops), streams, strict=True)
    )
    assert torch.allclose(computed, expected, rtol=1e-5, atol=1e-5)
    assert torch.allclose(streams[1], streams[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["heads", "centred", "together"])
def test_norms_of_heads(place, overlap, kind):
    from penstock.models.backends.lean.operations.triton_norms import norm_heads

    sizes = Sizes(1, 64, 8, 4, 2, 16, 8)
    shapes = {"heads": (16,), "centred": (4, 16), "together": (4, 16)}
    query = torch.linspace(0.5, 1.5, 64)[: prod(shapes[kind])].view(shapes[kind]).to(place)
    key = query if query.dim() == 1 else query[:2]
    norms = HeadNorms(query, key, 1e-5, centred=kind == "centred", together=kind == "together")
    qkv = torch.randn(5, 8 * 16, generator=torch.Generator().manual_seed(6)).to(place)
    expected = qkv.clone()
    heads = expected.view(5, 8, 16)
    torch_rows.norm_heads(heads[:, :4], query, norms)
    torch_rows.norm_heads(heads[:, 4:6], key, norms)
    norm_heads(qkv, sizes, norms, overlap)
    assert torch.allclose(qkv, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["qwen3-moe", "qwen2-moe", "gpt-oss", "glm-4.5", "ernie-moe"])
@pytest.mark.parametrize("tokens", [1, 7, 40])
def test_experts(place, ops, name, tokens):
    """Each token's experts and their sum; padding has none."""
    module = module_of(name)
    weights = adoption.adopt(module, shape.read(module, 64)).layers[1].experts
    assert weights is not None
    weights = moved(weights, place)
    x = torch.randn(tokens, 64, generator=torch.Generator().manual_seed(tokens)).to(place)
    positions = torch.zeros(tokens, dtype=torch.int32, device=place)
    positions[tokens // 2 + 1 :] = -1
    step: Any = SimpleNamespace(positions=positions)
    beside = x.flip(1).contiguous() if weights.form.shared is not None else None
    expected = TorchOps().experts(x, step, weights, beside)
    computed = ops.experts(x, step, weights, beside)
    real = slice(0, tokens // 2 + 1)
    assert torch.allclose(computed[real], expected[real], rtol=1e-4, atol=1e-4)
    assert computed.isfinite().all()


def moved(held: Any, place: torch.device) -> Any:
    """A copy of a dataclass with its tensors on a device; their strides stay."""
    changed: dict[str, Any] = {}
    for part in fields(held):
        own = getattr(held, part.name)
        if isinstance(own, torch.Tensor):
            changed[part.name] = own.to(place)
        elif isinstance(own, Dense):
            changed[part.name] = moved(own, place)
    return replace(held, **changed)


@pytest.mark.parametrize("tokens", [2, 16, 17, 64, 300])
@pytest.mark.parametrize("biased", [False, True])
def test_many_rows_with_fp8_are_as_one_alone(place, ops, tokens, biased):
    device = gpu()
    if device is None or device.lacks_fp8() is not None:
        pytest.skip("products of many rows are the GPU library's")
    generator = torch.Generator().manual_seed(tokens)
    bias = torch.randn(208, generator=generator) if biased else None
    dense = Dense(torch.randn(208, 512, generator=generator), bias)
    linear = fp8.hold(dense, place, torch.bfloat16)
    assert isinstance(linear, Fp8)
    x = torch.randn(tokens, 512, generator=generator).to(place, torch.bfloat16)
    wanted = TorchOps().product(x, linear).float()
    found = ops.product(x, linear).float()
    assert (found - wanted).norm() < 1e-2 * wanted.norm()
    alone = torch.cat([ops.product(x[row : row + 1], linear) for row in range(tokens)]).float()
    assert (found - alone).norm() < 1e-2 * wanted.norm()


def test_choosing_with_filters(place, ops):
    """On the device as the host's sampler does it, where no two logits are nearly alike."""
    generator = torch.Generator().manual_seed(3)
    rows, vocab = 40, 5000
    logits = torch.randn(rows, vocab, generator=generator) * 3
    logits[5] = logits[5].round()  # many ties
    logits[7, 3] = float("nan")
    numbers = torch.rand(rows, generator=generator).tolist()
    kinds = [(0, 1.0, 0.0), (40, 1.0, 0.0), (0, 0.9, 0.0), (0, 1.0, 0.05), (50, 0.95, 0.02)]
    samplings = [
        Sampling(
            seed=row,
            temperature=0.0 if row % 9 == 8 else 0.5 + 0.1 * (row % 6),
            top_k=kinds[row % 5][0],
            top_p=kinds[row % 5][1],
            min_p=kinds[row % 5][2],
        )
        for row in range(rows)
    ]
    draws = packed_draws(
        [
            Draw(one.temperature, number, one.top_k, one.top_p, one.min_p)
            for one, number in zip(samplings, numbers, strict=True)
        ]
    )
    sent = torch.as_tensor(draws).to(place)
    chosen = torch.empty(rows, dtype=torch.int32, device=place)
    ops.choose(logits.to(place), sent, chosen)
    reference = torch.empty(rows, dtype=torch.int32)
    TorchOps().choose(logits, torch.as_tensor(draws), reference)
    assert chosen.tolist() == reference.tolist()
    assert chosen[7] == -1
    for row, sampling in enumerate(samplings):
        if row == 7 or sampling.temperature == 0:
            continue
        scaled = (logits[row : row + 1] - logits[row].max()) / sampling.temperature
        (wanted,) = draw_filtered(scaled, [sampling], [numbers[row]])
        assert chosen[row] == wanted, (row, sampling)
