"""Latent attention in the native library's form."""

from __future__ import annotations

import ctypes
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from penstock.models.weights.loss import widened
from penstock.models.weights.matrices import Packed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from penstock.models.architecture.description import Architecture, Attention
    from penstock.models.architecture.latent import Latent
    from penstock.models.weights.checkpoint import Checkpoint
    from penstock.models.weights.matrices import Format
    from penstock.models.weights.source import Weights


class _Latent(ctypes.Structure):
    _fields_ = (
        *(
            (name, ctypes.c_int32)
            for name in (
                "query_rank",
                "rank",
                "turned",
                "plain",
                "value",
                "most_keys",
                "index_heads",
                "index_size",
            )
        ),
        ("epsilon", ctypes.c_float),
    )


@dataclass(frozen=True, slots=True)
class NativeLatent:
    """`pn_latent`, field by field."""

    query_rank: int
    rank: int
    turned: int
    plain: int
    value: int
    most_keys: int
    index_heads: int
    index_size: int
    epsilon: float

    def native(self) -> ctypes.Structure:
        """The library's own structure."""
        return _Latent(*astuple(self))

    def check_matrices(self, keys: NDArray[Any], values: NDArray[Any]) -> None:
        """:raises ValueError: they are not (heads, rank, plain) and (heads, value, rank), of one type."""
        if keys.shape[1:] != (self.rank, self.plain) or keys.dtype != values.dtype:
            raise ValueError(f"keys {keys.shape}, {keys.dtype}: not the latent attention's")
        if values.shape != (len(keys), self.value, self.rank):
            raise ValueError(f"values {values.shape}: not the latent attention's")


def native_latent(latent: Latent) -> NativeLatent:
    """A described latent attention in the library's words."""
    index = latent.index
    return NativeLatent(
        query_rank=latent.query_rank,
        rank=latent.rank,
        turned=latent.turned,
        plain=latent.plain,
        value=latent.value,
        most_keys=0 if index is None else index.most,
        index_heads=0 if index is None else index.heads,
        index_size=0 if index is None else index.size,
        epsilon=latent.norm.epsilon,
    )


_PLAIN: Final[dict[Format, torch.dtype]] = {"bf16": torch.bfloat16, "fp32": torch.float32}
"""Types of what is not in low bit; all else is in fp16."""
_TYPES: Final = {torch.float16: "float16", torch.bfloat16: "uint16", torch.float32: "float32"}


def matrices(
    model: Architecture, weights: Weights, form: Format
) -> Iterator[tuple[int, NDArray[Any], NDArray[Any]]]:
    """Every latent layer's keys, (heads, rank, plain), and values, (heads, value, rank).

    Of low-bit formats they are in fp16, of the values that the matrix has in `form`: a product with a
    transposed matrix needs another grouping than its scales have. 16-bit integers are bf16.
    """
    for index, layer in enumerate(model.layers):
        attention, latent = layer.attention, layer.attention.latent
        if latent is None:
            continue
        found = weights.packed(f"{index}.latent", lambda own, of=attention: _pack(own, of, form))
        both: NDArray[Any] = found.values.view(found.facts.get("type", "float16"))
        keys = both[: attention.heads * latent.rank * latent.plain]
        yield (
            index,
            keys.reshape(attention.heads, latent.rank, latent.plain),
            both[keys.size :].reshape(attention.heads, latent.value, latent.rank),
        )


def _pack(checkpoint: Checkpoint, attention: Attention, form: Format) -> Packed:
    latent = attention.latent
    assert latent is not None  # noqa: S101 - the caller has looked
    rows = latent.expanded
    matrix = checkpoint.matrix(f"{rows.name}.weight", (rows.rows, latent.rank), form)
    by_head = widened(matrix).reshape(attention.heads, latent.plain + latent.value, latent.rank)
    keys = by_head[:, : latent.plain].transpose(1, 2).reshape(-1)
    values = by_head[:, latent.plain :].reshape(-1)
    kind = _PLAIN.get(form, torch.float16)
    both = torch.cat((keys, values)).to(kind).view(torch.uint8).numpy()
    return Packed({"type": _TYPES[kind]}, both)
