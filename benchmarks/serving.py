r"""Streams over HTTP: our whole stack beside llama.cpp's server and FastChat with bigdl-llm's worker.

The same random Llama, in 4 bit everywhere, the same prompts as text, one server after the other.

    python -m benchmarks.serving burst --llama-server build/bin/llama-server --gguf llama-q4_0.gguf
    python -m benchmarks.serving fastchat --fastchat-python ../fastchat-bigdl/bin/python
    python -m benchmarks.serving prefix
    python -m benchmarks.serving pace

`burst`: 32 streams at once with 127-token prompts and 48 tokens each; `fastchat`: 8 of them;
`prefix`: a second request with the same 512-token beginning; `pace`: a 4,096-token prompt beside 8
running streams. A peer that is not given is skipped. `--folder-only` writes the model and stops:
the GGUF is made of that folder (llama.cpp's convert_hf_to_gguf.py and llama-quantize, Q4_0).
FastChat's environment: fschat 0.2.28 and bigdl-llm 2.4.0 without their dependencies,
transformers 4.35.2, pydantic 1.10, accelerate, torch.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import conditions, processes, serving_peers
from benchmarks.cpu_engine import SHAPES, write_model
from benchmarks.serving_load import Answer, ask_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.processes import Stack

CONTEXT = 8192
WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "water",
    "flows",
    "through",
    "turbine",
    "queue",
    "worker",
    "keeps",
    "answer",
    "city",
]
FIRST_FILLER = 512
"""Token ids from here on get made-up words, so that a random model's answer is not empty."""


def write_folder(cache: Path, shape: str, name: str) -> Path:
    """The benchmarks' random Llama with a name for each token and room for long prompts."""
    source, folder = write_model(cache, shape), cache / name
    folder.mkdir(exist_ok=True)
    for file in source.iterdir():
        target = folder / file.name
        if file.suffix == ".safetensors" and not target.exists():
            target.hardlink_to(file)
    config = json.loads((source / "config.json").read_text())
    config["max_position_embeddings"] = CONTEXT
    config["torch_dtype"] = "bfloat16"
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    vocabulary, merges = tokenizer["model"]["vocab"], tokenizer["model"]["merges"]
    vocabulary |= {f"\u0120w{i}": i for i in range(FIRST_FILLER, config["vocab_size"])}
    tokenizer["model"]["merges"] = [m if isinstance(m, str) else " ".join(m) for m in merges]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    for file in ("tokenizer_config.json", "generation_config.json"):
        (folder / file).write_text((source / file).read_text())
    return folder


def prompts_of(folder: Path, count: int, tokens: int, seed: int) -> list[str]:
    """Texts of so many tokens each, all different."""
    from tokenizers import Tokenizer  # noqa: PLC0415 - the load needs it, --help does not

    tokenizer, rng = Tokenizer.from_file(str(folder / "tokenizer.json")), random.Random(seed)
    texts: list[str] = []
    for _ in range(count):
        text = "the"
        while len(tokenizer.encode(text).ids) < tokens:
            text += " " + rng.choice(WORDS)
        texts.append(text)
    return texts


def ours(
    chosen: argparse.Namespace, folder: Path, slots: int, work: Callable[[str, str], Any]
) -> Any:
    """Start Redis, the API and a worker, warm them up, and have `work(url, model)` done."""
    file = folder.parent / "models.toml"
    file.write_text(
        f'[models."{folder.name}"]\npath = "{folder}"\nbackend = "{chosen.backend}"\n'
        f'format = "{chosen.format}"\n'
    )
    settings = {
        "PENSTOCK_MODELS_FILE": str(file),
        "PENSTOCK_SLOTS": str(slots),
        "PENSTOCK_THREADS": str(chosen.threads),
        "PENSTOCK_SPECULATION": chosen.speculation,
        "PENSTOCK_KV_CACHE_BYTES": str(2 << 30),
        "OMP_NUM_THREADS": str(chosen.threads),
    }

    def prepared(stack: Stack) -> Any:
        stack.start_worker("workers", f"{folder.name}-cpu")
        run(stack.api_url, folder.name, ["the quick brown fox " * 16], 8)
        return work(stack.api_url, folder.name)

    with processes.running(**settings) as stack:
        return prepared(stack)


def run(url: str, model: str, prompts: list[str], tokens: int) -> list[Answer]:
    """All prompts at once."""
    return asyncio.run(ask_all(url, model, prompts, tokens))


def summary(answers: list[Answer]) -> dict[str, float]:
    """Aggregate tokens/s from the first request to the last token, TTFT and the worst pause."""
    began = min(answer.sent_s for answer in answers)
    ended = max(answer.times_s[-1] for answer in answers)
    pauses = [
        later - earlier
        for answer in answers
        for earlier, later in zip(answer.times_s, answer.times_s[1:], strict=False)
    ]
    return {
        "tokens_per_s": round(sum(answer.tokens for answer in answers) / (ended - began), 2),
        "ttft_median_s": round(statistics.median(answer.ttft_s for answer in answers), 3),
        "ttft_worst_s": round(max(answer.ttft_s for answer in answers), 3),
        "pause_worst_s": round(max(pauses, default=0.0), 3),
    }


def burst(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Ours and a peer under the same streams, all sent at once."""
    fastchat = chosen.what == "fastchat"
    streams = chosen.streams or (8 if fastchat else 32)
    prompts = prompts_of(folder, streams, chosen.prompt_tokens, 1)
    results: dict[str, Any] = {"streams": streams}

    def load(url: str, model: str) -> dict[str, float]:
        seen = summary(run(url, model, prompts, chosen.tokens))
        print(url, json.dumps(seen), flush=True)
        return seen

    if not chosen.peer_only:
        results["penstock"] = ours(chosen, folder, streams, load)
    peer = serving_peers.fastchat if fastchat else serving_peers.llama_cpp
    theirs = peer(chosen, folder, streams)
    if isinstance(theirs, str):
        print(f"skipped: {theirs}")
        return results
    with theirs as url:
        run(url, folder.name, ["the quick brown fox " * 16], 8)
        results[peer.__name__] = load(url, folder.name)
    if not chosen.peer_only:
        mine, other = results["penstock"], results[peer.__name__]
        results["tokens_ratio"] = round(mine["tokens_per_s"] / other["tokens_per_s"], 2)
        results["ttft_ratio"] = round(other["ttft_median_s"] / mine["ttft_median_s"], 2)
    return results


def prefix(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Pairs of requests with the same 512 tokens before a question of a few."""
    texts = prompts_of(folder, chosen.rounds, 512, 2)

    def work(url: str, model: str) -> dict[str, Any]:
        first = [run(url, model, [f"{text} queue"], 4)[0].ttft_s for text in texts]
        second = [run(url, model, [f"{text} city"], 4)[0].ttft_s for text in texts]
        ratios = [one / two for one, two in zip(first, second, strict=True)]
        return {
            "first_ttft_s": round(statistics.median(first), 4),
            "second_ttft_s": round(statistics.median(second), 4),
            "ratio": round(statistics.median(ratios), 2),
        }

    return ours(chosen, folder, 8, work)


def pace(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """How streams fare that run while a long prompt comes."""
    streams = prompts_of(folder, chosen.streams or 8, chosen.prompt_tokens, 3)
    (long,) = prompts_of(folder, 1, 4096, 4)

    async def both(url: str, model: str) -> tuple[list[Answer], Answer]:
        running = asyncio.create_task(ask_all(url, model, streams, chosen.pace_tokens))
        await asyncio.sleep(chosen.lead_s)
        late = await ask_all(url, model, [long], 4)
        return await running, late[0]

    def work(url: str, model: str) -> dict[str, Any]:
        answers, late = asyncio.run(both(url, model))
        pauses = [
            (later - earlier, earlier > late.sent_s)
            for answer in answers
            for earlier, later in zip(answer.times_s, answer.times_s[1:], strict=False)
            if later < late.times_s[0]
        ]
        alone = [pause for pause, beside in pauses if not beside]
        beside = [pause for pause, beside in pauses if beside]
        return {
            "median_itl_alone_s": round(statistics.median(alone), 3) if alone else None,
            "median_itl_beside_s": round(statistics.median(beside), 3) if beside else None,
            "worst_itl_beside_s": round(max(beside), 3) if beside else None,
            "long_prompt_ttft_s": round(late.ttft_s, 2),
        }

    return ours(chosen, folder, 16, work)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("burst", "fastchat", "prefix", "pace"))
    parser.add_argument("--model", choices=SHAPES, default="1.1b")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/penstock-benchmarks")
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--format", default="int4")
    parser.add_argument("--speculation", choices=("auto", "on", "off"), default="auto")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--streams", type=int, default=0)
    parser.add_argument("--prompt-tokens", type=int, default=127)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--pace-tokens", type=int, default=200)
    parser.add_argument("--lead-s", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--llama-server")
    parser.add_argument("--gguf")
    parser.add_argument("--fastchat-python")
    parser.add_argument("--peer-only", action="store_true")
    parser.add_argument("--folder-only", action="store_true")
    chosen = parser.parse_args()
    for name in ("llama_server", "gguf", "fastchat_python"):  # peers run in a folder of their own
        if value := getattr(chosen, name):
            setattr(chosen, name, str(Path(value).absolute()))
    chosen.cache = chosen.cache.absolute()
    return chosen


def main() -> None:
    chosen = arguments()
    chosen.cache.mkdir(parents=True, exist_ok=True)
    folder = write_folder(chosen.cache, chosen.model, f"bigdl-llama-{chosen.model}")
    if chosen.folder_only:
        print(folder)
        return
    seen = conditions.observe()
    conditions.show(seen)
    measure = {"prefix": prefix, "pace": pace}.get(chosen.what, burst)
    results = measure(chosen, folder)
    print(json.dumps(results, indent=2))
    asked = {"model": chosen.model, "backend": chosen.backend, "format": chosen.format}
    print(conditions.save(f"serving-{chosen.what}-{chosen.model}", seen, {**asked, **results}))


if __name__ == "__main__":
    main()
