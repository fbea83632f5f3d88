"""Checkpoints that were published quantised, as values for modules that compute with such."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.models.weights.checkpoint import Checkpoint
from penstock.models.weights.matrices import Kept

if TYPE_CHECKING:
    from pathlib import Path

    import torch


def tensors(folder: Path, dtype: torch.dtype) -> tuple[dict[str, torch.Tensor], Kept]:
    """All tensors of a folder by the names that a module has for them, matrices as `dtype`.

    Each is read as the float32 values that its codes stand for, and rounded once.

    :raises ModelNotLoadable: a file is damaged, or in a layout that is unknown here.
    """
    stored = Checkpoint(folder)
    named: dict[str, torch.Tensor] = {}
    for name in sorted(stored.names()):
        values = stored.tensor(name)
        named[name] = values.to(dtype) if values.is_floating_point() else values
        if name in stored.matrices:
            stored.loss.add_error(values, named[name])
    return named, stored.kept


def without_quantisation(config: Any) -> Any:
    """A configuration object without its quantisation; it is changed in place."""
    for part in {id(one): one for one in (config, config.get_text_config())}.values():
        for name in ("quantization_config", "compression_config"):
            if hasattr(part, name):
                delattr(part, name)
    return config


def note(module: Any, kept: Kept) -> None:
    """Keep with a module what its weights were published as."""
    module.published_as = kept


def noted(module: Any) -> Kept:
    """What `note` has kept."""
    found = getattr(module, "published_as", None)
    return found if isinstance(found, Kept) else Kept()
