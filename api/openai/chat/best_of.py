"""`best_of`: more answers than are wanted, of which those are kept that the model finds likeliest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from penstock.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from api.jobs.generation import Answer
    from api.openai.schema import GenerationRequest
    from penstock.contract.job import Sampling


def candidates(asked: GenerationRequest) -> int:
    """Return how many answers to each prompt are made.

    :raises InvalidParameter: fewer than `n`, or more in a stream, which cannot be taken back.
    """
    wanted = asked.n or 1
    if asked.best_of is None or asked.best_of == wanted:
        return wanted
    if asked.best_of < wanted:
        raise InvalidParameter(f"best_of: must not be less than n ({wanted})", param="best_of")
    if asked.stream:
        raise InvalidParameter("best_of: more than n cannot be streamed", param="best_of")
    return asked.best_of


def judged(sampling: Sampling, asked: GenerationRequest) -> Sampling:
    """Return the sampling with the log probabilities by which answers are compared."""
    if candidates(asked) == (asked.n or 1) or sampling.logprobs is not None:
        return sampling
    return msgspec.structs.replace(sampling, logprobs=0)


def kept(answers: Sequence[Answer], asked: GenerationRequest) -> list[int]:
    """Return which answers are shown: `n` of each prompt, the best first.

    The best has the highest log probability a token, as OpenAI has it.
    """
    wanted, made = asked.n or 1, candidates(asked)
    if wanted == made:
        return list(range(len(answers)))
    chosen: list[int] = []
    for start in range(0, len(answers), made):
        ranked = sorted(range(start, start + made), key=lambda index: -likelihood(answers[index]))
        chosen += ranked[:wanted]
    return chosen


def shown(answer: Answer, asked: GenerationRequest) -> Answer:
    """Return an answer without log probabilities that nobody asked for."""
    if asked.wanted_logprobs is None:
        answer.logprobs.clear()
    return answer


def likelihood(answer: Answer) -> float:
    """Return the mean log probability of an answer's tokens; of the prompt's none counts."""
    # With `echo` the prompt's come first.
    count = min(answer.usage.completion_tokens, len(answer.logprobs))
    own = answer.logprobs[len(answer.logprobs) - count :]
    return sum(position.chosen.logprob for position in own) / count if count else 0.0
