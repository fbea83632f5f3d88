"""One sequence through a module's own generation protocol, as Transformers' `generate` runs it.

`generate` prefills a prompt into the module's own cache and then decodes token by token. What it
gives so is what a model's publisher means: the reference of every check at a load, and the way of
models that can run no other.
"""

from __future__ import annotations

from typing import Any, Final

import torch

from penstock.models.loading import checkpoint
from penstock.models.loading.libraries import transformers

_PLAIN_LAYERS: Final = ("DynamicLayer", "DynamicSlidingWindowLayer", "DummyLayer")


class OwnDecoding:
    """The tokens of one sequence so far, and the module's own state after them."""

    def __init__(self, module: Any, device: torch.device) -> None:
        self.tokens: list[int] = []
        self._module = module
        self._device = device
        self._takes_positions = checkpoint.takes(module, "position_ids")
        self._kwargs: dict[str, Any] = {"use_cache": True}
        makes_none = getattr(module, "_supports_default_dynamic_cache", lambda: False)
        if makes_none():  # some modules make a cache of their own kind
            config = module.config.get_text_config(decoder=True)
            self._kwargs["cache"] = transformers().DynamicCache(config=config)

    @torch.inference_mode()
    def advance(self, tokens: list[int]) -> torch.Tensor:
        """Compute the next tokens in one forward -> (tokens, vocab)."""
        module = self._module
        first = not self.tokens
        self.tokens.extend(tokens)
        ids = torch.tensor([self.tokens], device=self._device)
        if self._takes_positions:
            self._kwargs["position_ids"] = torch.arange(ids.shape[1], device=self._device)[None]
        inputs = module.prepare_inputs_for_generation(
            ids, next_sequence_length=len(tokens), is_first_iteration=first, **self._kwargs
        )
        inputs.pop("logits_to_keep", None)  # some set it to 1; every row is wanted
        output = module(**inputs, return_dict=True)
        # Transformers' own way to carry caches of any kind from step to step.
        self._kwargs = module._update_model_kwargs_for_generation(output, self._kwargs)  # noqa: SLF001 - as `generate`
        return output.logits[0, -len(tokens) :]  # modules without a cache give all rows each time

    def stateful_layers(self) -> list[str]:
        """Kinds of this cache's layers that keep more than keys and values of earlier tokens.

        Recurrent states, convolutions' last inputs, indexes, compressed blocks: no KV cache of
        blocks holds them.
        """
        layers: list[Any] = getattr(self._kwargs.get("cache"), "layers", None) or []
        return sorted({type(layer).__name__ for layer in layers} - set(_PLAIN_LAYERS))
