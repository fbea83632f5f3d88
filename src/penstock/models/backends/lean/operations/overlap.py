"""Whether a GPU's kernels start before the previous ones have ended: see `kernels.overlap`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.models.devices.device import Device


def overlap_of(device: Device) -> dict[str, Any]:
    """Return the launch options of a decode step's kernels."""
    if device.overlaps:
        return {"OVERLAPS": True, "launch_pdl": True}
    return {"OVERLAPS": False}
