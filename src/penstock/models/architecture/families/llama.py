"""Llama, and families that differ in options: biases, norms of heads, windows, multipliers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from penstock.models.architecture import rotation as rotations
from penstock.models.architecture.description import HeadNorms
from penstock.models.architecture.families import parts
from penstock.models.architecture.families.parts import Family

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.models.architecture.description import Architecture, Attention, Layer
    from penstock.models.architecture.facts import Facts


def llama(facts: Facts, *, interleaved: bool = False) -> Architecture:
    """Return Llama, or Llama with interleaved rotation."""
    size = parts.sizes(facts)
    turning = parts.rotation(facts, size, interleaved=interleaved)
    activation = facts.activation("hidden_act")
    layers: list[Layer] = []
    for index, window in enumerate(_windows(facts, size.layers)):
        name = parts.layer_name(index)
        attending = parts.attention(f"{name}.self_attn", size, turning, window=window)
        mlp = parts.gated(f"{name}.mlp", size, activation)
        layers.append(parts.prenormed(name, facts, attending, mlp))
    return parts.model(facts, layers, parts.rms("model.norm", facts))


def _windows(facts: Facts, layers: int) -> list[int]:
    """Return the windows: Qwen's apply to layers of one type, and are off unless switched on."""
    if facts.has("use_sliding_window") and not facts.flag("use_sliding_window"):
        return [0] * layers
    return parts.windows(facts, layers)


def with_head_norms(facts: Facts) -> Architecture:
    """Return Llama with an RMS norm of each head's queries and keys."""
    epsilon = facts.real("rms_norm_eps", 1e-6)

    def normed(index: int, attention: Attention) -> Attention:
        name = f"{parts.layer_name(index)}.self_attn"
        norms = HeadNorms((f"{name}.q_norm",), (f"{name}.k_norm",), epsilon)
        return replace(attention, head_norms=norms)

    return parts.with_attention(llama(facts), normed)


def interleaved(facts: Facts) -> Architecture:
    """Return Llama with interleaved rotation."""
    return llama(facts, interleaved=True)


def _growing(facts: Facts) -> Architecture:
    """Ministral 3: queries grow with their position."""
    growth = rotations.growth(facts)
    return parts.with_attention(
        llama(facts), lambda _, attention: replace(attention, growth=growth)
    )


def granite(facts: Facts) -> Architecture:
    """Granite: multipliers of embeddings, scores, residuals and logits."""
    scale = facts.real("attention_multiplier", 1.0)
    return replace(
        parts.with_attention(llama(facts), lambda _, attention: replace(attention, scale=scale)),
        embedding_scale=facts.real("embedding_multiplier", 1.0),
        logit_scale=1.0 / facts.real("logits_scaling", 1.0),
    )


def _smollm(facts: Facts) -> Architecture:
    """SmolLM3: some layers have no positions."""
    plain = llama(facts)
    count = len(plain.layers)
    turned = facts.listed("no_rope_layers", count)
    interval = facts.size("no_rope_layer_interval", 4)
    if turned is None:
        turned = [(index + 1) % interval != 0 for index in range(count)]

    def seeing(index: int, attention: Attention) -> Attention:
        return attention if turned[index] else replace(attention, rotation=None)

    return parts.with_attention(plain, seeing)


def _arcee(facts: Facts) -> Architecture:
    """Arcee: an MLP without a gate."""
    plain = llama(facts)
    return replace(
        plain,
        layers=tuple(replace(layer, mlp=replace(layer.mlp, gate=None)) for layer in plain.layers),
    )


def _cwm(facts: Facts) -> Architecture:
    """CWM: unless stated, the first of every four layers sees all keys, the others a window."""
    plain = llama(facts)
    if facts.has("layer_types"):
        return plain
    return parts.with_attention(
        plain, lambda index, attention: attention if index % 4 else replace(attention, window=0)
    )


def _family(describe: Callable[[Facts], Architecture], *kinds: str, **defaults: Any) -> Family:
    return Family(kinds, describe, {**_LLAMA, **defaults})


_LLAMA: Final[dict[str, Any]] = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
}

FAMILIES: Final = (
    _family(llama, "llama"),
    _family(
        llama,
        "mistral",
        intermediate_size=14_336,
        num_key_value_heads=8,
        max_position_embeddings=131_072,
        sliding_window=4096,
    ),
    _family(
        llama,
        "ministral",
        intermediate_size=14_336,
        num_key_value_heads=8,
        max_position_embeddings=131_072,
        sliding_window=4096,
    ),
    _family(
        _growing,
        "ministral3",
        vocab_size=131_072,
        intermediate_size=14_336,
        num_hidden_layers=34,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=262_144,
        rms_norm_eps=1e-5,
        rope_parameters={
            "rope_type": "yarn",
            "type": "yarn",
            "rope_theta": 1_000_000.0,
            "factor": 16.0,
            "original_max_position_embeddings": 16_384,
            "max_position_embeddings": 262_144,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale_all_dim": 1.0,
            "mscale": 1.0,
            "llama_4_scaling_beta": 0.1,
        },
    ),
    _family(
        llama,
        "qwen2",
        vocab_size=151_936,
        intermediate_size=22_016,
        max_position_embeddings=32_768,
        use_sliding_window=False,
    ),
    _family(
        with_head_norms,
        "qwen3",
        vocab_size=151_936,
        intermediate_size=22_016,
        head_dim=128,
        max_position_embeddings=32_768,
        use_sliding_window=False,
    ),
    _family(
        llama,
        "seed_oss",
        vocab_size=155_136,
        intermediate_size=27_648,
        num_hidden_layers=64,
        num_attention_heads=80,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=524_288,
    ),
    _family(
        interleaved,
        "helium",
        vocab_size=48_000,
        hidden_size=2560,
        intermediate_size=7040,
        num_hidden_layers=24,
        num_attention_heads=20,
        head_dim=128,
        max_position_embeddings=4096,
        rms_norm_eps=1e-8,
        rope_theta=100_000.0,
    ),
    _family(
        interleaved,
        "ernie4_5",
        vocab_size=103_424,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=18,
        num_attention_heads=16,
        num_key_value_heads=2,
        head_dim=128,
        max_position_embeddings=131_072,
        rms_norm_eps=1e-5,
        rope_theta=500_000.0,
        tie_word_embeddings=True,
    ),
    _family(granite, "granite"),
    _family(
        _smollm,
        "smollm3",
        vocab_size=128_256,
        hidden_size=2048,
        num_hidden_layers=36,
        num_attention_heads=16,
        num_key_value_heads=4,
        max_position_embeddings=32_768,
        rope_theta=2_000_000.0,
        use_sliding_window=False,
        tie_word_embeddings=True,
    ),
    _family(
        _arcee,
        "arcee",
        hidden_size=2560,
        intermediate_size=18_432,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        hidden_act="relu2",
    ),
    _family(
        _cwm,
        "cwm",
        vocab_size=128_256,
        hidden_size=6144,
        intermediate_size=21_504,
        num_hidden_layers=64,
        num_attention_heads=48,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=131_072,
        rms_norm_eps=1e-5,
        sliding_window=8192,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 1_000_000.0,
            "factor": 16.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
        },
    ),
)
