"""Cosines and sines of tokens that are turned by time, height and width."""

from __future__ import annotations

from typing import Any

import torch


@torch.inference_mode()
def cosines_and_sines(rotary: Any, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return both, (tokens, size) float32 each, of positions (3, tokens).

    `rotary` is Transformers' multimodal rotary embedding.
    """
    cosines, sines = rotary(torch.zeros(1), positions[:, None])
    return cosines[0], sines[0]
