"""Names of GGUF's tensors as Transformers' modules have them."""

from __future__ import annotations

import re
from typing import Final

_WHOLE: Final = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_OF_LAYER: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": "mlp.gate",
}
OF_EXPERTS: Final = {
    "ffn_gate_exps": "mlp.experts.{}.gate_proj",
    "ffn_up_exps": "mlp.experts.{}.up_proj",
    "ffn_down_exps": "mlp.experts.{}.down_proj",
}
"""Matrices of all experts in one tensor, and each one's name."""
_LAYER: Final = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
_IGNORED: Final = ("rope_freqs.", "rope_factors")


def named(name: str, experts: int) -> list[str]:
    """The module's names of a tensor: of experts' matrices one each; none if it is no weight.

    :raises KeyError: it is unknown.
    """
    if any(part in name for part in _IGNORED):
        return []
    stem, _, end = name.rpartition(".")
    if stem in _WHOLE:
        return [f"{_WHOLE[stem]}.{end}"]
    found = _LAYER.fullmatch(name)
    if found is None:
        raise KeyError(name)
    layer, part, end = found.groups()
    if part in OF_EXPERTS:
        each = f"model.layers.{layer}.{OF_EXPERTS[part]}.{end}"
        return [each.format(expert) for expert in range(experts)]
    return [f"model.layers.{layer}.{_OF_LAYER[part]}.{end}"]
