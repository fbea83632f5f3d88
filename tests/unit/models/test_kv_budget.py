"""How memory is shared out among blocks of layers that see all and of those with a window."""

from __future__ import annotations

import pytest

from penstock.errors import ModelNotLoadable
from penstock.models.devices.cpu import Cpu
from penstock.models.loading import kv_budget
from tests.fixtures.engine import WindowModel

WINDOW = 64
"""Tokens: 16 blocks, and two for what a step begins and ends with."""


def room_of(budget_bytes: int, *, full_layers: bool = True, windows: bool = True) -> kv_budget.Room:
    """For two slots of 1,024 tokens, steps of 40, one byte a block for each kind of layer."""
    model = WindowModel(0, WINDOW, full_layers=full_layers, context_length=1024)
    room = kv_budget.allocate(
        model,
        Cpu(),
        slots=2,
        step_tokens=40,
        budget_bytes=budget_bytes,
        where="here",
        windows=windows,
    )
    if full_layers and windows:
        assert len(model.windows) == room.window_blocks
        assert len(model.cache) == room.blocks
    return room


@pytest.mark.parametrize(
    ("budget_bytes", "expected"),
    [
        (1000, kv_budget.Room(512, window_blocks=2 * 2 * 18 + 10)),  # two windows for each slot
        (300, kv_budget.Room(218, window_blocks=82)),
        (120, kv_budget.Room(74, window_blocks=2 * 18 + 10)),  # one
        (80, kv_budget.Room(40, window_blocks=40)),  # all have less, and wait for each other
        (40, kv_budget.Room(20)),  # not even one window and a step: no windows
    ],
)
def test_layers_with_a_window_get_what_their_windows_take(
    budget_bytes: int, expected: kv_budget.Room
) -> None:
    assert room_of(budget_bytes) == expected


def test_if_all_layers_have_a_window_texts_are_as_long_as_the_context() -> None:
    assert room_of(100, full_layers=False) == kv_budget.Room(512, window_blocks=82)
    assert room_of(60, full_layers=False) == kv_budget.Room(512, window_blocks=46)
    assert room_of(30, full_layers=False) == kv_budget.Room(512, window_blocks=30)
    assert room_of(20, full_layers=False) == kv_budget.Room(20)


def test_without_windows_all_layers_have_all_blocks() -> None:
    assert room_of(1000, windows=False) == kv_budget.Room(500)


def test_too_little_memory_is_one_line() -> None:
    with pytest.raises(ModelNotLoadable, match="holds nothing"):
        room_of(1)
