"""What a step has made of a sequence, as the events that tell of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.contract.events import Finished, Tokens
from penstock.engine.prompt_readout import untold_scores

if TYPE_CHECKING:
    from penstock.contract.events import PositionLogprobs
    from penstock.engine.sampling.sampler import Chosen, Sampler
    from penstock.engine.sequence import Sequence


def tell(
    sequence: Sequence, draft: tuple[int, ...], chosen: Chosen, row: int, sampler: Sampler
) -> Tokens:
    """Append the token of `row` and, while the draft was right, those of the rows after it.

    Each token is drawn as it would have been without the draft, so the text is the same.
    """
    index = sequence.generated
    text = sequence.request.echo_text if not index else ""
    logprobs: list[PositionLogprobs] = []
    said: list[int] = []
    for place in range(row, row + 1 + len(draft)):
        token_id = chosen.token_ids[place]
        if token_id is None:  # the next step looks at it anew
            break
        if place in chosen.logprobs:
            logprobs += (*untold_scores(sequence, sampler), chosen.logprobs[place])
        text += sequence.append(token_id)
        said.append(token_id)
        if sequence.finish_reason is not None or (*said,) != draft[: len(said)]:
            break
    return Tokens(
        sequence.request.job_id,
        index=index,
        token_ids=tuple(said),
        text=text,
        logprobs=tuple(logprobs),
        prompt_tokens=None if index else sequence.prompt_length,
    )


def finish(sequence: Sequence, sampler: Sampler) -> Finished:
    """End a sequence that has a reason to."""
    assert sequence.finish_reason is not None  # noqa: S101 - the engine has looked
    text = sequence.answer.finish()
    return Finished(
        sequence.request.job_id,
        index=sequence.generated,
        reason=sequence.finish_reason,
        usage=sequence.usage,
        text=text if sequence.generated else sequence.request.echo_text + text,
        stop=sequence.stop,
        logprobs=untold_scores(sequence, sampler),
        embedding="" if sequence.pooled is None else sequence.pooled.embedding(),
    )
