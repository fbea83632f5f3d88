"""The Llama family: what the backends that compute it themselves need of a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.errors import ModelNotLoadable
from penstock.models.backends.suitability import ACTIVATIONS, MODEL_TYPES
from penstock.models.loading.libraries import transformers_module

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


class NotInFamily(Exception):
    """Another architecture, or a switch that no decoder here has; the message names it."""


@dataclass(frozen=True, slots=True)
class Decoder:
    """Shapes and switches of a decoder-only model. Sizes are counted in elements.

    `sliding_windows` has one entry a layer, 0 for full attention.
    """

    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_size: int
    vocab_size: int
    norm_epsilon: float
    qk_norm: bool
    tied_embeddings: bool
    sliding_windows: tuple[int, ...]

    @property
    def qkv_size(self) -> int:
        """Width of the joined projection of queries, keys and values."""
        return (self.heads + 2 * self.kv_heads) * self.head_size


def read(config: Any) -> Decoder:
    """The decoder that a Transformers configuration describes.

    :raises NotInFamily: an architecture or a switch that is unknown here.
    """
    kind = str(config.model_type)
    if kind not in MODEL_TYPES:
        raise NotInFamily(f"{kind!r} is not one of {', '.join(MODEL_TYPES)}")
    if str(config.hidden_act) not in ACTIVATIONS:
        raise NotInFamily(f"hidden_act {config.hidden_act!r} is unknown")
    heads = int(config.num_attention_heads)
    return Decoder(
        layers=int(config.num_hidden_layers),
        hidden_size=int(config.hidden_size),
        intermediate_size=int(config.intermediate_size),
        heads=heads,
        kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_size=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        vocab_size=int(config.vocab_size),
        norm_epsilon=float(config.rms_norm_eps),
        qk_norm=kind == "qwen3",
        tied_embeddings=bool(config.tie_word_embeddings),
        sliding_windows=_sliding_windows(config),
    )


def loadable(path: Path, config: Any, backend: str) -> Decoder:
    """As `read`, for a backend that is to load the model.

    :raises ModelNotLoadable: an architecture or a switch that is unknown here.
    """
    try:
        return read(config)
    except NotInFamily as reason:
        raise ModelNotLoadable(
            f"{path}: not for the {backend} backend: {reason}; use backend 'transformers'"
        ) from reason


def _sliding_windows(config: Any) -> tuple[int, ...]:
    """Transformers' rule: `layer_types` where a configuration has it, else one for all layers."""
    layers = int(config.num_hidden_layers)
    window = int(getattr(config, "sliding_window", None) or 0)
    kinds: list[str] | None = getattr(config, "layer_types", None)
    if kinds is None:
        return (window,) * layers
    return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)


def rotary_tables(
    path: Path, config: Any, decoder: Decoder, context_length: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cosines and sines, (context_length, head_size) each, as Transformers computes them.

    Tables of positions rather than operations: every scaling rule is then Transformers' own, and
    nothing can lose precision on long positions.

    :raises ModelNotLoadable: an unknown scaling rule, or rotation of a part of the head only.
    """
    frequencies, scaling = _frequencies(path, config, decoder, context_length)
    if frequencies.size * 2 != decoder.head_size:
        raise ModelNotLoadable(
            f"{path}: whole heads are rotated here, this model rotates "
            f"{frequencies.size * 2} of {decoder.head_size} dimensions; use backend 'transformers'"
        )
    positions = np.arange(context_length, dtype=np.float32)
    half = positions[:, None] * frequencies[None, :]
    angles = np.concatenate((half, half), axis=1)
    return np.cos(angles) * np.float32(scaling), np.sin(angles) * np.float32(scaling)


def _frequencies(
    path: Path, config: Any, decoder: Decoder, context_length: int
) -> tuple[NDArray[np.float32], float]:
    parameters: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    kind = str(parameters.get("rope_type", "default"))
    if kind == "default":
        theta = float(parameters.get("rope_theta", 10_000.0))
        steps = np.arange(0, decoder.head_size, 2, dtype=np.int64).astype(np.float32)
        powers = np.power(np.float32(theta), steps / np.float32(decoder.head_size))
        return (np.float32(1.0) / powers).astype(np.float32), 1.0
    functions: dict[str, Any] = transformers_module("modeling_rope_utils").ROPE_INIT_FUNCTIONS
    if kind not in functions:
        raise ModelNotLoadable(f"{path}: unknown rope_type {kind!r}")
    # The context that is served fixes those rules that grow with the length seen so far.
    frequencies, scaling = functions[kind](config, device="cpu", seq_len=context_length)
    return frequencies.float().numpy(), float(scaling)
