"""The images of a step, for modules of Transformers: embeddings, rotations, features of layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch

if TYPE_CHECKING:
    from penstock.engine.model import Batch
    from penstock.models.backends.steps import Step


class Turns(torch.nn.Module):
    """A rotary embedding by time, height and width, in place of a decoder's own.

    `positions`, (3, 1, rows), are those of the next forward; None takes what the decoder gives.
    """

    def __init__(self, rotary: Any) -> None:
        super().__init__()
        self._rotary = rotary
        self.positions: torch.Tensor | None = None

    def forward(self, hidden: torch.Tensor, position_ids: torch.Tensor) -> Any:
        """Return cosines and sines, (1, rows, head size) each."""
        positions = position_ids if self.positions is None else self.positions
        return self._rotary(hidden, positions)


class StepImages:
    """Puts the images of a step into a causal module's forward."""

    def __init__(self, module: Any, rotary: Any | None) -> None:
        """Prepare a module; `rotary` takes the place of its own if it turns by three positions."""
        self._module = module
        self._turns: Turns | None = None
        self._features: list[tuple[slice, tuple[torch.Tensor, ...]]] = []
        self._hooked = False
        if rotary is not None:
            self._turns = module.base_model.rotary_emb = Turns(rotary)

    def inputs(self, batch: Batch, step: Step) -> dict[str, torch.Tensor]:
        """Return what the module is given in place of `input_ids`; empty for a step of text."""
        self._features = []
        if self._turns is not None:
            self._turns.positions = _turned(batch, step)
        spans = list(batch.image_spans(step.first_rows))
        if not spans:
            return {}
        embeddings = self._module.get_input_embeddings()(step.token_ids)
        for span, own, rows in spans:
            embeddings[0, rows] = span.embeddings[own].to(embeddings)
            if span.layer_features:
                self._hook(len(span.layer_features))
                self._features.append((rows, tuple(layer[own] for layer in span.layer_features)))
        return {"inputs_embeds": embeddings}

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


def _turned(batch: Batch, step: Step) -> torch.Tensor | None:
    """Each row's time, height and width, (3, 1, rows); None if all are the position."""
    if not batch.has_images:
        return None
    turns = step.position_ids.expand(3, -1).clone()
    for rows, own in batch.image_turns(step.first_rows):
        turns[:, rows] = own.to(turns)
    return turns[:, None]
