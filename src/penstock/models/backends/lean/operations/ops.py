"""The operations between the matrix products: one interface, in Triton or in torch alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, Union

if TYPE_CHECKING:
    import torch

    from penstock.models.architecture.elements import Activation
    from penstock.models.backends.lean.graphs.step_rows import Step
    from penstock.models.backends.lean.products.linear import Linear
    from penstock.models.backends.lean.shape import Shape, Turning
    from penstock.models.backends.lean.weights import ExpertWeights, HeadNorms, Norm


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

    `values` is (9, columns / 8) float32, for matrices in such blocks; `kind` is the type of the
    product.
    """

    values: torch.Tensor
    kind: torch.dtype
    block: int


@dataclass(frozen=True, slots=True)
class Between:
    """What is done between two products.

    The residual stream takes up `scale` times the norm `after` of the first's result; the norm
    `before` of the sum is what the second takes. A norm that is None is left out.
    """

    after: Norm | None
    scale: float
    before: Norm | None

    @property
    def is_plain(self) -> bool:
        """Whether it is a sum and its RMS norm."""
        sums = self.after is None and self.scale == 1
        return sums and self.before is not None and self.before.is_plain


Activations: TypeAlias = Union["torch.Tensor", Rounded, Sorted]


@dataclass(frozen=True, slots=True)
class LayerCache:
    """Keys and values of one layer, (blocks, kv_heads, BLOCK_SIZE, head_size) each."""

    keys: torch.Tensor
    values: torch.Tensor


@dataclass(frozen=True, slots=True)
class AttentionLayer:
    """What attention needs to know about a layer.

    `window` 0 is full attention. Scores are multiplied by `scale`; a `soft_cap` c above 0 turns them
    into c tanh(score / c). `sinks` (heads,) float32 take part in the softmax without a value. With
    blocks `apart`, the layer has those of layers that slide.
    """

    shape: Shape
    turning: Turning
    norms: HeadNorms | None
    window: int
    cache: LayerCache
    scale: float
    soft_cap: float = 0.0
    sinks: torch.Tensor | None = None
    apart: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether it asks for no more than the Llama family has."""
        turning = self.turning
        whole = turning.turned == self.shape.sizes.head_size and not turning.interleaved
        plain_norms = self.norms is None or self.norms.is_plain
        plain_scores = not self.soft_cap and self.sinks is None and turning.growth is None
        return whole and plain_norms and plain_scores


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

    def merge(
        self,
        x: torch.Tensor | None,
        residual: torch.Tensor,
        between: Between,
        into: Linear | None,
    ) -> Activations:
        """Add x to the residual stream, in place, and norm the sum, for a product with `into`.

        If x is None, there is nothing to add. A sum without a norm is the stream itself, valid until
        the next call.
        """
        ...

    def gated(
        self, gate_up: torch.Tensor, into: Linear | None, activation: Activation, *, has_gate: bool
    ) -> Activations:
        """Return activation(gate) * up of (T, 2 * size), for a product with `into`.

        Without a gate, activation(up) of (T, size).
        """
        ...

    def experts(
        self, x: torch.Tensor, step: Step, weights: ExpertWeights, beside: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the weighted sum of what each token's experts make of (T, hidden), plus `beside`.

        `beside` (T, hidden) is multiplied by the shared gate, if there is one.
        """
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
