"""The fallback for architectures without the attention interface: a cache a sequence.

Slower than paged attention (each sequence is a separate forward), and always the model's own
arithmetic: ALiBi, recurrent layers, remote code. The engine's block tables are honoured in one
respect: the model remembers which tokens were written into a block, so that a sequence that starts
behind a shared prefix, or comes back after a preemption, is computed again from them.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

import torch

from penstock.engine.model import Batch, KVLayout, Mutual, SequenceSlice
from penstock.models.backends.steps import BLOCK_SIZE
from penstock.models.backends.transformers.adapters import ModuleAdapter, StepAdapters
from penstock.models.backends.transformers.images import ForwardImages
from penstock.models.loading import checkpoint
from penstock.models.loading.own_decoding import OwnDecoding

if TYPE_CHECKING:
    from penstock.engine.image_inputs import ImageInputs
    from penstock.models.adapters.adapter import LowRank


class Replay(Enum):
    """How a model takes tokens after its first forward; the first correct way is used."""

    CHUNKS = "chunks"
    TOKENS = "tokens"
    RECOMPUTE = "recompute"


class GroupedModel:
    """A Transformers module, one forward a sequence and step."""

    def __init__(
        self, module: Any, device: torch.device, context_length: int, replay: Replay
    ) -> None:
        self.module = module
        self.device = device
        self.replay = replay
        self.context_length = context_length
        self.vocab_size = checkpoint.vocab_size(module)
        self.kv_layout = KVLayout(BLOCK_SIZE, BLOCK_SIZE * _bytes_per_token(module))
        self._adapters = StepAdapters(module, device)
        self._states: dict[int, OwnDecoding] = {}
        self._written: dict[int, list[int]] = {}
        self._images: ForwardImages | None = None

    def take_images(self, rotary: Any | None, *, mutual: Mutual) -> bool:
        """See `penstock.engine.model.ImageModel`."""
        self._images = ForwardImages(self.module, rotary)
        return mutual is Mutual.NOWHERE

    def allocate(self, blocks: int) -> None:
        """See `penstock.engine.model.Model`; the caches grow with their sequences."""
        del blocks
        self._states.clear()
        self._written.clear()

    def take_adapter(self, adapter: LowRank) -> ModuleAdapter:
        """See `penstock.models.adapters.adapter.AdapterModel`."""
        return self._adapters.take(adapter)

    @torch.inference_mode()
    def forward(self, batch: Batch) -> torch.Tensor:
        """See `penstock.engine.model.Model`: (rows, vocab) float32."""
        rows = [torch.empty((0, self.vocab_size), dtype=torch.float32, device=self.device)]
        for part in batch.slices:
            self._adapters.begin_one(part.adapter)
            state = self._state_at(part)
            logits = self._extend(state, list(part.token_ids), part.images)
            self._note(part)
            rows.append(logits[part.logits_from :].float())
        return torch.cat(rows)

    def release(self, key: int) -> None:
        """Forget a sequence's cache."""
        self._states.pop(key, None)

    def _state_at(self, part: SequenceSlice) -> OwnDecoding:
        """The sequence's state with exactly the tokens before `part.start`."""
        state = self._states.get(part.key)
        if state is not None and len(state.tokens) == part.start:
            return state
        state = self._states[part.key] = OwnDecoding(self.module, self.device)
        if part.start:
            tokens: list[int] = []
            for block in part.block_table[: (part.start - 1) // BLOCK_SIZE + 1]:
                tokens.extend(self._written[block])
            self._extend(state, tokens[: part.start], part.images)
        return state

    def _extend(
        self, state: OwnDecoding, tokens: list[int], images: ImageInputs | None
    ) -> torch.Tensor:
        """Compute the next tokens of a sequence -> (tokens, vocab)."""
        if self.replay is Replay.RECOMPUTE:
            state.tokens.extend(tokens)
            self._begin(images, 0, state.tokens)
            ids = torch.tensor([state.tokens], device=self.device)
            output = self.module(
                input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False
            )
            return output.logits[0, -len(tokens) :]
        if self.replay is Replay.CHUNKS or not state.tokens:
            return self._advance(state, tokens, images)
        return torch.cat([self._advance(state, [token], images) for token in tokens])

    def _advance(
        self, state: OwnDecoding, tokens: list[int], images: ImageInputs | None
    ) -> torch.Tensor:
        self._begin(images, len(state.tokens), tokens)
        return state.advance(tokens)

    def _begin(self, images: ImageInputs | None, start: int, tokens: list[int]) -> None:
        """Have the next forward, of tokens from position `start` on, see the images in them."""
        if self._images is not None:
            batch = Batch([SequenceSlice(0, tokens, start, (), 0, images=images)])
            positions = torch.arange(start, start + len(tokens), device=self.device)[None]
            self._images.begin(batch, (0,), positions)

    def _note(self, part: SequenceSlice) -> None:
        """Record which tokens the blocks now contain."""
        for offset, token in enumerate(part.token_ids):
            position = part.start + offset
            written = self._written.setdefault(part.block_table[position // BLOCK_SIZE], [])
            del written[position % BLOCK_SIZE :]
            written.append(token)


def _bytes_per_token(module: Any) -> int:
    """Return the bytes of a token in an ordinary attention cache, from the configuration."""
    config = checkpoint.text_config(module)
    layers = int(getattr(config, "num_hidden_layers", 1))
    heads = int(getattr(config, "num_attention_heads", None) or 1)
    kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    return 2 * layers * kv_heads * head_dim * module.dtype.itemsize
