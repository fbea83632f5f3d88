"""The operations between the matrix products: one interface, in Triton or in torch alone."""

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
    """Rows (T, columns) in e4m3, and their scales (T,) float32, as inputs of an FP8 product.

    `kind` is the type of the product.
    """

    values: torch.Tensor
    scales: torch.Tensor
    kind: torch.dtype


@dataclass(frozen=True, slots=True)
class Sorted:
    """One token's (1, columns), sorted by int4 nibbles: see `kernels.int4_vector`.

    `values` is (9, columns / 8) float32; `kind` is the type of the product.
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
    """What attention needs to know about a layer.

    `cosines` and `sines` are (context_length, head_size / 2) float32; `window` 0 is full attention.
    """

    shape: Shape
    cosines: torch.Tensor
    sines: torch.Tensor
    norms: HeadNorms | None
    window: int
    cache: LayerCache


class Attention(Protocol):
    """The attention part of `Ops`, for one model's steps."""

    def rotate(self, qkv: torch.Tensor, step: Step, layer: AttentionLayer) -> None:
        """Rotate queries and keys of (T, qkv) in place; write keys and values to the cache."""
        ...

    def attend(self, qkv: torch.Tensor, step: Step, layer: AttentionLayer) -> torch.Tensor:
        """Return attention of the step's queries over the cache, (T, heads * head_size)."""
        ...


class Ops(Protocol):
    """The operations of a decoder layer.

    A result that is the input of a product may have the form that the product's matrix needs.
    """

    def embed(self, step: Step, embeddings: torch.Tensor) -> torch.Tensor:
        """Write the step's blocks into its tables; return embeddings (T, hidden), zero for padding."""
        ...

    def norm(
        self, x: torch.Tensor, weight: torch.Tensor, epsilon: float, into: Linear | None
    ) -> Activations:
        """Return the RMS norm of (T, hidden), for a product with `into`."""
        ...

    def add_norm(
        self,
        x: torch.Tensor,
        residual: torch.Tensor,
        weight: torch.Tensor,
        epsilon: float,
        into: Linear | None,
    ) -> Activations:
        """Add x to the residual stream in place, and return the sum's norm, for a product with `into`."""
        ...

    def rotate(self, qkv: torch.Tensor, step: Step, layer: AttentionLayer) -> None:
        """Rotate the queries of (T, qkv) in place; rotate keys; write keys and values to the cache."""
        ...

    def attend(self, qkv: torch.Tensor, step: Step, layer: AttentionLayer) -> torch.Tensor:
        """Return attention of the step's queries over the cache, (T, heads * head_size)."""
        ...

    def gated(self, gate_up: torch.Tensor, into: Linear | None) -> Activations:
        """Return silu(gate) * up of (T, 2 * size), for a product with `into`."""
        ...

    def product(self, x: Activations, linear: Linear) -> torch.Tensor:
        """Return (T, columns) times a matrix: (T, rows)."""
        ...

    def choose(self, logits: torch.Tensor, draws: torch.Tensor, chosen: torch.Tensor) -> None:
        """Write a token for each row of logits (n, vocab) float32 to chosen (n,) int32.

        `draws` (5, n) int32 are from `choosing.packed_draws`. A temperature of 0 takes the first largest;
        otherwise it is a draw by inverse CDF, in token id order, from what the filters keep; -1 if the
        largest is not finite.
        """
        ...
