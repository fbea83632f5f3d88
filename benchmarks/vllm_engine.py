"""vLLM's engine behind a pipe: run by vLLM's own interpreter, see `benchmarks.vllm_contender`.

Reads a JSON object a line: `prompts` (token ids) and `tokens` (of an answer). Writes one a line, last on
its real standard output: `whole` and `after`, tokens/s from the first request and after the first token,
and `first_ms` of each request. Imports nothing of Penstock.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import import_module
from typing import Any


def run(engine: Any, prompts: list[list[int]], tokens: int, turn: int) -> dict[str, Any]:
    """All prompts at once, to their ends."""
    sampling = import_module("vllm").SamplingParams(
        temperature=0.0, max_tokens=tokens, min_tokens=tokens, ignore_eos=True, detokenize=False
    )
    first: dict[str, float] = {}
    started = time.perf_counter()
    for job, prompt in enumerate(prompts):
        engine.add_request(f"{turn}-{job}", {"prompt_token_ids": prompt}, sampling)
    counts: dict[str, int] = {}
    while engine.has_unfinished_requests():
        for output in engine.step():
            first.setdefault(output.request_id, time.perf_counter())
            counts[output.request_id] = len(output.outputs[0].token_ids)
    finished = time.perf_counter()
    total = sum(counts.values())
    assert total == tokens * len(prompts), (total, tokens, len(prompts))
    after = finished - min(first.values())
    return {
        "whole": total / (finished - started),
        "after": (total - len(prompts)) / after if after > 0 else 0.0,
        "first_ms": [1e3 * (one - started) for one in first.values()],
    }


def main() -> None:
    # What libraries print must not be read as an answer.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    options = json.loads(sys.argv[1])
    vllm: Any = import_module("vllm")
    engine = vllm.LLMEngine.from_engine_args(vllm.EngineArgs(**options))
    answers.write(json.dumps({"version": vllm.__version__}) + "\n")
    for turn, line in enumerate(sys.stdin):
        asked = json.loads(line)
        answers.write(json.dumps(run(engine, asked["prompts"], asked["tokens"], turn)) + "\n")


if __name__ == "__main__":
    main()
