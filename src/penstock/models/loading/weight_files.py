"""Recognises the files of a folder before anything is loaded, and names unsupported formats."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from penstock.errors import ModelNotLoadable
from penstock.models.catalogue import quantisation
from penstock.models.catalogue.gguf import folder as gguf_folder
from penstock.models.catalogue.model_folder import read_config
from penstock.models.weights import files

if TYPE_CHECKING:
    from pathlib import Path

_LFS: Final = b"version https://git-lfs.github.com/spec/"
_SHARD: Final = re.compile(r"-\d+-of-(\d+)\.safetensors$")
_ADAPTER: Final = "adapter_config.json"
_MERGE: Final = (
    "merge it into its base (PEFT: merge_and_unload, save_pretrained), serve that folder"
)


def check_weights(path: Path, *, pickles: bool) -> None:
    """Make sure that a folder has a configuration and all its weights, as plain safetensors.

    `pickles`: such are read too, their tensors alone: bigdl-llm's `save_low_bit` wrote them, or the
    models file allows it.

    :raises ModelNotLoadable: with one line that names what is there instead.
    """
    _refuse_pointers(path)
    fault = gguf_folder.fault_of(path)
    if fault is not None:
        raise ModelNotLoadable(f"{path}: {fault}")
    if not read_config(path):
        raise ModelNotLoadable(f"{path}: {_without_config(path)}")
    if (path / _ADAPTER).is_file():
        raise ModelNotLoadable(
            f"{path}: a LoRA adapter lies next to its base ({_ADAPTER}) and would not be applied: "
            f"{_MERGE}, or move its files away to serve the base alone"
        )
    missing = _missing_shards(path)
    if missing:
        raise ModelNotLoadable(
            f"{path}: {len(missing)} of the weights' files are missing: {missing[0]} "
            f"(named in {files.INDEX})"
        )
    if gguf_folder.files(path):
        return
    _require_one_checkpoint(path)
    _require_known_quantisation(path)
    if files.weight_files(path) or (pickles and files.pickles(path)):
        return
    if any(path.glob("*.bin")) or any(path.glob("*.pt")):
        raise ModelNotLoadable(
            f"{path}: the weights are pickle files, which can run code as they load; "
            f"convert them to safetensors (save_pretrained in Transformers writes them), or set "
            f"allow_pickle = true for the model in the models file: their tensors are read, no code"
        )
    raise ModelNotLoadable(f"{path}: there are no weights (*.safetensors)")


def _without_config(path: Path) -> str:
    if (path / _ADAPTER).is_file():
        base = read_config(path, _ADAPTER).get("base_model_name_or_path")
        return f"a LoRA adapter without its base ({base or 'unnamed'}): {_MERGE}"
    if (path / "params.json").is_file() and any(path.glob("consolidated*")):
        return (
            "the maker's own layout (params.json, consolidated weights): serve the layout of "
            "Transformers, which has a config.json"
        )
    return "no readable config.json: not a Transformers model"


def _refuse_pointers(path: Path) -> None:
    """:raises ModelNotLoadable: a file is a Git LFS pointer to one that was not fetched."""
    for pattern in ("*.safetensors", "*.json", "*.model", "*.bin"):
        for file in sorted(path.glob(pattern)):
            with file.open("rb") as opened:
                if opened.read(len(_LFS)) == _LFS:
                    raise ModelNotLoadable(
                        f"{file}: a Git LFS pointer, not the file itself: run 'git lfs pull' there"
                    )


def _missing_shards(path: Path) -> list[str]:
    """Files that the index names and that are not there."""
    named = set(files.weight_map(path).values())
    return sorted(name for name in named if not (path / name).is_file())


def _require_known_quantisation(path: Path) -> None:
    """:raises ModelNotLoadable: the weights are quantised in a way that is not read here."""
    try:
        quantisation.of_folder(path)
    except quantisation.UnknownQuantisation as reason:
        raise ModelNotLoadable(
            f"{path}: {reason}; serve the checkpoint that it was made of"
        ) from reason


def _require_one_checkpoint(path: Path) -> None:
    """:raises ModelNotLoadable: the files are not those of one checkpoint, each whole."""
    named, own = files.weight_map(path), files.weight_files(path)
    held = {file.name: set(files.tensor_names(file)) for file in own}
    if named:
        for name, file in sorted(named.items()):
            if held.get(file) and name not in held[file]:
                raise ModelNotLoadable(
                    f"{path}: {file} lacks {name}, which {files.INDEX} says is in it: "
                    f"files of several checkpoints are mixed"
                )
        return
    seen: dict[str, str] = {}
    for file, names in held.items():
        for name in names:
            if name in seen:
                raise ModelNotLoadable(
                    f"{path}: {name} is in {seen[name]} and in {file}, and there is no "
                    f"{files.INDEX} to choose by: files of several checkpoints are mixed"
                )
            seen[name] = file
    counts = {int(found[1]) for file in held if (found := _SHARD.search(file))}
    if len(counts) > 1 or (counts and len(held) < max(counts)):
        raise ModelNotLoadable(
            f"{path}: {len(held)} of {max(counts)} weights' files are there, "
            f"and no {files.INDEX} that names them"
        )
