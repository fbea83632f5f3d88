"""The boundary to untyped libraries: Transformers as `Any`, in one place."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any, Final

PRIVATE_PARTS: Final = {
    "generation.utils:GenerationMixin._supports_default_dynamic_cache": "which class makes the cache",
    "generation.utils:GenerationMixin._update_model_kwargs_for_generation": "the cache, step to step",
    "generation.utils:GenerationMixin.prepare_inputs_for_generation": "a step's inputs",
    "cache_utils:DynamicCache": "the cache of one sequence",
    "configuration_utils:PreTrainedConfig._attn_implementation": "the original attention",
    "integrations.moe:use_experts_implementation": "the common part of modules with experts",
    "masking_utils:AttentionMaskInterface.register": "our mask function",
    "masking_utils:causal_mask_function": "recognising the plain causal rule",
    "modeling_rope_utils:ROPE_INIT_FUNCTIONS": "rotary frequencies that grow with the context",
    "modeling_utils:AttentionInterface.register": "our attention function",
    "modeling_utils:PreTrainedModel._can_set_attn_implementation": "which modules take our attention",
    "modeling_utils:PreTrainedModel.set_attn_implementation": "giving it to a module",
    "models.auto.configuration_auto:model_type_to_module_name": "the module of an image processor",
    "models.auto.processing_auto:PROCESSOR_MAPPING_NAMES": "processors of checkpoints with images",
    "models.auto.configuration_auto:CONFIG_MAPPING": "known model types",
    "models.auto.modeling_auto:MODEL_FOR_CAUSAL_LM_MAPPING": "which of them generate text",
    "models.auto.modeling_auto:MODEL_FOR_TEXT_ENCODING_MAPPING": "encoders of encoder-decoders",
    "pytorch_utils:Conv1D": "GPT-2's linear layers, which are transposed",
    "utils.logging:disable_progress_bar": "a quiet load",
}
"""What we use of Transformers beyond its documented interface, and for what.

`module:attribute`. A release may move any of it (docs/adr/0013); a test fails if one is missing, or
if the code uses one that is not listed.
"""


def transformers() -> Any:
    """Return the package `transformers`, imported at the first call."""
    return importlib.import_module("transformers")


def transformers_module(name: str) -> Any:
    """Return one of its modules: `masking_utils`, `modeling_rope_utils`, ..."""
    return importlib.import_module(f"transformers.{name}")


@cache
def missing_parts() -> tuple[str, ...]:
    """Return those of `PRIVATE_PARTS` that the installed release lacks."""
    return tuple(name for name in PRIVATE_PARTS if not _exists(name))


def _exists(name: str) -> bool:
    module_name, _, path = name.partition(":")
    try:
        part = transformers_module(module_name)
        for attribute in path.split("."):
            part = getattr(part, attribute)
    except (ImportError, AttributeError):
        return False
    return True
