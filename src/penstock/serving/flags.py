"""The flags of FastChat's, bigdl-llm's and ipex-llm's model workers, and how each is treated.

A flag is used, accepted with a warning because it changes nothing here, or refused because ignoring
it would serve another model than requested.
"""

from __future__ import annotations

import argparse
from typing import Final

DEFAULT_MODEL: Final = "lmsys/vicuna-7b-v1.5"
DTYPES: Final = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}

IGNORED: Final = {
    "--stream-interval": "every token is streamed at once",
    "--max-gpu-memory": "PENSTOCK_KV_CACHE_BYTES limits the KV cache",
    "--embed-in-truncate": "a text over the context is an error (40303), never truncated unasked",
    "--seed": "a request's own `seed` is used",
    "--gptq-groupsize": "a GPTQ checkpoint's own configuration has it",
    "--gptq-act-order": "a GPTQ checkpoint's own configuration has it",
    "--awq-groupsize": "an AWQ checkpoint's own configuration has it",
    "--exllama-max-seq-len": "there is no ExLlama",
    "--exllama-gpu-split": "there is no ExLlama",
    "--exllama-cache-8bit": "there is no ExLlama",
    "--xft-max-seq-len": "there is no xFasterTransformer",
    "--xft-dtype": "there is no xFasterTransformer",
}
"""Flags that change nothing, and why."""

REFUSED: Final = {
    "--cpu-offloading": "a model is on one device; choose --device or --low-bit",
    "--gptq-ckpt": "give the folder of the GPTQ checkpoint as --model-path",
    "--gptq-wbits": "give the folder of the GPTQ checkpoint as --model-path",
    "--awq-ckpt": "give the folder of the AWQ checkpoint as --model-path",
    "--awq-wbits": "give the folder of the AWQ checkpoint as --model-path",
    "--enable-exllama": "there is no ExLlama backend",
    "--enable-xft": "there is no xFasterTransformer backend",
    "--ssl": "put a TLS proxy before the API",
}
"""Flags that cannot be supported, and what to do instead."""

SWITCHES: Final = frozenset(
    (
        "--embed-in-truncate", "--gptq-act-order", "--exllama-cache-8bit", "--cpu-offloading",
        "--enable-exllama", "--enable-xft", "--ssl",
    )
)  # fmt: skip


def _names(value: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in value.split(",") if name.strip())


def parser() -> argparse.ArgumentParser:
    """Return the parser; a flag that was not given is None or False."""
    made = argparse.ArgumentParser(
        prog="python3 -m penstock.serving.model_worker",
        description="Start a Penstock worker by the command line of FastChat's model worker.",
    )
    add = made.add_argument
    add("--model-path", default=DEFAULT_MODEL, help="a folder, or org/name in the models folder")
    add("--revision", help="of org/name in Hugging Face's cache")
    add("--device", choices=("cpu", "xpu", "cuda", "mps", "npu"), default="cuda")
    add("--gpus", help="the GPUs to use, by their numbers")
    add("--num-gpus", type=int, default=1, help="GPUs that serve the model together")
    add("--model-names", type=_names, default=(), help="comma-separated; the first names the queue")
    add("--dtype", choices=sorted(DTYPES))
    add("--load-8bit", action="store_true", help="as --low-bit sym_int8")
    add("--low-bit", help="bigdl-llm's format: sym_int4, sym_int8 ...")
    add("--load-low-bit-model", action="store_true", help="the folder is one of save_low_bit")
    add("--trust-remote-code", action="store_true")
    add("--speculative", action="store_true", help="draft tokens by prompt lookup, verify them all")
    add("--conv-template", help="FastChat's template, in place of the model's own")
    add("--limit-worker-concurrency", type=int, help="answers decoded at once")
    add("--host", default="localhost", help="of the FastChat endpoint, with a controller")
    add("--port", type=int, default=21002)
    add("--worker-address", help="by default http://HOST:PORT")
    add("--controller-address", help="a real FastChat controller to register with")
    add("--no-register", action="store_true")
    add("--debug", nargs="?", const=True, default=False, type=bool)
    for flag, reason in {**IGNORED, **REFUSED}.items():
        kind = "refused" if flag in REFUSED else "ignored"
        if flag in SWITCHES:
            add(flag, action="store_true", help=f"{kind}: {reason}")
        else:
            add(flag, help=f"{kind}: {reason}")
    return made


def given(arguments: argparse.Namespace, flag: str) -> bool:
    """Return whether a flag of `IGNORED` or `REFUSED` was given."""
    return getattr(arguments, flag.removeprefix("--").replace("-", "_")) not in (None, False)
