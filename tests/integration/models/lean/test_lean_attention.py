"""The lean decoder's attention on a CPU, ours and torch's, where lengths differ much."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from penstock.engine.model import Batch, SequenceSlice
from penstock.models.backends.lean import loading
from penstock.models.backends.lean.operations.native_attention import NativeAttention
from penstock.models.backends.lean.operations.torch_attention import TorchAttention
from penstock.models.backends.native import attention as native
from penstock.models.backends.steps import BLOCK_SIZE
from penstock.models.devices import Cpu
from tests.fixtures.lean import SHAPES, module_of

CONTEXT = 800
LENGTHS = (700, 20, 330, 17, 640, 1)


def tokens_of(key: int, length: int) -> list[int]:
    return [(31 * key + 7 * at * at + at) % 256 for at in range(length)]


def blocks_of(key: int) -> list[int]:
    blocks = CONTEXT // BLOCK_SIZE
    return list(range(key * blocks, (key + 1) * blocks))


def part(key: int, start: int, count: int) -> SequenceSlice:
    return SequenceSlice(
        key, tokens_of(key, CONTEXT)[start : start + count], start, blocks_of(key), count - 1
    )


@torch.inference_mode()
def wanted(module: Any, ends: list[int]) -> torch.Tensor:
    return torch.stack(
        [module(torch.tensor([tokens_of(key, end)])).logits[0, -1] for key, end in enumerate(ends)]
    )


@pytest.fixture(params=["native", "torch"])
def attention(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(native, "is_available", lambda: False)
    elif not native.is_available():
        pytest.skip("no native library, or no kernels for this CPU")
    return {"native": NativeAttention, "torch": TorchAttention}[request.param]


@pytest.mark.parametrize("name", ["llama", "mistral, sliding", "qwen2, sliding and full", "qwen3"])
def test_sequences_of_all_lengths_in_one_step(attention, name):
    assert name in SHAPES
    module = module_of(name)
    model = loading.build(module, Cpu(), CONTEXT)
    assert isinstance(vars(model.body.ops)["_attention"], attention)
    model.allocate(len(LENGTHS) * CONTEXT // BLOCK_SIZE)
    for key, length in enumerate(LENGTHS):  # each in two chunks where it can be
        first = length // 3
        for start, count in ((0, first), (first, length - first)):
            if count:
                logits = model.forward(Batch([part(key, start, count)]))
        assert torch.allclose(logits, wanted(module, list(LENGTHS))[key][None], atol=2e-3)
    # One token each, and beside them a chunk of the third.
    slices = [part(key, length, 40 if key == 2 else 1) for key, length in enumerate(LENGTHS)]
    ends = [length + (40 if key == 2 else 1) for key, length in enumerate(LENGTHS)]
    logits = model.forward(Batch(slices))
    assert torch.allclose(logits, wanted(module, ends), atol=2e-3)
