# Triton has no types, and a CPU-only environment has no Triton.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
"""The lean decoder's operations by the Triton kernels beside this."""

from __future__ import annotations

from math import log2
from typing import TYPE_CHECKING, Any, Final

import torch
import triton
from torch.nn import functional

from penstock.models.backends.lean.kernels import choose, decode, norm, prefill, products, rotary
from penstock.models.backends.lean.operations.ops import Rounded, Sorted
from penstock.models.backends.lean.products import fp8_products, int4_products
from penstock.models.backends.lean.products.int4_products import precision
from penstock.models.backends.lean.products.linear import Dense, Fp8, Int4
from penstock.models.backends.lean.products.row_forms import form, pointers, room_for
from penstock.models.backends.steps import BLOCK_SIZE

if TYPE_CHECKING:
    from penstock.models.backends.lean.graphs.step_rows import Step
    from penstock.models.backends.lean.operations.ops import Activations, AttentionLayer
    from penstock.models.backends.lean.products.linear import Linear
    from penstock.models.backends.llama_family import Decoder

_LOG2_E: Final = log2(2.718281828459045)
_TOGETHER: Final = 8
"""Heads that one program turns."""

_PROGRAMS: Final = 512
"""Programs that keep a GPU busy: with fewer sequences their keys are split."""

_MOST_SPLITS: Final = 32


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
        return self._norm(x, None, weight, epsilon, into)

    def add_norm(
        self,
        x: torch.Tensor,
        residual: torch.Tensor,
        weight: torch.Tensor,
        epsilon: float,
        into: Linear | None,
    ) -> Activations:
        """Add x to the residual stream, in place, and norm the sum."""
        return self._norm(x, residual, weight, epsilon, into)

    def _norm(
        self,
        x: torch.Tensor,
        residual: torch.Tensor | None,
        weight: torch.Tensor,
        epsilon: float,
        into: Linear | None,
    ) -> Activations:
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
            **self._overlap,
        )
        return out

    def rotate(self, qkv: torch.Tensor, step: Step, layer: AttentionLayer) -> None:
        """Turn the queries of (T, qkv) in place; turn keys; write both into the cache."""
        decoder, norms, cache = layer.shape.decoder, layer.norms, layer.cache
        heads = decoder.heads + 2 * decoder.kv_heads
        rotary.rotate_kernel[(len(qkv), triton.cdiv(heads, _TOGETHER))](
            qkv,
            layer.cosines,
            layer.sines,
            step.positions,
            step.rows,
            step.tables,
            cache.keys,
            cache.values,
            qkv if norms is None else norms.query,
            qkv if norms is None else norms.key,
            qkv.stride(0),
            step.tables.stride(0),
            decoder.norm_epsilon,
            HEADS=decoder.heads,
            KV_HEADS=decoder.kv_heads,
            HALF=decoder.head_size // 2,
            BLOCK=BLOCK_SIZE,
            NORMS=norms is not None,
            TOGETHER=_TOGETHER,
            num_warps=4,
            **self._overlap,
        )

    def attend(self, qkv: torch.Tensor, step: Step, layer: AttentionLayer) -> torch.Tensor:
        """Attention of the step's queries over the cache, (T, heads * head_size)."""
        decoder = layer.shape.decoder
        out = qkv.new_empty((len(qkv), decoder.heads * decoder.head_size))
        if step.decodes:
            _decode(qkv, step, layer, out, self._overlap)
        if step.chunks is not None:
            _prefill(qkv, step, layer, out)
        return out

    def gated(self, gate_up: torch.Tensor, into: Linear) -> Activations:
        """silu(gate) * up of (T, 2 * size)."""
        count, size = gate_up.shape[0], gate_up.shape[1] // 2
        out = room_for(gate_up, size, into)
        whole = isinstance(out, Rounded)
        width = triton.next_power_of_2(size) if whole else 1024
        norm.silu_product_kernel[(count, triton.cdiv(size, width))](
            gate_up,
            *pointers(out),
            SIZE=size,
            WIDTH=width,
            INTO=form(out),
            num_warps=16 if whole else 4,
            **self._overlap,
        )
        return out

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
        if len(x) == 1 and x.element_size() == 2:  # noqa: PLR2004 - bytes
            return _vector_product(x, linear, self._overlap)
        return functional.linear(x, linear.weight, linear.bias)

    def _int4_product(self, x: Activations, linear: Int4) -> torch.Tensor:
        if isinstance(x, torch.Tensor) and len(x) == 1:
            x = int4_products.sort(x, self._overlap)
        if isinstance(x, Sorted):
            return int4_products.vector_product(x, linear, self._overlap)
        assert isinstance(x, torch.Tensor)  # noqa: S101 - `into` was this matrix
        if linear.wide is not None:
            return functional.linear(x, linear.wide, linear.bias)
        if len(x) <= int4_products.FEW_TOKENS:
            return int4_products.product(x, linear)
        return functional.linear(x, self._widened(linear, x.dtype), linear.bias)

    def choose(self, logits: torch.Tensor, draws: torch.Tensor, chosen: torch.Tensor) -> None:
        """A token a row of (n, vocab) float32 into chosen (n,)."""
        count, vocab = logits.shape
        choose.choose_kernel[(count,)](
            logits, draws, chosen, count, VOCAB=vocab, WIDTH=4096, num_warps=8
        )

    def _widened(self, linear: Int4, dtype: torch.dtype) -> torch.Tensor:
        """The weights in a buffer that the next matrix overwrites."""
        rows, words = linear.packed.shape
        wanted = rows * words * 8
        if not self._wide or self._wide[-1].numel() < wanted:
            self._wide.append(torch.empty(wanted, dtype=dtype, device=linear.packed.device))
        out = self._wide[-1][:wanted].view(rows, 8 * words)
        width = 512
        products.int4_widen_kernel[(rows, triton.cdiv(words, width))](
            linear.packed, linear.scales, out, COLUMNS=8 * words, WORDS=width, num_warps=4
        )
        return out


def _decode(
    qkv: torch.Tensor,
    step: Step,
    layer: AttentionLayer,
    out: torch.Tensor,
    overlap: dict[str, Any],
) -> None:
    decoder, window, cache = layer.shape.decoder, layer.window, layer.cache
    count, group = step.decodes, decoder.heads // decoder.kv_heads
    splits = splits_for(count * decoder.kv_heads, window or layer.shape.context_length)
    partial, weight = out, out
    if splits > 1:
        size = (count, decoder.heads, splits)
        partial = torch.empty((*size, decoder.head_size), dtype=torch.float32, device=out.device)
        weight = torch.empty((*size, 2), dtype=torch.float32, device=out.device)
    tensors = (qkv, cache.keys, cache.values, step.decode_positions, step.rows, step.tables)
    strides = (qkv.stride(0), out.stride(0), step.tables.stride(0))
    common = {
        "WINDOW": window,
        "HEADS": decoder.heads,
        "HEAD_SIZE": decoder.head_size,
        "BLOCK": BLOCK_SIZE,
        "SPLITS": splits,
        **overlap,
    }
    grid = (count, decoder.kv_heads, splits)
    if group == 1:
        decode.decode_alone_kernel[grid](
            *tensors, out, partial, weight, *strides, _scale(decoder), **common, **ALONE
        )
    else:
        decode.decode_kernel[grid](
            *tensors,
            out,
            partial,
            weight,
            *strides,
            _scale(decoder),
            **common,
            KV_HEADS=decoder.kv_heads,
            GROUP=group,
            PADDED=max(16, triton.next_power_of_2(group)),
            PRECISION=precision(qkv),
            **(GROUPED if qkv.element_size() == 2 else GROUPED_WIDE),  # noqa: PLR2004 - bytes
        )
    if splits > 1:
        decode.combine_kernel[(count, decoder.heads)](
            partial,
            weight,
            out,
            out.stride(0),
            HEADS=decoder.heads,
            HEAD_SIZE=decoder.head_size,
            SPLITS=splits,
            num_warps=2,
            **overlap,
        )


def _prefill(qkv: torch.Tensor, step: Step, layer: AttentionLayer, out: torch.Tensor) -> None:
    decoder, window, cache = layer.shape.decoder, layer.window, layer.cache
    assert step.chunks is not None  # noqa: S101 - the caller has looked
    half = qkv.element_size() == 2  # noqa: PLR2004 - bytes
    queries = 128 if half and step.longest_chunk > 64 else 32  # noqa: PLR2004 - tokens
    tiles = triton.cdiv(step.longest_chunk, queries)
    prefill.prefill_kernel[(tiles, decoder.heads, len(step.chunks))](
        qkv,
        cache.keys,
        cache.values,
        step.chunks,
        step.tables,
        out,
        qkv.stride(0),
        out.stride(0),
        step.tables.stride(0),
        _scale(decoder),
        WINDOW=window,
        KV_HEADS=decoder.kv_heads,
        GROUP=decoder.heads // decoder.kv_heads,
        HEAD_SIZE=decoder.head_size,
        BLOCK=BLOCK_SIZE,
        QUERIES=queries,
        TILE=64 if half else 32,
        PRECISION=precision(qkv),
        num_warps=8 if queries == 128 and decoder.head_size >= 128 else 4,  # noqa: PLR2004
        num_stages=2 if half else 1,
    )


def splits_for(programs: int, longest: int) -> int:
    """Into how many parts, a power of two, sequences' keys are cut to fill the device."""
    splits = 1
    while programs * splits * 2 <= _PROGRAMS and splits < min(_MOST_SPLITS, longest // 64):
        splits *= 2
    return splits


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


def _scale(decoder: Decoder) -> float:
    return decoder.head_size**-0.5 * _LOG2_E


# Found by trying on an H100, VECTOR on an H200; every one is right on any device.
ALONE: dict[str, Any] = {"TILE": 32, "num_warps": 2, "num_stages": 2}
GROUPED: dict[str, Any] = {"TILE": 32, "num_warps": 2, "num_stages": 2}
GROUPED_WIDE: dict[str, Any] = {"TILE": 32, "num_warps": 4, "num_stages": 2}
VECTOR: dict[str, Any] = {"BLOCK_ROWS": 1, "BLOCK_COLUMNS": 1024, "num_warps": 4, "num_stages": 1}
