"""Which files of a model's folder hold its weights. Imports no torch."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final, cast

from penstock.foreign import parse_json
from penstock.models.catalogue.gguf import folder as gguf_folder
from penstock.models.catalogue.model_folder import read_config

if TYPE_CHECKING:
    from pathlib import Path

INDEX: Final = "model.safetensors.index.json"
_LONGEST_HEADER: Final = 100 * 1024 * 1024
_OTHERS: Final = ("consolidated", "adapter_model")
"""Beginnings of the names of what else may lie beside: a maker's own layout, an adapter."""


def weight_map(path: Path) -> dict[str, str]:
    """Return the tensors of each file according to the index; empty without an index."""
    named = read_config(path, INDEX).get("weight_map")
    if not isinstance(named, dict):
        return {}
    entries = cast("dict[str, Any]", named)
    return {name: file for name, file in entries.items() if isinstance(file, str)}


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a model: those that its index names, else all."""
    named = set(weight_map(path).values())
    found = sorted(path.glob("*.safetensors"))
    if named:
        return [file for file in found if file.name in named]
    own = [file for file in found if not file.name.startswith(_OTHERS)]
    return own or found


def tensor_names(file: Path) -> list[str]:
    """Names of the tensors in a safetensors file; none if its header cannot be read."""
    return [name for name in header(file) if name != "__metadata__"]


def header(file: Path) -> dict[str, Any]:
    """A safetensors file's header; of a file that has none, nothing."""
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            found = parse_json(opened.read(min(length, _LONGEST_HEADER)))
    except (OSError, ValueError, struct.error):
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def all_files(path: Path) -> list[Path]:
    """The files that hold a model's weights, whatever they are."""
    return weight_files(path) or gguf_folder.files(path) or pickles(path)


def pickles(path: Path) -> list[Path]:
    """The pickle files of a model that has no others."""
    return sorted(path.glob("pytorch_model*.bin"))
