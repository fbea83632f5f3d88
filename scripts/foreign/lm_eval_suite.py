"""EleutherAI's lm-eval: its local-completions client on a running fleet against its own `hf` backend.

Run in an environment of its own (scripts/foreign/setup.sh lm-eval); the server serves both models
in float32:
    PENSTOCK_TEST_URL=http://127.0.0.1:8000 PENSTOCK_TEST_TINY_LLAMA=models/tiny-llama \
        python -m pytest scripts/foreign/lm_eval_suite.py
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.openai_completions import LocalCompletionsAPI
from lm_eval.tasks import TaskManager

URL = os.environ["PENSTOCK_TEST_URL"]
ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "tiny-llama": os.environ["PENSTOCK_TEST_TINY_LLAMA"],
    "demo": str(ROOT / "src" / "penstock" / "demo_model"),
}
CONTEXT = 1024
TOLERANCE = 1e-3
"""Of one log likelihood, or of each 1,000 tokens of a long one."""
TEXT = (
    "the water flows through a penstock to the turbine and a queue keeps what a worker cannot take "
    "yet Paris is the capital of France two plus 3 = 5"
)
WORDS = TEXT.split()


def _words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(count))


def _asked(kind: Any, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(kind, {}, arguments=one, idx=i) for i, one in enumerate(arguments)]


@pytest.fixture(scope="module", params=["tokens", "text"])
def prompts_as(request: pytest.FixtureRequest) -> str:
    """How prompts are sent."""
    return request.param


@pytest.fixture(scope="module", params=list(FOLDERS))
def model(request: pytest.FixtureRequest) -> str:
    """A model's name."""
    return request.param


@pytest.fixture(scope="module")
def ours(model: str, prompts_as: str) -> LocalCompletionsAPI:
    """lm-eval's client of this server."""
    return LocalCompletionsAPI(
        model=model,
        base_url=f"{URL}/v1/completions",
        tokenizer=FOLDERS[model],
        tokenizer_backend="huggingface",
        tokenized_requests=prompts_as == "tokens",
        batch_size=4,
        num_concurrent=2,
        max_length=CONTEXT,
    )


@pytest.fixture(scope="module")
def theirs(model: str) -> HFLM:
    """lm-eval's own Transformers backend; its windows are two tokens longer than its client's."""
    return HFLM(FOLDERS[model], dtype="float32", device="cpu", max_length=CONTEXT - 2)


def test_loglikelihood(ours: LocalCompletionsAPI, theirs: HFLM) -> None:
    rng = random.Random(1)
    pairs = [
        (_words(rng, rng.randint(1, 30)), " " + _words(rng, rng.randint(1, 8))) for _ in "a" * 24
    ]
    got = ours.loglikelihood(_asked("loglikelihood", pairs))
    wanted = theirs.loglikelihood(_asked("loglikelihood", pairs))
    assert [one[0] for one in got] == pytest.approx([one[0] for one in wanted], abs=TOLERANCE)
    assert [one[1] for one in got] == [one[1] for one in wanted]


def test_loglikelihood_rolling(ours: LocalCompletionsAPI, theirs: HFLM) -> None:
    rng = random.Random(2)
    texts = [(_words(rng, rng.randint(5, 60)),) for _ in "a" * 6] + [(_words(rng, 700),)]
    got = ours.loglikelihood_rolling(_asked("loglikelihood_rolling", texts))
    wanted = theirs.loglikelihood_rolling(_asked("loglikelihood_rolling", texts))
    assert got[:-1] == pytest.approx(wanted[:-1], abs=TOLERANCE)
    assert got[-1] == pytest.approx(wanted[-1], abs=TOLERANCE * 2.5)


def test_generate_until(ours: LocalCompletionsAPI, theirs: HFLM) -> None:
    rng = random.Random(3)
    kwargs = {"until": ["."], "max_gen_toks": 24, "do_sample": False}
    asked = [(_words(rng, 8), kwargs) for _ in "a" * 8]
    got = ours.generate_until(_asked("generate_until", asked))
    kwargs["max_new_tokens"] = 24
    wanted = theirs.generate_until(_asked("generate_until", asked))
    assert any(got)
    assert all(b.startswith(a) or a.startswith(b) for a, b in zip(got, wanted, strict=True))


def test_a_task(ours: LocalCompletionsAPI, theirs: HFLM, tmp_path: Path) -> None:
    rng = random.Random(4)
    rows = [
        {"text": _words(rng, 12), "choices": [_words(rng, 2) for _ in "abcd"], "gold": n % 4}
        for n in range(12)
    ]
    lines = tmp_path / "rows.jsonl"
    lines.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    task = {
        "task": "generated",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(lines)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{text}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{gold}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    results = [
        lm_eval.simple_evaluate(one, tasks=[task], task_manager=TaskManager(), bootstrap_iters=0)
        for one in (ours, theirs)
    ]
    samples = [result["samples"]["generated"] for result in results]
    for got, wanted in zip(*samples, strict=True):
        assert [float(one[0]) for one in got["filtered_resps"]] == pytest.approx(
            [float(one[0]) for one in wanted["filtered_resps"]], abs=TOLERANCE
        )
    assert (
        results[0]["results"]["generated"]["acc,none"]
        == (results[1]["results"]["generated"]["acc,none"])
    )
