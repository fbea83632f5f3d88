"""The markers that a checkpoint's tokenizer names for the parts of an image's text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from penstock.models.catalogue.model_folder import read_config

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_NESTED = ("extra_special_tokens", "model_specific_special_tokens")


def read_markers(path: Path, names: Sequence[str]) -> dict[str, str]:
    """Return markers by their names.

    :raises ValueError: tokenizer_config.json does not name one.
    """
    stated: dict[str, Any] = dict(read_config(path, "tokenizer_config.json"))
    for nested in _NESTED:
        extra = stated.get(nested)
        if isinstance(extra, dict):
            stated |= cast("dict[str, Any]", extra)
    markers: dict[str, str] = {}
    for name in names:
        marker = stated.get(name)
        if isinstance(marker, dict):  # an added token with its rules
            marker = cast("dict[str, Any]", marker).get("content")
        if not marker:
            raise ValueError(f"tokenizer_config.json names no {name}")
        markers[name] = str(marker)
    return markers
