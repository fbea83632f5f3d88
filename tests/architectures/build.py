"""Tiny random checkpoints of any model type."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tests.architectures.sizes import COMMON, SPECIAL, UNTIED
from tests.fixtures.models import write_model

if TYPE_CHECKING:
    from pathlib import Path

LARGEST = 60_000_000  # weights; more means that a size was not set
_KEPT = ("A_log", "dt_", "conv", "D", "time_", "norm", "rg_lru", "recurrent_param", "sinks")


class TooLarge(Exception):
    """A size is not set: it needs an entry in `SPECIAL`."""


def declared(kind: type) -> set[str]:
    """Names that a configuration class takes."""
    names = {name for base in kind.__mro__ for name in getattr(base, "__annotations__", {})}
    return names | set(getattr(kind, "attribute_map", {}))


def config_of(model_type: str, **more: Any) -> Any:
    """A tiny configuration of a model type; `more` goes before all that is known of it."""
    kind = CONFIG_MAPPING[model_type]
    mapped = getattr(kind, "attribute_map", {})
    sizes = {
        name: value
        for name, value in COMMON.items()
        if name in declared(kind) and name not in mapped
    }
    untied = {"tie_word_embeddings": False} if model_type in UNTIED else {}
    sizes |= SPECIAL.get(model_type, {}) | untied | more
    try:
        return kind(**sizes)
    except TypeError:  # head_dim is derived in some classes, and declared all the same
        sizes.pop("head_dim", None)
        return kind(**sizes)


@torch.no_grad()
def randomise(module: Any, seed: int = 0) -> Any:
    """Draw every matrix again, so that argmax is no coin toss; states' own parameters stay."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in module.named_parameters():
        last = name.split(".")[-2:]
        if weight.dim() >= 2 and not any(part.startswith(_KEPT) for part in last):
            weight.copy_((torch.randn(weight.shape, generator=generator) * 0.11).to(weight.dtype))
        elif last[-1] == "bias":
            weight.copy_((torch.randn(weight.shape, generator=generator) * 0.05).to(weight.dtype))
    return module.float().eval()


def write(model_type: str, folder: Path, **more: Any) -> Path:
    """Write a tiny checkpoint with a tokenizer; returns `folder`.

    :raises TooLarge: some size of the model type is not known here.
    """
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = config_of(model_type, **more)
        causal = type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
        kind = (  # Mistral 4 is listed among those that take images
            transformers.AutoModelForCausalLM
            if causal
            else transformers.AutoModelForImageTextToText
        )
        with torch.device("meta"):
            check_size(kind.from_config(config))
        return save(kind.from_config(config), folder)


def check_size(module: Any) -> None:
    """:raises TooLarge: some size of a module is not set."""
    count = sum(weight.numel() for weight in module.parameters())
    if count > LARGEST:
        raise TooLarge(f"{count / 1e6:.0f} million weights")


def save(module: Any, folder: Path) -> Path:
    """Draw a module's weights and write it with a tokenizer; returns `folder`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module.generation_config = transformers.GenerationConfig()
        return write_model(folder, randomise(module))
