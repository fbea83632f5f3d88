"""OpenAI's own Python SDK: every endpoint, its helpers and its retries, on a running fleet."""

from __future__ import annotations

import base64
import io
import json
from typing import TYPE_CHECKING, Any, Literal, cast

import httpx
import openai
import pytest
from pydantic import BaseModel

from tests.fixtures import vision
from tests.fixtures.jobs import wait_until
from tests.foreign.conftest import DEMO, SEEING, TINY

if TYPE_CHECKING:
    from collections.abc import Iterator

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather for a city.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "The city"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
RESPONSES_WEATHER: Any = {"type": "function", **WEATHER["function"]}
ASK_WEATHER: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
IMAGE_TOKENS = (vision.SIDE // vision.PATCH) ** 2
HELLO: Any = [{"role": "user", "content": "What is Penstock?"}]


class Mood(BaseModel):
    """A form that even a random model can fill in."""

    mood: Literal["glad", "sad"]
    age: Literal[1, 2, 3]


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


# -- Chat completions


def pictured(picture: bytes, *, detail: str = "auto") -> Any:
    """A question about a picture."""
    url = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    image = {"type": "image_url", "image_url": {"url": url, "detail": detail}}
    return [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, image]}]


def test_chat_with_images(client: openai.OpenAI) -> None:
    greedy: Any = {"model": SEEING, "temperature": 0, "max_tokens": 8}
    plain: Any = [{"role": "user", "content": "What is it?"}]
    bare = client.chat.completions.create(messages=plain, **greedy)
    first, again, other = (
        client.chat.completions.create(messages=pictured(vision.picture(seed)), **greedy)
        for seed in (1, 1, 2)
    )
    assert first.choices[0].message.content == again.choices[0].message.content
    assert first.choices[0].message.content != other.choices[0].message.content
    assert first.usage
    assert bare.usage
    assert first.usage.prompt_tokens == bare.usage.prompt_tokens + IMAGE_TOKENS
    asked = pictured(vision.picture(1))
    chunks = client.chat.completions.create(messages=asked, stream=True, **greedy)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == first.choices[0].message.content
    with pytest.raises(openai.BadRequestError, match=SEEING):
        client.chat.completions.create(messages=pictured(vision.picture(1)), model=DEMO)
    with pytest.raises(openai.BadRequestError, match="not an image"):
        client.chat.completions.create(messages=pictured(b"no picture"), **greedy)


def test_responses_with_images(client: openai.OpenAI) -> None:
    picture = vision.picture(1)
    url = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    uploaded = client.files.create(file=("a.png", picture), purpose="vision")
    texts: list[str] = []
    for image in ({"image_url": url}, {"file_id": uploaded.id}):
        parts = [{"type": "input_image", "detail": "low", **image}]
        parts.append({"type": "input_text", "text": "What is it?"})
        given: Any = [{"role": "user", "content": parts}]
        answer = client.responses.create(
            model=SEEING, input=given, temperature=0, max_output_tokens=16
        )
        texts.append(answer.output_text)
    assert texts[0]
    assert texts[0] == texts[1]


def test_chat_stream_helper(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model=DEMO, messages=HELLO, temperature=0, stream_options={"include_usage": True}
    ) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert kinds[0] == "chunk"
    assert "content.delta" in kinds
    assert "content.done" in kinds
    text = final.choices[0].message.content
    whole = client.chat.completions.create(model=DEMO, messages=HELLO, temperature=0)
    assert text == whole.choices[0].message.content
    assert final.usage is not None
    assert whole.usage is not None
    assert final.usage.model_dump(exclude={"prompt_tokens_details"}) == whole.usage.model_dump(
        exclude={"prompt_tokens_details"}
    )


@pytest.mark.parametrize("model", [DEMO, TINY])
def test_chat_parse(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.parse(
        model=model, messages=HELLO, response_format=Mood, max_tokens=200
    )
    parsed = answer.choices[0].message.parsed
    assert parsed is not None
    assert parsed.mood in {"glad", "sad"}
    with client.chat.completions.stream(
        model=model, messages=HELLO, response_format=Mood, max_tokens=200, logprobs=True
    ) as stream:
        kinds = {event.type for event in stream}
        streamed = stream.get_final_completion().choices[0].message.parsed
    assert {"content.delta", "content.done", "logprobs.content.delta"} <= kinds
    assert streamed is not None


def test_chat_parse_that_is_cut(client: openai.OpenAI) -> None:
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(
            model=TINY, messages=HELLO, response_format=Mood, max_tokens=1
        )


@pytest.mark.parametrize("model", [DEMO, TINY])
def test_chat_tools_stream_helper(client: openai.OpenAI, model: str) -> None:
    forced: Any = {"type": "function", "function": {"name": "get_weather"}}
    tool = json.loads(json.dumps(WEATHER))
    tool["function"]["parameters"]["properties"]["city"]["maxLength"] = 8
    with client.chat.completions.stream(
        model=model, messages=ASK_WEATHER, tools=[tool], tool_choice=forced, temperature=0
    ) as stream:
        kinds = [event.type for event in stream]
        message = stream.get_final_completion().choices[0].message
    assert "tool_calls.function.arguments.delta" in kinds
    assert kinds.count("tool_calls.function.arguments.done") == 1
    assert message.tool_calls is not None
    call: Any = message.tool_calls[0]
    assert call.function.name == "get_weather"
    assert set(call.function.parsed_arguments or {}) == {"city"}


def test_a_round_of_tools(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(
        model=DEMO, messages=ASK_WEATHER, tools=[WEATHER], temperature=0
    )
    choice = first.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls
    call: Any = choice.message.tool_calls[0]
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    said: Any = {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 17}'}
    second = client.chat.completions.create(
        model=DEMO,
        messages=[*ASK_WEATHER, cast("Any", choice.message), said],
        tools=[WEATHER],
        temperature=0,
    )
    assert "17" in (second.choices[0].message.content or "")


def test_raw_responses_have_headers(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model=DEMO, messages=HELLO, max_tokens=4, extra_headers={"x-request-id": "req-of-mine"}
    )
    assert raw.headers["x-request-id"] == raw.request_id == "req-of-mine"
    assert raw.headers["content-type"].startswith("application/json")
    assert raw.parse().choices[0].message.content
    with client.chat.completions.with_streaming_response.create(
        model=DEMO, messages=HELLO, max_tokens=4
    ) as streamed:
        assert json.loads("".join(streamed.iter_text()))["object"] == "chat.completion"
    answer = client.chat.completions.create(model=DEMO, messages=HELLO, max_tokens=4)
    assert answer._request_id


async def test_async_client(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
        stream = await client.chat.completions.create(
            model=DEMO, messages=HELLO, stream=True, temperature=0
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        async with client.chat.completions.stream(
            model=DEMO, messages=HELLO, temperature=0
        ) as helper:
            final = await helper.get_final_completion()
        assert final.choices[0].message.content == text
        models = [model.id async for model in client.models.list()]
        assert {DEMO, TINY} <= set(models)
        async with client.responses.stream(model=DEMO, input="Hello", temperature=0) as events:
            response = await events.get_final_response()
        assert response.output_text


# -- Errors and retries


def test_error_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.models.retrieve("none")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model=DEMO, messages=HELLO, top_p=2)
    assert (bad.value.param, bad.value.type) == ("top_p", "invalid_request_error")
    assert bad.value.request_id
    with pytest.raises(openai.NotFoundError) as page:
        client.post("/nothing", cast_to=httpx.Response)
    assert page.value.code == "unknown_url"
    long: Any = [{"role": "user", "content": "river " * 1500}]
    with pytest.raises(openai.BadRequestError, match="model's maximum context length is") as over:
        client.chat.completions.create(model=DEMO, messages=long)
    assert over.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_none")
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve("file-none")
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_none")


class Forgetful(httpx.HTTPTransport):
    """Loses the first answer after the server has given it."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[str | None] = []
        self.jobs: list[str] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = super().handle_request(request)
        self.keys.append(request.headers.get("idempotency-key"))
        self.jobs.append(answer.headers["x-penstock-jobs"])
        if len(self.keys) == 1:
            answer.read()
            answer.close()
            raise httpx.ReadError("the answer is lost")
        return answer


def test_a_retry_with_an_idempotency_key_is_the_same_job(url: str) -> None:
    transport = Forgetful()
    with (
        httpx.Client(transport=transport) as http,
        openai.OpenAI(
            base_url=f"{url}/v1", api_key="none", http_client=cast("Any", http)
        ) as client,
    ):
        client.chat.completions.create(
            model=TINY,
            messages=HELLO,
            max_tokens=8,
            seed=1,
            extra_headers={"Idempotency-Key": "once"},
        )
    assert transport.keys == ["once", "once"]
    assert transport.jobs[0] == transport.jobs[1]


# -- Completions, embeddings, models


def test_completions(client: openai.OpenAI) -> None:
    prompts: list[Any] = ["Once upon", ["Once", "A river"], [5, 6, 7], [[5, 6], [7]]]
    for prompt in prompts:
        answer = client.completions.create(model=TINY, prompt=prompt, max_tokens=4, seed=1)
        count = len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1
        assert [choice.index for choice in answer.choices] == list(range(count))
        streamed: dict[int, str] = {}
        for chunk in client.completions.create(
            model=TINY, prompt=prompt, max_tokens=4, seed=1, stream=True
        ):
            for choice in chunk.choices:
                streamed[choice.index] = streamed.get(choice.index, "") + choice.text
        assert streamed == {choice.index: choice.text for choice in answer.choices}


def test_embeddings(client: openai.OpenAI) -> None:
    packed = client.embeddings.create(model=DEMO, input=["a dog", "a cat"])  # base64 on the wire
    plain = client.embeddings.create(
        model=DEMO, input=["a dog", "a cat"], encoding_format="float", dimensions=16
    )
    assert [item.index for item in packed.data] == [0, 1]
    assert packed.usage.total_tokens > 0
    first = packed.data[0].embedding
    length = sum(value**2 for value in first[:16]) ** 0.5
    assert plain.data[0].embedding == pytest.approx(
        [value / length for value in first[:16]], abs=1e-3
    )


# -- Responses


def test_responses(client: openai.OpenAI) -> None:
    answer = client.responses.create(model=DEMO, input="My name is Ada.", temperature=0)
    assert answer.output_text
    assert answer.usage is not None
    more = client.responses.create(
        model=DEMO, input="What is my name?", previous_response_id=answer.id, temperature=0
    )
    assert "Ada" in more.output_text
    again = client.responses.retrieve(more.id)
    assert again.output_text == more.output_text
    items = list(client.responses.input_items.list(more.id))
    assert len(items) >= 1
    client.responses.delete(more.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(more.id)
    count = client.responses.input_tokens.count(model=DEMO, input="What is my name?")
    assert count.input_tokens > 0


def test_responses_stream_helper(client: openai.OpenAI) -> None:
    with client.responses.stream(model=DEMO, input="Hello", temperature=0) as stream:
        events = list(stream)
        final = stream.get_final_response()
    kinds = [event.type for event in events]
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert deltas == final.output_text
    with client.responses.stream(response_id=final.id, starting_after=3) as stream:
        rest = list(stream)
    assert [event.sequence_number for event in rest] == list(range(4, len(events)))


def test_responses_parse(client: openai.OpenAI) -> None:
    answer = client.responses.parse(model=TINY, input="Hello", text_format=Mood)
    assert isinstance(answer.output_parsed, Mood)
    with client.responses.stream(model=TINY, input="Hello", text_format=Mood) as stream:
        stream.until_done()
        streamed = stream.get_final_response()
    assert isinstance(streamed.output_parsed, Mood)


def test_responses_tools(client: openai.OpenAI) -> None:
    with client.responses.stream(
        model=DEMO, input=ASK_WEATHER, tools=[RESPONSES_WEATHER], temperature=0
    ) as stream:
        kinds = [event.type for event in stream]
        first = stream.get_final_response()
    assert "response.function_call_arguments.done" in kinds
    call: Any = next(item for item in first.output if item.type == "function_call")
    assert call.parsed_arguments == {"city": "Paris"} or json.loads(call.arguments) == {
        "city": "Paris"
    }
    result: Any = {
        "type": "function_call_output",
        "call_id": call.call_id,
        "output": '{"temperature": 17}',
    }
    second = client.responses.create(
        model=DEMO,
        input=[result],
        previous_response_id=first.id,
        tools=[RESPONSES_WEATHER],
        temperature=0,
    )
    assert "17" in second.output_text


def test_responses_in_the_background(client: openai.OpenAI) -> None:
    made = client.responses.create(model=DEMO, input="Tell me a story", background=True)
    assert made.status in {"queued", "in_progress"}
    wait_until(lambda: client.responses.retrieve(made.id).status == "completed", 60.0)
    long: Any = {"model": TINY, "input": "Hello", "background": True}
    endless = client.responses.create(**long, extra_body={"ignore_eos": True})
    client.responses.cancel(endless.id)
    wait_until(lambda: client.responses.retrieve(endless.id).status == "cancelled", 60.0)


# -- Files and batches


def test_files_and_batches(client: openai.OpenAI) -> None:
    lines = [
        {
            "custom_id": f"line-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": TINY, "messages": HELLO, "max_tokens": 4, "seed": number},
        }
        for number in range(4)
    ]
    content = "\n".join(json.dumps(line) for line in lines).encode()
    file = client.files.create(file=("in.jsonl", io.BytesIO(content)), purpose="batch")
    assert file.bytes == len(content)
    assert file.id in [one.id for one in client.files.list()]
    assert client.files.content(file.id).read() == content
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    wait_until(lambda: client.batches.retrieve(batch.id).status == "completed", 60.0)
    done = client.batches.retrieve(batch.id)
    assert done.request_counts is not None
    assert (done.request_counts.completed, done.request_counts.failed) == (4, 0)
    assert done.output_file_id is not None
    answers = [json.loads(line) for line in client.files.content(done.output_file_id).iter_lines()]
    assert {answer["custom_id"] for answer in answers} == {line["custom_id"] for line in lines}
    assert batch.id in [one.id for one in client.batches.list(limit=5)]
    assert client.files.delete(file.id).deleted
    assert client.files.wait_for_processing(done.output_file_id).status == "processed"


def test_response_logprobs_are_a_chats(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(
        model=TINY, messages=HELLO, temperature=0, max_tokens=8, logprobs=True, top_logprobs=2
    )
    assert chat.choices[0].logprobs is not None
    wanted = chat.choices[0].logprobs.content
    assert wanted is not None
    kept = client.responses.create(
        model=TINY, input=HELLO, temperature=0, max_output_tokens=8, top_logprobs=2,
        include=["message.output_text.logprobs"], stream=True,
    )  # fmt: skip
    events = list(kept)
    streamed = [
        one
        for event in events
        if event.type == "response.output_text.delta"
        for one in event.logprobs
    ]
    last = events[-1]
    assert last.type == "response.incomplete"
    for response in (last.response, client.responses.retrieve(last.response.id)):
        assert response.top_logprobs == 2
        [message] = response.output
        assert message.type == "message"
        [part] = message.content
        assert part.type == "output_text"
        assert part.logprobs is not None
        for one, chats in zip(part.logprobs, wanted, strict=True):
            assert (one.token, one.bytes) == (chats.token, chats.bytes)
            assert one.logprob == pytest.approx(chats.logprob, abs=1e-4)
            assert [t.token for t in one.top_logprobs] == [t.token for t in chats.top_logprobs]
    assert [one.token for one in streamed] == [one.token for one in wanted]
