"""OpenAI's parameters and a card's defaults -> `Sampling`."""

from __future__ import annotations

from typing import Any

import pytest

from api.http.json_body import validated
from api.openai.chat.sampling import of_choice, sampling
from api.openai.schema import ChatRequest
from penstock.contract.job import Sampling
from penstock.contract.worker import ModelCard
from penstock.errors import InvalidParameter


def card(**fields: Any) -> ModelCard:
    return ModelCard(
        name="m", queue="m-cpu", device="cpu", backend="transformers", format="fp32",
        architecture="Llama", parameters=1, weights_bytes=4, context_length=128, vocab_size=100,
        slots=4, kv_cache_tokens=512, **fields,
    )  # fmt: skip


def made(served: ModelCard | None = None, **fields: Any) -> Sampling:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **fields}
    asked = validated(body, ChatRequest)
    return sampling(asked, served or card(), default_max_tokens=None)


def test_openais_defaults() -> None:
    plain = made(seed=1)
    assert plain == Sampling(seed=1, temperature=1.0)


def test_the_cards_defaults_apply_if_the_client_sets_none() -> None:
    served = card(generation_defaults={"temperature": 0.6, "top_k": 20, "max_tokens": 50})
    assert made(served, seed=1) == Sampling(seed=1, temperature=0.6, top_k=20, max_tokens=50)
    told = made(served, seed=1, temperature=0, top_k=-1, max_tokens=5)
    assert told == Sampling(seed=1, temperature=0, top_k=0, max_tokens=5)


def test_everything_arrives() -> None:
    fields = {
        "seed": 5, "temperature": 0.5, "top_p": 0.9, "top_k": 3, "min_p": 0.1,
        "repetition_penalty": 1.1, "presence_penalty": 0.2, "frequency_penalty": 0.3,
        "max_tokens": 9, "min_tokens": 2, "ignore_eos": True,
    }  # fmt: skip
    given = made(
        **fields, logit_bias={"4": 2}, stop="end", stop_token_ids=[7], logprobs=True, top_logprobs=2
    )
    assert given == Sampling(
        **fields, logit_bias={4: 2.0}, stop=("end",), stop_token_ids=(7,), logprobs=2
    )


def test_a_models_own_stops_count_as_its_eos() -> None:
    served = card(stop_strings=("<end>",), stop_token_ids=(3,))
    assert made(served, stop=["x"]).stop == ("x", "<end>")
    assert made(served).stop_token_ids == (3,)
    assert made(served, ignore_eos=True).stop == ()


def test_without_a_seed_each_request_draws_its_own() -> None:
    assert made().seed != made().seed


@pytest.mark.parametrize("seed", [0, -1, 2**63 - 1, -(2**63)])
def test_every_seed_becomes_a_non_negative_one(seed: int) -> None:
    assert 0 <= made(seed=seed).seed < 2**63
    assert made(seed=seed).seed == made(seed=seed).seed


def test_choices_differ_by_seed_alone_and_always_the_same_way() -> None:
    first = made(seed=7, temperature=0.5)
    choices = [of_choice(first, choice) for choice in range(16)]
    assert choices[0] == first
    assert len({choice.seed for choice in choices}) == 16
    assert all(0 <= choice.seed < 2**63 for choice in choices)
    assert {choice.temperature for choice in choices} == {0.5}
    assert choices == [of_choice(first, choice) for choice in range(16)]


def test_the_least_top_p_is_not_nothing() -> None:
    assert 0 < made(top_p=0).top_p < 0.001


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"logit_bias": {"100": 1}}, "logit_bias"),
        ({"stop_token_ids": [100]}, "stop_token_ids"),
        ({"min_tokens": 6, "max_tokens": 5}, "min_tokens"),
    ],
)
def test_what_the_model_cannot_do(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        made(**fields)
    assert caught.value.param == param
