"""Checkpoints that take images too, served for text: their language model as a causal one.

Transformers loads such a checkpoint as a whole. Its language model is put into the causal class of
its own kind, which has the fastest way of running that there is for that kind, and must give the
whole's logits of a text. If it does not, the whole is served, which takes text as well.
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
_COARSE: Final = 0.02  # of 16 bit: the same operations, in another order at most


def is_image_text(config: Any) -> bool:
    """Whether Transformers has a class for this configuration that takes images and text."""
    return type(config) in transformers().MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING


def causal_config(whole: Any) -> Any | None:
    """The configuration of the language model as a causal one; None if it is of no such kind."""
    text = whole.get_text_config(decoder=True)
    if text is whole and whole.model_type not in EQUIVALENT:
        return None
    if text.model_type in EQUIVALENT:
        kinds = transformers_module("models.auto.configuration_auto").CONFIG_MAPPING
        stated = as_text(text.to_dict())
        kind = stated.pop("model_type")
        stated.pop("architectures", None)
        text = kinds[kind](**stated)
    if type(text) not in transformers().MODEL_FOR_CAUSAL_LM_MAPPING:
        return None
    text.dtype = text.dtype or whole.dtype
    text.tie_word_embeddings = whole.tie_word_embeddings
    text.architectures = whole.architectures
    return text


@torch.inference_mode()
def text_module(whole: Any, config: Any, dtype: torch.dtype) -> Any:
    """The causal module of a loaded whole's language model, or the whole if that cannot be had."""
    name = type(whole).__name__
    try:
        text = causal_config(config)
        if text is None:
            logger.info("%s is served as a whole: its language model has no causal class", name)
            return whole
        module = _causal_module(whole.eval(), text)
        error = _difference(whole, module)
    except Exception as failure:  # noqa: BLE001 - whatever a foreign architecture raises
        logger.info("%s is served as a whole: %s", name, failure)
        return whole
    if not error <= _TOLERANCE.get(dtype, _COARSE):
        logger.warning("%s is served as a whole: its language model differs by %.2g", name, error)
        return whole
    return module


def from_files(path: Path, text: Any, dtype: torch.dtype) -> Any | None:
    """The causal module of a language model, read by itself; None if its names are not known.

    For checkpoints whose towers want packages that are not installed.

    :raises ValueError: some of its weights are not there.
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
    """:raises ValueError: a weight is not there."""
    missing = [name for name, weight in module.named_parameters() if weight.is_meta]
    if missing:
        raise ValueError(f"{len(missing)} weights are missing: {missing[0]}")


def _causal_module(whole: Any, text: Any) -> Any:
    """A module of the causal class that shares the weights of the whole's language model.

    :raises ValueError: the language model lacks some of them.
    """
    empty = importlib.import_module("accelerate").init_empty_weights
    head = whole.get_output_embeddings()
    with empty(include_buffers=False):
        module = transformers().AutoModelForCausalLM.from_config(text, dtype=whole.dtype)
    own_head = module.get_output_embeddings()
    prefix = next(path for path, part in module.named_modules() if part is own_head)
    state = {f"{prefix}.{name}": tensor for name, tensor in head.state_dict().items()}
    for name, tensor in whole.get_decoder().state_dict().items():
        state[f"{module.base_model_prefix}.{name}"] = tensor
    module.load_state_dict(state, strict=False, assign=True)
    if head.weight is whole.get_input_embeddings().weight:
        own_head.weight = module.get_input_embeddings().weight
    _require_weights(module)
    module.generation_config = whole.generation_config
    return module.eval()


def _difference(whole: Any, module: Any) -> float:
    """Relative difference of the two modules' logits of a short text."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, module.config.vocab_size, (1, _TOKENS), generator=generator)
    mask = torch.ones_like(ids)
    wanted, got = (
        part(input_ids=ids, attention_mask=mask).logits.float() for part in (whole, module)
    )
    spread = wanted - wanted.mean(dim=-1, keepdim=True)
    return ((got - wanted).norm() / spread.norm()).item()
