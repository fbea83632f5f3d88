# Triton has no types, and a CPU-only environment has no Triton.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
"""How the Triton kernels of norms are launched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import triton

from penstock.models.backends.lean.kernels import norm
from penstock.models.backends.lean.products.row_forms import form, pointers, room_for

if TYPE_CHECKING:
    import torch

    from penstock.models.backends.lean.operations.ops import Activations, Between
    from penstock.models.backends.lean.products.linear import Linear
    from penstock.models.backends.lean.shape import Sizes
    from penstock.models.backends.lean.weights import HeadNorms, Norm


def add_norm(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    epsilon: float,
    overlap: dict[str, Any],
    *,
    into: Linear | None,
) -> Activations:
    """See `Ops.add_norm`, and without a residual `Ops.norm`."""
    count, size = x.shape
    out = room_for(x, size, into)
    norm.rms_norm_kernel[(count,)](
        x,
        residual if residual is not None else x,
        weight,
        *pointers(out),
        x.stride(0),
        epsilon,
        SIZE=size,
        WIDTH=triton.next_power_of_2(size),
        ADDS=residual is not None,
        INTO=form(out),
        num_warps=8,
        **overlap,
    )
    return out


def merge(
    x: torch.Tensor | None,
    residual: torch.Tensor,
    between: Between,
    overlap: dict[str, Any],
    *,
    into: Linear | None,
) -> Activations:
    """See `Ops.merge`."""
    after, before = between.after, between.before
    if x is None and before is None:
        return residual
    count, size = residual.shape
    out = residual if before is None else room_for(residual, size, into)
    norm.merge_kernel[(count,)](
        residual if x is None else x,
        residual,
        *_tensors(after, residual),
        *_tensors(before, residual),
        *pointers(out),
        size if x is None else x.stride(0),
        0.0 if after is None else after.epsilon,
        0.0 if before is None else before.epsilon,
        between.scale,
        SIZE=size,
        WIDTH=triton.next_power_of_2(size),
        ADDS=x is not None,
        AFTER=_kind(after),
        AFTER_BIASED=after is not None and after.bias is not None,
        BEFORE=_kind(before),
        BEFORE_BIASED=before is not None and before.bias is not None,
        INTO=form(out),
        num_warps=8,
        **overlap,
    )
    return out


def norm_heads(qkv: torch.Tensor, sizes: Sizes, norms: HeadNorms, overlap: dict[str, Any]) -> None:
    """Norm queries and keys of (T, qkv) in place, as `rotate_kernel` does not."""
    for weight, heads, x in (
        (norms.query, sizes.heads, qkv),
        (norms.key, sizes.kv_heads, qkv[:, sizes.heads * sizes.head_size :]),
    ):
        size = heads * sizes.head_size if norms.together else sizes.head_size
        norm.head_norm_kernel[(len(qkv), 1 if norms.together else heads)](
            x,
            weight,
            qkv.stride(0),
            weight.stride(0) if weight.dim() > 1 else 0,
            norms.epsilon,
            SIZE=size,
            WIDTH=triton.next_power_of_2(size),
            KIND=norm.CENTRED.value if norms.centred else norm.RMS.value,
            num_warps=4,
            **overlap,
        )


def _tensors(own: Norm | None, otherwise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A norm's weight and bias, or any tensor for what there is not."""
    if own is None:
        return otherwise, otherwise
    return own.weight, otherwise if own.bias is None else own.bias


def _kind(own: Norm | None) -> int:
    if own is None:
        return norm.NO_NORM.value
    return norm.CENTRED.value if own.centred else norm.RMS.value
