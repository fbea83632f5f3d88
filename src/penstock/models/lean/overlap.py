"""Whether a GPU's kernels begin before the ones they follow have ended: see `kernels.overlap`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.models.devices.device import Device


def overlap_of(device: Device, ranks: int = 1) -> dict[str, Any]:
    """What the launches of a decode step's kernels are given.

    Where several ranks compute together theirs follow one another as ever: the sums between them
    were not tried so.
    """
    if device.overlaps and ranks == 1:
        return {"OVERLAPS": True, "launch_pdl": True}
    return {"OVERLAPS": False}
