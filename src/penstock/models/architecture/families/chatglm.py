"""ChatGLM2, ChatGLM3 and GLM-4 as published, with their own names and options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from penstock.models.architecture.description import Architecture, Attention, Layer, Rotation
from penstock.models.architecture.elements import Norm
from penstock.models.architecture.facts import NotDescribed
from penstock.models.architecture.families import parts
from penstock.models.architecture.families.parts import Family
from penstock.models.architecture.rows import Rows

if TYPE_CHECKING:
    from penstock.models.architecture.facts import Facts

_THETA: Final = 10_000.0
_SECOND: Final = "chatglm2"


def _chatglm(facts: Facts) -> Architecture:
    _check(facts)
    hidden, vocabulary = facts.size("hidden_size"), facts.size("padded_vocab_size")
    epsilon = facts.real("layernorm_epsilon", 1e-5)
    kind = "rms" if facts.flag("rmsnorm", default=True) else "layer"
    turning = _rotation(facts)
    layers: list[Layer] = []
    for index in range(facts.size("num_layers")):
        name = f"transformer.encoder.layers.{index}"
        layers.append(
            Layer(
                attention=_attention(f"{name}.self_attention", facts, turning),
                mlp=parts.fused_gated(
                    f"{name}.mlp",
                    facts.size("ffn_hidden_size"),
                    hidden,
                    "silu",
                    gate_up="dense_h_to_4h",
                    down="dense_4h_to_h",
                ),
                attention_in=Norm(f"{name}.input_layernorm", epsilon, kind),
                mlp_in=Norm(f"{name}.post_attention_layernorm", epsilon, kind),
            )
        )
    return Architecture(
        family="chatglm",
        hidden_size=hidden,
        vocab_size=vocabulary,
        context_length=facts.size("seq_length"),
        layers=tuple(layers),
        embeddings="transformer.embedding.word_embeddings",
        norm=Norm("transformer.encoder.final_layernorm", epsilon, kind),
        head=Rows("transformer.output_layer", vocabulary),
        tied=False,
    )


def _check(facts: Facts) -> None:
    if facts.has("position_encoding_2d") or not facts.has("padded_vocab_size"):
        raise NotDescribed("ChatGLM of the first generation")
    if not facts.flag("post_layer_norm", default=True):
        raise NotDescribed("no norm after the last layer")
    if facts.flag("apply_residual_connection_post_layernorm"):
        raise NotDescribed("residuals that begin after a norm")
    if not facts.flag("multi_query_attention"):
        raise NotDescribed("keys and values for every head, interleaved with their queries")
    if facts.whole("quantization_bit", 0):
        raise NotDescribed("ChatGLM's own quantised weights")
    if facts.whole("pre_seq_len", 0):
        raise NotDescribed("a trained prefix")


def _attention(name: str, facts: Facts, turning: Rotation) -> Attention:
    heads, size = facts.size("num_attention_heads"), facts.size("kv_channels")
    kv_heads = facts.size("multi_query_group_num")
    if heads % kv_heads:
        raise NotDescribed(f"{heads} heads in {kv_heads} groups")
    across, narrow = heads * size, kv_heads * size
    joined, total = f"{name}.query_key_value", across + 2 * narrow
    return Attention(
        heads=heads,
        kv_heads=kv_heads,
        head_size=size,
        query=Rows(joined, across, 0, total),
        key=Rows(joined, narrow, across, total),
        value=Rows(joined, narrow, across + narrow, total),
        output=Rows(f"{name}.dense", facts.size("hidden_size")),
        rotation=turning,
        scale=size**-0.5,
    )


def _rotation(facts: Facts) -> Rotation:
    """Return the rotation of half of each head, neighbouring elements together.

    `rope_ratio` stretches the base; ChatGLM2's long variant divides positions by it instead.
    """
    size = facts.size("kv_channels") // 2
    context = facts.size("seq_length")
    ratio = facts.real("rope_ratio", 1.0)
    if size % 2 or ratio <= 0:
        raise NotDescribed(f"{size} elements of a head are rotated, rope_ratio {ratio}")
    if ratio != 1 and is_second(facts.raw("_name_or_path")):
        original = int(context / ratio)
        scaling = {
            "rope_type": "linear",
            "factor": ratio,
            "rope_theta": _THETA,
            "original_max_position_embeddings": original,
        }
        return Rotation(size, _THETA, "linear", True, context, scaling)
    return Rotation(size, _THETA * ratio, interleaved=True, context=context)


def is_second(name: object) -> bool:
    """Return whether a checkpoint's name is ChatGLM2's: its only difference from ChatGLM3."""
    return isinstance(name, str) and _SECOND in name.lower()


FAMILIES: Final = (
    Family(
        ("chatglm",),
        _chatglm,
        {
            "hidden_size": 4096,
            "ffn_hidden_size": 13_696,
            "num_layers": 28,
            "num_attention_heads": 32,
            "kv_channels": 128,
            "seq_length": 2048,
            "multi_query_group_num": 1,
        },
    ),
)
