"""The operations between the matrix products: one interface, by Triton or by torch alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, Union

if TYPE_CHECKING:
    import torch

    from penstock.models.backends.lean.graphs.step_rows import Step
    from penstock.models.backends.lean.products.linear import Linear
    from penstock.models.backends.lean.shape import Shape


@dataclass(frozen=True, slots=True)
class Rounded:
    """(T, columns) in e4m3, and the scales (T,) float32: what FP8 meets.

    `kind` is the type that products are in.
    """

    values: torch.Tensor
    scales: torch.Tensor
    kind: torch.dtype


@dataclass(frozen=True, slots=True)
class Sorted:
    """One token's (1, columns) by the nibbles of int4 that it meets: see `kernels.int4_vector`.

    `values` is (9, columns / 8) float32; `kind` is the type that products are in.
    """

    values: torch.Tensor
    kind: torch.dtype


Activations: TypeAlias = Union["torch.Tensor", Rounded, Sorted]


@dataclass(frozen=True, slots=True)
class LayerCache:
    """Keys and values of one layer, (blocks, kv_heads, BLOCK_SIZE, head_size) each."""

    keys: torch.Tensor
    values: torch.Tensor


@dataclass(frozen=True, slots=True)
class HeadNorms:
    """Weights of the norms over a head of queries and of keys, (head_size,) each."""

    query: torch.Tensor
    key: torch.Tensor


@dataclass(frozen=True, slots=True)
class AttentionLayer:
    """What attention needs of one layer beside its products.

    `cosines` and `sines` are (context_length, head_size / 2) float32; `window` 0 is full attention.
    """

    shape: Shape
    cosines: torch.Tensor
    sines: torch.Tensor
    norms: HeadNorms | None
    window: int
    cache: LayerCache


class Attention(Protocol):
    """What `Ops` leaves to the attention of one model's steps."""

    def rotate(self, qkv: torch.Tensor, step: Step, layer: AttentionLayer) -> None:
        """Turn queries and keys of (T, qkv) in place; write keys and values."""
        ...

    def attend(self, qkv: torch.Tensor, step: Step, layer: AttentionLayer) -> torch.Tensor:
        """Attention of the step's queries over the cache, (T, heads * head_size)."""
        ...


class Ops(Protocol):
    """What a decoder layer computes beside its products.

    What is meant for a product may come in the form that its matrix takes.
    """

    def embed(self, step: Step, embeddings: torch.Tensor) -> torch.Tensor:
        """Note the step's blocks in its tables; (T, hidden), zero for padding."""
        ...

    def norm(
        self, x: torch.Tensor, weight: torch.Tensor, epsilon: float, into: Linear | None
    ) -> Activations:
        """Root-mean-square norm of (T, hidden), for a product with `into`."""
        ...

    def add_norm(
        self,
        x: torch.Tensor,
        residual: torch.Tensor,
        weight: torch.Tensor,
        epsilon: float,
        into: Linear | None,
    ) -> Activations:
        """Add x to the residual stream, in place, and norm the sum, for a product with `into`."""
        ...

    def rotate(self, qkv: torch.Tensor, step: Step, layer: AttentionLayer) -> None:
        """Turn the queries of (T, qkv) in place; turn keys; write both into the cache."""
        ...

    def attend(self, qkv: torch.Tensor, step: Step, layer: AttentionLayer) -> torch.Tensor:
        """Attention of the step's queries over the cache, (T, heads * head_size)."""
        ...

    def gated(self, gate_up: torch.Tensor, into: Linear) -> Activations:
        """silu(gate) * up of (T, 2 * size), for a product with `into`."""
        ...

    def product(self, x: Activations, linear: Linear) -> torch.Tensor:
        """(T, columns) times a matrix -> (T, rows)."""
        ...

    def choose(self, logits: torch.Tensor, draws: torch.Tensor, chosen: torch.Tensor) -> None:
        """A token a row of logits (n, vocab) float32 into chosen (n,) int32.

        Draws (5, n) int32 are those of `choosing.packed_draws`. The first largest where a warmth is
        0, else a draw by inverse CDF, in the order of token ids, of what the filters leave; -1
        where the largest is not finite.
        """
        ...
