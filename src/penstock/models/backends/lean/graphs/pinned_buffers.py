"""Pinned host memory for asynchronous copies to the device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from penstock.models.devices.device import Device

_STAGES: Final = 4
"""Buffers in rotation: one is written while others are still being copied."""


class Stages:
    """Buffers of pinned host memory in rotation, so that no step waits for copies to the device."""

    def __init__(self, size: int) -> None:
        pin = torch.accelerator.is_available()
        self._buffers = [
            torch.empty(size, dtype=torch.int32, pin_memory=pin) for _ in range(_STAGES)
        ]
        self._events: list[torch.Event | None] = [None] * _STAGES
        self._turn = 0

    def next(self, size: int) -> torch.Tensor:
        """Return a buffer of `size` integers that no copy reads any more."""
        event = self._events[self._turn]
        if event is not None:
            event.synchronize()
        if self._buffers[self._turn].numel() < size:
            pin = torch.accelerator.is_available()
            self._buffers[self._turn] = torch.empty(2 * size, dtype=torch.int32, pin_memory=pin)
        return self._buffers[self._turn][:size]

    def sent(self, device: Device) -> None:
        """Record that the copy of the last buffer has been submitted."""
        if device.kind != "cpu":
            event = torch.Event(device.torch_device)
            event.record()
            self._events[self._turn] = event
        self._turn = (self._turn + 1) % _STAGES
