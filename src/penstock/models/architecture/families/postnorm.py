"""OLMo 2 and 3, EXAONE 4: norms after attention and after the MLP, none before."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from penstock.models.architecture import rotation as rotations
from penstock.models.architecture.families import llama, parts
from penstock.models.architecture.families.parts import Family

if TYPE_CHECKING:
    from penstock.models.architecture.description import Architecture, Attention, Layer
    from penstock.models.architecture.facts import Facts

_FULL_EVERY: Final = 4


def _after_only(layer: Layer, name: str, attending: Attention) -> Layer:
    first, second = layer.attention_in, layer.mlp_in
    assert first is not None  # noqa: S101 - Llama's layer has both
    assert second is not None  # noqa: S101 - as above
    return replace(
        layer,
        attention=attending,
        attention_in=None,
        mlp_in=None,
        attention_out=replace(first, name=f"{name}.post_attention_layernorm"),
        mlp_out=replace(second, name=f"{name}.post_feedforward_layernorm"),
    )


def _exaone4(facts: Facts) -> Architecture:
    """If some layers slide, the others have no positions."""
    plain = llama.with_head_norms(facts)
    count = len(plain.layers)
    window = facts.whole("sliding_window", 0)
    stated = facts.raw("sliding_window_pattern")
    pattern = stated if isinstance(stated, int) else _FULL_EVERY
    kinds = parts.layer_types(facts, count, pattern=pattern)
    layers: list[Layer] = []
    for index, kind in enumerate(kinds):
        layer = plain.layers[index]
        slides = bool(window) and kind == parts.SLIDING
        turning = layer.attention.rotation if slides or not window else None
        attending = replace(layer.attention, window=window if slides else 0, rotation=turning)
        layers.append(_after_only(layer, parts.layer_name(index), attending))
    return replace(plain, layers=tuple(layers))


def _olmo(facts: Facts) -> Architecture:
    """Queries and keys are normed over all heads; OLMo 3 has two kinds of layers."""
    plain = llama.with_head_norms(facts)
    count = len(plain.layers)
    kinds = parts.layer_types(facts, count, pattern=_FULL_EVERY)
    window = facts.whole("sliding_window", 0)
    layers: list[Layer] = []
    for index, kind in enumerate(kinds):
        layer = plain.layers[index]
        norms = layer.attention.head_norms
        assert norms is not None  # noqa: S101 - `with_head_norms` made them
        attending = replace(
            layer.attention,
            head_norms=replace(norms, together=True),
            window=window if kind == parts.SLIDING else 0,
            rotation=rotations.read(facts, layer.attention.head_size, layer_type=kind),
        )
        layers.append(_after_only(layer, parts.layer_name(index), attending))
    return replace(plain, layers=tuple(layers))


_OLMO: Final = {
    "vocab_size": 50_304,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
}

FAMILIES: Final = (
    Family(("olmo2",), _olmo, _OLMO),
    Family(("olmo3",), _olmo, {**_OLMO, "sliding_window": 4096, "rope_theta": 500_000.0}),
    Family(
        ("exaone4",),
        _exaone4,
        {**_OLMO, "vocab_size": 102_400, "intermediate_size": 16_384, "sliding_window": 4096},
    ),
)
