"""The images of a step, for modules of Transformers: embeddings, rotations, features of layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.engine.model import Batch


class Turns(torch.nn.Module):
    """A rotary embedding by time, height and width, in place of a decoder's own.

    `positions`, (3, 1, rows), are those of the next forward; None takes what the decoder gives.
    """

    def __init__(self, rotary: Any) -> None:
        super().__init__()
        self._rotary = rotary
        self.positions: torch.Tensor | None = None

    def forward(self, hidden: torch.Tensor, position_ids: torch.Tensor) -> Any:
        """Return cosines and sines, (1, rows, rotated size) each."""
        positions = position_ids if self.positions is None else self.positions
        return self._rotary(hidden, positions)


class ForwardImages:
    """Puts the images of the next forward into a causal module."""

    def __init__(self, module: Any, rotary: Any | None) -> None:
        """Prepare a module; `rotary` takes the place of its own if it turns by three positions."""
        self._module = module
        self._turns: Turns | None = None
        self._embeddings: list[tuple[slice, torch.Tensor]] = []
        self._features: list[tuple[slice, tuple[torch.Tensor, ...]]] = []
        self._hooked = False
        module.get_input_embeddings().register_forward_hook(self._embed)
        if rotary is not None:
            self._turns = module.base_model.rotary_emb = Turns(rotary)

    def begin(self, batch: Batch, first_rows: Sequence[int], position_ids: torch.Tensor) -> None:
        """Set what the next forward computes: a batch whose slices begin at `first_rows`.

        `position_ids` are (1, rows).
        """
        self._embeddings, self._features = [], []
        if self._turns is not None:
            self._turns.positions = _turned(batch, first_rows, position_ids)
        for span, own, rows in batch.image_spans(first_rows):
            self._embeddings.append((rows, span.embeddings[own]))
            if span.layer_features:
                self._hook(len(span.layer_features))
                self._features.append((rows, tuple(layer[own] for layer in span.layer_features)))

    def _embed(self, _module: object, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        for rows, embeddings in self._embeddings:
            output[0, rows] = embeddings.to(output)
        return output

    def _hook(self, layers: int) -> None:
        """Have the first layers add their features to what they return."""
        if self._hooked:
            return
        self._hooked = True
        for number, layer in enumerate(self._module.base_model.layers[:layers]):
            layer.register_forward_hook(self._adder(number))

    def _adder(self, number: int) -> Any:
        def add(_module: object, _inputs: object, output: Any) -> Any:
            hidden = cast("tuple[Any, ...]", output)[0] if isinstance(output, tuple) else output
            for rows, layers in self._features:
                hidden[0, rows] += layers[number].to(hidden)
            return cast("Any", output)

        return add


def _turned(
    batch: Batch, first_rows: Sequence[int], position_ids: torch.Tensor
) -> torch.Tensor | None:
    """Each row's time, height and width, (3, 1, rows); None if all are the position."""
    if not batch.has_images:
        return None
    turns = position_ids.expand(3, -1).clone()
    for rows, own in batch.image_turns(first_rows):
        turns[:, rows] = own.to(turns)
    return turns[:, None]
