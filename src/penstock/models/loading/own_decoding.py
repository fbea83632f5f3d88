"""Decodes one sequence by a module's own generation protocol, as Transformers' `generate` does.

`generate` prefills a prompt into the module's own cache and then decodes token by token. Its result
is what the model's publisher intends: the reference of the check at every load, and the only way of
running some models.
"""

from __future__ import annotations

from typing import Any, Final

import torch

from penstock.models.loading import checkpoint
from penstock.models.loading.libraries import transformers

_PLAIN_LAYERS: Final = ("DynamicLayer", "DynamicSlidingWindowLayer", "DummyLayer")


class OwnDecoding:
    """The tokens of one sequence so far, and the module's state after them."""

    def __init__(self, module: Any, device: torch.device) -> None:
        self.tokens: list[int] = []
        self._module = module
        self._device = device
        self._takes_positions = checkpoint.takes(module, "position_ids")
        self._kwargs: dict[str, Any] = {"use_cache": True}
        makes_none = getattr(module, "_supports_default_dynamic_cache", lambda: False)
        if makes_none():  # some modules create their own kind of cache
            config = module.config.get_text_config(decoder=True)
            self._kwargs["cache"] = transformers().DynamicCache(config=config)

    @torch.inference_mode()
    def advance(self, tokens: list[int]) -> torch.Tensor:
        """Compute the next tokens in one forward pass; return (tokens, vocab) logits."""
        module = self._module
        first = not self.tokens
        self.tokens.extend(tokens)
        ids = torch.tensor([self.tokens], device=self._device)
        if self._takes_positions:
            self._kwargs["position_ids"] = torch.arange(ids.shape[1], device=self._device)[None]
        inputs = module.prepare_inputs_for_generation(
            ids, next_sequence_length=len(tokens), is_first_iteration=first, **self._kwargs
        )
        inputs.pop("logits_to_keep", None)  # some set it to 1, but every row is needed
        output = module(**inputs, return_dict=True)
        # Transformers' own way to carry any kind of cache from step to step.
        self._kwargs = module._update_model_kwargs_for_generation(output, self._kwargs)  # noqa: SLF001 - as `generate`
        return output.logits[0, -len(tokens) :]  # modules without a cache return all rows each time

    def stateful_layers(self) -> list[str]:
        """Return the kinds of layers in this cache with more state than earlier keys and values.

        Recurrent states, last inputs of convolutions, indexes, compressed blocks: a KV cache of
        blocks cannot hold them.
        """
        layers: list[Any] = getattr(self._kwargs.get("cache"), "layers", None) or []
        return sorted({type(layer).__name__ for layer in layers} - set(_PLAIN_LAYERS))
