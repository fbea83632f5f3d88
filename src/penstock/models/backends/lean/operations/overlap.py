"""Whether a GPU's kernels begin before the ones they follow have ended: see `kernels.overlap`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.models.devices.device import Device


def overlap_of(device: Device) -> dict[str, Any]:
    """What the launches of a decode step's kernels are given."""
    if device.overlaps:
        return {"OVERLAPS": True, "launch_pdl": True}
    return {"OVERLAPS": False}
