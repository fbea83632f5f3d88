"""/v1/responses by OpenAI's SDK, over a real Redis and a scripted worker."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, cast

import httpx
import openai
import pytest

from penstock.contract.events import Failed, Finished, FinishReason, Tokens, Usage
from penstock.transport import keys
from tests.fixtures.api import WORDS, chat_of, drone, speak
from tests.fixtures.jobs import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from penstock.contract.job import Job
    from tests.fixtures.api import ApiServer, Fleet, Script
    from tests.fixtures.clerk import Clerk

TEXT = "".join(WORDS)


@pytest.fixture
def server(fleet: Fleet) -> ApiServer:
    return fleet.api(keepalive_s=1.0)


@pytest.fixture
def client(server: ApiServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def prompts(job: Job) -> list[tuple[str, Any]]:
    return [(message["role"], message["content"]) for message in chat_of(job).messages]


class Gate:
    """A script that says one word, then waits to be told."""

    def __init__(self) -> None:
        self.open = threading.Event()

    def __call__(self, job: Job) -> Script:
        for event in speak(job):
            yield event
            while not self.open.is_set():
                yield None


def test_an_answer(fleet: Fleet, client: openai.OpenAI) -> None:
    worker = fleet.worker()
    response = client.responses.create(
        model="tiny", input="hello", instructions="be brief", metadata={"a": "b"}, temperature=0
    )
    assert response.output_text == TEXT
    assert response.status == "completed"
    assert response.metadata == {"a": "b"}
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (3, 4)
    assert prompts(worker.jobs[0]) == [("system", "be brief"), ("user", "hello")]
    again = client.responses.retrieve(response.id)
    assert again == response
    item: Any
    [item] = client.responses.input_items.list(response.id)
    assert item.content[0].text == "hello"
    client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_going_on(fleet: Fleet, client: openai.OpenAI) -> None:
    worker = fleet.worker()
    first = client.responses.create(model="tiny", input="one", instructions="not carried on")
    second = client.responses.create(
        model="tiny", input=[{"role": "user", "content": "two"}], previous_response_id=first.id
    )
    third = client.responses.create(model="tiny", input="three", previous_response_id=second.id)
    assert third.previous_response_id == second.id
    assert prompts(worker.jobs[-1]) == [
        ("user", "one"), ("assistant", TEXT), ("user", "two"), ("assistant", TEXT),
        ("user", "three"),
    ]  # fmt: skip
    client.responses.delete(first.id)
    for gone in (first.id, third.id, "resp_x"):
        with pytest.raises(openai.NotFoundError) as caught:
            client.responses.create(model="tiny", input="four", previous_response_id=gone)
        assert caught.value.param == "previous_response_id"


def test_items_by_their_ids(fleet: Fleet) -> None:
    worker = fleet.worker()
    server = fleet.api(api_keys=("ann", "bob"))
    url = f"{server.url}/v1"
    with (
        openai.OpenAI(base_url=url, api_key="ann", max_retries=0) as ann,
        openai.OpenAI(base_url=url, api_key="bob", max_retries=0) as bob,
    ):
        said = ann.responses.create(model="tiny", input="one").output[0].id or ""
        asked: Any = [
            {"role": "user", "content": "one"},
            {"type": "item_reference", "id": said},
            {"role": "user", "content": "two"},
        ]
        second = ann.responses.create(model="tiny", input=asked)
        wanted = [("user", "one"), ("assistant", TEXT), ("user", "two")]
        assert prompts(worker.jobs[-1]) == wanted
        kept = [item.type for item in ann.responses.input_items.list(second.id)]
        assert kept == ["message"] * 3
        [first_input, *_] = ann.responses.input_items.list(second.id, order="asc").data
        ann.responses.create(
            model="tiny", input=[{"id": first_input.id}], previous_response_id=second.id
        )
        assert prompts(worker.jobs[-1]) == [*wanted, ("assistant", TEXT), ("user", "one")]
        for client, name in ((bob, said), (ann, "msg_none"), (ann, said[:-1] + "7")):
            with pytest.raises(openai.NotFoundError) as caught:
                client.responses.create(
                    model="tiny", input=[{"type": "item_reference", "id": name}]
                )
            assert caught.value.param == "input[0].id"


def test_nothing_is_kept_without_store(
    fleet: Fleet, client: openai.OpenAI, redis_client: redis.Redis
) -> None:
    fleet.worker()
    response = client.responses.create(model="tiny", input="one", store=False)
    assert response.output_text == TEXT
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)
    assert not list(redis_client.scan_iter("penstock:response:*"))
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="tiny", input="one", store=False, background=True)
    assert caught.value.param == "background"


def test_a_stream(fleet: Fleet, client: openai.OpenAI) -> None:
    fleet.worker()
    with client.responses.stream(model="tiny", input="hello") as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert final.output_text == TEXT
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    # It was kept before its last event was sent, and it streams again as it was.
    with client.responses.stream(response_id=final.id) as stream:
        assert [event.type for event in stream] == [event.type for event in events]
    with client.responses.stream(response_id=final.id, starting_after=4) as stream:
        rest = list(stream)
    assert [event.sequence_number for event in rest] == list(range(5, len(events)))


def test_length_is_incomplete(fleet: Fleet, client: openai.OpenAI) -> None:
    fleet.worker()
    response = client.responses.create(model="tiny", input="hello", max_output_tokens=2)
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"


def test_background(fleet: Fleet, client: openai.OpenAI, server: ApiServer) -> None:
    gate = Gate()
    worker = fleet.worker(gate)
    worker.accepting = False
    response = client.responses.create(model="tiny", input="hello", background=True)
    assert response.status == "queued"
    assert client.responses.retrieve(response.id).status == "queued"
    worker.accepting = True
    wait_until(lambda: client.responses.retrieve(response.id).output_text == "once ")
    assert client.responses.retrieve(response.id).status == "in_progress"
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="tiny", input="x", previous_response_id=response.id)
    assert caught.value.param == "previous_response_id"
    gate.open.set()
    wait_until(lambda: client.responses.retrieve(response.id).status == "completed")
    assert client.responses.retrieve(response.id).output_text == TEXT
    # A day, not the minutes of a request that somebody waits for.
    assert worker.jobs[0].deadline_ms - worker.jobs[0].created_ms > 80_000_000


def test_a_background_stream_goes_on_at_another_api(fleet: Fleet, client: openai.OpenAI) -> None:
    gate = Gate()
    fleet.worker(gate)
    seen: list[Any] = []
    with client.responses.create(
        model="tiny", input="hello", background=True, stream=True
    ) as stream:
        for event in stream:
            seen.append(event)
            if event.type == "response.output_text.delta":
                break  # the connection is lost here
    response_id = seen[0].response.id
    other = fleet.api(keepalive_s=1.0)
    threading.Timer(0.3, gate.open.set).start()
    with openai.OpenAI(base_url=f"{other.url}/v1", api_key="none", max_retries=0) as second:
        rest = list(
            second.responses.retrieve(
                response_id, stream=True, starting_after=seen[-1].sequence_number
            )
        )
    numbers = [event.sequence_number for event in (*seen, *rest)]
    assert numbers == list(range(len(numbers)))
    assert rest[-1].type == "response.completed"
    assert rest[-1].response.output_text == TEXT
    whole = list(client.responses.retrieve(response_id, stream=True))
    assert [event.type for event in whole] == [event.type for event in (*seen, *rest)]


def test_cancelling(fleet: Fleet, client: openai.OpenAI) -> None:
    worker = fleet.worker(drone)
    running = client.responses.create(model="tiny", input="hello", background=True)
    assert running.status == "queued"  # a free slot or none
    wait_until(lambda: client.responses.retrieve(running.id).status == "in_progress")
    cancelled = client.responses.cancel(running.id)
    assert cancelled.status == "cancelled"
    assert client.responses.retrieve(running.id).status == "cancelled"
    assert client.responses.cancel(running.id).status == "cancelled"
    wait_until(lambda: not worker.running)
    worker.accepting = False
    waiting = client.responses.create(model="tiny", input="hello", background=True)
    client.responses.delete(waiting.id)
    wait_until(lambda: fleet.depth().waiting_jobs == 0)


def test_foreground_cannot_be_cancelled(fleet: Fleet, client: openai.OpenAI) -> None:
    fleet.worker()
    response = client.responses.create(model="tiny", input="hello")
    with pytest.raises(openai.BadRequestError):
        client.responses.cancel(response.id)


def test_a_client_that_goes_takes_its_job_along(
    fleet: Fleet, client: openai.OpenAI, server: ApiServer
) -> None:
    worker = fleet.worker(drone)
    with client.responses.create(model="tiny", input="hello", stream=True) as stream:
        first: Any = next(iter(stream))
    wait_until(lambda: "cancelled" in worker.dropped.values())
    assert client.responses.retrieve(first.response.id).status == "cancelled"


def test_failures(fleet: Fleet, client: openai.OpenAI) -> None:
    def script(job: Job) -> Script:
        if "late" in str(chat_of(job).messages):
            yield Tokens(job.id, 0, (1,), "a", prompt_tokens=3)
            yield Failed(job.id, 1, "engine_failed", "it broke")
        yield Failed(job.id, 0, "context_length_exceeded", "too long")

    fleet.worker(script)
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            client.responses.create(model="tiny", input="x", stream=stream)
        assert caught.value.param == "input"
    events: list[Any] = list(client.responses.create(model="tiny", input="late", stream=True))
    assert events[-1].type == "response.failed"
    assert events[-1].response.error.message == "it broke"
    kept = client.responses.retrieve(events[-1].response.id)
    assert kept.status == "failed"
    background = client.responses.create(model="tiny", input="late", background=True)
    wait_until(lambda: client.responses.retrieve(background.id).status == "failed")


def test_an_answer_outlives_its_api_process(
    fleet: Fleet, client: openai.OpenAI, server: ApiServer, redis_client: redis.Redis
) -> None:
    gate = Gate()
    fleet.worker(gate)
    response = client.responses.create(model="tiny", input="hello", background=True)
    wait_until(lambda: client.responses.retrieve(response.id).status == "in_progress")
    # As after a crash: nobody is left who would keep the answer.
    for task in list(server.services.background._tasks):
        server._loop.call_soon_threadsafe(task.cancel)
    wait_until(lambda: server.services.replies.following == 0)
    gate.open.set()
    other = fleet.api()
    from api.openai.responses import store as responses_shelf

    before = responses_shelf.YOUNG_S
    responses_shelf.YOUNG_S = 0.0  # type: ignore[misc]
    try:
        wait_until(lambda: not redis_client.zcard(keys.open_documents("response")), 20.0)
    finally:
        responses_shelf.YOUNG_S = before  # type: ignore[misc]
    redis_client.delete(*redis_client.scan_iter("*journal*"), "x")
    with openai.OpenAI(base_url=f"{other.url}/v1", api_key="none", max_retries=0) as second:
        assert second.responses.retrieve(response.id).output_text == TEXT


def test_a_repeated_request_is_the_same_response(fleet: Fleet, client: openai.OpenAI) -> None:
    worker = fleet.worker()
    again = {"extra_headers": {"idempotency-key": "mine"}, "model": "tiny", "input": "hello"}
    first = client.responses.create(**again, background=True)
    second = client.responses.create(**again, background=True)
    assert first.id == second.id
    wait_until(lambda: client.responses.retrieve(first.id).status == "completed")
    assert len(worker.jobs) == 1


def test_tenants_do_not_see_each_others(fleet: Fleet) -> None:
    server = fleet.api(api_keys=("ann", "bob"))
    fleet.worker()
    url = f"{server.url}/v1"
    with (
        openai.OpenAI(base_url=url, api_key="ann", max_retries=0) as ann,
        openai.OpenAI(base_url=url, api_key="bob", max_retries=0) as bob,
    ):
        mine = ann.responses.create(model="tiny", input="secret")
        for call in (
            lambda: bob.responses.retrieve(mine.id),
            lambda: bob.responses.delete(mine.id),
            lambda: bob.responses.create(model="tiny", input="x", previous_response_id=mine.id),
            lambda: list(bob.responses.input_items.list(mine.id)),
        ):
            with pytest.raises(openai.NotFoundError):
                call()
        assert ann.responses.retrieve(mine.id).output_text == TEXT


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"input": 3}, "input"),
        ({"input": "x", "temperature": 9}, "temperature"),
        ({"input": "x", "prompt": {"id": "p"}}, "prompt"),
        ({"input": "x", "conversation": "c"}, "conversation"),
        ({"input": "x", "max_output_tokens": 0}, "max_output_tokens"),
        ({"input": [{"role": "pirate", "content": "x"}]}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
         "input[0].content[0]"),
    ],
)  # fmt: skip
def test_bad_requests(fleet: Fleet, server: ApiServer, asked: dict[str, Any], param: str) -> None:
    fleet.worker()
    answer = httpx.post(f"{server.url}/v1/responses", json={"model": "tiny", **asked})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def test_input_items_in_pages(fleet: Fleet, client: openai.OpenAI) -> None:
    fleet.worker()
    texts = [str(number) for number in range(5)]
    response = client.responses.create(
        model="tiny", input=[{"role": "user", "content": text} for text in texts]
    )
    newest = client.responses.input_items.list(response.id, limit=2)
    assert newest.has_more
    assert [cast("Any", item).content for item in newest] == list(reversed(texts))
    oldest = client.responses.input_items.list(response.id, order="asc", limit=3)
    assert [cast("Any", item).content for item in oldest.data] == texts[:3]


def test_counting(fleet: Fleet, client: openai.OpenAI, clerk: Clerk) -> None:
    fleet.worker()
    counted = client.responses.input_tokens.count(model="tiny", input="hi")
    assert counted.input_tokens == len("user:hi\nassistant:")


CALL = ("Wait. ", "<tool_call>\n", '{"name": "clock", "arguments": {"zone": "UTC"}}',
        "\n</tool_call>")  # fmt: skip
CLOCK: Any = {
    "type": "function",
    "name": "clock",
    "strict": False,
    "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}},
}


def test_tools(fleet: Fleet, client: openai.OpenAI) -> None:
    def script(job: Job) -> Script:
        if chat_of(job).messages[-1]["role"] == "tool":
            yield from speak(job)
        for index, piece in enumerate(CALL):
            yield Tokens(job.id, index, (index,), piece, prompt_tokens=None if index else 3)
        yield Finished(job.id, len(CALL), FinishReason.STOP, Usage(3, len(CALL)))

    worker = fleet.worker(script, tool_parser="hermes", capabilities=("generate", "structure"))
    asked: Any = {"model": "tiny", "input": "what time is it?", "tools": [CLOCK]}
    with client.responses.stream(**asked) as stream:
        kinds = [event.type for event in stream]
        first = stream.get_final_response()
    assert "response.function_call_arguments.done" in kinds
    assert [item.type for item in first.output] == ["message", "function_call"]
    call: Any = first.output[1]
    assert (call.name, call.arguments) == ("clock", '{"zone": "UTC"}')
    second = client.responses.create(
        model="tiny",
        previous_response_id=first.id,
        tools=[CLOCK],
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "noon"}],
    )
    assert second.output_text == TEXT
    messages = chat_of(worker.jobs[-1]).messages
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
    assert messages[1]["tool_calls"][0]["id"] == messages[2]["tool_call_id"] == call.call_id
    forced = client.responses.create(**asked, tool_choice={"type": "function", "name": "clock"})
    assert forced.output[-1].type == "function_call"
    assert worker.jobs[-1].work.sampling.structure is not None


def test_tools_of_a_model_that_has_none(fleet: Fleet, client: openai.OpenAI) -> None:
    fleet.worker()
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="tiny", input="x", tools=[CLOCK])
    assert caught.value.param == "tools"
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(
            model="tiny",
            input="x",
            text={"format": {"type": "json_schema", "name": "s", "schema": {}}},
        )
    assert caught.value.param == "text.format"
