"""What lm-eval asks of a completion server, answered as by Transformers itself."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from penstock import demo_model
from tests.foreign.conftest import DEMO, TINY

if TYPE_CHECKING:
    from pathlib import Path

LENGTHS = ((1, 3), (17, 5), (60, 1), (200, 40))
"""Tokens of a context and of its continuation."""


@pytest.mark.parametrize("model", [DEMO, TINY])
def test_a_continuations_loglikelihood(url: str, tiny_llama: Path, model: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    folder = demo_model.path() if model == DEMO else tiny_llama
    own: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rng = random.Random(1)
    prompts = [
        [rng.randrange(8, own.config.vocab_size) for _ in range(context + continuation)]
        for context, continuation in LENGTHS
    ]
    answer = httpx.post(
        f"{url}/v1/completions",
        json={
            "model": model,
            "prompt": prompts,
            "temperature": 0,
            "max_tokens": 1,
            "logprobs": 1,
            "echo": True,
            "seed": 1,
        },
        timeout=60,
    ).json()
    for choice in answer["choices"]:
        tokens = prompts[choice["index"]]
        context, continuation = LENGTHS[choice["index"]]
        with torch.inference_mode():
            rows = own(torch.tensor([tokens])).logits[0].log_softmax(-1)
        scored = list(range(context, context + continuation))
        wanted = sum(float(rows[place - 1, tokens[place]]) for place in scored)
        shown = choice["logprobs"]
        assert len(shown["tokens"]) == len(tokens) + 1
        assert sum(shown["token_logprobs"][context:-1]) == pytest.approx(wanted, abs=1e-3)
        greedy = all(int(rows[place - 1].argmax()) == tokens[place] for place in scored)
        best = [max(top.values()) for top in shown["top_logprobs"][context:-1]]
        assert (best == shown["token_logprobs"][context:-1]) == greedy
