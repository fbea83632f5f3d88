"""A rank's part of a decoder's weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import torch
from torch.nn import functional

from penstock.models.backends.lean.products.linear import Dense, Fp8, Int4
from penstock.models.backends.lean.shape import NotLean
from penstock.models.weights import q4_0

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.models.backends.lean.products.linear import Linear
    from penstock.models.backends.lean.shape import Shape
    from penstock.models.backends.lean.weights import LayerWeights

Held = TypeVar("Held")

_ALIGNED = 8  # the vocabulary's parts are a multiple of it: matrix units take no others as fast


@dataclass(frozen=True, slots=True)
class Part:
    """Rank `rank` of `ranks` of a decoder whose whole shape is `whole`.

    Queries, keys and values are divided by heads, the MLP by its columns, the head by tokens. Where
    there are fewer key heads than ranks, several ranks hold the same one.
    """

    whole: Shape
    rank: int
    ranks: int

    def check(self, block: int = 1) -> None:
        """Check that the shape can be divided, its columns in whole blocks of `block`.

        :raises NotLean: it cannot.
        """
        sizes, ranks = self.whole.sizes, self.ranks
        if sizes.heads % ranks or sizes.intermediate_size % ranks:
            raise NotLean(
                f"{sizes.heads} heads and an MLP of {sizes.intermediate_size} "
                f"are not divisible by {ranks}"
            )
        if sizes.kv_heads % ranks and ranks % sizes.kv_heads:
            raise NotLean(f"{sizes.kv_heads} key heads cannot be divided among {ranks}")
        columns = (sizes.intermediate_size // ranks, sizes.heads // ranks * sizes.head_size)
        if any(count % block for count in columns):
            raise NotLean(f"its rows have no whole blocks of {block} for {ranks} ranks")

    @property
    def shape(self) -> Shape:
        """The shape of this part. The vocabulary's size is the whole's."""
        sizes, ranks = self.whole.sizes, self.ranks
        part = replace(
            sizes,
            heads=sizes.heads // ranks,
            kv_heads=max(1, sizes.kv_heads // ranks),
            intermediate_size=sizes.intermediate_size // ranks,
        )
        return replace(self.whole, sizes=part)

    def layer(self, layer: LayerWeights, place: torch.device) -> LayerWeights:
        """This part of a layer, on its device."""
        whole, part = self.whole.sizes, self.shape.sizes
        size = whole.head_size
        queries = part.heads * size
        keys = part.kv_heads * size
        first_key = whole.heads * size + self.rank * whole.kv_heads // self.ranks * size
        columns = part.intermediate_size
        first = self.rank * columns
        return replace(
            layer,
            qkv=_rows(
                layer.qkv,
                (
                    (self.rank * queries, queries),
                    (first_key, keys),
                    (first_key + whole.kv_heads * size, keys),
                ),
                place,
            ),
            out=self._columns(layer.out, self.rank * queries, queries, place),
            gate_up=_rows(
                _there(layer.gate_up),
                ((first, columns), (whole.intermediate_size + first, columns)),
                place,
            ),
            down=self._columns(_there(layer.down), first, columns, place),
            norm=_there(layer.norm).to(place),
            second_norm=_there(layer.second_norm).to(place),
            head_norms=None if layer.head_norms is None else layer.head_norms.to(place),
        )

    def head(self, head: Linear, place: torch.device) -> Linear:
        """This part of the head: as many rows as each other has, the last ones zero if need be."""
        vocab = self.whole.sizes.vocab_size
        rows = -(-vocab // (_ALIGNED * self.ranks)) * _ALIGNED
        first = min(vocab, self.rank * rows)
        count = min(vocab - first, rows)
        return _padded(_rows(head, ((first, count),), place), rows)

    def _columns(self, linear: Linear, first: int, count: int, place: torch.device) -> Linear:
        """Some columns: the ranks' products add up. The bias is added by one of them."""
        bias = linear.bias.to(place) if linear.bias is not None and not self.rank else None
        if isinstance(linear, Dense):
            return Dense(_own(linear.weight[:, first : first + count], place), bias)
        if isinstance(linear, Fp8):
            own = _own(linear.weight[:, first : first + count], place)
            return Fp8(own, _own(linear.scales, place), bias)
        assert isinstance(linear, Int4)  # noqa: S101 - no other format is divided
        words, scales = slice(first // 8, (first + count) // 8), _scales(first, count)
        return Int4(
            _own(linear.packed[:, words], place), _own(linear.scales[:, scales], place), bias
        )


def _there(part: Held | None) -> Held:
    """What every layer of the Llama family has."""
    assert part is not None  # noqa: S101 - no other model is divided
    return part


def _scales(first: int, count: int) -> slice:
    return slice(first // q4_0.BLOCK, (first + count) // q4_0.BLOCK)


def _rows(linear: Linear, wanted: Sequence[tuple[int, int]], place: torch.device) -> Linear:
    def of(tensor: torch.Tensor) -> torch.Tensor:
        return _own(torch.cat([tensor[first : first + count] for first, count in wanted]), place)

    bias = None if linear.bias is None else of(linear.bias)
    if isinstance(linear, Dense):
        return Dense(of(linear.weight), bias)
    if isinstance(linear, Fp8):
        weight = of(linear.weight.view(torch.uint8)).view(linear.weight.dtype)
        return Fp8(weight, of(linear.scales), bias)
    assert isinstance(linear, Int4)  # noqa: S101 - no other format is divided
    return Int4(of(linear.packed), of(linear.scales), bias)


def _padded(linear: Linear, rows: int) -> Linear:
    assert isinstance(linear, Dense | Int4)  # noqa: S101 - no format in FP8 has the head

    def of(tensor: torch.Tensor) -> torch.Tensor:
        missing = rows - len(tensor)
        return functional.pad(tensor, (0,) * (2 * tensor.dim() - 1) + (missing,))

    bias = None if linear.bias is None else of(linear.bias)
    if isinstance(linear, Dense):
        return Dense(of(linear.weight), bias)
    return Int4(of(linear.packed), of(linear.scales), bias)


def _own(tensor: torch.Tensor, place: torch.device) -> torch.Tensor:
    """Return a copy on the device, so that the whole tensor can be freed."""
    return tensor.contiguous().clone() if place.type == "cpu" else tensor.contiguous().to(place)
