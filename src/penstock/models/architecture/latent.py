"""Latent attention: a token's keys and values of all heads, compressed to one vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.models.architecture.elements import Norm
    from penstock.models.architecture.rows import Rows


@dataclass(frozen=True, slots=True)
class KeyIndex:
    """What chooses the `most` keys that a token sees, if there are more before it.

    They have the greatest sums over `heads` of a weight times what is above 0 of query times key, of
    `size` elements each, of which the first ones are rotated as those of the latent key; `interleaved`
    as in `Rotation`. `query` is a product of what the query is made of, `key`, which is normed, and
    `weights` of the hidden states. A layer without `heads` sees what the nearest one before it with an
    index has chosen.
    """

    most: int
    heads: int = 0
    size: int = 0
    query: Rows | None = None
    key: Rows | None = None
    weights: Rows | None = None
    norm: Norm | None = None
    interleaved: bool = False

    @property
    def chooses(self) -> bool:
        """Whether the layer has an index of its own."""
        return self.heads > 0


@dataclass(frozen=True, slots=True)
class Latent:
    """What the cache has of a token: `rank` normed values, and `turned` ones, which are rotated.

    `compressed` gives both. `expanded`, (heads (plain + value), rank), makes each head's keys and
    values of the former; the latter are a part of every head's key. Queries of plain + turned
    elements a head are a product of the hidden states; with a `query_rank` of what `query_down`
    gives, after `query_norm`.
    """

    rank: int
    turned: int
    plain: int
    value: int
    compressed: Rows
    expanded: Rows
    norm: Norm
    query_rank: int = 0
    query_down: Rows | None = None
    query_norm: Norm | None = None
    index: KeyIndex | None = None
