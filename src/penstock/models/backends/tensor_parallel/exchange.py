"""The ranks' sums through each other's memory: a few microseconds instead of a library's tens.

What a decoder's ranks sum up after every product of a decode step is a few hundred KB; a call of
the collectives' library costs more than the way of those bytes. So each rank writes its rows into
the others' memory, and the kernel that does so also adds and norms them.
"""

# Triton has no types, and a CPU-only environment has no Triton.
# pyright: reportMissingImports=false

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

import torch

from penstock.models.backends.lean.operations.overlap import overlap_of
from penstock.models.loading import checkpoint

if TYPE_CHECKING:
    from penstock.models.backends.lean.body import Body
    from penstock.models.devices.device import Device

logger = logging.getLogger(__name__)

_ROWS_OF_TWO: Final = 2304
_ROWS: Final = 256
"""Rows that an inbox holds. Of two ranks each sends what it must, whatever the way, and a step of
prefill fits; with more, a row goes to all, and the library sends less of many rows."""

_FEW_ROWS: Final = 128
"""Rows up to which each word goes with a mark; beyond, that costs more than a flag's way."""

_seen: list[bool] = []
_TURNS: Final = 2
_FLAG_BYTES: Final = 4
_MARKED: Final = 2
"""Times the bytes of a word without its mark."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The division of a rank's memory.

    Two inboxes of (ranks, rows, size), two of (ranks, few, size) with marks, the flags of the first
    two. All but these must be a multiple of eight bytes.
    """

    ranks: int
    rows: int
    size: int
    kind: torch.dtype
    few: int = _FEW_ROWS

    @property
    def inbox_bytes(self) -> int:
        """Of one inbox."""
        return self.ranks * self.rows * self.size * self.kind.itemsize

    @property
    def marked_at(self) -> int:
        """Where the inboxes with marks begin, in bytes."""
        return _TURNS * self.inbox_bytes

    @property
    def marked_bytes(self) -> int:
        """Of one inbox with marks."""
        return _MARKED * self.ranks * self.few * self.size * self.kind.itemsize

    @property
    def flags_at(self) -> int:
        """Where the flags begin, in bytes."""
        return self.marked_at + _TURNS * self.marked_bytes

    @property
    def flags_bytes(self) -> int:
        """Of one inbox's flags, (ranks, rows) int32."""
        return self.ranks * self.rows * _FLAG_BYTES

    @property
    def total_bytes(self) -> int:
        """Of all."""
        return self.flags_at + _TURNS * self.flags_bytes


class Exchange:
    """Sums of at most `layout.rows` rows. All ranks call it in the same order."""

    def __init__(
        self,
        rank: int,
        layout: Layout,
        bases: list[int],
        place: torch.device,
        overlap: dict[str, Any],
        *held: object,
    ) -> None:
        """`bases` are the addresses of all ranks' memory, zeroed, as seen here; `held` keeps it.

        `overlap` is of `penstock.models.backends.lean.operations.overlap`.
        """
        self.layout = layout
        self._rank = rank
        self._overlap = overlap
        self._held = held
        self._turn = 0

        def at(offset: int) -> torch.Tensor:
            addresses = [base + offset for base in bases]
            return torch.tensor(addresses, dtype=torch.int64, device=place)

        self._inboxes = [at(turn * layout.inbox_bytes) for turn in range(_TURNS)]
        self._marked = [at(layout.marked_at + turn * layout.marked_bytes) for turn in range(_TURNS)]
        self._flags = [at(layout.flags_at + turn * layout.flags_bytes) for turn in range(_TURNS)]

    def add_norm(
        self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, epsilon: float
    ) -> torch.Tensor:
        """Add the ranks' sum of x, (T, size), to the residual stream, in place, and norm it."""
        kernels: Any = import_module("penstock.models.backends.lean.kernels.exchange")
        out = torch.empty_like(x)
        layout = self.layout
        few = len(x) <= layout.few
        turn, self._turn = self._turn, 1 - self._turn
        kernel = kernels.exchange_norm_few_kernel if few else kernels.exchange_norm_kernel
        boxes = (self._marked[turn],) if few else (self._inboxes[turn], self._flags[turn])
        kernel[(len(x),)](
            x,
            residual,
            weight,
            out,
            *boxes,
            x.stride(0),
            epsilon,
            RANK=self._rank,
            RANKS=layout.ranks,
            ROWS=layout.few if few else layout.rows,
            SIZE=layout.size,
            WIDTH=1 << (layout.size - 1).bit_length(),
            num_warps=8,
            **self._overlap,
        )
        return out


def most_rows(ranks: int) -> int:
    """Return how many rows of a step, at most, are added up in this way."""
    return _ROWS_OF_TWO if ranks == 2 else _ROWS  # noqa: PLR2004 - see there


def meet(dist: Any, rank: int, ranks: int, body: Body) -> Exchange | None:
    """Return the exchange of a group's ranks, if all of them support it; otherwise None for all.

    Every rank calls it after joining its group. A process can have only one in its life: torch stores what
    a group meets by under the group's name, and the next one has the same.
    """
    device = body.device
    first_time = not _seen
    _seen.append(True)
    able = torch.ones((), dtype=torch.int32, device=device.torch_device)
    reached = all(device.reaches(other - rank) for other in range(ranks))
    if not (reached and first_time) or find_spec("triton") is None:
        able.zero_()
    if not _all(dist, able):
        return None
    layout = Layout(ranks, most_rows(ranks), body.shape.sizes.hidden_size, body.kind)
    found: Exchange | None = None
    try:
        found = _shared(dist, rank, layout, device)
    except Exception as error:  # noqa: BLE001 - a driver's refusal has a fallback
        logger.warning("sums go by the library: %s", checkpoint.first_line(error))
        able.zero_()
    return found if _all(dist, able) else None


def _all(dist: Any, able: torch.Tensor) -> bool:
    """Return whether every rank is able; waits for all of them."""
    dist.all_reduce(able, op=dist.ReduceOp.MIN)
    return bool(able.item())


def _shared(dist: Any, rank: int, layout: Layout, device: Device) -> Exchange:
    """By torch's symmetric memory: every rank's, mapped into every other."""
    symmetric: Any = import_module("torch.distributed._symmetric_memory")
    place = device.torch_device
    memory = symmetric.empty(layout.total_bytes, dtype=torch.uint8, device=place)
    memory.zero_()
    device.synchronize()  # before another rank can write into it
    handle = symmetric.rendezvous(memory, dist.group.WORLD)
    bases = [
        handle.get_buffer(other, (layout.total_bytes,), torch.uint8).data_ptr()
        for other in range(layout.ranks)
    ]
    return Exchange(rank, layout, bases, place, overlap_of(device), memory, handle)
