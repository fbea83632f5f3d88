"""Zamba 2: Mamba in every layer, before some of them a block of attention and MLP that they share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from penstock.models.architecture.description import NO_ATTENTION, NO_MLP, Layer
from penstock.models.architecture.facts import NotDescribed
from penstock.models.architecture.families import mamba as mambas
from penstock.models.architecture.families import parts
from penstock.models.architecture.families.mamba import Mamba
from penstock.models.architecture.families.parts import Family, Sizes
from penstock.models.architecture.rows import Rows
from penstock.models.architecture.side_paths import Detour, LowRankPart

if TYPE_CHECKING:
    from penstock.models.architecture.description import Architecture, Attention, Dense, Rotation
    from penstock.models.architecture.facts import Facts

_HYBRID: Final = "hybrid"
_KINDS: Final = ("mamba", "linear_attention", _HYBRID)
_MAMBA_EPSILON: Final = 1e-5
_DEFAULT_KINDS: Final = "m" + "mmmmmh" * 7 + "mmmmhmmmhmm"
"""Of the class, in which nothing is stated: Mamba (m), and with a block before it (h)."""


def _zamba(facts: Facts) -> Architecture:
    size = _sizes(facts)
    turning = parts.rotation(facts, size) if facts.flag("use_mem_rope") else None
    mamba = _mamba(facts, size.hidden)
    blocks = facts.size("num_mem_blocks", 1)
    hybrids: list[int] = []
    layers: list[Layer] = []
    for index, is_hybrid in enumerate(_hybrid(facts, size.layers)):
        name = parts.layer_name(index)
        own = f"{name}.mamba_decoder" if is_hybrid else name
        plain = Layer(
            attention=NO_ATTENTION,
            mlp=NO_MLP,
            mixer=mambas.mixer(f"{own}.mamba", mamba, size.hidden),
            attention_in=parts.rms(f"{own}.input_layernorm", facts),
            mlp_in=None,
        )
        if is_hybrid:
            hybrids.append(index)
            first = hybrids[(len(hybrids) - 1) % blocks]
            shared = f"{parts.layer_name(first)}.shared_transformer"
            block = _Block(shared, name, len(hybrids) - 1)
            plain = _with_block(facts, plain, block, size, turning)
        layers.append(plain)
    return parts.model(facts, layers, parts.rms("model.final_layernorm", facts))


def _sizes(facts: Facts) -> Sizes:
    """Return the sizes of the block, whose heads are those of twice the hidden states."""
    hidden, heads = facts.size("hidden_size"), facts.size("num_attention_heads")
    return parts.sizes(
        facts,
        head=facts.size("attention_head_dim", 2 * hidden // heads),
        inner=facts.size("intermediate_size", 4 * hidden),
    )


def _hybrid(facts: Facts, count: int) -> list[bool]:
    """Return whether each layer has a block before its Mamba."""
    key = "layers_block_type" if facts.has("layers_block_type") else "layer_types"
    stated = facts.listed(key, count)
    if stated is None and count == len(_DEFAULT_KINDS):
        return [kind == "h" for kind in _DEFAULT_KINDS]
    if stated is None:
        raise NotDescribed(f"{key} is missing")
    for kind in stated:
        if kind not in _KINDS:
            raise NotDescribed(f"a layer of type {kind!r}")
    return [kind == _HYBRID for kind in stated]


def _mamba(facts: Facts, hidden: int) -> Mamba:
    values = int(facts.real("mamba_expand", 2) * hidden)
    heads, groups = facts.size("n_mamba_heads", 8), facts.size("mamba_ngroups", 1)
    if values % heads or heads % groups:
        raise NotDescribed(f"{heads} heads in {groups} groups for {values} values")
    return Mamba(
        groups=groups,
        heads=heads,
        state=facts.size("mamba_d_state", 64),
        head=values // heads,
        width=facts.size("mamba_d_conv", 4),
        epsilon=_MAMBA_EPSILON,
        steps=(facts.real("time_step_min", 0.001), float("inf")),
    )


@dataclass(frozen=True, slots=True)
class _Block:
    """The block before a layer's Mamba: its prefix, which layers share, and the layer's own number."""

    name: str
    layer: str
    number: int


def _with_block(
    facts: Facts, plain: Layer, block: _Block, size: Sizes, turning: Rotation | None
) -> Layer:
    """Return a layer with a block before its mixer."""
    assert plain.attention_in is not None  # noqa: S101 - every Mamba layer has a norm
    attending = parts.attention(
        f"{block.name}.self_attn", size, turning, scale=(size.head / 2) ** -0.5
    )
    mlp = parts.fused_gated(
        f"{block.name}.feed_forward",
        size.inner,
        size.hidden,
        facts.activation("hidden_act"),
        gate_up="gate_up_proj",
        down="down_proj",
    )
    return replace(
        plain,
        attention=attending,
        mlp=mlp,
        attention_in=parts.rms(f"{block.name}.input_layernorm", facts),
        mlp_in=parts.rms(f"{block.name}.pre_ff_layernorm", facts),
        detour=Detour(
            output=Rows(f"{block.layer}.linear", size.hidden),
            mixer_in=plain.attention_in,
            pairs=_pairs(facts, block, attending, mlp),
        ),
    )


def _pairs(
    facts: Facts, block: _Block, attending: Attention, mlp: Dense
) -> tuple[LowRankPart, ...]:
    """Return what one layer adds to the products of a block that others use too."""
    rank, hidden = facts.size("adapter_rank", 128), facts.size("hidden_size")

    def pair(matrix: Rows, columns: int, adapter: str) -> LowRankPart:
        own = f"{block.name}.{adapter}_adapter_list.{block.number}"
        up = Rows(f"{own}.1", matrix.tensor_rows)
        return LowRankPart(matrix.name, columns, Rows(f"{own}.0", rank), up)

    found = [pair(mlp.up, hidden, "feed_forward.gate_up_proj")]
    if facts.flag("use_shared_attention_adapter"):
        whole = attending.heads * attending.head_size == 2 * hidden
        if attending.kv_heads != attending.heads or not whole:
            raise NotDescribed("use_shared_attention_adapter with fewer or smaller heads")
        found += [
            pair(rows, 2 * hidden, f"self_attn.linear_{letter}")
            for letter, rows in zip(
                "qkv", (attending.query, attending.key, attending.value), strict=True
            )
        ]
    return tuple(found)


_ZAMBA: Final[dict[str, Any]] = {
    "vocab_size": 32_000,
    "max_position_embeddings": 4096,
    "hidden_size": 2560,
    "num_hidden_layers": 54,
    "num_attention_heads": 32,
    "hidden_act": "gelu",
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}

FAMILIES: Final = (Family(("zamba2",), _zamba, _ZAMBA),)
