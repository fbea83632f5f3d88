"""Latent attention of chosen keys: DeepSeek V3.2, and GLM-5, in which layers share a choice."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from penstock.models.architecture.elements import Norm
from penstock.models.architecture.facts import NotDescribed
from penstock.models.architecture.families import latent_parts, parts, shared_mixtures
from penstock.models.architecture.families.parts import Family
from penstock.models.architecture.latent import KeyIndex
from penstock.models.architecture.rows import Rows

if TYPE_CHECKING:
    from penstock.models.architecture.description import Architecture, Layer
    from penstock.models.architecture.facts import Facts

_INDEX_EPSILON: Final = 1e-6
_KINDS: Final = {"full": True, "F": True, "shared": False, "S": False}
"""Whether a layer of this kind has an index of its own."""


def _deepseek(facts: Facts) -> Architecture:
    count = facts.size("num_hidden_layers")
    return _model(facts, [True] * count, interleaved=False)


def _glm(facts: Facts) -> Architecture:
    return _model(facts, _indexed(facts, facts.size("num_hidden_layers")), interleaved=True)


def _indexed(facts: Facts, count: int) -> list[bool]:
    """Return whether each layer has an index, by its type, a pattern, or the distance of those that do."""
    pattern = facts.raw("index_topk_pattern")
    stated: Any = facts.listed("indexer_types", count) or pattern
    if stated is None:
        distance, first = (
            facts.whole("index_topk_freq", 1),
            facts.whole("index_skip_topk_offset", 2),
        )
        return [max(index - first + 1, 0) % max(distance, 1) == 0 for index in range(count)]
    kinds = [str(kind) for kind in list(stated)]
    unknown = sorted(set(kinds) - _KINDS.keys())
    if unknown or len(kinds) < count or not _KINDS[kinds[0]]:
        raise NotDescribed(f"indexes of layers {kinds}")
    return [_KINDS[kind] for kind in kinds[:count]]


def _model(facts: Facts, indexed: list[bool], *, interleaved: bool) -> Architecture:
    """DeepSeek V3 whose tokens see chosen keys; `interleaved` is the rotation of the index."""
    size = parts.sizes(facts)
    count = size.layers
    kinds = facts.listed("mlp_layer_types", count)
    first = facts.whole("first_k_dense_replace", 3)
    if any(kind != "indexed_attention" for kind in facts.listed("layer_types", count) or ()):
        raise NotDescribed("layers that see all keys beside those that see chosen ones")
    layers: list[Layer] = []
    for index, name in enumerate(map(parts.layer_name, range(count))):
        own = f"{name}.self_attn"
        plain = latent_parts.rotated(facts, own, size, interleaved=True)
        latent = plain.latent
        assert latent is not None  # noqa: S101 - it is latent attention
        if not latent.query_rank:
            raise NotDescribed("an index without a compressed query")
        keys = _index(facts, own, own_index=indexed[index], interleaved=interleaved)
        attending = replace(plain, latent=replace(latent, index=keys))
        dense = index < first if kinds is None else kinds[index] == "dense"
        routing = None if dense else shared_mixtures.grouped(facts, f"{name}.mlp.gate")
        mlp = latent_parts.mlp(facts, name, size, routing)
        layers.append(parts.prenormed(name, facts, attending, mlp))
    return parts.model(facts, layers, parts.rms("model.norm", facts))


def _index(facts: Facts, name: str, *, own_index: bool, interleaved: bool) -> KeyIndex:
    most = facts.size("index_topk")
    if not own_index:
        return KeyIndex(most)
    heads, size = facts.size("index_n_heads"), facts.size("index_head_dim")
    return KeyIndex(
        most=most,
        heads=heads,
        size=size,
        query=Rows(f"{name}.indexer.wq_b", heads * size),
        key=Rows(f"{name}.indexer.wk", size),
        weights=Rows(f"{name}.indexer.weights_proj", heads),
        norm=Norm(f"{name}.indexer.k_norm", _INDEX_EPSILON, "layer"),
        interleaved=interleaved,
    )


_DEEPSEEK: Final[dict[str, Any]] = {
    **latent_parts.DEEPSEEK,
    "max_position_embeddings": 163_840,
    "index_topk": 2048,
    "index_n_heads": 64,
    "index_head_dim": 128,
}

FAMILIES: Final = (
    Family(("deepseek_v32",), _deepseek, _DEEPSEEK),
    Family(
        ("glm_moe_dsa",),
        _glm,
        {
            **_DEEPSEEK,
            "vocab_size": 154_880,
            "hidden_size": 6144,
            "intermediate_size": 12_288,
            "num_hidden_layers": 78,
            "num_attention_heads": 64,
            "q_lora_rank": 2048,
            "v_head_dim": 256,
            "qk_nope_head_dim": 192,
            "n_group": 1,
            "topk_group": 1,
            "max_position_embeddings": 202_752,
            "rms_norm_eps": 1e-5,
            "index_n_heads": 32,
        },
    ),
)
