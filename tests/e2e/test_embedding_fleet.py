"""Embedding models and cross-encoders by their queues' names: a worker, the API, OpenAI's SDK."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest
import torch
import transformers

from tests.fixtures.encoders import write_cross_encoder, write_sentence_files, write_tiny_bert
from tests.fixtures.processes import store_and_processes, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.busy(reason="real processes with real time-outs, beside three other tests")

TEXTS = ["water flows", "paris is the capital of france", "a queue keeps what a worker"]
LONG = "water " * 50


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("encoders")
    write_sentence_files(
        write_tiny_bert(models / "minilm"), prompts={"query": "the queue: ", "document": ""}
    )
    write_cross_encoder(models / "ranker")
    (models / "models.toml").write_text('[models.minilm]\nmatryoshka = [8]\naliases = ["ada"]\n')
    return models


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[str]:
    with store_and_processes(tmp_path_factory.mktemp("embedding")) as (redis_url, processes):
        api = processes.start_api(redis_url)
        file = {"PENSTOCK_MODELS_FILE": str(folder / "models.toml")}
        processes.start_worker("minilm-cpu,ranker-cpu", redis_url, folder, env=file)
        wait_until(lambda: len(httpx.get(f"{api.url}/v1/models").json()["data"]) == 3)
        yield api.url


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=30.0) as http:
        yield http


def mean_of(folder: Path, text: str) -> torch.Tensor:
    """The text's vector, by plain Transformers."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "minilm")
    module = transformers.AutoModel.from_pretrained(folder / "minilm").eval()
    with torch.inference_mode():
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        states = module(input_ids=ids).last_hidden_state[0]
    return torch.nn.functional.normalize(states.mean(0), dim=0)


def near(vector: list[float], wanted: torch.Tensor) -> bool:
    return torch.allclose(torch.tensor(vector), wanted, atol=3e-5)


def test_vectors_are_the_models_own(client: openai.OpenAI, folder: Path) -> None:
    answer = client.embeddings.create(model="minilm", input=TEXTS)  # base64, as the SDK asks
    assert [one.index for one in answer.data] == [0, 1, 2]
    assert all(
        near(one.embedding, mean_of(folder, text))
        for one, text in zip(answer.data, TEXTS, strict=True)
    )
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > len(TEXTS) * 3
    floats = client.embeddings.create(model="ada", input=TEXTS[0], encoding_format="float")
    assert floats.data[0].embedding == pytest.approx(answer.data[0].embedding, abs=1e-6)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "minilm")
    ids = [tokenizer(text)["input_ids"] for text in TEXTS]
    by_tokens = client.embeddings.create(model="minilm-cpu", input=ids)
    assert by_tokens.usage.prompt_tokens == sum(map(len, ids)) == answer.usage.prompt_tokens
    assert by_tokens.data[2].embedding == pytest.approx(answer.data[2].embedding, abs=3e-5)


def test_many_texts_at_once_come_back_in_order(client: openai.OpenAI, folder: Path) -> None:
    texts = [f"{'worker ' * (number % 13)}{number}" for number in range(150)]

    def embed(_: int) -> list[list[float]]:
        answer = client.embeddings.create(model="minilm", input=texts)
        return [one.embedding for one in answer.data]

    with ThreadPoolExecutor(3) as clients:
        for vectors in clients.map(embed, range(3)):
            assert len(vectors) == len(texts)
            assert near(vectors[77], mean_of(folder, texts[77]))
            assert near(vectors[149], mean_of(folder, texts[149]))


def test_dimensions_where_the_model_allows(client: openai.OpenAI, folder: Path) -> None:
    cut = client.embeddings.create(model="minilm", input=TEXTS[0], dimensions=8)
    whole = mean_of(folder, TEXTS[0])
    assert near(cut.data[0].embedding, torch.nn.functional.normalize(whole[:8], dim=0))
    for dimensions, code in ((9, "unsupported_feature"), (33, "invalid_parameter")):
        with pytest.raises(openai.BadRequestError) as caught:
            client.embeddings.create(model="minilm", input="a", dimensions=dimensions)
        assert (caught.value.param, caught.value.code) == ("dimensions", code)
    assert len(client.embeddings.create(model="minilm", input="a", dimensions=32).data) == 1


def test_prompts_of_the_models_files(client: openai.OpenAI, folder: Path) -> None:
    prefixed = mean_of(folder, "the queue: water flows")
    for more in ({"prompt_name": "query"}, {"input_type": "search_query"}):
        answer = client.embeddings.create(model="minilm", input="water flows", extra_body=more)
        assert near(answer.data[0].embedding, prefixed)
    plain = client.embeddings.create(
        model="minilm", input="water flows", extra_body={"input_type": "document"}
    )
    assert near(plain.data[0].embedding, mean_of(folder, "water flows"))
    for given, more in (("a", {"prompt_name": "none"}), ([5], {"prompt_name": "query"})):
        with pytest.raises(openai.BadRequestError) as caught:
            client.embeddings.create(model="minilm", input=given, extra_body=more)
        assert caught.value.param == "prompt_name"


def test_long_texts_are_refused_or_cut(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="minilm", input=["a", LONG])
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input")
    for bound, tokens in ((-1, 32), (10, 10)):
        cut = client.embeddings.create(
            model="minilm", input=LONG, extra_body={"truncate_prompt_tokens": bound}
        )
        assert cut.usage.prompt_tokens == tokens


def test_texts_are_not_asked_of_encoders(client: openai.OpenAI, http: httpx.Client) -> None:
    chat: Any = [{"role": "user", "content": "hello"}]
    for model, purpose in (("minilm", "embeddings"), ("ranker", "scores")):
        for ask in (
            lambda model=model: client.chat.completions.create(model=model, messages=chat),
            lambda model=model: client.completions.create(model=model, prompt="hello"),
            lambda model=model: client.responses.create(model=model, input="hello"),
        ):
            with pytest.raises(openai.BadRequestError) as caught:
                ask()
            assert (caught.value.param, caught.value.code) == ("model", "unsupported_feature")
            assert purpose in caught.value.message
    body = {"model": "minilm", "messages": chat, "max_tokens": 5}
    assert http.post("/v1/messages", json=body).status_code == 400
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="ranker", input="hello")
    assert caught.value.param == "model"
    shown = {one["id"]: one for one in http.get("/v1/models").json()["data"]}
    assert shown["minilm"]["capabilities"] == shown["ada"]["capabilities"] == ["embed"]
    assert shown["minilm"]["embedding_dimensions"] == 32
    assert shown["ranker"]["capabilities"] == ["score"]


def test_tokenize_knows_encoders(http: httpx.Client) -> None:
    told = http.post("/tokenize", json={"model": "minilm", "prompt": "water flows"}).json()
    assert told["tokens"][0] == 2
    assert told["tokens"][-1] == 3


def pair_score(folder: Path, first: str, second: str) -> float:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "ranker")
    kind = transformers.AutoModelForSequenceClassification
    module = kind.from_pretrained(folder / "ranker").eval()
    with torch.inference_mode():
        given = tokenizer(first, second, return_tensors="pt", return_token_type_ids=True)
        return float(torch.sigmoid(module(**given).logits[0, 0]))


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_rerank(http: httpx.Client, folder: Path, path: str) -> None:
    documents = [*TEXTS, LONG]
    body = {"model": "ranker", "query": "what is water", "documents": documents}
    answer = http.post(path, json={**body, "return_documents": True}).json()
    scores = {one["index"]: one["relevance_score"] for one in answer["results"]}
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
    for index in range(3):
        assert scores[index] == pytest.approx(
            pair_score(folder, body["query"], TEXTS[index]), abs=1e-4
        )
    assert all(one["document"]["text"] == documents[one["index"]] for one in answer["results"])
    assert answer["usage"]["total_tokens"] == answer["meta"]["tokens"]["input_tokens"] > 0
    best = http.post(path, json={**body, "documents": [{"text": t} for t in documents], "top_n": 2})
    assert [one["index"] for one in best.json()["results"]] == list(scores)[:2]
    assert "document" not in best.json()["results"][0]


def test_rerank_by_embeddings(http: httpx.Client, folder: Path) -> None:
    body = {"model": "minilm", "query": "water", "documents": TEXTS}
    results = http.post("/v1/rerank", json=body).json()["results"]
    query = mean_of(folder, "the queue: water")
    for one in results:
        wanted = float(query @ mean_of(folder, TEXTS[one["index"]]))
        assert one["relevance_score"] == pytest.approx(wanted, abs=1e-4)


def test_score(http: httpx.Client, folder: Path) -> None:
    body = {"model": "ranker", "text_1": "water", "text_2": TEXTS}
    answer = http.post("/v1/score", json=body).json()
    assert [one["index"] for one in answer["data"]] == [0, 1, 2]
    for one, text in zip(answer["data"], TEXTS, strict=True):
        assert one["score"] == pytest.approx(pair_score(folder, "water", text), abs=1e-4)
    pairs = {"model": "ranker", "text_1": TEXTS, "text_2": TEXTS[::-1]}
    assert len(http.post("/score", json=pairs).json()["data"]) == 3


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/rerank", {"query": "a", "documents": []}, "documents"),
        ("/v1/rerank", {"query": "", "documents": ["a"]}, "query"),
        ("/v1/rerank", {"query": "a", "documents": ["a"], "top_n": 0}, "top_n"),
        ("/v1/rerank", {"query": "a", "documents": [LONG * 2], "truncation": False}, "documents"),
        ("/v1/score", {"text_1": ["a", "b"], "text_2": ["a", "b", "c"]}, "text_2"),
        ("/v1/score", {"text_1": "a", "text_2": LONG * 2}, "text_2"),
        ("/v1/score", {"text_2": "a"}, "text_1"),
    ],
)
def test_what_cannot_be_ranked(
    http: httpx.Client, path: str, body: dict[str, Any], param: str
) -> None:
    answer = http.post(path, json={"model": "ranker", **body})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
