"""The ranks' sums through each other's memory: two processes, by Triton's interpreter.

TRITON_INTERPRET=1 python -m pytest tests/integration/test_exchange.py
"""

from __future__ import annotations

import multiprocessing
import os
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from penstock.models.lean.torch_ops import TorchOps
from penstock.models.parallel.exchange import Exchange, Layout

RANKS, SIZE = 2, 48
LAYOUT = Layout(RANKS, 4, SIZE, torch.float32)
COUNTS = [3, 1, 4, 4, 2, 3, 1, 1]  # rows of one sum after another
EPSILON = 1e-5

pytestmark = pytest.mark.gpu


def given(turn: int, rank: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(10 * turn + rank)
    return torch.randn(COUNTS[turn], SIZE, generator=generator)


def wanted(turn: int) -> tuple[torch.Tensor, torch.Tensor]:
    residual = given(turn, RANKS)
    summed = sum((given(turn, rank) for rank in range(RANKS)), torch.zeros(()))
    return TorchOps().add_norm(summed, residual, weight(), EPSILON, None), residual


def weight() -> torch.Tensor:
    return torch.linspace(0.5, 1.5, SIZE)


def follow(rank: int, memories: list[torch.Tensor], answers: Any) -> None:
    bases = [memory.data_ptr() for memory in memories]
    exchange = Exchange(rank, LAYOUT, bases, torch.device("cpu"), memories)
    said = []
    for turn in range(len(COUNTS)):
        residual = given(turn, RANKS)
        found = exchange.add_norm(given(turn, rank), residual, weight(), EPSILON)
        said.append((found.tolist(), residual.tolist()))
    answers.put((rank, said))


@pytest.mark.timeout(180)
def test_two_ranks_sum_up_what_both_have():
    if os.environ.get("TRITON_INTERPRET") != "1" or find_spec("triton") is None:
        pytest.skip("Triton's interpreter is not on")
    context = multiprocessing.get_context("spawn")
    memories = [
        torch.zeros(LAYOUT.total_bytes, dtype=torch.uint8).share_memory_() for _ in range(RANKS)
    ]
    answers = context.Queue()
    ranks = [
        context.Process(target=follow, args=(rank, memories, answers), daemon=True)
        for rank in range(RANKS)
    ]
    for process in ranks:
        process.start()
    said = dict(answers.get(timeout=120) for _ in ranks)
    for process in ranks:
        process.join(30)
    assert said[0] == said[1], "the ranks have the same bits"
    for turn, (found, residual) in enumerate(said[0]):
        normed, kept = wanted(turn)
        torch.testing.assert_close(torch.tensor(found), normed)
        torch.testing.assert_close(torch.tensor(residual), kept)
    for memory in memories:
        assert not memory[LAYOUT.flags_at :].any(), "all flags are down again"
