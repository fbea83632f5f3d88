"""Scaled dot-product attention with what models add to it: soft caps and sinks."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional


def attention_options(kwargs: dict[str, Any], kv_heads: int) -> dict[str, Any]:
    """Return what of the interface's keywords changes the result. `kv_heads` > 0 asks for sinks by group.

    Sinks are one logit a head: (heads,) -> (kv_heads, group, 1) or (heads, 1, 1).
    """
    sinks: torch.Tensor | None = kwargs.get("s_aux")
    if sinks is not None:
        sinks = sinks.view(kv_heads, -1, 1) if kv_heads else sinks.view(-1, 1, 1)
    return {"scale": kwargs.get("scaling"), "softcap": kwargs.get("softcap"), "sinks": sinks}


def attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    scale: float | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Attend. Query (n, heads, t, D) over keys (n, kv_heads, L, D); mask None is causal from position 0."""
    if softcap is None and sinks is None:
        return functional.scaled_dot_product_attention(
            query,
            keys,
            values,
            attn_mask=mask,
            is_causal=mask is None,
            scale=scale,
            enable_gqa=query.shape[1] != keys.shape[1],
        )
    groups = query.shape[1] // keys.shape[1]
    if groups > 1:
        keys = keys.repeat_interleave(groups, dim=1)
        values = values.repeat_interleave(groups, dim=1)
    scores = query @ keys.transpose(-1, -2)
    scores = scores * (query.shape[-1] ** -0.5 if scale is None else scale)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores + mask
    scores = scores.float()
    if sinks is not None:
        column = sinks.float()[None].expand(*scores.shape[:3], 1)
        scores = torch.cat((scores, column), dim=-1)
    weights = torch.softmax(scores, dim=-1)
    if sinks is not None:
        weights = weights[..., :-1]
    return weights.to(values.dtype) @ values
