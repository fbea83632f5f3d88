# Triton has no types, and a CPU-only environment has no Triton.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
"""The lean decoder's operations by the Triton kernels beside this."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
import triton
from torch.nn import functional

from penstock.models.backends.lean.kernels import activations, choose, norm, products, rotary
from penstock.models.backends.lean.operations import triton_attention, triton_experts, triton_norms
from penstock.models.backends.lean.operations.ops import Rounded, Sorted
from penstock.models.backends.lean.products import block_products, fp8_products, int4_products
from penstock.models.backends.lean.products.linear import Dense, Fp8, Fp8Blocks, Int4
from penstock.models.backends.lean.products.row_forms import form, pointers, room_for
from penstock.models.backends.steps import BLOCK_SIZE

if TYPE_CHECKING:
    from penstock.models.architecture.elements import Activation
    from penstock.models.backends.lean.graphs.step_rows import Step
    from penstock.models.backends.lean.operations.ops import Activations, AttentionLayer, Between
    from penstock.models.backends.lean.products.linear import Linear
    from penstock.models.backends.lean.weights import ExpertWeights

_TOGETHER: Final = 8
"""Heads that one program turns."""


class TritonOps:
    """See `penstock.models.backends.lean.operations.ops.Ops`."""

    def __init__(self, overlap: dict[str, Any]) -> None:
        """`overlap` is of `penstock.models.backends.lean.operations.overlap`."""
        self._overlap = overlap
        self._wide: list[torch.Tensor] = []
        """Buffers for widened weights, each larger than the one before, which captured graphs may
        still use."""

    def embed(self, step: Step, embeddings: torch.Tensor) -> torch.Tensor:
        """Note the step's blocks in its tables; (T, hidden), zero for padding."""
        count, size = step.count, embeddings.shape[1]
        out = embeddings.new_empty((count, size))
        rotary.place_kernel[(count,)](
            step.fields,
            step.chosen,
            step.tables,
            embeddings,
            out,
            count,
            step.tables.stride(0),
            BLOCK=BLOCK_SIZE,
            SIZE=size,
            WIDTH=triton.next_power_of_2(size),
            num_warps=8,
            **self._overlap,
        )
        return out

    def norm(
        self, x: torch.Tensor, weight: torch.Tensor, epsilon: float, into: Linear | None
    ) -> Activations:
        """Root-mean-square norm of (T, hidden)."""
        return triton_norms.add_norm(x, None, weight, epsilon, self._overlap, into=into)

    def add_norm(
        self,
        x: torch.Tensor,
        residual: torch.Tensor,
        weight: torch.Tensor,
        epsilon: float,
        into: Linear | None,
    ) -> Activations:
        """Add x to the residual stream, in place, and norm the sum."""
        return triton_norms.add_norm(x, residual, weight, epsilon, self._overlap, into=into)

    def rotate(self, qkv: torch.Tensor, step: Step, layer: AttentionLayer) -> None:
        """Turn the queries of (T, qkv) in place; turn keys; write both into the cache."""
        sizes, norms, cache = layer.shape.sizes, layer.norms, layer.cache
        if norms is not None and not norms.is_plain:
            triton_norms.norm_heads(qkv, layer.shape.sizes, norms, self._overlap)
            norms = None
        heads = sizes.heads + 2 * sizes.kv_heads
        turning, tables = layer.turning, step.tables_of(apart=layer.apart)
        rotary.rotate_kernel[(len(qkv), triton.cdiv(heads, _TOGETHER))](
            qkv,
            turning.cosines,
            turning.sines,
            step.positions,
            step.rows,
            tables,
            cache.keys,
            cache.values,
            qkv if norms is None else norms.query,
            qkv if norms is None else norms.key,
            turning.cosines if turning.growth is None else turning.growth,
            qkv.stride(0),
            tables.stride(0),
            0.0 if norms is None else norms.epsilon,
            HEADS=sizes.heads,
            KV_HEADS=sizes.kv_heads,
            HALF=sizes.head_size // 2,
            TURNED=turning.turned // 2,
            INTERLEAVED=turning.interleaved,
            BLOCK=BLOCK_SIZE,
            NORMS=norms is not None,
            GROWS=turning.growth is not None,
            TOGETHER=_TOGETHER,
            num_warps=4,
            **self._overlap,
        )

    def attend(self, qkv: torch.Tensor, step: Step, layer: AttentionLayer) -> torch.Tensor:
        """Attention of the step's queries over the cache, (T, heads * head_size)."""
        sizes = layer.shape.sizes
        out = qkv.new_empty((len(qkv), sizes.heads * sizes.head_size))
        if step.decodes:
            triton_attention.decode(qkv, step, layer, out, self._overlap)
        if step.chunks is not None:
            triton_attention.prefill(qkv, step, layer, out)
        return out

    def merge(
        self,
        x: torch.Tensor | None,
        residual: torch.Tensor,
        between: Between,
        into: Linear | None,
    ) -> Activations:
        """Add to the residual stream, in place, and norm the sum; see `Ops`."""
        return triton_norms.merge(x, residual, between, self._overlap, into=into)

    def gated(
        self, gate_up: torch.Tensor, into: Linear | None, activation: Activation, *, has_gate: bool
    ) -> Activations:
        """activation(gate) * up of (T, 2 * size), or activation(up) of (T, size)."""
        count, size = gate_up.shape[0], gate_up.shape[1] // (2 if has_gate else 1)
        out = room_for(gate_up, size, into)
        whole = isinstance(out, Rounded)
        width = triton.next_power_of_2(size) if whole else 1024
        norm.gated_kernel[(count, triton.cdiv(size, width))](
            gate_up,
            *pointers(out),
            SIZE=size,
            WIDTH=width,
            ACTIVATION=activations.NUMBERS[activation],
            GATED=has_gate,
            INTO=form(out),
            num_warps=16 if whole else 4,
            **self._overlap,
        )
        return out

    def experts(
        self, x: torch.Tensor, step: Step, weights: ExpertWeights, beside: torch.Tensor | None
    ) -> torch.Tensor:
        """What each token's experts make of (T, hidden), weighted and summed, plus `beside`."""
        router = weights.router
        logits = self.product(x.to(router.weight.dtype), router)
        if beside is not None and weights.shared_gate is not None:
            beside = beside * torch.sigmoid(functional.linear(x, weights.shared_gate))
        return triton_experts.compute(
            x, logits, step.positions, weights, self._overlap, beside=beside
        )

    def product(self, x: Activations, linear: Linear) -> torch.Tensor:
        """(T, columns) times a matrix -> (T, rows)."""
        if isinstance(linear, Fp8):
            if isinstance(x, torch.Tensor):
                x = fp8_products.round_rows(x, self._overlap)
            assert isinstance(x, Rounded)  # noqa: S101 - `into` was this matrix
            return fp8_products.product(x, linear, self._overlap)
        if isinstance(linear, Int4):
            return self._int4_product(x, linear)
        assert isinstance(x, torch.Tensor)  # noqa: S101 - such a matrix takes no other
        if isinstance(linear, Fp8Blocks):
            return self._blocks_product(x, linear)
        if len(x) == 1 and x.element_size() == 2:  # noqa: PLR2004 - bytes
            return _vector_product(x, linear, self._overlap)
        return functional.linear(x, linear.weight, linear.bias)

    def _int4_product(self, x: Activations, linear: Int4) -> torch.Tensor:
        if isinstance(x, torch.Tensor) and len(x) == 1:
            x = int4_products.sort(x, linear, self._overlap)
        if isinstance(x, Sorted):
            return int4_products.vector_product(x, linear, self._overlap)
        assert isinstance(x, torch.Tensor)  # noqa: S101 - `into` was this matrix
        if linear.wide is not None:
            return functional.linear(x, linear.wide, linear.bias)
        if linear.order is not None:
            x = x.index_select(1, linear.order)
        if len(x) <= int4_products.FEW_TOKENS:
            return int4_products.product(x, linear)
        wide = self._buffer(linear.packed.shape[0], x)
        int4_products.widen(linear, wide)
        return functional.linear(x, wide, linear.bias)

    def _blocks_product(self, x: torch.Tensor, linear: Fp8Blocks) -> torch.Tensor:
        if len(x) <= block_products.FEW_TOKENS[linear.wide is not None]:
            return block_products.product(x, linear, self._overlap)
        wide = linear.wide
        if wide is None:
            wide = self._buffer(linear.weight.shape[0], x)
            block_products.widen(linear, wide)
        return functional.linear(x, wide, linear.bias)

    def choose(self, logits: torch.Tensor, draws: torch.Tensor, chosen: torch.Tensor) -> None:
        """A token a row of (n, vocab) float32 into chosen (n,)."""
        count, vocab = logits.shape
        choose.choose_kernel[(count,)](
            logits, draws, chosen, count, VOCAB=vocab, WIDTH=4096, num_warps=8
        )

    def _buffer(self, rows: int, x: torch.Tensor) -> torch.Tensor:
        """(rows, columns) of x's type and columns, which the next matrix overwrites."""
        columns = x.shape[1]
        if not self._wide or self._wide[-1].numel() < rows * columns:
            self._wide.append(torch.empty(rows * columns, dtype=x.dtype, device=x.device))
        return self._wide[-1][: rows * columns].view(rows, columns)


def _vector_product(x: torch.Tensor, linear: Dense, overlap: dict[str, Any]) -> torch.Tensor:
    rows, columns = linear.weight.shape
    out = x.new_empty((1, rows))
    products.vector_product_kernel[(triton.cdiv(rows, VECTOR["BLOCK_ROWS"]),)](
        x,
        linear.weight,
        x if linear.bias is None else linear.bias,
        out,
        COLUMNS=columns,
        ROWS=rows,
        BIASED=linear.bias is not None,
        **VECTOR,
        **overlap,
    )
    return out


# Found by trying on an H200; right on any device.
VECTOR: dict[str, Any] = {"BLOCK_ROWS": 1, "BLOCK_COLUMNS": 1024, "num_warps": 4, "num_stages": 1}
