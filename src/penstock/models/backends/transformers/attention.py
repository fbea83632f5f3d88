"""Paged attention behind Transformers' attention interface.

One `PagedAttention` serves one model. It is registered under a separate name, once as attention
function and once as mask function; the model's layers call it in place of eager or SDPA attention.
It writes the step's keys and values into the blocks of the KV cache and attends over them: decode
rows of many sequences in one call, prefill chunks sequence by sequence.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from penstock.engine.model import Mutual
from penstock.models.backends.native import attention as native
from penstock.models.backends.native.paged import NativePaged
from penstock.models.backends.steps import BLOCK_SIZE, DecodeGroup, MaskRule, PrefillChunk, Step
from penstock.models.backends.transformers.dot_product import attend, attention_options
from penstock.models.backends.transformers.layer_caches import LayerCaches, LayerShape
from penstock.models.backends.transformers.masks import (
    decode_plan,
    first_visible_block,
    prefill_mask,
)
from penstock.models.loading.libraries import transformers, transformers_module

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.models.backends.transformers.layer_caches import LayerCache

_names = itertools.count()


class NotPageable(Exception):
    """The model's attention cannot run over our KV cache."""


class PagedAttention:
    """The attention function and the KV cache of one model; the engine's thread owns it."""

    def __init__(self) -> None:
        self.name = f"penstock_{next(_names)}"
        self.caches = LayerCaches()
        self._step: Step | None = None
        self._workspace: dict[tuple[str, torch.dtype], torch.Tensor] = {}
        self.mutual = Mutual.EVERYWHERE
        """The layers in which the tokens of an image see each other, if a chunk has such runs."""
        self.native = NativePaged() if native.is_available() else None
        causal = transformers_module("masking_utils").causal_mask_function
        self._causal_function: Callable[..., Any] = causal

    def register(self) -> None:
        """Register the name with Transformers."""
        transformers().AttentionInterface.register(self.name, self)
        transformers().AttentionMaskInterface.register(self.name, self.mask)

    def begin(self, step: Step | None) -> None:
        """Set the step that the next forward computes; None learns the layers' shapes."""
        self._step = step
        if step is None:
            self.caches = LayerCaches()

    def mask(
        self,
        *_: Any,
        mask_function: Callable[..., Any] | None = None,
        local_size: int | None = None,
        **__: Any,
    ) -> MaskRule:
        """Replace Transformers' masks: keep the rule, and build masks when they are needed."""
        if mask_function is None or mask_function is self._causal_function:
            return MaskRule()
        return MaskRule(mask_function, local_size)

    def __call__(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: MaskRule | torch.Tensor | None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        """Attend. query (1, heads, T, D), key and value (1, kv_heads, T, D) -> (1, T, heads, D).

        `scaling`, `softcap` and `s_aux` (attention sinks) are honoured.

        :raises NotPageable: the model passes options that this function does not support.
        """
        if isinstance(attention_mask, torch.Tensor):
            raise NotPageable("the model builds attention masks of its own")
        step = self._step
        if step is None:
            window = attention_mask.window if attention_mask is not None else None
            return self._learn(module, query, key, value, window or 0)
        layer = self.caches.layers[id(module)]
        if layer.apart and step.windows is not None:
            step = step.windows
        layer.keys.index_copy_(0, step.write_slots, key[0].transpose(0, 1))
        layer.values.index_copy_(0, step.write_slots, value[0].transpose(0, 1))
        rule = step.causal if attention_mask is None else attention_mask
        if self.native is not None and not any(chunk.mutual for chunk in step.prefills):
            options = attention_options(kwargs, 0)
            out = self.native.attend(
                step, query, layer.keys, layer.values, rule=rule, options=options
            )
            if out is not None:
                return out, None
        parts = [self._decode(group, layer, query, rule, kwargs) for group in step.decodes]
        for chunk in step.prefills:
            if chunk.start == 0:
                rows = slice(chunk.first, chunk.last)
                seen = key[:, :, rows], value[:, :, rows]
            else:
                seen = None
            parts.append(self._prefill(chunk, layer, query, rule, kwargs, seen=seen))
        return (parts[0] if len(parts) == 1 else torch.cat(parts))[None], None

    def _learn(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        window: int,
    ) -> tuple[torch.Tensor, None]:
        """Record a layer's shape; only the shape of the returned value is meaningful."""
        shapes = self.caches.shapes
        if id(module) in shapes:
            raise NotPageable("a layer attends twice in one forward")
        if key.shape[2] != query.shape[2] or query.shape[1] % key.shape[1]:
            raise NotPageable("keys and queries do not match")
        shapes[id(module)] = LayerShape(
            key.shape[1], key.shape[3], value.shape[3], key.dtype, window
        )
        _, heads, tokens, _ = query.shape
        return query.new_zeros((1, tokens, heads, value.shape[3])), None

    def _decode(
        self,
        group: DecodeGroup,
        layer: LayerCache,
        query: torch.Tensor,
        rule: MaskRule,
        kwargs: dict[str, Any],
    ) -> torch.Tensor:
        """One token of each of n sequences -> (n, heads, value_dim).

        The query heads of one KV head stand in the place of the query's length, so that keys and
        values are read once and never repeated.
        """
        blocks, width, mask = decode_plan(group, rule, query.dtype)
        count = group.last - group.first
        keys = self._gather("keys", layer.keys, blocks, count, width)
        values = self._gather("values", layer.values, blocks, count, width)
        kv_heads = keys.shape[1]
        heads = query.shape[1]
        rows = query[0, :, group.first : group.last].transpose(0, 1)
        rows = rows.reshape(count, kv_heads, heads // kv_heads, -1)
        out = attend(rows, keys, values, mask, **attention_options(kwargs, kv_heads))
        return out.reshape(count, heads, -1)

    def _prefill(
        self,
        chunk: PrefillChunk,
        layer: LayerCache,
        query: torch.Tensor,
        rule: MaskRule,
        kwargs: dict[str, Any],
        *,
        seen: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> torch.Tensor:
        """A chunk of one sequence over all that is cached of it -> (t, heads, value_dim).

        `seen` are the chunk's own keys and values if nothing came before it: no need to read
        them back.
        """
        if self.mutual is Mutual.IN_WINDOWS and rule.window is None:
            chunk = replace(chunk, mutual=())
        rows = query[:, :, chunk.first : chunk.last]
        plain = seen is not None and rule.plain_causal and not chunk.mutual
        first_block = first_visible_block(chunk.start, rule.window)
        if seen is None:
            blocks = chunk.blocks[first_block:]
            width = chunk.start + chunk.last - chunk.first - first_block * BLOCK_SIZE
            keys = self._gather("keys", layer.keys, blocks, 1, width)
            values = self._gather("values", layer.values, blocks, 1, width)
        else:
            keys, values = seen
        options = attention_options(kwargs, 0)
        mask = None
        if not (plain and options["softcap"] is None and options["sinks"] is None):
            mask = prefill_mask(chunk, rule, first_block, keys.shape[2], query.dtype)
        out = attend(rows, keys, values, mask, **options)
        return out[0].transpose(0, 1)

    def _gather(
        self, name: str, store: torch.Tensor, blocks: torch.Tensor, count: int, width: int
    ) -> torch.Tensor:
        """Blocks of a layer, in order, as (count, heads, width, dim).

        The buffer is kept from call to call: fresh memory of this size costs more (page faults)
        than the copying.
        """
        heads, dim = store.shape[1:]
        wanted = len(blocks) * BLOCK_SIZE * heads * dim
        buffer = self._workspace.get((name, store.dtype))
        if buffer is None or buffer.numel() < wanted:
            buffer = torch.empty(wanted, dtype=store.dtype, device=store.device)
            self._workspace[name, store.dtype] = buffer
        out = buffer[:wanted].view(len(blocks), BLOCK_SIZE * heads * dim)
        torch.index_select(store.view(-1, BLOCK_SIZE * heads * dim), 0, blocks, out=out)
        return out.view(count, -1, heads, dim)[:, :width].transpose(1, 2)
