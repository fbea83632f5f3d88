"""Forms and tools end to end: OpenAI's SDK, the API, Redis, a worker with two real models."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import openai
import pytest

from penstock import demo_model

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fixtures.processes import Processes

pytestmark = pytest.mark.busy(reason="real processes with real time-outs, beside three other tests")

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 10},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "mood": {"enum": ["glad", "sad"]},
    },
    "required": ["name", "age", "mood"],
    "additionalProperties": False,
}
SAY: Any = [{"role": "user", "content": "Tell me of a person."}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather for a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "The city"}},
            "required": ["city"],
        },
    },
}
TINY = "tiny-llama"
# What is said, and a regular expression of what the demo model must answer.
MEANINGS: tuple[tuple[tuple[tuple[str, str], ...], str], ...] = (
    ((("user", "What is Penstock?"),), "self-hosted serving fleet"),
    ((("user", "How do I start a worker?"),), "celery -A workers worker -Q"),
    ((("user", "Which port does the API use?"),), r"\b8000\b"),
    ((("user", "What is 17 + 25?"),), r"\b42\b"),
    ((("user", "What is the capital of Norway?"),), r"\bOslo\b"),
    ((("user", "Reverse the word turbine."),), "enibrut"),
    ((("user", "Count from 3 to 7."),), "3, 4, 5, 6, 7"),
    ((("user", "Who won the election last night?"),), "don't know"),
    ((("user", "How much does Penstock cost per month?"),), "don't know"),
    ((("system", "Answer briefly."), ("user", "What is 20 + 22?")), "^42$"),
    ((("user", "My name is Zorbel."), ("assistant", "Nice to meet you, Zorbel!"),
      ("user", "What is my name?")), r"\bZorbel\b"),
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_forms_and_tools(processes: Processes, redis_url: str, models_dir: Path) -> None:
    """One fleet for all of it: a worker's start is what takes the time."""
    if not (demo_model.path() / "model.safetensors").is_file():
        pytest.skip("the demo model is not in this checkout")
    processes.start_worker("tiny-llama-cpu,demo-cpu", redis_url, models_dir)
    api = processes.start_api(redis_url)
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key="none", max_retries=0) as client:
        a_random_model_obeys_schemas(client)
        a_random_model_obeys_other_forms(client)
        a_random_model_calls_what_it_must(client)
        bad_forms_are_400(client)
        the_demo_model_means_what_it_says(client)
        the_demo_model_calls_a_tool_and_uses_its_result(client)
        the_demo_model_answers_in_json(client)
        prompts_are_scored_as_lm_eval_asks_for_it(client, models_dir / TINY)
        texts_are_embedded(client, models_dir / TINY)


def a_random_model_obeys_schemas(client: openai.OpenAI) -> None:
    wanted: Any = {
        "type": "json_schema",
        "json_schema": {"name": "person", "schema": PERSON, "strict": True},
    }

    def ask(seed: int) -> str:
        answer = client.chat.completions.create(
            model=TINY, messages=SAY, seed=seed, temperature=1.2, response_format=wanted
        )
        assert answer.choices[0].finish_reason == "stop"
        return answer.choices[0].message.content or ""

    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(ask, range(8)))
    for text in texts:
        person = json.loads(text)
        assert list(person) == ["name", "age", "mood"]
        assert len(person["name"]) <= 10
        assert 0 <= person["age"] <= 99
        assert person["mood"] in ("glad", "sad")
    assert len(set(texts)) > 1


def a_random_model_obeys_other_forms(client: openai.OpenAI) -> None:
    def chat(**extra: Any) -> str:
        answer = client.chat.completions.create(
            model=TINY, messages=SAY, seed=1, max_tokens=60, extra_body=extra
        )
        return answer.choices[0].message.content or ""

    assert re.fullmatch(r"\d{4}-\d\d-\d\d", chat(guided_regex=r"\d{4}-\d\d-\d\d"))
    assert chat(guided_choice=["left", "right"]) in ("left", "right")
    grammar = 'root ::= pair ("," pair)?\npair ::= [a-c] "=" [0-9]'
    assert re.fullmatch(r"[a-c]=\d(,[a-c]=\d)?", chat(structured_outputs={"grammar": grammar}))
    text = client.completions.create(
        model=TINY, prompt="A number:", seed=3, extra_body={"guided_json": {"type": "boolean"}}
    )
    assert text.choices[0].text in ("true", "false")


def a_random_model_calls_what_it_must(client: openai.OpenAI) -> None:
    named: Any = {"type": "function", "function": {"name": "move"}}
    way = {
        "type": "object",
        "properties": {"to": {"enum": ["north", "south"]}},
        "required": ["to"],
        "additionalProperties": False,
    }
    move: Any = {"type": "function", "function": {"name": "move", "parameters": way}}
    halt: Any = {"type": "function", "function": {"name": "halt"}}
    for choice, names in (("required", {"move", "halt"}), (named, {"move"})):
        asked: Any = {
            "model": TINY, "messages": SAY, "tools": [halt, move], "tool_choice": choice,
            "parallel_tool_calls": False, "seed": 4,
        }  # fmt: skip
        answer = client.chat.completions.create(**asked).choices[0]
        assert answer.finish_reason == "tool_calls"
        (call,) = answer.message.tool_calls or []
        assert call.type == "function"
        assert call.function.name in names
        arguments = json.loads(call.function.arguments)
        assert arguments in (
            [{}] if call.function.name == "halt" else [{"to": "north"}, {"to": "south"}]
        )
        with client.chat.completions.stream(**asked) as stream:
            streamed = stream.get_final_completion().choices[0].message.tool_calls or ()
        assert [one.function.arguments for one in streamed] == [call.function.arguments]


def bad_forms_are_400(client: openai.OpenAI) -> None:
    for extra, param in (
        ({"guided_regex": "(a"}, "guided_regex"),
        ({"structured_outputs": {"json": {"type": "objec"}}}, "structured_outputs.json"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {
                "name": "n", "strict": True, "schema": {"not": {}}}}},
            "response_format",
        ),
    ):  # fmt: skip
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError) as caught:
                client.chat.completions.create(
                    model=TINY, messages=SAY, stream=stream, extra_body=extra
                )
            assert (caught.value.param, caught.value.code) == (param, "invalid_parameter")


def the_demo_model_means_what_it_says(client: openai.OpenAI) -> None:
    """All asked at once, so that they are decoded together."""

    def answer(talk: tuple[tuple[str, str], ...]) -> str:
        messages: Any = [{"role": role, "content": content} for role, content in talk]
        said = client.chat.completions.create(model="demo", temperature=0, messages=messages)
        assert said.choices[0].finish_reason == "stop"
        return said.choices[0].message.content or ""

    with ThreadPoolExecutor(len(MEANINGS)) as threads:
        answers = list(threads.map(answer, (talk for talk, _ in MEANINGS)))
    for (talk, pattern), said in zip(MEANINGS, answers, strict=True):
        assert re.search(pattern, said), (talk, said)


def the_demo_model_calls_a_tool_and_uses_its_result(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
    asked: Any = {"model": "demo", "temperature": 0, "tools": [WEATHER]}
    first = client.chat.completions.create(**asked, messages=messages).choices[0]
    assert first.finish_reason == "tool_calls"
    (call,) = first.message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    with client.chat.completions.stream(**asked, messages=messages) as stream:
        streamed = stream.get_final_completion().choices[0].message.tool_calls or ()
    assert [one.function.arguments for one in streamed] == [call.function.arguments]
    messages += [
        first.message.model_dump(exclude_none=True),
        {
            "role": "tool",
            "tool_call_id": call.id,
            "content": '{"temperature": 21, "condition": "sunny"}',
        },
    ]
    second = client.chat.completions.create(**asked, messages=messages).choices[0]
    assert second.finish_reason == "stop"
    assert "21" in (second.message.content or "")
    forced = client.chat.completions.create(
        model="demo", temperature=0, messages=[{"role": "user", "content": "Hello!"}],
        tools=[WEATHER], tool_choice="required", max_tokens=60,
    ).choices[0]  # fmt: skip
    assert forced.message.tool_calls


def the_demo_model_answers_in_json(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="demo", temperature=0, messages=SAY, max_tokens=200,
        response_format={"type": "json_schema", "json_schema": {
            "name": "person", "schema": PERSON, "strict": True}},
    ).choices[0]  # fmt: skip
    assert answer.finish_reason == "stop"
    assert json.loads(answer.message.content or "").keys() == PERSON["properties"].keys()


def prompts_are_scored_as_lm_eval_asks_for_it(client: openai.OpenAI, folder: Path) -> None:
    """The requests of lm-eval's local-completions, and Transformers' own sums beside them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    pairs = [("The capital of France is", " Paris."), ("one two three", " four five six")]
    contexts = [tokenizer.encode(context) for context, _ in pairs]
    wholes = [
        tokens + tokenizer.encode(end) for tokens, (_, end) in zip(contexts, pairs, strict=True)
    ]
    for max_tokens in (0, 1):
        answer = client.completions.create(
            model=TINY, prompt=wholes, max_tokens=max_tokens, logprobs=1, echo=True, temperature=0,
            seed=1234,
        )  # fmt: skip
        for choice, context, tokens in zip(answer.choices, contexts, wholes, strict=True):
            assert choice.logprobs is not None
            logprobs = choice.logprobs.token_logprobs or []
            top = choice.logprobs.top_logprobs or []
            assert len(logprobs) == len(top) == len(tokens) + max_tokens
            assert logprobs[0] is None
            assert top[0] is None
            with torch.inference_mode():
                rows = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
            own = [float(rows[p - 1, tokens[p]]) for p in range(len(context), len(tokens))]
            ours = logprobs[len(context) : len(tokens)]
            assert ours == pytest.approx(own, abs=1e-3)
            greedy = [int(rows[p - 1].argmax()) == tokens[p] for p in range(1, len(tokens))]
            best = [max(one, key=lambda text, one=one: one[text]) for one in top[1 : len(tokens)]]
            said = choice.logprobs.tokens or []
            assert [text == said[p] for p, text in enumerate(best, 1)] == greedy
            assert choice.text.startswith(tokenizer.decode(tokens))
    streamed = list(
        client.completions.create(
            model=TINY, prompt=wholes[0], max_tokens=0, logprobs=0, echo=True, stream=True
        )
    )
    assert streamed[-1].choices[0].finish_reason == "length"
    assert streamed[-1].choices[0].logprobs is not None
    assert len(streamed[-1].choices[0].logprobs.token_logprobs or []) == len(wholes[0])


def texts_are_embedded(client: openai.OpenAI, folder: Path) -> None:
    import numpy as np
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32)
    texts = ["Water flows.", "The turbine turns the generator.", "one two"] * 30
    tokens = [tokenizer.encode(text) for text in texts]
    with torch.inference_mode():
        means = [model(torch.tensor([ids])).last_hidden_state[0].mean(0) for ids in tokens[:3]]
    own = [(mean / mean.norm()).numpy() for mean in means]
    answer = client.embeddings.create(model=TINY, input=texts)  # the SDK asks for base64
    assert [one.index for one in answer.data] == list(range(90))
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(map(len, tokens))
    for place, one in enumerate(answer.data):
        np.testing.assert_allclose(one.embedding, own[place % 3], atol=1e-3)
    for asked in (texts[1], tokens[1], [tokens[1]]):
        floats = client.embeddings.create(model=TINY, input=asked, encoding_format="float")
        np.testing.assert_allclose(floats.data[0].embedding, own[1], atol=1e-3)
    short = client.embeddings.create(model=TINY, input=texts[0], dimensions=8).data[0].embedding
    cut = own[0][:8] / np.linalg.norm(own[0][:8])
    np.testing.assert_allclose(short, cut, atol=1e-3)
    bad: Any
    for bad, param in (
        ({"input": texts[0], "dimensions": 4096}, "dimensions"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": [999_999]}, "input"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            client.embeddings.create(model=TINY, **bad)
        assert caught.value.param == param
    fastchat = client.post(
        str(client.base_url).removesuffix("v1/") + "worker_get_embeddings",
        body={"model": TINY, "input": texts[:2]},
        cast_to=object,
    )
    assert isinstance(fastchat, dict)
    np.testing.assert_allclose(fastchat["embedding"], own[:2], atol=1e-3)
