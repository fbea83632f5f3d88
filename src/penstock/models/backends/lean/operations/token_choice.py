"""Chooses tokens on the device; only their ids are copied back."""

from __future__ import annotations

from math import inf, log
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from penstock.engine.sampling.tensor_lists import integers
from penstock.models.backends.lean.graphs.pinned_buffers import Stages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from penstock.engine.pipelining import Draw
    from penstock.models.backends.lean.operations.ops import Ops
    from penstock.models.devices.device import Device

DRAW_FIELDS: Final = 5
"""Integers that define a choice: the temperature's bits as a float, the random number, top_k, top_p,
and min_p's largest distance below the best, also as a float's bits."""

_NUMBERS: Final = float(1 << 31)
_MOST: Final = (1 << 31) - 1
_FLIGHTS: Final = 3
"""Steps whose tokens may be unread at once, plus one."""


def packed_draws(draws: Sequence[Draw]) -> NDArray[np.int32]:
    """Return the draws in the device's form, (DRAW_FIELDS, n) int32."""
    packed = np.empty((DRAW_FIELDS, len(draws)), np.int32)
    packed[0].view(np.float32)[:] = [draw.warmth for draw in draws]
    packed[1] = [int(draw.number * _NUMBERS) for draw in draws]
    packed[2] = [draw.top_k for draw in draws]
    packed[3] = [min(_MOST, int(draw.top_p * _NUMBERS)) for draw in draws]
    packed[4].view(np.float32)[:] = [-log(d.min_p) if d.min_p > 0 else inf for d in draws]
    return packed


class TokenFlight:
    """See `penstock.engine.pipelining.Flight`."""

    def __init__(self, landed: torch.Tensor, event: torch.Event | None) -> None:
        self._landed = landed
        self._event = event

    def token_ids(self) -> list[int]:
        """Wait for the tokens and return them."""
        if self._event is not None:
            self._event.synchronize()
        return integers(self._landed)


class Choosing:
    """Chooses tokens into `chosen` (most,) int32, where the next step reads them."""

    def __init__(self, ops: Ops, chosen: torch.Tensor, device: Device) -> None:
        self._ops = ops
        self._chosen = chosen
        self._device = device
        self._stages = Stages(DRAW_FIELDS * len(chosen))
        pin = chosen.device.type != "cpu"
        self._landings = [
            torch.empty(len(chosen), dtype=torch.int32, pin_memory=pin) for _ in range(_FLIGHTS)
        ]
        self._turn = 0

    def begin(self, logits: torch.Tensor, draws: NDArray[np.int32]) -> TokenFlight:
        """Choose a token for each row of logits (n, vocab); the copy to the host is then under way."""
        count = draws.shape[1]
        stage = self._stages.next(draws.size)
        stage.numpy()[:] = draws.reshape(-1)
        sent = stage.to(self._device.torch_device, non_blocking=True, copy=True)
        self._stages.sent(self._device)
        chosen = self._chosen[:count]
        self._ops.choose(logits, sent.view(DRAW_FIELDS, count), chosen)
        landing = self._landings[self._turn][:count]
        self._turn = (self._turn + 1) % _FLIGHTS
        landing.copy_(chosen, non_blocking=True)
        if self._device.kind == "cpu":
            return TokenFlight(landing, None)
        event = torch.Event(self._device.torch_device)
        event.record()
        return TokenFlight(landing, event)
