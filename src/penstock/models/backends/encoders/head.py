"""Computes vectors from last hidden states: pooling, linear layers, normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch.nn import functional

from penstock.errors import ModelNotLoadable
from penstock.models.catalogue.model_folder import read_config
from penstock.models.loading import checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from penstock.models.backends.encoders.recipe import Recipe

_ACTIVATIONS: Final[dict[str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "Tanh": torch.tanh,
    "Identity": lambda tensor: tensor,
    "ReLU": torch.relu,
    "GELU": functional.gelu,
    "Sigmoid": torch.sigmoid,
}


class Dense:
    """A linear layer of sentence-transformers with its activation."""

    def __init__(self, folder: Path) -> None:
        """Read the layer from its folder.

        :raises ModelNotLoadable: there is no safetensors file, or the activation is not supported.
        """
        config = read_config(folder)
        name = str(config.get("activation_function", "Identity")).rpartition(".")[2]
        if name not in _ACTIVATIONS:
            raise ModelNotLoadable(f"{folder}: the activation {name!r} is not supported")
        self._activation = _ACTIVATIONS[name]
        loader: Any = __import__("safetensors.torch").torch
        file = folder / "model.safetensors"
        try:
            tensors: dict[str, torch.Tensor] = loader.load_file(file)
            self.weight = tensors["linear.weight"].float()
        except Exception as error:
            raise ModelNotLoadable(f"{file}: {checkpoint.first_line(error)}") from error
        bias = tensors.get("linear.bias")
        self._bias = None if bias is None else bias.float()

    def __call__(self, vectors: torch.Tensor) -> torch.Tensor:
        """Map (inputs, in) to (inputs, out)."""
        return self._activation(functional.linear(vectors, self.weight, self._bias))


class Head:
    """Turns hidden states into a model's vectors, in float32 on the CPU."""

    def __init__(self, recipe: Recipe, hidden_size: int) -> None:
        self._poolings = recipe.poolings
        self._denses = [Dense(folder) for folder in recipe.denses]
        self._normalized = recipe.normalized
        self.dimensions = hidden_size * len(recipe.poolings)
        for dense, folder in zip(self._denses, recipe.denses, strict=True):
            if dense.weight.shape[1] != self.dimensions:
                raise ModelNotLoadable(f"{folder}: it takes {dense.weight.shape[1]} dimensions")
            self.dimensions = dense.weight.shape[0]

    def __call__(self, states: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        """Return (inputs, dimensions) for padded states, (inputs, tokens, hidden)."""
        vectors = torch.stack(
            [
                torch.cat([_POOL[name](row[:length].float()) for name in self._poolings])
                for row, length in zip(states, lengths, strict=True)
            ]
        ).cpu()
        for dense in self._denses:
            vectors = dense(vectors)
        return functional.normalize(vectors, dim=1) if self._normalized else vectors


def _weighted_mean(states: torch.Tensor) -> torch.Tensor:
    """Return the mean with weights 1, 2, 3, ...: a causal model's later states have more context."""
    weights = torch.arange(1, len(states) + 1, device=states.device, dtype=states.dtype)
    return (states * weights[:, None]).sum(0) / weights.sum()


_POOL: Final[dict[str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "cls": lambda states: states[0],
    "max": lambda states: states.amax(0),
    "mean": lambda states: states.mean(0),
    "mean_sqrt_len": lambda states: states.sum(0) / len(states) ** 0.5,
    "weightedmean": _weighted_mean,
    "lasttoken": lambda states: states[-1],
}
"""Maps one input's (tokens, hidden), without padding, to (hidden,)."""
