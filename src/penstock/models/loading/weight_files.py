"""What a folder's files are, told apart before anything is loaded: each other format by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from penstock.errors import ModelNotLoadable
from penstock.models.catalogue.model_folder import read_config

if TYPE_CHECKING:
    from pathlib import Path

_LFS: Final = b"version https://git-lfs.github.com/spec/"
_INDEX: Final = "model.safetensors.index.json"
_ADAPTER: Final = "adapter_config.json"
_GGUF: Final = (
    "GGUF is read by llama.cpp; serve the checkpoint that it was made of (as safetensors)"
)
_MERGE: Final = (
    "merge it into its base (PEFT: merge_and_unload, save_pretrained), serve that folder"
)


def check_weights(path: Path, *, low_bit: bool) -> None:
    """Make sure that a folder has a configuration and all its weights, as plain safetensors.

    `low_bit`: bigdl-llm's `save_low_bit` wrote it, whose pickles hold tensors alone.

    :raises ModelNotLoadable: with one line that names what is there instead.
    """
    _refuse_pointers(path)
    if not read_config(path):
        raise ModelNotLoadable(f"{path}: {_without_config(path)}")
    if (path / _ADAPTER).is_file():
        raise ModelNotLoadable(
            f"{path}: a LoRA adapter lies beside its base ({_ADAPTER}) and would not be applied: "
            f"{_MERGE}, or move its files away to serve the base alone"
        )
    missing = _missing_shards(path)
    if missing:
        raise ModelNotLoadable(
            f"{path}: {len(missing)} of the weights' files are missing: {missing[0]} "
            f"(named in {_INDEX})"
        )
    if any(path.glob("*.safetensors")) or low_bit:
        return
    if any(path.glob("*.gguf")):
        raise ModelNotLoadable(f"{path}: its weights are in GGUF: {_GGUF}")
    if any(path.glob("*.bin")) or any(path.glob("*.pt")):
        raise ModelNotLoadable(
            f"{path}: the weights are pickle files, which can run code as they load; "
            f"convert them to safetensors (save_pretrained in Transformers writes them)"
        )
    raise ModelNotLoadable(f"{path}: there are no weights (*.safetensors)")


def _without_config(path: Path) -> str:
    if (path / _ADAPTER).is_file():
        base = read_config(path, _ADAPTER).get("base_model_name_or_path")
        return f"a LoRA adapter without its base ({base or 'unnamed'}): {_MERGE}"
    if any(path.glob("*.gguf")):
        return f"a GGUF file: {_GGUF}"
    if (path / "params.json").is_file() and any(path.glob("consolidated*")):
        return (
            "the maker's own layout (params.json, consolidated weights): serve the layout of "
            "Transformers, which has a config.json"
        )
    return "no readable config.json: not a Transformers model"


def _refuse_pointers(path: Path) -> None:
    """:raises ModelNotLoadable: a file stands for one that Git LFS has not fetched."""
    for pattern in ("*.safetensors", "*.json", "*.model", "*.bin"):
        for file in sorted(path.glob(pattern)):
            with file.open("rb") as opened:
                if opened.read(len(_LFS)) == _LFS:
                    raise ModelNotLoadable(
                        f"{file}: a Git LFS pointer, not the file itself: run 'git lfs pull' there"
                    )


def _missing_shards(path: Path) -> list[str]:
    """Files that the index names and that are not there."""
    named = read_config(path, _INDEX).get("weight_map")
    if not isinstance(named, dict):
        return []
    files = {name for name in cast("dict[str, Any]", named).values() if isinstance(name, str)}
    return sorted(name for name in files if not (path / name).is_file())


def quantisation_of(config: dict[str, Any]) -> str:
    """The method that a checkpoint says it was quantised by, with its own name for the format."""
    stated: dict[str, Any] = config.get("quantization_config") or {}
    method = str(stated.get("quant_method") or "")
    detail = stated.get("quant_algo") or stated.get("format") or stated.get("bits")
    return f"{method} ({detail})" if method and detail else method
