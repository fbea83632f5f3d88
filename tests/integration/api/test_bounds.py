"""Bounds of requests, each at its value and just past it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import openai
import pytest

from api.http.resumption import LONGEST_KEY
from api.jobs.prompt_bounds import LEAST_CHARACTERS
from penstock.foreign import JSON_NESTING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fixtures.api import ApiServer, Fleet

ASK: Any = [{"role": "user", "content": "hello"}]


@pytest.fixture
def server(fleet: Fleet) -> ApiServer:
    return fleet.api()


@pytest.fixture
def client(server: ApiServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("longest", [0, 4, 20])
def test_a_prompts_characters(fleet: Fleet, client: openai.OpenAI, longest: int) -> None:
    """The longest token times the context, or so many as are always taken."""
    worker = fleet.worker(longest_token_chars=longest)
    most = max(longest * 512, LEAST_CHARACTERS)
    client.completions.create(model="tiny", prompt="a" * most)
    if not longest:  # an older worker: it does not say
        client.completions.create(model="tiny", prompt="a" * (most + 1))
        return
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tiny", prompt=["a", "a" * (most + 1)])
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "prompt")
    assert f"{most + 1} characters" in caught.value.message
    assert len(worker.jobs) == 1


def test_a_prompts_token_ids(fleet: Fleet, client: openai.OpenAI) -> None:
    worker = fleet.worker()
    client.completions.create(model="tiny", prompt=[1] * 512)
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tiny", prompt=[1] * 513)
    assert caught.value.code == "context_length_exceeded"
    assert len(worker.jobs) == 1


def test_nesting_of_a_body(fleet: Fleet, client: openai.OpenAI) -> None:
    fleet.worker()

    def ask(levels: int) -> None:
        value: Any = 1
        for _ in range(levels):
            value = [value]
        client.chat.completions.create(
            model="tiny", messages=ASK, extra_body={"chat_template_kwargs": {"a": value}}
        )

    ask(JSON_NESTING - 2)
    with pytest.raises(openai.BadRequestError, match="nested deeper than 200 levels"):
        ask(JSON_NESTING - 1)


@pytest.mark.parametrize("levels", [JSON_NESTING + 1, 50_000])
def test_nesting_of_a_schema_that_comes_as_text(
    fleet: Fleet, client: openai.OpenAI, levels: int
) -> None:
    fleet.worker(capabilities=("generate", "structure"))
    text = '{"a":' * levels + "1" + "}" * levels
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=ASK, extra_body={"guided_json": text})
    assert caught.value.param == "guided_json"
    assert "nested deeper than 200 levels" in caught.value.message


def test_an_idempotency_key(fleet: Fleet, client: openai.OpenAI) -> None:
    fleet.worker()

    def ask(length: int) -> None:
        client.chat.completions.create(
            model="tiny", messages=ASK, extra_headers={"idempotency-key": "k" * length}
        )

    ask(LONGEST_KEY)
    with pytest.raises(openai.BadRequestError, match="over 256 characters"):
        ask(LONGEST_KEY + 1)
