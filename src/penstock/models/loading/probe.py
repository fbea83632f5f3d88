"""The check at every load: that a way of running a model gives the model's own logits.

The reference is the module's plain forward over one whole sequence, without any cache. Against it
stands what the engine will do: two sequences, one prefilled in chunks beside the other, then both
decoded in one batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from penstock.engine.model import Batch, SequenceSlice
from penstock.errors import ModelNotLoadable
from penstock.models.backends.steps import BLOCK_SIZE
from penstock.models.loading import checkpoint

if TYPE_CHECKING:
    from penstock.engine.model import Model

_LONG = BLOCK_SIZE + 5  # over a block's edge
_SHORT = 6
_CHUNK = 7
_BLOCKS = {1: [3, 1], 2: [2]}  # block tables of the two sequences, out of order on purpose
_QUANTILE = 0.75  # of a row's errors: rounding may tip a router's choice in a row, not in most


class Probe:
    """The reference logits of one module, and the comparison with them."""

    def __init__(self, module: Any, device: torch.device, tolerance: float) -> None:
        self.tolerance = tolerance
        self._module = module
        self._device = device
        vocab = checkpoint.vocab_size(module)
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randint(vocab, (_LONG + _SHORT,), generator=generator)
        self._long = [int(token) for token in drawn[:_LONG]]
        self._short = [int(token) for token in drawn[_LONG:]]
        self._wanted = torch.cat((self._plain(self._long), self._plain(self._short)))

    def require_causal(self, where: str) -> None:
        """Make sure that later tokens do not change earlier logits.

        :raises ModelNotLoadable: they do, so the model cannot decode token by token.
        """
        prefix = self._plain(self._long[:_CHUNK])
        if self._distance(prefix, self._wanted[:_CHUNK]) > self.tolerance:
            raise ModelNotLoadable(
                f"{where}: {type(self._module).__name__} is not causal: "
                f"it cannot decode token by token"
            )

    def error_of(self, model: Model) -> float:
        """Relative error of the model's logits; it is left without a cache."""
        long, short = self._long, self._short
        model.allocate(max(block for table in _BLOCKS.values() for block in table) + 1)
        steps = (
            (_part(1, long, 0, _CHUNK), _part(2, short, 0, _SHORT - 1)),
            (_part(1, long, _CHUNK, _LONG - 1),),
            (_part(2, short, _SHORT - 1, _SHORT), _part(1, long, _LONG - 1, _LONG)),
        )
        (first, middle, last) = (model.forward(Batch(step)) for step in steps)
        split = _SHORT - 1
        got = torch.cat(
            (first[:_CHUNK], middle, last[1:], first[_CHUNK : _CHUNK + split], last[:1])
        )
        model.release(1)
        model.release(2)
        model.allocate(0)
        return self._distance(got.cpu(), self._wanted)

    def drift(self) -> float:
        """Relative error of what the module gives now, having been changed since."""
        return self._distance(
            torch.cat((self._plain(self._long), self._plain(self._short))), self._wanted
        )

    @torch.inference_mode()
    def _plain(self, token_ids: list[int]) -> torch.Tensor:
        """(tokens, vocab) float32 on the CPU."""
        tokens = torch.tensor([token_ids], device=self._device)
        mask = torch.ones_like(tokens)
        output = self._module(input_ids=tokens, attention_mask=mask, use_cache=False)
        return output.logits[0].float().cpu()

    @staticmethod
    def _distance(got: torch.Tensor, wanted: torch.Tensor) -> float:
        """A high quantile over rows of |got - wanted| / |wanted|, of logits less their mean."""
        if got.shape != wanted.shape:
            return float("inf")
        spread = (wanted - wanted.mean(dim=-1, keepdim=True)).square().sum(dim=-1).sqrt()
        errors = (got - wanted).square().sum(dim=-1).sqrt() / spread.clamp(min=1e-6)
        quantile = torch.quantile(errors, _QUANTILE).item()
        return quantile if quantile == quantile else float("inf")  # noqa: PLR0124 - NaN


def _part(key: int, tokens: list[int], start: int, end: int) -> SequenceSlice:
    return SequenceSlice(
        key=key,
        token_ids=tokens[start:end],
        start=start,
        block_table=_BLOCKS[key],
        logits_from=0,
    )
