"""Intel GPUs in `penstock doctor`: the device, its driver, and the backends that can use it."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from penstock.cli import machine
from penstock.cli.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

_DEVICES: Final = Path("/dev/dri")
_INTEL: Final = "0x8086"
_PCI: Final = Path("/sys/class/drm")
_SUBJECT: Final = "xpu"


def xpu_parts() -> Iterator[Finding]:
    """Look for what an Intel GPU needs; nothing is reported on a machine without one."""
    nodes = _render_nodes()
    if nodes:
        closed = [node for node in nodes if not os.access(node, os.R_OK | os.W_OK)]
        names = ", ".join(node.name for node in nodes)
        if closed:
            advice = "join the group that owns it (render), or hand it to the container"
            yield Finding(f"{_SUBJECT}, device", "note", f"{closed[0]} cannot be opened", advice)
        else:
            yield Finding(f"{_SUBJECT}, device", "ok", f"an Intel GPU at {names}")
        yield _openvino()
    if extension := machine.version_of("intel-extension-for-pytorch"):
        yield _extension(extension, machine.version_of("torch") or "")


def _render_nodes() -> list[Path]:
    """Return the device files of Intel's GPUs."""
    return [
        node
        for node in sorted(_DEVICES.glob("renderD*"))
        if _vendor(_PCI / node.name / "device/vendor") == _INTEL
    ]


def _vendor(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _openvino() -> Finding:
    subject = f"{_SUBJECT}, OpenVINO"
    try:
        library: Any = importlib.import_module("openvino")
    except ImportError:
        return Finding(subject, "note", "not installed", "pip install 'penstock[xpu]'")
    if any(str(name).startswith("GPU") for name in library.Core().available_devices):
        return Finding(subject, "ok", "sees the GPU: backend = 'openvino' in models.toml")
    advice = "install Intel's driver: intel-opencl-icd, libze-intel-gpu1"
    return Finding(subject, "note", "sees no GPU", advice)


def _extension(extension: str, torch: str) -> Finding:
    """Intel's extension belongs to the torch of its own number; another pair does not load."""
    subject = f"{_SUBJECT}, intel-extension-for-pytorch"
    if extension.split(".")[:2] == torch.split(".")[:2]:
        return Finding(subject, "ok", f"{extension}; Penstock does not need it")
    advice = "pip uninstall intel-extension-for-pytorch: torch has Intel's GPUs by itself"
    return Finding(subject, "note", f"{extension} does not fit torch {torch}", advice)
