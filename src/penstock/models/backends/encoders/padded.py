"""Transformers' encoders behind `penstock.engine.encoder.Encoder`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from penstock.models.loading import checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from penstock.engine.encoder import EncoderInput
    from penstock.models.backends.encoders.head import Head


class PaddedModule:
    """A module that takes padded batches.

    Padding is on the right, masked, with the model's token.
    """

    def __init__(
        self, module: Any, device: torch.device, vocab_size: int, context_length: int
    ) -> None:
        self.vocab_size = vocab_size
        self.context_length = context_length
        self._module = module
        self._device = device
        padding = module.config.get_text_config().pad_token_id
        self._padding = padding if isinstance(padding, int) and padding >= 0 else 0
        self._takes_types = checkpoint.takes(module, "token_type_ids")

    def run(self, inputs: Sequence[EncoderInput]) -> Any:
        """Return the module's output for a batch."""
        longest = max(len(entry.token_ids) for entry in inputs)
        shape = (len(inputs), longest)
        tokens = torch.full(shape, self._padding, dtype=torch.int64)
        mask = torch.zeros(shape, dtype=torch.int64)
        types = torch.zeros(shape, dtype=torch.int64)
        for row, entry in enumerate(inputs):
            count = len(entry.token_ids)
            tokens[row, :count] = torch.tensor(entry.token_ids)
            mask[row, :count] = 1
            if entry.token_types:
                types[row, :count] = torch.tensor(entry.token_types)
        more = {"token_type_ids": types.to(self._device)} if self._takes_types else {}
        return self._module(
            input_ids=tokens.to(self._device),
            attention_mask=mask.to(self._device),
            return_dict=True,
            **more,
        )


class Embedder(PaddedModule):
    """An embedding model."""

    def __init__(self, module: Any, device: torch.device, head: Head, **limits: int) -> None:
        super().__init__(module, device, **limits)
        self.head = head

    def encode(self, inputs: Sequence[EncoderInput]) -> torch.Tensor:
        """See `penstock.engine.encoder.Encoder`; returns the texts' vectors."""
        states: torch.Tensor = self.run(inputs).last_hidden_state
        return self.head(states, [len(entry.token_ids) for entry in inputs])


class CrossEncoder(PaddedModule):
    """A model that scores how well two texts match."""

    def __init__(
        self,
        module: Any,
        device: torch.device,
        activation: Callable[[torch.Tensor], torch.Tensor],
        **limits: int,
    ) -> None:
        super().__init__(module, device, **limits)
        self._activation = activation

    def encode(self, inputs: Sequence[EncoderInput]) -> torch.Tensor:
        """See `penstock.engine.encoder.Encoder`; returns one score for each pair."""
        logits: torch.Tensor = self.run(inputs).logits
        return self._activation(logits.float()).cpu()
