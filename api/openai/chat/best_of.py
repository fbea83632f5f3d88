"""`n` and `best_of`: how many answers are made, and which of them the client gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from penstock.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from api.jobs.whole_answers import Answer
    from api.openai.schema import GenerationRequest
    from penstock.contract.job import Sampling


@dataclass(frozen=True)
class Choices:
    """How many answers to each prompt are `made` and `returned`, and whether with logprobs."""

    made: int
    returned: int
    with_logprobs: bool

    @classmethod
    def of(cls, asked: GenerationRequest) -> Choices:
        """Return a request's choices.

        :raises InvalidParameter: `best_of` is less than `n`, or more in a stream, which cannot be
            taken back.
        """
        returned = asked.n or 1
        made = returned if asked.best_of is None else asked.best_of
        if made < returned:
            raise InvalidParameter(
                f"best_of: must not be less than n ({returned})", param="best_of"
            )
        if made > returned and asked.stream:
            raise InvalidParameter("best_of: more than n cannot be streamed", param="best_of")
        return cls(made, returned, asked.wanted_logprobs is not None)

    def ranked(self, sampling: Sampling) -> Sampling:
        """Return the sampling with the log probabilities that ranking answers needs."""
        if self.made == self.returned or sampling.logprobs is not None:
            return sampling
        return msgspec.structs.replace(sampling, logprobs=0)

    def best(self, answers: Sequence[Answer]) -> list[int]:
        """Return the positions of the answers to return, each prompt's best first.

        The best has the highest log probability a token, as in OpenAI's API. Log probabilities
        that the client has not requested are removed from the answers.
        """
        if self.made == self.returned:
            return list(range(len(answers)))
        best: list[int] = []
        for start in range(0, len(answers), self.made):
            candidates = range(start, start + self.made)
            ranked = sorted(candidates, key=lambda position: -likelihood(answers[position]))
            best += ranked[: self.returned]
        if not self.with_logprobs:
            for answer in answers:
                answer.logprobs.clear()
        return best


def likelihood(answer: Answer) -> float:
    """Return the mean log probability of an answer's own tokens, without the prompt's."""
    # With `echo` the prompt's come first.
    count = min(answer.usage.completion_tokens, len(answer.logprobs))
    own = answer.logprobs[len(answer.logprobs) - count :]
    return sum(position.chosen.logprob for position in own) / count if count else 0.0
