r"""Texts a second of an embedding model on this machine's CPU: ours beside sentence-transformers.

    python -m benchmarks.embeddings --peer-python ../sbert/bin/python

Three ways through the same model, whose shape is MiniLM-L6's (random weights, 22 million): our
encoder engine in a process, sentence-transformers in another one, and our whole stack by HTTP
(API, Redis, Celery worker, `--at-once` requests of `--request` texts). Rounds go through all of
them, so that a change of the machine's mood meets all alike; printed are medians, and ratios to
sentence-transformers. Of the two processes there is also the processor time a text, which other work
on the machine disturbs less. Before, all three must give the same vectors.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from benchmarks import conditions, processes

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parent.parent
MODEL = "minilm"
PEER = "sentence-transformers"
WORDS = 20_000
SAME = 1e-4


def write_model(folder: Path) -> Path:
    """Write a BERT of MiniLM-L6's shape, its tokenizer of made-up words, and the recipe."""
    from tokenizers import (  # noqa: PLC0415 - needed here only
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
    )
    from transformers import BertConfig, BertModel  # noqa: PLC0415

    letters = "abcdefghijklmnopqrstuvwxyz"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = [*special, *letters, *(f"##{one}" for one in letters), *made_words()]
    tokenizer = Tokenizer(
        models.WordPiece({token: n for n, token in enumerate(tokens)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )  # fmt: skip
    shape: Any = BertConfig
    config = shape(
        vocab_size=30_522, hidden_size=384, num_hidden_layers=6, num_attention_heads=12,
        intermediate_size=1536, max_position_embeddings=512,
    )  # fmt: skip
    BertModel(config).eval().save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    files: dict[str, Any] = {
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]",
            "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]",
            "mask_token": "[MASK]", "model_max_length": 256,
        },
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling",
             "type": "sentence_transformers.models.Pooling"},
            {"idx": 2, "name": "2", "path": "2_Normalize",
             "type": "sentence_transformers.models.Normalize"},
        ],
        "sentence_bert_config.json": {"max_seq_length": 256, "do_lower_case": False},
        "1_Pooling/config.json": {
            "word_embedding_dimension": 384, "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": True,
        },
    }  # fmt: skip
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


def made_words() -> list[str]:
    """Return words that mean nothing, always the same."""
    rng = random.Random(1)
    found: dict[str, None] = {}
    while len(found) < WORDS:
        length = rng.randint(2, 9)
        found["".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(length))] = None
    return [word for word in found if len(word) > 1]


def made_texts(count: int) -> list[str]:
    """Return texts of 5 to 200 words, most of them short: sentences, passages, some pages."""
    rng, words = random.Random(2), made_words()
    lengths = (min(200, max(5, round(rng.lognormvariate(3.2, 0.8)))) for _ in range(count))
    return [" ".join(rng.choices(words, k=length)) for length in lengths]


class Process:
    """A contender that answers line by line."""

    def __init__(self, python: str, name: str, folder: Path, threads: int) -> None:
        script = ROOT / "benchmarks" / "embeddings_contenders.py"
        self._child = subprocess.Popen(
            [python, str(script), name, str(folder), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "OMP_NUM_THREADS": str(threads),
                "PYTHONPATH": str(ROOT / "src"),
                "HF_HUB_OFFLINE": "1",
            },
        )
        self._read()

    def _read(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise SystemExit(f"{self._child.args} ended with {self._child.wait()}")
        return json.loads(line)

    def ask(self, texts: list[str], *, vectors: bool = False) -> dict[str, Any]:
        """Return what it answers for these texts."""
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps({"texts": texts, "vectors": vectors}) + "\n")
        self._child.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End it."""
        self._child.kill()
        self._child.wait()


def http_contender(url: str, size: int, at_once: int) -> Callable[..., dict[str, Any]]:
    """Return the same question, asked by HTTP."""

    def embed(client: httpx.Client, texts: list[str]) -> list[list[float]]:
        answer = client.post(f"{url}/v1/embeddings", json={"model": MODEL, "input": texts})
        answer.raise_for_status()
        return [one["embedding"] for one in answer.json()["data"]]

    def ask(texts: list[str], *, vectors: bool = False) -> dict[str, Any]:
        parts = [texts[start : start + size] for start in range(0, len(texts), size)]
        with httpx.Client(timeout=120.0) as client, ThreadPoolExecutor(at_once) as pool:
            started_s = time.perf_counter()
            found = list(pool.map(lambda part: embed(client, part), parts))
            seconds = time.perf_counter() - started_s
        whole = [vector for part in found for vector in part]
        return {"seconds": seconds, **({"vectors": whole} if vectors else {})}

    return ask


def compare(contenders: dict[str, Callable[..., dict[str, Any]]], texts: list[str]) -> None:
    """See that all give the same vectors.

    :raises SystemExit: one does not.
    """
    first, *others = contenders
    wanted = contenders[first](texts, vectors=True)["vectors"]
    for name in others:
        found = contenders[name](texts, vectors=True)["vectors"]
        worst = max(
            abs(ours - theirs)
            for pair in zip(found, wanted, strict=True)
            for ours, theirs in zip(*pair, strict=True)
        )
        print(f"{name}: vectors differ by {worst:.1e} at most from {first}")
        if worst > SAME:
            raise SystemExit("they do not compute the same")


def measure(
    contenders: dict[str, Callable[..., dict[str, Any]]], texts: list[str], rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return texts/s of every round, and milliseconds of processor time a text, by contender."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    cpu_ms: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name, ask in contenders.items():
            answer = ask(texts)
            rates[name].append(len(texts) / answer["seconds"])
            if "cpu_s" in answer:
                cpu_ms[name].append(1000 * answer["cpu_s"] / len(texts))
        told = ", ".join(f"{name} {rate[-1]:.1f}" for name, rate in rates.items())
        print(f"round {number + 1}: {told} texts/s", flush=True)
    return rates, cpu_ms


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description="Texts a second of an embedding model.")
    parser.add_argument("--peer-python", help="an interpreter with sentence-transformers")
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--request", type=int, default=32, help="texts a request")
    parser.add_argument("--at-once", type=int, default=4, help="requests at once")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/")
    options = parser.parse_args()
    seen = conditions.observe()
    conditions.show(seen)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-bench-")))
        models = folder / "models"
        (models / MODEL).mkdir(parents=True)
        write_model(models / MODEL)
        contenders: dict[str, Callable[..., dict[str, Any]]] = {}
        if options.peer_python:
            peer = Process(options.peer_python, PEER, models / MODEL, options.threads)
            stack.callback(peer.close)
            contenders[PEER] = peer.ask
        else:
            print(f"{PEER} is left out: --peer-python names no interpreter with it")
        ours = Process(sys.executable, "penstock", models / MODEL, options.threads)
        stack.callback(ours.close)
        contenders["penstock engine"] = ours.ask
        fleet = stack.enter_context(
            processes.running(
                PENSTOCK_MODELS_DIR=str(models),
                PENSTOCK_MODELS_FILE="no-models-file.toml",
                PENSTOCK_THREADS=str(options.threads),
                OMP_NUM_THREADS=str(options.threads),
            )
        )
        fleet.start_worker("workers", f"{MODEL}-cpu")
        contenders["penstock HTTP"] = http_contender(
            fleet.api_url, options.request, options.at_once
        )
        texts = made_texts(options.texts)
        compare(contenders, texts)
        rates, cpu_ms = measure(contenders, texts, options.rounds)
    medians = {name: statistics.median(rate) for name, rate in rates.items()}
    for name, rate in medians.items():
        ratio = f", {rate / medians[PEER]:.2f} of {PEER}" if PEER in medians else ""
        print(f"{name:24}{rate:9.1f} texts/s{ratio}")
        if cpu_ms[name]:
            print(f"{'':24}{statistics.median(cpu_ms[name]):9.1f} ms of processor time a text")
    if options.save:
        told = {name: value for name, value in vars(options).items() if name != "peer_python"}
        result = {"options": told, "texts_per_s": rates, "cpu_ms": cpu_ms}
        print(conditions.save("embeddings", seen, result))


if __name__ == "__main__":
    main()
