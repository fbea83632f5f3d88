"""Sizes that follow from a description of attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.models.architecture.description import Attention


def cached_values(attention: Attention) -> int:
    """How many numbers of a token an attention keeps."""
    if attention.keys_of is not None:
        return 0
    if attention.latent is not None:
        index = attention.latent.index
        own = 0 if index is None else index.size
        return 2 * attention.latent.rank + attention.latent.turned + own
    return 2 * attention.kv_heads * attention.head_size


def result_size(attention: Attention) -> int:
    """How many values an attention's last product takes."""
    latent = attention.latent
    return attention.heads * (attention.head_size if latent is None else latent.value)
