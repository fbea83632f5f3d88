"""The ranks' collectives, by torch.distributed."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from penstock.errors import ModelNotLoadable
from penstock.models.backends.tensor_parallel import exchange

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from penstock.models.backends.lean.body import Body
    from penstock.models.backends.lean.operations.ops import Activations, Ops
    from penstock.models.backends.lean.products.linear import Linear
    from penstock.models.backends.tensor_parallel.exchange import Exchange

_LOOPBACK = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""All ranks are on one host: the libraries' traffic stays on it, unless configured otherwise."""


class Group:
    """See `penstock.models.backends.lean.ranks.Ranks`."""

    def __init__(
        self, meeting: Path, rank: int, ranks: int, body: Body, *, direct: bool = True
    ) -> None:
        """Meet the others: returns when all are here. `meeting` is a file that they alone have.

        `direct`: sums of few rows through each other's memory, if the devices can.

        :raises ModelNotLoadable: this process has a group already.
        """
        device = body.device
        # Of no types; some of its names are not exported.
        dist: Any = import_module("torch.distributed")
        if dist.is_initialized():
            raise ModelNotLoadable("a worker serves one queue over several devices, not two")
        for name in _LOOPBACK:
            os.environ.setdefault(name, "lo")
        self._ranks = ranks
        self._library = dist
        # The former is the latter's name from torch 2.13 on.
        name = (
            "all_gather_single" if hasattr(dist, "all_gather_single") else "all_gather_into_tensor"
        )
        self._gather: Any = getattr(dist, name)
        dist.init_process_group(
            device.collectives,
            store=dist.FileStore(str(meeting), ranks),
            rank=rank,
            world_size=ranks,
            device_id=None if device.kind == "cpu" else device.torch_device,
        )
        self._exchange: Exchange | None = None
        if direct:
            self._exchange = exchange.meet(dist, rank, ranks, body)

    @property
    def direct(self) -> bool:
        """Whether sums of few rows go through each other's memory."""
        return self._exchange is not None

    def add_norm(
        self,
        ops: Ops,
        x: torch.Tensor,
        residual: torch.Tensor,
        weight: torch.Tensor,
        epsilon: float,
        *,
        into: Linear | None,
    ) -> Activations:
        """See `Ranks`."""
        if self._exchange is not None and len(x) <= self._exchange.layout.rows:
            return self._exchange.add_norm(x, residual, weight, epsilon)
        self._library.all_reduce(x)
        return ops.add_norm(x, residual, weight, epsilon, into)

    def join(self, x: torch.Tensor) -> torch.Tensor:
        """The ranks' (T, columns) side by side."""
        count, columns = x.shape
        gathered = x.new_empty((self._ranks * count, columns))
        self._gather(gathered, x)
        sides = gathered.view(self._ranks, count, columns).transpose(0, 1)
        return sides.reshape(count, self._ranks * columns)

    def close(self) -> None:
        """Leave the others, who leave too."""
        self._exchange = None
        self._library.destroy_process_group()
