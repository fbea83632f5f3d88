"""Checkpoints that also take images, served for text by their language model alone.

Transformers loads such a checkpoint as a whole. Its language model is put into the causal class of
its own type, for which there is a faster way of running, and must give the full model's logits of a
text. If it does not, the full model is served, which takes text as well.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any, Final

import torch

from penstock.models.catalogue.text_part import EQUIVALENT, as_text, plain_names
from penstock.models.loading.libraries import transformers, transformers_module

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)

_TOKENS: Final = 12
_TOLERANCE: Final = {torch.float32: 1e-4}
_COARSE: Final = 0.02  # for 16 bit: the same operations, possibly in another order


def is_image_text(config: Any) -> bool:
    """Return whether Transformers has a class for this configuration that takes images and text."""
    return type(config) in transformers().MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING


def causal_config(full: Any) -> Any | None:
    """Return the language model's configuration as a causal one; None if there is no such type."""
    text = full.get_text_config(decoder=True)
    if text is full and full.model_type not in EQUIVALENT:
        return None
    if text.model_type in EQUIVALENT:
        kinds = transformers_module("models.auto.configuration_auto").CONFIG_MAPPING
        stated = as_text(text.to_dict())
        kind = stated.pop("model_type")
        stated.pop("architectures", None)
        text = kinds[kind](**stated)
    if type(text) not in transformers().MODEL_FOR_CAUSAL_LM_MAPPING:
        return None
    text.dtype = text.dtype or full.dtype
    text.tie_word_embeddings = full.tie_word_embeddings
    text.architectures = full.architectures
    return text


@torch.inference_mode()
def text_module(full: Any, config: Any, dtype: torch.dtype) -> Any:
    """Return the language model as a causal module, or the full model if that is impossible."""
    name = type(full).__name__
    try:
        text = causal_config(config)
        if text is None:
            logger.info("%s is served as a whole: its language model has no causal class", name)
            return full
        module = _causal_module(full.eval(), text)
        error = _difference(full, module)
    except Exception as failure:  # noqa: BLE001 - a foreign architecture may raise anything
        logger.info("%s is served as a whole: %s", name, failure)
        return full
    if not error <= _TOLERANCE.get(dtype, _COARSE):
        logger.warning("%s is served as a whole: its language model differs by %.2g", name, error)
        return full
    return module


def from_files(path: Path, text: Any, dtype: torch.dtype) -> Any | None:
    """Return a language model's causal module, read alone; None if its names are unknown.

    For checkpoints whose other towers need packages that are not installed.

    :raises ValueError: some of its weights are missing.
    """
    safe_open = importlib.import_module("safetensors").safe_open
    holders: dict[str, Any] = {}
    for file in sorted(path.glob("*.safetensors")):
        tensors = safe_open(file, "pt")
        holders |= dict.fromkeys(tensors.keys(), tensors)
    names = plain_names(holders)
    if not names:
        return None
    names |= {name: name for name in holders if name.startswith("lm_head.")}
    empty = importlib.import_module("accelerate").init_empty_weights
    with empty(include_buffers=False):
        module = transformers().AutoModelForCausalLM.from_config(text, dtype=dtype)
    state = {name: holders[own].get_tensor(own).to(dtype) for name, own in names.items()}
    module.load_state_dict(state, strict=False, assign=True)
    module.tie_weights()
    _require_weights(module)
    return module.eval()


def _require_weights(module: Any) -> None:
    """:raises ValueError: a weight is missing."""
    missing = [name for name, weight in module.named_parameters() if weight.is_meta]
    if missing:
        raise ValueError(f"{len(missing)} weights are missing: {missing[0]}")


def _causal_module(full: Any, text: Any) -> Any:
    """Return a causal module that shares the weights of the full model's language model.

    :raises ValueError: the language model lacks some of them.
    """
    empty = importlib.import_module("accelerate").init_empty_weights
    head = full.get_output_embeddings()
    with empty(include_buffers=False):
        module = transformers().AutoModelForCausalLM.from_config(text, dtype=full.dtype)
    own_head = module.get_output_embeddings()
    prefix = next(path for path, part in module.named_modules() if part is own_head)
    state = {f"{prefix}.{name}": tensor for name, tensor in head.state_dict().items()}
    for name, tensor in full.get_decoder().state_dict().items():
        state[f"{module.base_model_prefix}.{name}"] = tensor
    module.load_state_dict(state, strict=False, assign=True)
    if head.weight is full.get_input_embeddings().weight:
        own_head.weight = module.get_input_embeddings().weight
    _require_weights(module)
    module.generation_config = full.generation_config
    return module.eval()


def _difference(full: Any, module: Any) -> float:
    """Return the relative difference of the two modules' logits of a short text."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, module.config.vocab_size, (1, _TOKENS), generator=generator)
    mask = torch.ones_like(ids)
    expected, actual = (
        part(input_ids=ids, attention_mask=mask).logits.float() for part in (full, module)
    )
    spread = expected - expected.mean(dim=-1, keepdim=True)
    return ((actual - expected).norm() / spread.norm()).item()
