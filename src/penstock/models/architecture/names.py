"""Where a checkpoint's tensors lie: beside an image tower they have a longer name."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.models.architecture.description import Architecture

_PLAIN = "model."
_PREFIXES = (_PLAIN, "model.language_model.", "language_model.model.", "model.text_model.", "")
_HEADS = ("lm_head", "language_model.lm_head")


def located(model: Architecture, has: Callable[[str], bool]) -> Architecture:
    """The same model by the names that a checkpoint has; `has` says if it has a tensor."""
    if not model.embeddings.startswith(_PLAIN):
        return model
    rest = model.embeddings.removeprefix(_PLAIN)
    prefix = next((one for one in _PREFIXES if has(f"{one}{rest}.weight")), _PLAIN)
    head = next((one for one in _HEADS if has(f"{one}.weight")), model.head.name)
    if prefix != _PLAIN:
        model = _renamed(model, prefix)
    return replace(model, head=replace(model.head, name=head))


def _renamed(part: Any, prefix: str) -> Any:
    if isinstance(part, str):
        return prefix + part.removeprefix(_PLAIN) if part.startswith(_PLAIN) else part
    if isinstance(part, tuple):
        return tuple(_renamed(one, prefix) for one in part)  # pyright: ignore[reportUnknownVariableType]
    if is_dataclass(part) and not isinstance(part, type):
        values = {one.name: _renamed(getattr(part, one.name), prefix) for one in fields(part)}
        return type(part)(**values)
    return part
