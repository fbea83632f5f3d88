"""The check at every load: a way of running a model must give the model's own logits.

The reference is the module's own decoding as `generate` runs it: a prompt prefilled into its own
cache, the rest token by token. It is compared with what the engine will do: two sequences, one
prefilled in chunks beside the other, then both decoded in one batch.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import torch

from penstock.engine.model import Batch, SequenceSlice
from penstock.errors import ModelNotLoadable
from penstock.models.backends.steps import BLOCK_SIZE
from penstock.models.loading import checkpoint
from penstock.models.loading.own_decoding import OwnDecoding

if TYPE_CHECKING:
    from penstock.engine.model import Model

logger = logging.getLogger(__name__)

_LONG: Final = BLOCK_SIZE + 5  # crosses a block's edge
_SHORT: Final = 6
_CHUNK: Final = 7
_DECODED: Final = 3  # tokens of each sequence that the reference decodes one by one
_BLOCKS: Final = {1: [3, 1], 2: [2]}  # block tables of the two sequences, out of order on purpose
_DECODED_ROWS: Final = [
    *range(_LONG - _DECODED, _LONG),
    *range(_LONG + _SHORT - _DECODED, _LONG + _SHORT),
]
_QUANTILE: Final = 0.75  # of rows' errors: rounding may change a router's choice in a few rows
_GPU_NOISE: Final = (
    0.01  # of the tolerance: what a neighbour may change if the order of sums varies
)


class Probe:
    """One module's reference logits, and comparisons with them."""

    def __init__(self, module: Any, device: torch.device, tolerance: float) -> None:
        self.tolerance = tolerance
        self.stateful_layers: list[str] = []
        self._in_order = True  # whether the model adds up in a fixed order
        self._module = module
        self._device = device
        self._has_experts = any("expert" in name.lower() for name, _ in module.named_modules())
        vocab = checkpoint.vocab_size(module)
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randint(vocab, (_LONG + 2 * _SHORT,), generator=generator)
        self._long = [int(token) for token in drawn[:_LONG]]
        self._short = [int(token) for token in drawn[_LONG : _LONG + _SHORT]]
        self._other = [int(token) for token in drawn[_LONG + _SHORT :]]
        self._wanted = self._reference()

    def require_causal(self, where: str) -> None:
        """Check that the logits are finite, and that later tokens do not change earlier ones.

        :raises ModelNotLoadable: one of these fails: the model cannot decode token by token.
        """
        name = type(self._module).__name__
        if self._wanted.isnan().any():
            raise ModelNotLoadable(f"{where}: {name} computes NaN: {self._cause_of_nan()}")
        prefix = self._own(self._long[:_CHUNK], 0)
        if self._distance(prefix, self._wanted[:_CHUNK]) > self.tolerance:
            raise ModelNotLoadable(
                f"{where}: {name} is not causal: it cannot decode token by token"
            )

    def error_of(self, model: Model) -> float:
        """Return the relative error of a model's logits; infinite if a neighbour's tokens change them.

        The model's cache is released.
        """
        model.allocate(max(block for table in _BLOCKS.values() for block in table) + 1)
        logits = self._served(model, self._short)
        again = self._served(model, self._other)
        model.allocate(0)
        error = self._error(logits)
        if error <= self.tolerance and self._leaks(logits[:_LONG], again[:_LONG]):
            logger.warning("%s: a neighbour changes its logits", type(model).__name__)
            return float("inf")
        return error

    def drift(self) -> float:
        """Return the relative error of the module's current logits, after it was changed."""
        return self._error(self._reference())

    def _error(self, logits: torch.Tensor) -> float:
        """Return the error of all rows, or of those decoded from the cache if that is larger."""
        if logits.shape != self._wanted.shape:
            return float("inf")
        decoded = self._distance(logits[_DECODED_ROWS], self._wanted[_DECODED_ROWS], 0.5)
        return max(decoded, self._distance(logits, self._wanted))

    def _served(self, model: Model, short: list[int]) -> torch.Tensor:
        """Return both sequences' logits as the engine computes them, on the CPU."""
        long = self._long
        steps = (
            (_part(1, long, 0, _CHUNK), _part(2, short, 0, _SHORT - 1)),
            (_part(1, long, _CHUNK, _LONG - 1),),
            (_part(2, short, _SHORT - 1, _SHORT), _part(1, long, _LONG - 1, _LONG)),
        )
        computed = [model.forward(Batch(step)) for step in steps]
        self._in_order = all(rows.device.type == "cpu" for rows in computed)
        (first, middle, last) = (rows.cpu() for rows in computed)
        model.release(1)
        model.release(2)
        return torch.cat((first[:_CHUNK], middle, last[1:], first[_CHUNK:], last[:1]))

    def _leaks(self, logits: torch.Tensor, again: torch.Tensor) -> bool:
        """Return whether one sequence's logits differ between two neighbours of equal length.

        Everything but the neighbour's tokens is equal, so no bit may differ. Two exceptions:
        experts
        compute all rows that chose them together, so the number of rows, and with it the rounding,
        depends on the neighbour; and a GPU may add up in any order.
        """
        if self._has_experts:
            return self._distance(again, logits) > self.tolerance
        if self._in_order:
            return not torch.equal(again, logits)
        return self._distance(again, logits) > self.tolerance * _GPU_NOISE

    def _reference(self) -> torch.Tensor:
        """Return logits of the long and the short sequence: (tokens, vocab) float32 on the CPU."""
        return torch.cat((self._own(self._long, _DECODED), self._own(self._short, _DECODED)))

    def _own(self, tokens: list[int], decoded: int) -> torch.Tensor:
        """Return the logits of one sequence, its last `decoded` tokens computed one by one.

        If the module's own decoding fails, so does `generate`; then one forward pass without a
        cache is the only reference.
        """
        name = type(self._module).__name__
        try:
            own = OwnDecoding(self._module, self._device)
            rows = [own.advance(tokens[: len(tokens) - decoded])]
            rows += [own.advance([token]) for token in tokens[len(tokens) - decoded :]]
            self.stateful_layers = own.stateful_layers()
            return torch.cat(rows).float().cpu()
        except Exception as error:  # noqa: BLE001 - a foreign architecture may raise anything
            logger.warning("%s cannot generate: %s", name, checkpoint.first_line(error))
        try:
            return self._plain(tokens)
        except Exception as error:
            raise ModelNotLoadable(
                f"{name} cannot be run: {checkpoint.first_line(error)}"
            ) from error

    @torch.inference_mode()
    def _plain(self, tokens: list[int]) -> torch.Tensor:
        ids = torch.tensor([tokens], device=self._device)
        mask = torch.ones_like(ids)
        output = self._module(input_ids=ids, attention_mask=mask, use_cache=False)
        return output.logits[0].float().cpu()

    def _cause_of_nan(self) -> str:
        """Return the name of a weight with numbers that are not finite, or else the likely cause."""
        for name, weight in self._module.named_parameters():
            if weight.is_floating_point() and not weight.isfinite().all():
                return f"the weight {name} holds NaN or infinity: the checkpoint is damaged"
        return "its numbers overflow in this format; format = 'fp32' has more room"

    @staticmethod
    def _distance(actual: torch.Tensor, expected: torch.Tensor, share: float = _QUANTILE) -> float:
        """Return a high quantile, over rows, of |actual - expected| / |expected|, each less its mean."""
        if actual.shape != expected.shape:
            return float("inf")
        spread = (expected - expected.mean(dim=-1, keepdim=True)).square().sum(dim=-1).sqrt()
        errors = (actual - expected).square().sum(dim=-1).sqrt() / spread.clamp(min=1e-6)
        quantile = torch.quantile(errors, share, interpolation="higher").item()
        return quantile if quantile == quantile else float("inf")  # noqa: PLR0124 - NaN


def _part(key: int, tokens: list[int], start: int, end: int) -> SequenceSlice:
    return SequenceSlice(
        key=key,
        token_ids=tokens[start:end],
        start=start,
        block_table=_BLOCKS[key],
        logits_from=0,
    )
