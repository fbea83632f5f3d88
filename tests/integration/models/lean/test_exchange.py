"""The ranks' sums through each other's memory: a process each, by Triton's interpreter.

`make test-kernels` turns it on.
"""

from __future__ import annotations

import multiprocessing
import os
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from penstock.models.backends.lean.operations.overlap import overlap_of
from penstock.models.backends.lean.operations.torch_ops import TorchOps
from penstock.models.backends.tensor_parallel.exchange import Exchange, Layout
from penstock.models.devices import Cpu

SIZE = 48
STREAM = 9
"""Rank, of a seed, that stands for the residual stream."""
COUNTS = [3, 1, 4, 4, 2, 3, 1, 1]  # rows of one sum after another; one and two are few
KINDS = [torch.float32, torch.bfloat16, torch.float16]
OVERLAP = overlap_of(Cpu())
EPSILON = 1e-5

pytestmark = pytest.mark.gpu


def layout_of(ranks: int, kind: torch.dtype) -> Layout:
    return Layout(ranks, 4, SIZE, kind, few=2)


def given(turn: int, rank: int, kind: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(10 * turn + rank)
    return torch.randn(COUNTS[turn], SIZE, generator=generator).to(kind)


def wanted(turn: int, ranks: int, kind: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """In float32, of what the ranks have."""
    residual = given(turn, STREAM, kind).float()
    summed = sum((given(turn, rank, kind).float() for rank in range(ranks)), torch.zeros(()))
    return TorchOps().add_norm(summed, residual, weight(kind).float(), EPSILON, None), residual


def weight(kind: torch.dtype) -> torch.Tensor:
    return torch.linspace(0.5, 1.5, SIZE).to(kind)


def follow(rank: int, kind: torch.dtype, memories: list[torch.Tensor], answers: Any) -> None:
    bases = [memory.data_ptr() for memory in memories]
    place = torch.device("cpu")
    exchange = Exchange(rank, layout_of(len(memories), kind), bases, place, OVERLAP, memories)
    said = []
    for turn in range(len(COUNTS)):
        residual = given(turn, STREAM, kind)
        found = exchange.add_norm(given(turn, rank, kind), residual, weight(kind), EPSILON)
        said.append((found.tolist(), residual.tolist()))
    answers.put((rank, said))


@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [2, 3])
def test_ranks_sum_up_what_all_have(count, kind):
    if os.environ.get("TRITON_INTERPRET") != "1" or find_spec("triton") is None:
        pytest.skip("Triton's interpreter is not on")
    context = multiprocessing.get_context("spawn")
    layout = layout_of(count, kind)
    memories = [
        torch.zeros(layout.total_bytes, dtype=torch.uint8).share_memory_() for _ in range(count)
    ]
    answers = context.Queue()
    ranks = [
        context.Process(target=follow, args=(rank, kind, memories, answers), daemon=True)
        for rank in range(count)
    ]
    for process in ranks:
        process.start()
    said = dict(answers.get(timeout=120) for _ in ranks)
    for process in ranks:
        process.join(30)
    assert all(said[rank] == said[0] for rank in range(count)), "the ranks have the same bits"
    close: dict[str, Any] = (
        {"rtol": 1.3e-6, "atol": 1e-5} if kind == torch.float32 else {"rtol": 0.02, "atol": 0.02}
    )
    for turn, (found, residual) in enumerate(said[0]):
        normed, kept = wanted(turn, count, kind)
        torch.testing.assert_close(torch.tensor(found), normed, **close)
        torch.testing.assert_close(torch.tensor(residual), kept, **close)
    for memory in memories:
        assert not memory[layout.marked_at :].any(), "all marks and flags are down again"
