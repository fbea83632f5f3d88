"""One name on several queues: spill-over, versions by weight, fallbacks."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import openai
import pytest

from penstock.transport import keys
from penstock.transport.accounts.keyring import KeyDesk
from tests.fixtures.api import WORDS
from tests.fixtures.jobs import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    import redis

    from tests.fixtures.api import Fleet

OTHER: dict[str, Any] = {"queue": "tiny-xpu", "device": "xpu"}


def test_a_full_queue_spills_over(fleet: Fleet) -> None:
    server = fleet.api(max_waiting_jobs=2)
    first = fleet.worker()
    second = fleet.worker(**OTHER)
    first.accepting = second.accepting = False
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        asked: Any = {"model": "tiny", "input": "hello", "background": True}
        kept = [client.responses.create(**asked) for _ in range(4)]
        assert fleet.depth("tiny-cpu").waiting_jobs == 2
        assert fleet.depth("tiny-xpu").waiting_jobs == 2
        with pytest.raises(openai.RateLimitError) as caught:
            client.responses.create(**asked)
        assert caught.value.code == "queue_full"
        first.accepting = second.accepting = True
        for response in kept:
            wait_until(lambda one=response: client.responses.retrieve(one.id).status == "completed")
            assert client.responses.retrieve(response.id).output_text == "".join(WORDS)


def test_the_choices_of_one_request_may_spill(fleet: Fleet) -> None:
    server = fleet.api(max_waiting_jobs=2)
    first = fleet.worker()
    second = fleet.worker(**OTHER)
    first.accepting = second.accepting = False
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        threading.Timer(0.5, lambda: setattr(first, "accepting", True)).start()
        threading.Timer(0.5, lambda: setattr(second, "accepting", True)).start()
        answer = client.completions.create(model="tiny", prompt="a", n=4)
    assert [choice.text for choice in answer.choices] == ["".join(WORDS)] * 4
    assert {len(first.jobs), len(second.jobs)} == {2}


def test_another_version_is_no_spill_over(fleet: Fleet) -> None:
    server = fleet.api(max_waiting_jobs=1)
    first = fleet.worker(aliases=("chat",))
    other = fleet.worker(name="newer", queue="newer-cpu", aliases=("chat",))
    first.accepting = other.accepting = False
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        asked: Any = {"model": "tiny", "input": "hello", "background": True}
        client.responses.create(**asked)
        with pytest.raises(openai.RateLimitError):
            client.responses.create(**asked)
        assert fleet.depth("newer-cpu").waiting_jobs == 0
    first.accepting = other.accepting = True
    wait_until(lambda: fleet.depth("tiny-cpu").waiting_jobs == 0)


ALIASES = """
[aliases.assistant]
models = { tiny = 1, newer = 1 }
fallback = ["spare"]

[aliases.busy]
models = "tiny"
fallback = ["spare"]
"""
NEWER = {"name": "newer", "queue": "newer-cpu", "aliases": ()}
SPARE = {"name": "spare", "queue": "spare-cpu", "aliases": ()}


@pytest.fixture
def alias_file(tmp_path: Path) -> Path:
    file = tmp_path / "aliases.toml"
    file.write_text(ALIASES)
    return file


def ask(client: openai.OpenAI, model: str, **headers: str) -> tuple[str, str]:
    """Return the model that the answer names, and the one that gave it."""
    raw = client.completions.with_raw_response.create(
        model=model, prompt="a", extra_headers=headers
    )
    return raw.parse().model, raw.headers["x-penstock-model"]


def test_versions_by_weight(fleet: Fleet, alias_file: Path) -> None:
    server = fleet.api(aliases_file=alias_file)
    tiny = fleet.worker()
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        assert ask(client, "assistant") == ("assistant", "tiny")  # the other one is not there
        newer = fleet.worker(**NEWER)
        taken = {ask(client, "assistant") for _ in range(40)}
        assert taken == {("assistant", "tiny"), ("assistant", "newer")}
        assert ask(client, "newer") == ("newer", "newer")
        same = [ask(client, "assistant", **{"Idempotency-Key": "once"}) for _ in range(4)]
        assert len(set(same)) == 1
        names = {model.id for model in client.models.list()}
        assert {"assistant", "busy", "tiny", "newer"} <= names
        assert client.models.retrieve("assistant").id == "assistant"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("assistants")
        newer.stop()
        server.refresh()
        assert {ask(client, "assistant") for _ in range(10)} == {("assistant", "tiny")}
    assert tiny.jobs


def test_the_fallback_of_an_alias(fleet: Fleet, alias_file: Path) -> None:
    server = fleet.api(aliases_file=alias_file, max_waiting_jobs=1)
    fleet.worker(**SPARE)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        assert ask(client, "busy") == ("busy", "spare")  # nobody has ever served tiny
        with pytest.raises(openai.NotFoundError):
            ask(client, "tiny")
        tiny = fleet.worker()
        assert ask(client, "busy") == ("busy", "tiny")
        tiny.accepting = False
        client.responses.create(model="tiny", input="a", background=True)
        server.refresh()
        assert ask(client, "busy") == ("busy", "spare")  # tiny's queue is full
        with pytest.raises(openai.RateLimitError):
            ask(client, "tiny")
        tiny.accepting = True
        wait_until(lambda: fleet.depth("tiny-cpu").waiting_jobs == 0)


def test_a_fallback_that_the_client_names(fleet: Fleet) -> None:
    server = fleet.api()
    fleet.worker(**SPARE)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        named = {"x-penstock-fallback": "none, spare"}
        assert ask(client, "tiny", **named) == ("tiny", "spare")
        with pytest.raises(openai.NotFoundError) as caught:
            ask(client, "tiny", **{"x-penstock-fallback": "none"})
        assert "'tiny'" in caught.value.message
        assert caught.value.param == "model"
        with pytest.raises(openai.BadRequestError):
            ask(client, "tiny", **{"x-penstock-fallback": ",".join("abcdefghi")})


def test_a_key_may_use_what_its_alias_stands_for(
    fleet: Fleet, alias_file: Path, redis_client: redis.Redis
) -> None:
    _, secret = KeyDesk(redis_client, 5.0).make("ann", models=("busy",))
    try:
        server = fleet.api(aliases_file=alias_file)
        fleet.worker(**SPARE)
        url = f"{server.url}/v1"
        with openai.OpenAI(base_url=url, api_key=secret, max_retries=0) as client:
            assert ask(client, "busy") == ("busy", "spare")
            for model, named in (("spare", {}), ("busier", {"x-penstock-fallback": "spare"})):
                with pytest.raises(openai.PermissionDeniedError):
                    ask(client, model, **named)
            assert [model.id for model in client.models.list()] == ["busy"]
    finally:
        redis_client.delete(keys.API_KEYS)
