"""Folders that bigdl-llm's `save_low_bit` wrote, or that are written as it does."""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING, Any

import torch

from penstock.errors import ModelNotLoadable

if TYPE_CHECKING:
    from pathlib import Path


def read(path: Path, parameter_class: Any) -> dict[str, torch.Tensor]:
    """Return all tensors of the folder's files.

    bigdl-llm of 2023 wrote `pytorch_model.bin`; it is read with torch's restricted unpickler, which
    builds tensors, `parameter_class` among them, and runs no code.

    :raises ModelNotLoadable: the folder has no weights.
    """
    state: dict[str, torch.Tensor] = {}
    files = sorted(path.glob("*.safetensors"))
    if files:
        load_file = importlib.import_module("safetensors.torch").load_file
        for file in files:
            state.update(load_file(file))
        return state
    files = sorted(path.glob("pytorch_model*.bin"))
    if not files:
        raise ModelNotLoadable(f"{path}: there are no weights (*.safetensors, *.bin)")
    with torch.serialization.safe_globals([parameter_class]):
        for file in files:
            state.update(torch.load(file, map_location="cpu", weights_only=True, mmap=True))
    return {name: tensor.detach().as_subclass(torch.Tensor) for name, tensor in state.items()}


def save(module: Any, path: Path, format_name: str, *, rest: torch.dtype = torch.float32) -> None:
    """Write a quantised module as bigdl-llm's `save_low_bit` does, in safetensors.

    `rest` is the type of the weights that are not in low bit.

    :raises ValueError: the module's experts are in our kernels' layout.
    """
    if any(getattr(part, "mixture", None) is not None for part in module.modules()):
        raise ValueError("experts are packed for our kernels")
    module.config.dtype = rest
    module.config.update({"bigdl_transformers_low_bit": format_name, "tie_word_embeddings": False})
    state: dict[str, torch.Tensor] = {}
    places: set[int] = set()
    for name, tensor in module.state_dict().items():
        own = _written(tensor.detach().as_subclass(torch.Tensor), rest)
        state[name] = own.clone() if own.data_ptr() in places else own  # one of each in a file
        places.add(own.data_ptr())
    path.mkdir(parents=True, exist_ok=True)
    module.config.save_pretrained(path)
    module.generation_config.save_pretrained(path)
    save_file = importlib.import_module("safetensors.torch").save_file
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    keys = json.dumps({"all_checkpoint_keys": list(state)})
    (path / "load_keys.json").write_text(keys, encoding="utf-8")


def _written(tensor: torch.Tensor, rest: torch.dtype) -> torch.Tensor:
    return (tensor.to(rest) if tensor.is_floating_point() else tensor).contiguous()
