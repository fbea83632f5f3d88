"""Prompt log probabilities and hidden states."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.engine.model import Batch, HiddenModel

if TYPE_CHECKING:
    import torch

    from penstock.contract.events import PositionLogprobs
    from penstock.engine.model import Model
    from penstock.engine.sampling.sampler import Sampler
    from penstock.engine.sequence import Sequence
    from penstock.engine.step import Step


def forward(model: Model, step: Step, sampler: Sampler) -> torch.Tensor:
    """Run the model, score and pool the prompts of the step; return the sampled rows' logits."""
    batch = Batch(step.slices)
    if step.pooled and isinstance(model, HiddenModel):
        logits, hidden = model.forward_hidden(batch)
        for sequence, row, position in step.pooled:
            count = _end_of_prompt(step, sequence, sequence.prompt_length) - position
            if sequence.pooled is not None:
                sequence.pooled.add(hidden[row : row + count])
    else:
        logits = model.forward(batch)
    _score(step, logits, sampler)
    return logits[step.rows] if step.scored or step.pooled else logits


def prompt_scores(sequence: Sequence, sampler: Sampler) -> tuple[PositionLogprobs, ...]:
    """Return the prompt's log probabilities, if requested and not emitted yet."""
    if sequence.scores is None or sequence.generated:
        return ()
    return sampler.scores(sequence.token_ids[0], sequence.scores)


def _score(step: Step, logits: torch.Tensor, sampler: Sampler) -> None:
    """Store the log probabilities of prompts' tokens: a position's logits are for the next one."""
    for sequence, row, position in step.scored:
        assert sequence.scores is not None  # noqa: S101 - `scored` has only those
        end = _end_of_prompt(step, sequence, sequence.prompt_length - 1)
        sequence.scores += sampler.score(
            logits[row : row + end - position],
            sequence.token_ids[position + 1 : end + 1],
            sequence.choice.sampling.logprobs or 0,
        )


def _end_of_prompt(step: Step, sequence: Sequence, length: int) -> int:
    """Return the end of the part of a prompt of `length` tokens that this step computes."""
    part = step.slices[step.sequences.index(sequence)]
    return min(part.start + len(part.token_ids), length)
