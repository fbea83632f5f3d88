r"""Decode and prefill rates on this machine's CPU: ours beside OpenVINO GenAI, bigdl-llm, and others.

Every contender is a process of its own (`cpu_contenders.py`); rounds go through all of them, so
that a change of the machine's mood meets all alike. What is printed are medians over the rounds,
and ratios to the first contender.

    python -m benchmarks.cpu_engine --quick
    python -m benchmarks.cpu_engine --model 1.1b --genai-python ../genai/bin/python \
        --genai-model exported/            # optimum-cli export openvino --weight-format int4 ...
        --llama-batched-bench build/bin/llama-batched-bench --gguf llama-q4_0.gguf

A peer whose Python or binary was not given, or does not run, is left out with a line that says why.
`--budget-s` ends the rounds in time; what was measured until then counts.

The models are random: Llama shapes of 15 million and 1.1 billion (TinyLlama's) weights, written
once to `--cache`, and mixtures of experts (`--shape qwen3-30b-a3b`, `--shape gpt-oss-20b`), hybrids
and Gemma 3 (`qwen3.5-4b`, `gemma-3-4b`, ...) of which `--layers` are kept. Of mixtures a line says what share of the memory's bandwidth one stream has for the
bytes that a token reads. `--weights-only` stops once a model is written, for the exports that the
others need.

With `--llama-batched-bench` and no `--gguf`, llama.cpp gets a file of random Q4_0 weights in the
same shape (`random_gguf.py`), if it has such a shape; the same file as `penstock/native/q4_k_m`, if
that is among the contenders. This one and `penstock/native/gptq` are of Llama's shape as published:

    python -m benchmarks.cpu_engine --label published --batches 1 8 16 --contenders \
        penstock/native/int4 penstock/native/gptq penstock/native/q4_k_m \
        --llama-batched-bench build/bin/llama-batched-bench

With `--context` one stream reads prompts of these lengths and decodes after them, instead: keys and
values are in 8 bit, llama.cpp's keys too. `--layers` of the shape are kept (`cpu_context.py`):

    python -m benchmarks.cpu_engine --context 8192 16384 32768 --layers 2 --rounds 2 \
        --llama-batched-bench build/bin/llama-batched-bench
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from benchmarks import conditions, cpu_context, llama_cpp, published_models, random_gguf
from tests.fixtures.models import write_tokenizer

ROOT = Path(__file__).resolve().parent.parent
SHAPES: dict[str, dict[str, Any]] = {
    "15m": {
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
    },
    "1.1b": {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
    },
}
MIXTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3-30b-a3b": (
        "qwen3_moe",
        {
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "moe_intermediate_size": 768,
            "num_local_experts": 128,
            "num_experts_per_tok": 8,
            "norm_topk_prob": True,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "head_dim": 128,
        },
    ),
    "gpt-oss-20b": (
        "gpt_oss",
        {
            "hidden_size": 2880,
            "intermediate_size": 2880,
            "num_local_experts": 32,
            "num_experts_per_tok": 4,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "head_dim": 64,
        },
    ),
}
HYBRIDS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3.5-4b": (
        "qwen3_5_text",
        {
            "hidden_size": 2560,
            "intermediate_size": 9216,
            "num_attention_heads": 16,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "linear_num_key_heads": 16,
            "linear_num_value_heads": 32,
            "linear_key_head_dim": 128,
            "linear_value_head_dim": 128,
        },
    ),
    "granite-4-h-1b": (
        "granitemoehybrid",
        {
            "hidden_size": 2048,
            "shared_intermediate_size": 4096,
            "num_local_experts": 0,
            "num_attention_heads": 16,
            "num_key_value_heads": 4,
            "mamba_n_heads": 64,
            "mamba_d_head": 64,
            "mamba_d_state": 128,
            "layer_types": ["mamba", "mamba", "mamba", "attention"] * 16,
        },
    ),
}
"""Most layers keep a state; cut at a multiple of four, each has all kinds."""
DENSE: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma-3-4b": (
        "gemma3_text",
        {
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "query_pre_attn_scalar": 256,
            "sliding_window": 1024,
            "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 6,
        },
    ),
}
"""Cut at a multiple of six, it has both kinds of layers as often as the whole."""
BY_LAYER = MIXTURES | HYBRIDS | DENSE
OF_BY_LAYER = ("penstock/native/sym_int4",)
OF_CONTEXT = ("penstock/native/sym_int4/u8", "penstock/native/sym_int4")
OURS = ("penstock/openvino/int4", "penstock/openvino/sym_int4", "penstock/openvino/int8")
OTHERS = ("bigdl/sym_int4", "transformers/bf16")
ROUND_GB = 0.5
PROMPT_TOKENS = 128
POSITIONS = 2048
CHUNK_TOKENS = 512
"""Of prompts that a step reads at most, ours and OpenVINO GenAI's (`cpu_contenders.py`)."""


class Process:
    """A contender's process; `measure` asks it for one figure."""

    def __init__(self, name: str, python: str, folder: Path, threads: int, cache: Path) -> None:
        self.name = name
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "PENSTOCK_CONVERTED_DIR": str(cache / "converted"),
            "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT))),
        }
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - the process writes to it
        self._process = subprocess.Popen(
            [python, str(ROOT / "benchmarks/cpu_contenders.py"), name, str(folder), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
        )
        self.loaded = self._answer()

    def measure(self, batch: int, prompt: int, steps: int) -> tuple[float, float]:
        """(tokens decoded a second over all streams, prompt tokens a second)."""
        prompts = [[random.randrange(3, 500) for _ in range(prompt)] for _ in range(batch)]
        assert self._process.stdin is not None
        print(
            json.dumps({"prompts": prompts, "steps": steps}), file=self._process.stdin, flush=True
        )
        answer = self._answer()
        decode = batch / statistics.median(answer["step_s"]) if answer["step_s"] else 0.0
        return decode, batch * prompt / answer["prefill_s"]

    def close(self) -> None:
        """Let it end by itself."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            self._errors.seek(0)
            last = self._errors.read().decode(errors="replace").strip().rpartition("\n")[2]
            raise RuntimeError(f"{self.name} ended with status {status}: {last}")
        return json.loads(line)


def write_model(cache: Path, shape: str) -> Path:
    """A random Llama in bf16 with a small tokenizer; made once."""
    folder = cache / f"llama-{shape}"
    if (folder / "config.json").is_file():
        return folder
    unfinished = Path(tempfile.mkdtemp(dir=cache))
    config = LlamaConfig(vocab_size=32_000, max_position_embeddings=2048, **SHAPES[shape])
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    LlamaForCausalLM(config).save_pretrained(unfinished)
    torch.set_default_dtype(torch.float32)
    write_tokenizer(unfinished)
    shutil.move(unfinished, folder)
    return folder


def write_by_layer(cache: Path, shape: str, layers: int, positions: int = POSITIONS) -> Path:
    """A random model in bf16, layer by layer: its whole need not fit into memory."""
    folder = cache / f"{shape}-{layers}{'' if positions == POSITIONS else f'-{positions}'}"
    if (folder / "config.json").is_file():
        return folder
    unfinished = Path(tempfile.mkdtemp(dir=cache))
    kind, sizes = BY_LAYER.get(shape) or ("llama", SHAPES[shape])
    if "layer_types" in sizes:
        sizes = {**sizes, "layer_types": sizes["layer_types"][:layers]}
    sizes = {**sizes, "num_hidden_layers": layers, "max_position_embeddings": positions}
    configuration: Any = CONFIG_MAPPING[kind]
    config = configuration(vocab_size=32_000, **sizes)
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(config)
    files: dict[str, dict[str, torch.Tensor]] = {}
    for name, weight in module.state_dict().items():
        part = name.split(".")[2] if ".layers." in name else "rest"
        files.setdefault(part, {})[name] = weight
    torch.manual_seed(0)
    for part, weights in files.items():
        drawn = {
            name: torch.empty(weight.shape, dtype=torch.bfloat16).normal_(0, 0.02)
            if weight.dim() > 1
            else torch.ones(weight.shape, dtype=torch.bfloat16)
            for name, weight in weights.items()
        }
        save_file(drawn, unfinished / f"model-{part}.safetensors", metadata={"format": "pt"})
    config.save_pretrained(unfinished)
    write_tokenizer(unfinished)
    shutil.move(unfinished, folder)
    return folder


def bytes_a_token(shape: str, layers: int) -> int:
    """What one stream reads for a token, in 4 bit with a scale for 64; routers in bf16."""
    sizes = MIXTURES[shape][1]
    hidden, head = sizes["hidden_size"], sizes["head_dim"]
    heads, kv_heads = sizes["num_attention_heads"], sizes["num_key_value_heads"]
    inner = sizes.get("moe_intermediate_size", sizes["intermediate_size"])
    attention = hidden * head * (2 * heads + 2 * kv_heads)
    experts = sizes["num_experts_per_tok"] * 3 * hidden * inner
    router = 2 * hidden * sizes["num_local_experts"]
    return round(layers * ((attention + experts) * 34 / 64 + router) + 32_000 * hidden * 34 / 64)


def read_bandwidth(threads: int) -> float:
    """GB/s of a sum over a large array: what decoding one stream is bound by."""
    torch.set_num_threads(threads)
    array = torch.ones(int(ROUND_GB * 1e9) // 8, dtype=torch.int64)
    best = min(_seconds(array.sum) for _ in range(7))
    return ROUND_GB / best


def _seconds(work: Any) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def arguments() -> argparse.Namespace:
    """The command line, with `--quick` worked in."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--model", "--shape", dest="model", choices=(*SHAPES, *BY_LAYER), default="1.1b"
    )
    parser.add_argument("--layers", type=int, default=4, help="of a shape that is written by layer")
    parser.add_argument("--quick", action="store_true", help="the 15m model, one short round")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8, 16, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--prefill-tokens", type=int, default=512)
    parser.add_argument("--context", type=int, nargs="+", help="lengths of prompts of one stream")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--contenders", nargs="+")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/penstock-benchmarks")
    parser.add_argument("--budget-s", type=float, default=3600.0)
    parser.add_argument("--weights-only", action="store_true")
    parser.add_argument("--label", default="all", help="a word for the result's file name")
    parser.add_argument("--genai-python", default=sys.executable)
    parser.add_argument("--genai-model", type=Path)
    parser.add_argument("--llama-batched-bench")
    parser.add_argument("--gguf")
    chosen = parser.parse_args()
    if chosen.contenders is None and chosen.context:
        chosen.contenders = OF_CONTEXT
    elif chosen.contenders is None:
        chosen.contenders = OF_BY_LAYER if chosen.model in BY_LAYER else [*OURS, *OTHERS]
    if chosen.quick:
        chosen.model, chosen.rounds, chosen.steps = "15m", 1, 8
        chosen.batches = [1, 8]
    return chosen


def write_gguf(chosen: argparse.Namespace) -> str | None:
    """llama.cpp's file of the same shape, with random weights; None if it has no such shape."""
    if "penstock/native/q4_k_m" in chosen.contenders and chosen.model in SHAPES:
        folder = published_models.q4_k_m(chosen.cache, chosen.model, SHAPES[chosen.model])
        return str(folder / "model.gguf")
    if chosen.model not in random_gguf.ARCHITECTURES:
        return None
    if chosen.model in SHAPES and not chosen.context:
        return None
    sizes = dict(SHAPES.get(chosen.model) or BY_LAYER[chosen.model][1])
    sizes.setdefault("head_dim", sizes["hidden_size"] // sizes["num_attention_heads"])
    sizes["linear_head"] = sizes.get("linear_key_head_dim")
    path = chosen.cache / f"{chosen.model}-{chosen.layers}.gguf"
    return str(random_gguf.write(path, chosen.model, sizes, chosen.layers))


def main() -> None:
    chosen = arguments()
    chosen.cache.mkdir(parents=True, exist_ok=True)
    mixture = chosen.model in MIXTURES and not chosen.context
    positions = cpu_context.positions(chosen.context) if chosen.context else POSITIONS
    folder = (
        write_by_layer(chosen.cache, chosen.model, chosen.layers, positions)
        if chosen.model in BY_LAYER or chosen.context
        else write_model(chosen.cache, chosen.model)
    )
    if chosen.llama_batched_bench and not chosen.gguf:
        chosen.gguf = write_gguf(chosen)
    if chosen.weights_only:
        print(folder)
        return
    seen = conditions.observe()
    conditions.show(seen)
    bandwidth = read_bandwidth(chosen.threads)
    print(f"{folder.name}, {chosen.threads} threads, read bandwidth {bandwidth:.1f} GB/s")
    processes = start(chosen, folder)
    figures: dict[str, dict[str, list[float]]] = {}
    deadline = time.monotonic() + chosen.budget_s
    try:
        one_round = cpu_context.one_round if chosen.context else _round
        for _ in range(chosen.rounds):
            if not one_round(chosen, processes, figures, deadline):
                break
    finally:
        for process in processes:
            process.close()
    medians = {
        name: {what: statistics.median(values) for what, values in row.items()}
        for name, row in figures.items()
    }
    _print(medians, {process.name: process.loaded for process in processes})
    for name, row in medians.items() if mixture else ():
        read = row.get("b1", 0.0) * bytes_a_token(chosen.model, chosen.layers) / 1e9
        print(f"{name}: one stream reads {read:.1f} GB/s, {read / bandwidth:.0%} of the bandwidth")
    path = conditions.save(
        f"cpu-engine-{chosen.model}-{chosen.label}",
        seen,
        {"bandwidth_gb_s": bandwidth, "medians": medians, "all": figures},
    )
    print(path)


def start(chosen: argparse.Namespace, folder: Path) -> list[Process]:
    """The contenders that can run here; of the others a line says why not."""
    wanted = [
        (name, sys.executable, _folder_of(chosen, name, folder)) for name in chosen.contenders
    ]
    if chosen.genai_model is None:
        print("genai is left out: no --genai-model (and --genai-python, if it lives elsewhere)")
    else:
        name = "genai/u8" if chosen.context else "genai"
        wanted.append((name, chosen.genai_python, chosen.genai_model))
    if not (chosen.llama_batched_bench and chosen.gguf):
        print("llama.cpp is left out: no --llama-batched-bench and --gguf")
    processes: list[Process] = []
    for name, python, model in wanted:
        try:
            processes.append(Process(name, python, model, chosen.threads, chosen.cache))
        except (OSError, RuntimeError) as error:
            print(f"{name} is left out: {error}")
    return processes


def _folder_of(chosen: argparse.Namespace, name: str, folder: Path) -> Path:
    """The model of a contender: the shape in bf16, or as it would be published."""
    write = published_models.WRITERS.get(name.rpartition("/")[2])
    if write is None or chosen.model not in SHAPES or chosen.context:
        return folder
    return write(chosen.cache, chosen.model, SHAPES[chosen.model])


def _round(
    chosen: argparse.Namespace,
    processes: list[Process],
    figures: dict[str, dict[str, list[float]]],
    deadline: float,
) -> bool:
    """One figure of each kind from everybody; False where time ran out."""
    for batch in chosen.batches:
        for process in processes:
            if time.monotonic() > deadline:
                return False
            # The first prompts decode while the last are read: only then do all of them run.
            steps = chosen.steps + batch * PROMPT_TOKENS // CHUNK_TOKENS
            decode, _ = process.measure(batch, PROMPT_TOKENS, steps)
            figures.setdefault(process.name, {}).setdefault(f"b{batch}", []).append(decode)
    for process in processes:
        if time.monotonic() > deadline:
            return False
        _, prefill = process.measure(1, chosen.prefill_tokens, 1)
        figures[process.name].setdefault("prefill", []).append(prefill)
    if chosen.llama_batched_bench and chosen.gguf:
        for what, value in llama_cpp.measure(chosen, PROMPT_TOKENS).items():
            figures.setdefault("llama.cpp", {}).setdefault(what, []).append(value)
    return True


def _print(medians: dict[str, dict[str, float]], loaded: dict[str, dict[str, float]]) -> None:
    """Tokens a second, and in brackets the first contender's advantage."""
    columns = list(next(iter(medians.values())))
    first = next(iter(medians.values()))
    print(f"{'tokens/s (first / this)':30}" + "".join(f"{column:>16}" for column in columns))
    for name, row in medians.items():
        cells = (f"{row[c]:.1f} ({first[c] / row[c]:.2f})" if row.get(c) else "-" for c in columns)
        facts = loaded.get(name)
        tail = f"   load {facts['load_s']:.0f} s, peak {facts['peak_gb']:.1f} GB" if facts else ""
        print(f"{name:30}" + "".join(f"{cell:>16}" for cell in cells) + tail)


if __name__ == "__main__":
    main()
