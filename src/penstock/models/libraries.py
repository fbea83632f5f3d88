"""The border to untyped libraries: Transformers, seen as `Any`, in one place."""

from __future__ import annotations

import importlib
from typing import Any


def transformers() -> Any:
    """The package `transformers`, imported at the first call."""
    return importlib.import_module("transformers")


def transformers_module(name: str) -> Any:
    """A module of it: `masking_utils`, `modeling_rope_utils`, ..."""
    return importlib.import_module(f"transformers.{name}")
