"""`best_of` on both endpoints: which answers are kept, what they cost, what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import openai
import pytest

from penstock.contract.events import (
    Finished,
    FinishReason,
    PositionLogprobs,
    TokenLogprob,
    Tokens,
    Usage,
)  # fmt: skip

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.contract.job import Job
    from tests.fixtures.api import Fleet, Script

# Mean log probability a token; the longest sum is not the best mean.
ANSWERS = (("so so", (-1.0,)), ("best", (-0.5, -0.5, -0.5)), ("worst", (-3.0,)))
ECHOED = (-9.0, -9.0)


class Judge:
    """Answers each prompt's jobs in turn; wants log probabilities of each."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, job: Job) -> Script:
        text, means = ANSWERS[self.count % len(ANSWERS)]
        self.count += 1
        assert job.work.sampling.logprobs is not None
        prompt = ECHOED if job.work.echo else ()
        told = tuple(PositionLogprobs(TokenLogprob(1, "x", value)) for value in (*prompt, *means))
        yield Tokens(job.id, 0, tuple(range(len(means))), text, logprobs=told, prompt_tokens=3)
        yield Finished(job.id, len(means), FinishReason.STOP, Usage(3, len(means)))


@pytest.fixture
def client(fleet: Fleet) -> Iterator[openai.OpenAI]:
    url = fleet.api().url
    fleet.worker(Judge())
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_the_likeliest_answers_are_kept(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt="a", best_of=3)
    assert [choice.text for choice in answer.choices] == ["best"]
    assert answer.choices[0].logprobs is None
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 5)
    two = client.completions.create(model="tiny", prompt=["a", "b"], best_of=3, n=2, logprobs=0)
    assert [choice.text for choice in two.choices] == ["best", "so so"] * 2
    assert [choice.index for choice in two.choices] == [0, 1, 2, 3]
    assert two.choices[0].logprobs is not None


def test_the_prompts_tokens_do_not_count(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt="a", best_of=3, echo=True)
    assert answer.choices[0].text == "best"


def test_chats_too(client: openai.OpenAI) -> None:
    chat: Any = [{"role": "user", "content": "hello"}]
    answer = client.chat.completions.create(model="tiny", messages=chat, extra_body={"best_of": 3})
    assert [choice.message.content for choice in answer.choices] == ["best"]
    assert answer.choices[0].logprobs is None


@pytest.mark.parametrize(
    "more", [{"n": 3, "best_of": 2}, {"best_of": 2, "stream": True}, {"best_of": 21}]
)
def test_what_makes_no_sense(client: openai.OpenAI, more: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tiny", prompt="a", **more)
    assert caught.value.param == "best_of"
