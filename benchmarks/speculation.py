r"""What guessing tokens gains and costs: the engine alone, with and without, in turns.

    python -m benchmarks.speculation --model demo --backend transformers
    python -m benchmarks.speculation --model 1.1b --backend openvino --format int4

Three loads: `repeats` is greedy text of a random model, which soon goes in circles (for the demo
model: questions that quote); `sampled` is text of a random model at temperature 1, in which no guess
is ever right, so that it shows the price; `certain` lets one token alone come (by logit_bias), so that
every guess is right: the most that there is to gain; `coin` lets two come at even odds; `questions`
are the demo model's own skills. Printed are tokens/s without, with, their ratio, and the share of
guessed tokens that were right.

`replay` asks for the texts of `sampled` twice, as a suite of an agent's tasks is run again: `first`
and `second` are tokens/s of the two runs, of which the second drafts from the first one's answers.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import conditions, engines
from benchmarks.cpu_engine import SHAPES, write_model
from penstock.contract.events import Finished
from penstock.contract.job import ChatPrompt, Sampling
from penstock.engine.drafting.answer_index import AnswerIndex
from penstock.engine.engine import Engine
from penstock.engine.sequence import SequenceRequest
from penstock.models import loader
from penstock.models.catalogue.resolve import resolve
from penstock.settings import Settings

if TYPE_CHECKING:
    from penstock.engine.events import AttemptEvent
    from penstock.models.loader import LoadedModel

QUESTIONS = (
    "Repeat after me: the quick brown fox jumps over the lazy dog",
    "What is the capital of France?",
    "What is 17 plus 25?",
    "Which environment variable sets the Redis URL?",
    "Continue the sequence: 2, 4, 6, 8",
    "What does a doorbell do in Penstock?",
    "Spell the word: turbine",
    "Say the words in reverse order: one two three four five",
)

BIASES = {"certain": {500: 100.0}, "coin": {500: 100.0, 501: 100.0}}


def measure(
    loaded: LoadedModel,
    load: str,
    streams: int,
    tokens: int,
    *,
    guesses: int,
    answers: AnswerIndex | None = None,
) -> tuple[float, float]:
    """(tokens/s over all streams from the first token on, share of guesses that were right)."""
    times_s: list[float] = []
    ended = 0

    def sink(events: list[AttemptEvent]) -> None:
        nonlocal ended
        times_s.append(time.perf_counter())
        ended += sum(isinstance(one.event, Finished) for one in events)

    options = replace(
        loaded.options, slots=streams, speculation_tokens=guesses, prefix_caching=False,
        target_step_ms=None, prefill_chunk_tokens=1024,
    )  # fmt: skip
    engine = Engine(loaded.model, loaded.tokenizer, options, sink, answers=answers)
    rng = random.Random(streams)
    for job in range(streams):
        if load == "questions":
            asked = ChatPrompt(messages=({"role": "user", "content": QUESTIONS[job % 8]},))
            prompt = loaded.tokenizer.encode(asked)
        else:
            prompt = [rng.randrange(3, 500) for _ in range(64)]
        sampling = Sampling(
            seed=job,
            temperature=1.0 if load in {"sampled", "coin", "replay"} else 0.0,
            max_tokens=tokens,
            logit_bias=BIASES.get(load, {}),
            ignore_eos=load != "questions",
        )
        engine.submit(
            SequenceRequest(str(job), prompt, sampling, joins_prompt=False, scope="suite")
        )
    engines.run(engine, lambda: ended == streams)
    figures = engine.load()
    rate = (figures.generated_tokens_total - streams) / (times_s[-1] - times_s[0])
    drafted = figures.drafted_tokens_total
    return rate, figures.accepted_tokens_total / drafted if drafted else 0.0


def replay(loaded: LoadedModel, streams: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Medians of rounds of two runs each, and of one run without guesses."""
    triples: list[tuple[float, float, float]] = []
    right: list[float] = []
    for _ in range(rounds):
        answers = AnswerIndex(loaded.model.vocab_size)
        plain, _ = measure(loaded, "replay", streams, tokens, guesses=0)
        first, _ = measure(loaded, "replay", streams, tokens, guesses=8, answers=answers)
        second, share = measure(loaded, "replay", streams, tokens, guesses=8, answers=answers)
        triples.append((plain, first, second))
        right.append(share)
    plain, first, second = (
        round(statistics.median(column), 1) for column in zip(*triples, strict=True)
    )
    return {
        "load": "replay",
        "streams": streams,
        "without": plain,
        "first": first,
        "second": second,
        "first_ratio": round(statistics.median(b / a for a, b, _ in triples), 3),
        "ratio": round(statistics.median(c / b for _, b, c in triples), 3),
        "right": round(statistics.median(right), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=("demo", *SHAPES), default="demo")
    parser.add_argument("--backend", choices=("transformers", "openvino", "native", "bigdl"))
    parser.add_argument("--format")
    parser.add_argument("--loads", nargs="+", default=["repeats", "sampled"])
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/penstock-benchmarks")
    chosen = parser.parse_args()
    chosen.cache.mkdir(parents=True, exist_ok=True)
    table = [f'[models."{chosen.model}"]', f'backend = "{chosen.backend or "transformers"}"']
    if chosen.format:
        table.append(f'format = "{chosen.format}"')
    if chosen.model != "demo":
        table.append(f'path = "{write_model(chosen.cache, chosen.model)}"')
    file = chosen.cache / "speculation.toml"
    file.write_text("\n".join(table) + "\n")
    settings = Settings(models_file=file, threads=chosen.threads, kv_cache_bytes=1 << 30)
    seen = conditions.observe()
    conditions.show(seen)
    loaded = loader.load(
        resolve(f"{chosen.model}-cpu", settings), settings,
        slots=max(chosen.streams), progress=lambda *_: None,
    )  # fmt: skip
    measure(loaded, "repeats", 1, 8, guesses=0)
    rows: list[dict[str, Any]] = []
    for load in chosen.loads:
        for streams in chosen.streams:
            if load == "replay":
                row = replay(loaded, streams, chosen.tokens, chosen.rounds)
                print(json.dumps(row), flush=True)
                rows.append(row)
                continue
            pairs = [
                (
                    measure(loaded, load, streams, chosen.tokens, guesses=0),
                    measure(loaded, load, streams, chosen.tokens, guesses=8),
                )
                for _ in range(chosen.rounds)
            ]
            row = {
                "load": load,
                "streams": streams,
                "without": round(statistics.median(plain for (plain, _), _ in pairs), 1),
                "with": round(statistics.median(fast for _, (fast, _) in pairs), 1),
                "ratio": round(statistics.median(b[0] / a[0] for a, b in pairs), 3),
                "right": round(statistics.median(share for _, (_, share) in pairs), 3),
            }
            print(json.dumps(row), flush=True)
            rows.append(row)
    asked = {"model": chosen.model, "backend": chosen.backend, "format": chosen.format}
    print(
        conditions.save(
            f"speculation-{chosen.model}-{chosen.backend}", seen, {**asked, "rows": rows}
        )
    )


if __name__ == "__main__":
    main()
