"""Norms and rotations of rows, by torch alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from penstock.models.backends.lean.shape import Turning
    from penstock.models.backends.lean.weights import HeadNorms


def norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    epsilon: float,
    *,
    bias: torch.Tensor | None = None,
    centred: bool = False,
) -> torch.Tensor:
    """Norm of (..., size) by the root of the mean square, `centred` after the mean was taken away."""
    wide = x.float()
    if centred:
        wide = wide - wide.mean(-1, keepdim=True)
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    if not centred:
        return (wide.to(x.dtype) * weight).to(x.dtype)
    wide = wide * weight.float()
    return (wide if bias is None else wide + bias.float()).to(x.dtype)


def norm_heads(heads: torch.Tensor, weight: torch.Tensor, norms: HeadNorms) -> None:
    """Norm (T, heads, head_size) in place."""
    x, weight = (heads.flatten(1), weight.flatten()) if norms.together else (heads, weight)
    heads.copy_(norm(x, weight, norms.epsilon, centred=norms.centred).view_as(heads))


def turned(
    x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor, turning: Turning
) -> torch.Tensor:
    """Rotary embedding of (T, heads, size) by (T, 1, size / 2) each."""
    wide, half = x.float(), turning.turned // 2
    if turning.interleaved:
        first, second = wide[..., 0::2], wide[..., 1::2]
        both = (first * cosines - second * sines, second * cosines + first * sines)
        return torch.stack(both, dim=-1).flatten(-2).to(x.dtype)
    first, second, rest = wide[..., :half], wide[..., half : 2 * half], wide[..., 2 * half :]
    cosines, sines = cosines[..., :half], sines[..., :half]
    both = (first * cosines - second * sines, second * cosines + first * sines, rest)
    return torch.cat(both, dim=-1).to(x.dtype)
