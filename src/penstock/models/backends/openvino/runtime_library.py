"""The boundary to OpenVINO's Python package, as `Any`: its types are incomplete."""

from __future__ import annotations

import importlib
from typing import Any

from penstock.errors import ModelNotLoadable

INSTALL = "pip install 'penstock[openvino]'"


def openvino() -> Any:
    """The package `openvino`, imported at the first call.

    :raises ModelNotLoadable: it is not installed.
    """
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise ModelNotLoadable(f"the openvino backend needs OpenVINO: {INSTALL}") from error


def opset() -> Any:
    """The operations that graphs are built from."""
    openvino()
    return importlib.import_module("openvino.opset15")


def constant_class() -> Any:
    """`openvino.op.Constant`, which can share a tensor's memory."""
    openvino()
    return importlib.import_module("openvino.op").Constant


def paged_attention_class() -> Any:
    """Return the operation for attention over blocks of a KV cache, on which the backend is based.

    OpenVINO calls it an extension without a promise of compatibility; hence the pinned version.
    """
    openvino()
    return importlib.import_module("openvino.op")._PagedAttentionExtension  # noqa: SLF001 - its only name


def paged_attention_transformation() -> Any:
    """The function that turns an exported stateful graph into one with paged attention."""
    openvino()
    module = importlib.import_module("openvino._offline_transformations")
    return module.paged_attention_transformation


def last_line(error: BaseException) -> str:
    """The reason in an OpenVINO message, which begins with source locations."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
