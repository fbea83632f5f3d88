"""Turns a step's result into events."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from penstock.contract.events import Failed, Finished, Tokens
from penstock.engine.prompt_readout import prompt_scores

if TYPE_CHECKING:
    from penstock.contract.events import Event, PositionLogprobs
    from penstock.engine.sampling.sampler import Chosen, Sampler
    from penstock.engine.sequence import Sequence, SequenceRequest
    from penstock.errors import PenstockError


class AttemptEvent(NamedTuple):
    """An event of a job, with the attempt at it that emitted the event."""

    attempt_id: str
    event: Event


def new_tokens(
    sequence: Sequence, draft: tuple[int, ...], chosen: Chosen, row: int, sampler: Sampler
) -> Tokens:
    """Append the token of `row` and, while the draft was right, those of the rows after it.

    Each token is drawn as it would have been without the draft, so the text is the same.
    """
    index = sequence.generated
    text = sequence.request.echo_text if not index else ""
    logprobs: list[PositionLogprobs] = []
    token_ids: list[int] = []
    for position in range(row, row + 1 + len(draft)):
        token_id = chosen.token_ids[position]
        if token_id is None:  # the next step computes its logits again
            break
        if position in chosen.logprobs:
            logprobs += (*prompt_scores(sequence, sampler), chosen.logprobs[position])
        text += sequence.append(token_id)
        token_ids.append(token_id)
        if sequence.finish_reason is not None or (*token_ids,) != draft[: len(token_ids)]:
            break
    return Tokens(
        sequence.request.job_id,
        index=index,
        token_ids=tuple(token_ids),
        text=text,
        logprobs=tuple(logprobs),
        prompt_tokens=None if index else sequence.prompt_length,
    )


def finished(sequence: Sequence, sampler: Sampler) -> AttemptEvent:
    """End a sequence that has a finish reason."""
    assert sequence.finish_reason is not None  # noqa: S101 - the engine has looked
    text = sequence.answer.finish()
    event = Finished(
        sequence.request.job_id,
        index=sequence.generated,
        reason=sequence.finish_reason,
        usage=sequence.usage,
        text=text if sequence.generated else sequence.request.echo_text + text,
        stop=sequence.stop,
        logprobs=prompt_scores(sequence, sampler),
        embedding="" if sequence.pooled is None else sequence.pooled.embedding(),
    )
    return AttemptEvent(sequence.request.attempt_id, event)


def failed(request: SequenceRequest, error: PenstockError, *, index: int) -> AttemptEvent:
    """End a request that was refused, or whose computation failed after `index` tokens."""
    event = Failed(request.job_id, index, error.code, error.message, error.param or "")
    return AttemptEvent(request.attempt_id, event)
