"""Attention of prompts' chunks by the Triton kernel beside torch's, as `test_lean_kernels` runs them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from penstock.models.architecture.reading import describe
from penstock.models.backends.lean.graphs.step_rows import FIELDS, Step
from penstock.models.backends.lean.operations.ops import AttentionLayer, LayerCache
from penstock.models.backends.lean.shape import Shape, Sizes, Turning
from penstock.models.backends.steps import BLOCK_SIZE
from tests.fixtures.lean import gpu

pytestmark = pytest.mark.gpu

FORMS = ("CHUNKS", "CHUNKS_NARROW", "CHUNKS_SHORT", "CHUNKS_WIDE", "CHUNKS_MANY", "CHUNKS_LONG")
CHUNKS = {
    "whole prompts": ((0, 150), (0, 1), (0, 64), (0, 129)),
    "after earlier chunks": ((63, 70), (64, 64), (200, 3), (127, 130)),
}
"""(position of the first token, tokens) of each sequence's chunk."""
LONG_CHUNKS = {
    "whole prompts": ((0, 700), (0, 129), (0, 64), (0, 1)),
    "after earlier chunks": ((333, 600), (64, 512), (1000, 3), (1, 300)),
}


@dataclass(frozen=True)
class Chunks:
    """Some chunks' queries, and the paged keys and values of their sequences."""

    qkv: torch.Tensor
    step: Step
    layer: AttentionLayer
    rows: tuple[tuple[int, int], ...]

    def by_torch(self) -> torch.Tensor:
        """(T, heads * head_size) float32."""
        sizes, cache = self.layer.shape.sizes, self.layer.cache
        group, outputs, first = sizes.heads // sizes.kv_heads, [], 0
        for row, (start, count) in enumerate(self.rows):
            end = start + count
            blocks = self.step.tables[row].long()
            keys, values = (
                part[blocks]
                .transpose(0, 1)
                .flatten(1, 2)[:, :end]
                .float()
                .repeat_interleave(group, 0)
                for part in (cache.keys, cache.values)
            )
            queries = self.qkv[first : first + count, : sizes.heads * sizes.head_size].float()
            queries = queries.view(count, sizes.heads, -1).transpose(0, 1)
            at = torch.arange(start, end, device=queries.device)[:, None]
            key_at = torch.arange(end, device=queries.device)[None]
            seen = key_at <= at
            if self.layer.window:
                seen &= key_at > at - self.layer.window
            scores = queries @ keys.transpose(-1, -2) * self.layer.scale
            if self.layer.soft_cap:
                scores = torch.tanh(scores / self.layer.soft_cap) * self.layer.soft_cap
            scores = scores.masked_fill(~seen, float("-inf"))
            if self.layer.sinks is not None:
                sinks = self.layer.sinks[:, None, None].expand(*scores.shape[:-1], 1)
                scores = torch.cat((scores, sinks), -1)
            out = scores.softmax(-1)[..., :end] @ values
            outputs.append(out.transpose(0, 1).reshape(count, -1))
            first += count
        return torch.cat(outputs)


def chunks_of(
    rows: Any,
    kind: torch.dtype,
    head_size: int,
    window: int,
    extra: str = "",
    *,
    heads: int = 2,
    place: torch.device | None = None,
) -> Chunks:
    """Random chunks, on a GPU or for Triton's interpreter unless a place is given."""
    if place is None:
        place = torch.device("cpu")
        device = gpu()
        if device is not None:
            place = device.torch_device
        elif os.environ.get("TRITON_INTERPRET") != "1" or find_spec("triton") is None:
            pytest.skip("torch sees no GPU here, and Triton's interpreter is not on")
    torch.manual_seed(len(rows) + window)
    kv_heads = heads // 2
    model = describe(
        {
            "model_type": "llama", "hidden_size": heads * head_size, "num_attention_heads": heads,
            "num_key_value_heads": kv_heads, "num_hidden_layers": 1, "intermediate_size": 8,
        }
    )  # fmt: skip
    sizes = Sizes(1, heads * head_size, 8, heads, kv_heads, head_size, 8)
    width = -(-max(start + count for start, count in rows) // BLOCK_SIZE)
    total = sum(count for _, count in rows)
    order = torch.randperm(len(rows) * width).to(torch.int32)
    size = (len(rows) * width, kv_heads, BLOCK_SIZE, head_size)
    cache = LayerCache(*(torch.randn(size).to(place, kind) for _ in range(2)))
    empty = torch.empty(0)
    turning, scale = Turning(empty, empty, head_size), head_size**-0.5
    sinks = torch.tensor([1.5, -0.5], device=place) if extra == "sinks" else None
    layer = AttentionLayer(
        Shape(sizes, 512, model), turning, None, window, cache, scale,
        soft_cap=0.7 if extra == "capped" else 0.0, sinks=sinks,
    )  # fmt: skip
    chunks, first = [], 0
    for row, (start, count) in enumerate(rows):
        chunks.append((first, count, start, row))
        first += count
    step = Step(
        torch.zeros((FIELDS, total), dtype=torch.int32, device=place),
        empty, order.view(len(rows), width).to(place), 0,
        torch.tensor(chunks, dtype=torch.int32, device=place), max(count for _, count in rows),
    )  # fmt: skip
    qkv = torch.randn(total, (heads + 2 * kv_heads) * head_size).to(place, kind)
    return Chunks(qkv, step, layer, tuple(rows))


@pytest.mark.parametrize("window", [0, 40])
@pytest.mark.parametrize("rows", CHUNKS.values(), ids=CHUNKS.keys())
@pytest.mark.parametrize(
    ("form", "extra"),
    [*((form, "") for form in FORMS), ("CHUNKS", "capped"), ("CHUNKS_MANY", "sinks")],
)
def test_chunks(form, extra, rows, window, monkeypatch):
    kind = torch.float32 if form == "CHUNKS_WIDE" else torch.float16
    chunks = chunks_of(rows, kind, 128 if form == "CHUNKS_LONG" else 32, window, extra)
    attention = import_module("penstock.models.backends.lean.operations.triton_attention")
    monkeypatch.setattr(attention, "_prefill_form", lambda *_: getattr(attention, form))
    decoder = chunks.layer.shape.sizes
    out = chunks.qkv.new_full((len(chunks.qkv), decoder.heads * decoder.head_size), float("nan"))
    attention.prefill(chunks.qkv, chunks.step, chunks.layer, out)
    wanted = chunks.by_torch()
    error = (out.float() - wanted).norm() / wanted.norm()
    assert error < (1e-5 if kind == torch.float32 else 2e-3)


@pytest.fixture
def hopper():
    """The kernels' module of long chunks, and that of where they are launched."""
    if find_spec("triton") is None:
        pytest.skip("Triton is not here")
    name = "penstock.models.backends.lean.operations"
    return import_module(f"{name}.hopper_attention"), import_module(f"{name}.triton_attention")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rows", LONG_CHUNKS.values(), ids=LONG_CHUNKS.keys())
def test_long_chunks_on_hopper(hopper, rows, kind):
    own, attention = hopper
    device = gpu()
    if device is None or own.kernel_of(device.torch_device) is None:
        pytest.skip("no GPU of NVIDIA's Hopper here, or Triton without Gluon")
    chunks = chunks_of(rows, kind, 128, 0, heads=6)
    assert own.can_attend(chunks.qkv, chunks.step, chunks.layer) == (rows[0][0] > 0)
    assert own.works(chunks.qkv, chunks.layer, attention.prefill_plain)
    out = chunks.qkv.new_full((len(chunks.qkv), 6 * 128), float("nan"))
    own.prefill(chunks.qkv, chunks.step, chunks.layer, out)
    wanted = chunks.by_torch()
    assert (out.float() - wanted).norm() / wanted.norm() < (2e-3 if kind == torch.float16 else 1e-2)


def test_which_chunks_hopper_takes(hopper, monkeypatch):
    own, _ = hopper
    monkeypatch.setattr(own, "kernel_of", lambda _: object())

    def takes(rows: Any, kind: torch.dtype = torch.float16, **how: Any) -> bool:
        how = {"head_size": 128, "window": 0, "place": torch.device("cpu")} | how
        chunks = chunks_of(rows, kind, **how)
        return own.can_attend(chunks.qkv, chunks.step, chunks.layer)

    assert takes(((0, 512),))
    assert takes(((0, 700), (40, 500)))
    assert not takes(((0, 511),))
    assert not takes(((0, 600), (0, 20), (0, 20), (0, 20))), "most programs would have no work"
    assert not takes(((0, 512),), torch.float32)
    assert not takes(((0, 512),), head_size=64)
    assert not takes(((0, 512),), window=40)
    assert not takes(((0, 512),), extra="capped")
    assert not takes(((0, 512),), extra="sinks")


@pytest.mark.parametrize("fault", ["does not compile", "wrong", "not a number"])
def test_without_a_right_kernel_long_chunks_take_the_plain_one(hopper, fault, monkeypatch, caplog):
    own, attention = hopper

    def prefill(qkv: Any, step: Any, layer: Any, out: torch.Tensor) -> None:
        if fault == "does not compile":
            raise AttributeError("gluon has no such part")
        out.fill_(1.0 if fault == "wrong" else float("nan"))

    def plain(qkv: torch.Tensor, step: Any, layer: Any, out: torch.Tensor) -> None:
        out.copy_(qkv[:, : out.shape[1]])

    monkeypatch.setattr(own, "kernel_of", lambda _: object())
    monkeypatch.setattr(own, "_tried", {})
    monkeypatch.setattr(own, "prefill", prefill)
    monkeypatch.setattr(attention, "prefill_plain", plain)
    chunks = chunks_of(((0, 600),), torch.float16, 128, 0, place=torch.device("cpu"))
    for _ in range(2):
        out = chunks.qkv.new_zeros(600, 256)
        attention.prefill(chunks.qkv, chunks.step, chunks.layer, out)
        assert torch.equal(out, chunks.qkv[:, :256])
    assert [one.levelname for one in caplog.records] == ["WARNING"], "once, and not again"
    assert "plain kernel" in caplog.text
