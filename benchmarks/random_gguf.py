"""GGUF files of random weights, of Q4_0 or other types, in the shapes of `cpu_engine.py`, for llama.cpp beside it.

What is measured does not depend on the weights, so none are converted: each matrix repeats one tile
of random blocks. The vocabulary is empty ("none"): llama-batched-bench makes its own token ids.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

VOCABULARY = 32_000
_BLOCKS = {"Q4_0": (32, 18, (0,)), "Q4_K": (256, 144, (0, 2)), "Q6_K": (256, 210, (208,))}
"""By type: weights and bytes of a block, and at which bytes it has a scale in fp16."""
_TILE_BLOCKS = 1 << 14
_CONTEXT = 2048

Tensor = tuple[str, tuple[int, ...]]


def q4_k_m(layers: int) -> Callable[[str], str]:
    """llama.cpp's mixture: the head and, in half of the layers, values and `down` in Q6_K."""
    best = {
        number
        for number in range(layers)
        if number < layers // 8 or number >= 7 * layers // 8 or (number - layers // 8) % 3 == 2
    }

    def kind(name: str) -> str:
        if name == "output.weight":
            return "Q6_K"
        _, _, rest = name.partition("blk.")
        number, _, part = rest.partition(".")
        is_best = part in {"attn_v.weight", "ffn_down.weight"} and int(number) in best
        return "Q6_K" if is_best else "Q4_K"

    return kind


def write(
    path: Path,
    shape: str,
    sizes: dict[str, Any],
    layers: int,
    kind: Callable[[str], str] = lambda _: "Q4_0",
) -> Path:
    """Write the file of a shape with so many layers, unless it is there already."""
    if path.is_file():
        return path
    import gguf  # noqa: PLC0415 - only this contender needs it

    architecture, facts, tensors = ARCHITECTURES[shape]
    unfinished = path.with_suffix(".part")
    writer = gguf.GGUFWriter(unfinished, architecture)
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(VOCABULARY)
    for name, value in (_common(sizes, layers) | facts(sizes)).items():
        key = f"{architecture}.{name}"
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_float32(key, value)
    tiles = {own: _tile(own) for own in _BLOCKS}
    for name, form in _all(sizes, layers, tensors):
        if len(form) == 1 or name.endswith(_FLOATS):
            writer.add_tensor(name, np.full(form, 1.0 if "norm" in name else 0.01, np.float32))
        else:
            own = kind(name)
            rows = _blocks(tiles[own], form, *_BLOCKS[own][:2])
            writer.add_tensor(name, rows, raw_dtype=gguf.GGMLQuantizationType[own])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    unfinished.rename(path)
    return path


_FLOATS = ("ffn_gate_inp.weight", "ssm_conv1d.weight", ".bias", "ssm_a")
"""Ends of the names of tensors that llama.cpp's own converter leaves in fp32."""


def _common(sizes: dict[str, Any], layers: int) -> dict[str, Any]:
    return {
        "block_count": layers,
        "context_length": _CONTEXT,
        "embedding_length": sizes["hidden_size"],
        "feed_forward_length": sizes["intermediate_size"],
        "attention.head_count": sizes["num_attention_heads"],
        "attention.head_count_kv": sizes["num_key_value_heads"],
        "attention.key_length": sizes["head_dim"],
        "attention.value_length": sizes["head_dim"],
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": 10_000.0,
    }


def _all(
    sizes: dict[str, Any], layers: int, tensors: Callable[[dict[str, Any], int], list[Tensor]]
) -> Iterator[Tensor]:
    hidden = sizes["hidden_size"]
    yield "token_embd.weight", (VOCABULARY, hidden)
    yield "output.weight", (VOCABULARY, hidden)
    yield "output_norm.weight", (hidden,)
    for layer in range(layers):
        for name, form in tensors(sizes, layer):
            yield f"blk.{layer}.{name}", form


def _attention(sizes: dict[str, Any], gates: int = 1) -> list[Tensor]:
    hidden, head = sizes["hidden_size"], sizes["head_dim"]
    heads, kv_heads = sizes["num_attention_heads"], sizes["num_key_value_heads"]
    return [
        ("attn_norm.weight", (hidden,)),
        ("attn_q.weight", (gates * heads * head, hidden)),
        ("attn_k.weight", (kv_heads * head, hidden)),
        ("attn_v.weight", (kv_heads * head, hidden)),
        ("attn_output.weight", (hidden, heads * head)),
    ]


def _head_norms(sizes: dict[str, Any]) -> list[Tensor]:
    return [(f"attn_{part}_norm.weight", (sizes["head_dim"],)) for part in "qk"]


def _dense(sizes: dict[str, Any]) -> list[Tensor]:
    hidden, inner = sizes["hidden_size"], sizes["intermediate_size"]
    return [
        ("ffn_gate.weight", (inner, hidden)),
        ("ffn_up.weight", (inner, hidden)),
        ("ffn_down.weight", (hidden, inner)),
    ]


def _experts(sizes: dict[str, Any]) -> list[Tensor]:
    hidden, count = sizes["hidden_size"], sizes["num_local_experts"]
    inner = sizes.get("moe_intermediate_size", sizes["intermediate_size"])
    return [
        ("ffn_gate_inp.weight", (count, hidden)),
        ("ffn_gate_exps.weight", (count, inner, hidden)),
        ("ffn_up_exps.weight", (count, inner, hidden)),
        ("ffn_down_exps.weight", (count, hidden, inner)),
    ]


def _expert_facts(sizes: dict[str, Any]) -> dict[str, Any]:
    return {
        "expert_count": sizes["num_local_experts"],
        "expert_used_count": sizes["num_experts_per_tok"],
        "expert_feed_forward_length": sizes.get(
            "moe_intermediate_size", sizes["intermediate_size"]
        ),
    }


def _llama(sizes: dict[str, Any], _: int) -> list[Tensor]:
    norm: Tensor = ("ffn_norm.weight", (sizes["hidden_size"],))
    return [*_attention(sizes), norm, *_dense(sizes)]


def _qwen3_moe(sizes: dict[str, Any], _: int) -> list[Tensor]:
    norm: Tensor = ("ffn_norm.weight", (sizes["hidden_size"],))
    return [*_attention(sizes), *_head_norms(sizes), norm, *_experts(sizes)]


def _gpt_oss(sizes: dict[str, Any], _: int) -> list[Tensor]:
    hidden, count = sizes["hidden_size"], sizes["num_local_experts"]
    inner = sizes["intermediate_size"]
    return [
        *_attention(sizes),
        *_experts(sizes),
        ("post_attention_norm.weight", (hidden,)),
        ("attn_sinks.weight", (sizes["num_attention_heads"],)),
        ("attn_output.bias", (hidden,)),
        ("ffn_gate_inp.bias", (count,)),
        ("ffn_gate_exps.bias", (count, inner)),
        ("ffn_up_exps.bias", (count, inner)),
        ("ffn_down_exps.bias", (count, hidden)),
    ]


def _gemma3(sizes: dict[str, Any], _: int) -> list[Tensor]:
    hidden = sizes["hidden_size"]
    norms = ("post_attention_norm", "ffn_norm", "post_ffw_norm")
    return [
        *_attention(sizes),
        *_head_norms(sizes),
        *((f"{name}.weight", (hidden,)) for name in norms),
        *_dense(sizes),
    ]


def _qwen35(sizes: dict[str, Any], layer: int) -> list[Tensor]:
    hidden = sizes["hidden_size"]
    post: Tensor = ("post_attention_norm.weight", (hidden,))
    if (layer + 1) % 4 == 0:
        return [*_attention(sizes, gates=2), *_head_norms(sizes), post, *_dense(sizes)]
    keys = sizes["linear_num_key_heads"] * sizes["linear_head"]
    heads = sizes["linear_num_value_heads"]
    values = heads * sizes["linear_head"]
    return [
        ("attn_norm.weight", (hidden,)),
        ("attn_qkv.weight", (2 * keys + values, hidden)),
        ("attn_gate.weight", (values, hidden)),
        ("ssm_conv1d.weight", (2 * keys + values, 4)),
        ("ssm_dt.bias", (heads,)),
        ("ssm_a", (heads,)),
        ("ssm_beta.weight", (heads, hidden)),
        ("ssm_alpha.weight", (heads, hidden)),
        ("ssm_norm.weight", (sizes["linear_head"],)),
        ("ssm_out.weight", (hidden, values)),
        post,
        *_dense(sizes),
    ]


def _qwen35_facts(sizes: dict[str, Any]) -> dict[str, Any]:
    heads, head = sizes["linear_num_value_heads"], sizes["linear_head"]
    return {
        "rope.dimension_sections": [11, 11, 10, 0],
        "rope.dimension_count": 64,
        "ssm.conv_kernel": 4,
        "ssm.inner_size": heads * head,
        "ssm.state_size": head,
        "ssm.time_step_rank": heads,
        "ssm.group_count": sizes["linear_num_key_heads"],
        "full_attention_interval": 4,
    }


ARCHITECTURES: dict[
    str,
    tuple[
        str,
        Callable[[dict[str, Any]], dict[str, Any]],
        Callable[[dict[str, Any], int], list[Tensor]],
    ],
] = {
    "1.1b": ("llama", lambda sizes: {"rope.dimension_count": sizes["head_dim"]}, _llama),
    "qwen3-30b-a3b": ("qwen3moe", _expert_facts, _qwen3_moe),
    "gpt-oss-20b": (
        "gpt-oss",
        lambda sizes: _expert_facts(sizes) | {"attention.sliding_window": 128},
        _gpt_oss,
    ),
    "gemma-3-4b": ("gemma3", lambda _: {"attention.sliding_window": 1024}, _gemma3),
    "qwen3.5-4b": ("qwen35", _qwen35_facts, _qwen35),
}
"""Shapes of `cpu_engine.py` that llama.cpp has too: its name, its facts, a layer's tensors."""


def _tile(kind: str) -> NDArray[np.uint8]:
    """Random blocks with one small scale."""
    _, size, scales = _BLOCKS[kind]
    tile = np.random.default_rng(0).integers(0, 256, (_TILE_BLOCKS, size), np.uint8)
    scale = np.float16(0.005 if kind == "Q4_0" else 0.0002)
    for at in scales:
        tile[:, at : at + 2] = np.frombuffer(scale.tobytes(), np.uint8)
    return tile


def _blocks(
    tile: NDArray[np.uint8], form: tuple[int, ...], weights: int, size: int
) -> NDArray[np.uint8]:
    *rows, columns = form
    if columns % weights:
        raise ValueError(f"{columns} columns are no whole blocks")
    count = int(np.prod(rows)) * columns // weights
    blocks = np.resize(tile, (count, size))
    return blocks.reshape(*rows, columns // weights * size)
