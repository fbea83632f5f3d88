"""The lean decoder's attention by torch alone.

What all layers of a step share is made once, and the sequences that decode attend together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.nn import functional

from penstock.models.backends.lean.operations.torch_rows import norm_heads, turned
from penstock.models.backends.steps import BLOCK_SIZE, similar

if TYPE_CHECKING:
    from penstock.models.backends.lean.graphs.step_rows import Step
    from penstock.models.backends.lean.operations.ops import AttentionLayer
    from penstock.models.backends.lean.shape import Turning


@dataclass(frozen=True, slots=True)
class _Part:
    """Queries that attend together: n sequences of one token each, or a chunk of one.

    `rows` are the step's, `blocks` (n * kv_heads * width,) the places of their keys by head, `mask`
    (n, 1, 1, keys) or (1, 1, t, keys) is added to the scores. A chunk with nothing before it needs
    neither: its keys are those of the step.
    """

    rows: slice | torch.Tensor
    count: int
    is_chunk: bool
    blocks: torch.Tensor | None
    mask: torch.Tensor | None


@dataclass(slots=True)
class _Plan:
    """What a step's layers share; `positions` of those that decode.

    `rotations` are cosines and sines of the step's tokens, by the layers' tables. `blocks` are the
    tokens', by whether a layer has blocks apart, `parts` by its window and that.
    """

    step: Step
    rotations: dict[Turning, tuple[torch.Tensor, torch.Tensor]]
    slots: torch.Tensor
    positions: list[int]
    blocks: dict[bool, torch.Tensor] = field(default_factory=dict[bool, "torch.Tensor"])
    parts: dict[tuple[int, bool], list[_Part]] = field(
        default_factory=dict[tuple[int, bool], "list[_Part]"]
    )


class TorchAttention:
    """The rotary embedding and attention of one model's steps, which have no padding here."""

    def __init__(self) -> None:
        self._planned: _Plan | None = None
        self._workspace: dict[str, torch.Tensor] = {}

    def rotate(self, qkv: torch.Tensor, step: Step, layer: AttentionLayer) -> None:
        """Turn queries and keys of (T, qkv) in place; write keys and values."""
        sizes, norms, cache = layer.shape.sizes, layer.norms, layer.cache
        plan = self._plan(step)
        heads = qkv.view(len(qkv), -1, sizes.head_size)
        last = sizes.heads + sizes.kv_heads
        turning, query, key = heads[:, :last], heads[:, : sizes.heads], heads[:, sizes.heads : last]
        if norms is not None:
            norm_heads(query, norms.query, norms)
            norm_heads(key, norms.key, norms)
        turning.copy_(turned(turning, *_rotation(plan, layer.turning), layer.turning))
        if layer.turning.growth is not None:
            query *= layer.turning.growth[step.positions.long()][:, None, None].to(query.dtype)
        blocks = _blocks(plan, layer)
        cache.keys[blocks, :, plan.slots] = key
        cache.values[blocks, :, plan.slots] = heads[:, last:]

    def attend(self, qkv: torch.Tensor, step: Step, layer: AttentionLayer) -> torch.Tensor:
        """Attention of the step's queries over the cache, (T, heads * head_size)."""
        sizes = layer.shape.sizes
        heads = qkv.view(len(qkv), -1, sizes.head_size)
        parts = self._parts(self._plan(step), layer)
        if len(parts) == 1:
            return self._attend(parts[0], heads, layer).reshape(len(qkv), -1)
        out = qkv.new_empty((len(qkv), sizes.heads, sizes.head_size))
        for part in parts:
            out[part.rows] = self._attend(part, heads, layer)
        return out.view(len(qkv), -1)

    def _attend(self, part: _Part, heads: torch.Tensor, layer: AttentionLayer) -> torch.Tensor:
        """(rows, heads, head_size) of a part."""
        sizes = layer.shape.sizes
        rows = heads[part.rows]
        query = rows[:, : sizes.heads]
        if part.blocks is None:
            own = rows[:, sizes.heads :].transpose(0, 1)[None]
            keys, values = own[:, : sizes.kv_heads], own[:, sizes.kv_heads :]
        else:
            held = 1 if part.is_chunk else part.count
            keys = self._gather("keys", layer.cache.keys, part.blocks, held)
            values = self._gather("values", layer.cache.values, part.blocks, held)
        if part.is_chunk:
            query = query.transpose(0, 1)[None]
        else:
            # The query heads of one KV head stand in the place of the query's length.
            query = query.reshape(part.count, sizes.kv_heads, -1, sizes.head_size)
        if part.mask is not None:
            keys, values = (one[:, :, : part.mask.shape[-1]] for one in (keys, values))
        if layer.soft_cap or layer.sinks is not None:
            out = _scored(query, keys, values, part, layer)
        else:
            out = functional.scaled_dot_product_attention(
                query,
                keys,
                values,
                attn_mask=part.mask,
                is_causal=part.mask is None,
                scale=layer.scale,
                enable_gqa=query.shape[1] != keys.shape[1],
            )
        if part.is_chunk:
            return out[0].transpose(0, 1)
        return out.reshape(part.count, sizes.heads, sizes.head_size)

    def _gather(
        self, name: str, store: torch.Tensor, blocks: torch.Tensor, count: int
    ) -> torch.Tensor:
        """Blocks of a layer, in order, as (count, kv_heads, tokens, head_size).

        The buffer is kept from call to call: fresh memory of this size costs more (page faults)
        than the copying.
        """
        _, kv_heads, _, size = store.shape
        wanted = len(blocks) * BLOCK_SIZE * size
        buffer = self._workspace.get(name)
        if buffer is None or buffer.numel() < wanted or buffer.dtype != store.dtype:
            buffer = self._workspace[name] = torch.empty(wanted, dtype=store.dtype)
        out = buffer[:wanted].view(len(blocks), BLOCK_SIZE * size)
        torch.index_select(store.view(-1, BLOCK_SIZE * size), 0, blocks, out=out)
        return out.view(count, kv_heads, -1, size)

    def _plan(self, step: Step) -> _Plan:
        plan = self._planned
        if plan is not None and plan.step is step:
            return plan
        plan = _Plan(
            step,
            {},
            step.positions.long() % BLOCK_SIZE,
            _integers(step.fields[1:2, : step.decodes])[0],
        )
        self._planned = plan
        return plan

    def _parts(self, plan: _Plan, layer: AttentionLayer) -> list[_Part]:
        parts = plan.parts.get((layer.window, layer.apart))
        if parts is None:
            step, kind = plan.step, layer.cache.keys.dtype
            positions = plan.positions
            parts = [
                _decodes(step, together, positions, layer, kind) for together in _near(positions)
            ]
            for first, count, start, row in [] if step.chunks is None else _integers(step.chunks):
                parts.append(_chunk(step, (first, count, start, row), layer, kind))
            plan.parts[layer.window, layer.apart] = parts
        return parts


def _blocks(plan: _Plan, layer: AttentionLayer) -> torch.Tensor:
    """The blocks of a step's tokens, (T,)."""
    found = plan.blocks.get(layer.apart)
    if found is None:
        step = plan.step
        columns = step.positions.long() // BLOCK_SIZE
        found = step.tables_of(apart=layer.apart)[step.rows.long(), columns].long()
        plan.blocks[layer.apart] = found
    return found


def _rotation(plan: _Plan, turning: Turning) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of a step's tokens, (T, 1, head_size / 2) each."""
    found = plan.rotations.get(turning)
    if found is None:
        positions = plan.step.positions.long()
        found = turning.cosines[positions][:, None], turning.sines[positions][:, None]
        plan.rotations[turning] = found
    return found


def _scored(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    part: _Part,
    layer: AttentionLayer,
) -> torch.Tensor:
    """Attention with a soft cap or sinks, of queries as `scaled_dot_product_attention` takes them."""
    group = query.shape[1] // keys.shape[1]
    keys, values = (one.repeat_interleave(group, dim=1) for one in (keys, values))
    scores = query.float() @ keys.float().transpose(-1, -2) * layer.scale
    if layer.soft_cap:
        scores = torch.tanh(scores / layer.soft_cap) * layer.soft_cap
    if part.mask is None:
        count = scores.shape[-1]
        scores = scores.masked_fill(torch.ones(count, count).triu(1).bool(), float("-inf"))
    else:
        scores = scores + part.mask
    if layer.sinks is None:
        return (scores.softmax(-1) @ values.float()).to(query.dtype)
    shape = (1, -1, 1, 1) if part.is_chunk else (1, query.shape[1], query.shape[2], 1)
    sinks = layer.sinks.view(shape).expand(*scores.shape[:-1], 1)
    weights = torch.cat((scores, sinks), -1).softmax(-1)[..., :-1]
    return (weights @ values.float()).to(query.dtype)


def _integers(rows: torch.Tensor) -> list[list[int]]:
    return cast("list[list[int]]", cast("Any", rows).tolist())


def _near(positions: list[int]) -> list[list[int]]:
    """Rows of one token each, in groups of similar length."""
    order = sorted(range(len(positions)), key=positions.__getitem__)
    cuts = similar([positions[row] for row in order])
    return [sorted(order[first:last]) for first, last in cuts]


def _decodes(
    step: Step, rows: list[int], positions: list[int], layer: AttentionLayer, kind: torch.dtype
) -> _Part:
    places = torch.tensor([positions[row] for row in rows])
    end = int(places.max()) + 1
    begin = _first_block(int(places.min()), layer.window)
    owners = step.rows[torch.tensor(rows)].long()
    tables = step.tables_of(apart=layer.apart)
    table = tables[owners, begin : -(-end // BLOCK_SIZE)].long()
    # The padding is a sequence's own block, so that nothing of another (a NaN) can reach it.
    last = (places // BLOCK_SIZE - begin)[:, None]
    table = table.gather(1, torch.arange(table.shape[1])[None].minimum(last))
    mask = _mask(places[:, None], begin * BLOCK_SIZE, end, layer.window, kind)[:, None, None]
    whole = rows == list(range(rows[0], rows[0] + len(rows)))
    return _Part(
        slice(rows[0], rows[0] + len(rows)) if whole else torch.tensor(rows),
        len(rows),
        False,
        _by_head(table, layer),
        mask,
    )


def _chunk(
    step: Step, chunk: tuple[int, int, int, int], layer: AttentionLayer, kind: torch.dtype
) -> _Part:
    first, count, start, row = chunk
    rows, end = slice(first, first + count), start + count
    queries = torch.arange(start, end)[:, None]
    if start == 0:
        windowed = 0 < layer.window < count
        mask = _mask(queries, 0, end, layer.window, kind)[None, None] if windowed else None
        return _Part(rows, count, True, None, mask)
    begin = _first_block(start, layer.window)
    tables = step.tables_of(apart=layer.apart)
    table = tables[row, begin : -(-end // BLOCK_SIZE)].long()[None]
    mask = _mask(queries, begin * BLOCK_SIZE, end, layer.window, kind)[None, None]
    return _Part(rows, count, True, _by_head(table, layer), mask)


def _first_block(position: int, window: int) -> int:
    return max(0, position - window + 1) // BLOCK_SIZE if window else 0


def _by_head(table: torch.Tensor, layer: AttentionLayer) -> torch.Tensor:
    """(n, width) blocks -> their places by head, (n * kv_heads * width,)."""
    heads = torch.arange(layer.shape.sizes.kv_heads)[None, :, None]
    return (table[:, None] * layer.shape.sizes.kv_heads + heads).reshape(-1)


def _mask(
    queries: torch.Tensor, begin: int, end: int, window: int, kind: torch.dtype
) -> torch.Tensor:
    """(..., keys) to add to scores of queries at positions (..., 1): 0 if the query sees the key."""
    keys = torch.arange(begin, end)
    seen = keys <= queries
    if window:
        seen &= keys > queries - window
    return torch.zeros(seen.shape, dtype=kind).masked_fill_(~seen, float("-inf"))
