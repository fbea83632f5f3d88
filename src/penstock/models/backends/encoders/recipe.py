"""Reads how an embedding model makes its vectors, from sentence-transformers' files.

Without them, the default is the mean of the last hidden states, normalised to unit length.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

from penstock.errors import ModelNotLoadable
from penstock.foreign import parse_json, read_file
from penstock.models.catalogue.model_folder import MODULES_FILE, read_config

if TYPE_CHECKING:
    from pathlib import Path

POOLINGS: Final = ("cls", "max", "mean", "mean_sqrt_len", "weightedmean", "lasttoken")
"""The order in which several poolings are concatenated."""

_FLAGS: Final = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """The way from a model's last hidden states to its vector.

    `denses` are the folders of linear layers after the pooling. `pools_prompt` False excludes a
    prompt's own tokens from the pooling, which matters only if a prompt is used.
    """

    poolings: tuple[str, ...] = ("mean",)
    denses: tuple[Path, ...] = ()
    normalized: bool = True
    pools_prompt: bool = True
    most_tokens: int | None = None
    lower_case: bool = False
    transformer: Path | None = None
    prompts: dict[str, str] = field(default_factory=dict[str, str])
    default_prompt: str = ""


def read(path: Path) -> Recipe:
    """Return the recipe in a model's folder.

    :raises ModelNotLoadable: it has a part that is not supported.
    """
    modules = _modules(path)
    if not modules:
        return Recipe()
    poolings, pools_prompt = ("mean",), True
    denses: list[Path] = []
    normalized, transformer = False, path
    for name, folder in modules:
        if name == "Transformer":
            transformer = folder
        elif name == "Pooling":
            poolings, pools_prompt = _poolings(folder)
        elif name == "Dense":
            denses.append(folder)
        elif name == "Normalize":
            normalized = True
        elif name != "Dropout":  # which has no effect in a trained model
            raise ModelNotLoadable(f"{path}: {MODULES_FILE}: a module {name!r} is not supported")
    own = read_config(transformer, "sentence_bert_config.json")
    more = read_config(path, "config_sentence_transformers.json")
    prompts = {
        name: text
        for name, text in cast("dict[str, Any]", more.get("prompts") or {}).items()
        if isinstance(text, str)
    }
    return Recipe(
        poolings=poolings,
        denses=tuple(denses),
        normalized=normalized,
        pools_prompt=pools_prompt,
        most_tokens=own.get("max_seq_length"),
        lower_case=bool(own.get("do_lower_case")),
        transformer=transformer,
        prompts=prompts,
        default_prompt=str(more.get("default_prompt_name") or ""),
    )


def _modules(path: Path) -> list[tuple[str, Path]]:
    """Return the parts of the model in order: each one's class name and folder."""
    file = path / MODULES_FILE
    if not file.is_file():
        return []
    try:
        listed = parse_json(read_file(file))
        return [(part["type"].rpartition(".")[2], path / part["path"]) for part in listed]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelNotLoadable(f"{file}: not readable: {error!r}") from error


def _poolings(folder: Path) -> tuple[tuple[str, ...], bool]:
    config = read_config(folder)
    named = config.get("pooling_mode")
    chosen = [named] if isinstance(named, str) else cast("list[str]", named or [])
    chosen = chosen or [mode for flag, mode in _FLAGS.items() if config.get(flag)]
    unknown = next((mode for mode in chosen if mode not in POOLINGS), None)
    if unknown is not None or not chosen:
        raise ModelNotLoadable(f"{folder}: pooling {unknown or 'none'} is not supported")
    ordered = tuple(mode for mode in POOLINGS if mode in chosen)
    return ordered, bool(config.get("include_prompt", True))
