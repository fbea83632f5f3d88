# ruff: noqa: PLC0415, D102 - a contender imports its own libraries only; `Contender` says what run does
"""One contender of `cpu_engine.py` in a process of its own, told what to do line by line.

Reads JSON lines `{"batch": 4, "prompt": 128, "steps": 32}` from standard input and answers each
with `{"step_s": [...], "prefill_s": ...}`: the seconds of every step in which `batch` sequences
got a token each, and of the prompts before. It imports what its contender needs and nothing else,
so that OpenVINO GenAI may live in another environment.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from penstock.engine.events import AttemptEvent


PUBLISHED = ("gptq", "q4_k_m")
"""Formats that a folder has as it is."""


class Contender(Protocol):
    """Decodes `steps` tokens of each prompt; see the module for what it returns."""

    def run(self, prompts: list[list[int]], steps: int) -> tuple[list[float], float]: ...


class Ours:
    """Penstock's engine in this process, over the backend and format that are asked for."""

    def __init__(
        self, folder: Path, threads: int, backend: str, form: str, kv_cache_type: str = ""
    ) -> None:
        from penstock.models import devices, loader
        from penstock.models.spec import ModelSpec
        from penstock.settings import Settings

        settings = Settings(threads=threads, slots=32, kv_cache_bytes=4 << 30)
        own = None if form in PUBLISHED else form
        spec = ModelSpec("bench", "bench-cpu", "cpu", None, folder, backend, format=own)
        spec = replace(
            spec,
            kv_cache_type=kv_cache_type or None,
            converted_dir=settings.converted_dir.expanduser(),
            converted_limit_bytes=settings.converted_bytes,
        )
        devices.set_threads(threads)
        self._loaded = loader.load(spec, settings, slots=32, progress=_quiet)

    def run(self, prompts: list[list[int]], steps: int) -> tuple[list[float], float]:
        from penstock.contract.events import Finished, Tokens
        from penstock.contract.job import Sampling
        from penstock.engine.engine import Engine
        from penstock.engine.options import EngineOptions
        from penstock.engine.sequence import SequenceRequest

        card, ended = self._loaded.card, 0
        told: list[tuple[float, int]] = []

        def sink(events: list[AttemptEvent]) -> None:
            nonlocal ended
            told.append((time.perf_counter(), sum(isinstance(one.event, Tokens) for one in events)))
            ended += sum(isinstance(one.event, Finished) for one in events)

        blocks = card.kv_cache_tokens // self._loaded.model.kv_layout.block_size
        options = EngineOptions(
            slots=32,
            num_blocks=blocks,
            prefix_caching=False,
            prefill_chunk_tokens=512,
            num_states=self._loaded.options.num_states,
            num_window_blocks=self._loaded.options.num_window_blocks,
        )
        engine = Engine(self._loaded.model, self._loaded.tokenizer, options, sink)
        sampling = Sampling(seed=1, temperature=0.0, max_tokens=steps + 1, ignore_eos=True)
        for job, prompt in enumerate(prompts):
            engine.submit(SequenceRequest(str(job), prompt, sampling))
        started = time.perf_counter()
        engine.start()
        while ended < len(prompts):
            if engine.failure is not None:
                raise engine.failure
            time.sleep(0.01)
        engine.stop()
        full = [index for index, (_, count) in enumerate(told) if count == len(prompts)]
        step_s = [told[index][0] - told[index - 1][0] for index in full if index]
        return step_s, told[0][0] - started


class GenAI:
    """OpenVINO GenAI's continuous batching over a folder that optimum-cli exported."""

    def __init__(self, folder: Path, threads: int, kv_cache_type: str) -> None:
        import openvino_genai as genai  # pyright: ignore[reportMissingImports]  installed by hand

        scheduling = genai.SchedulerConfig()
        scheduling.cache_size = 1
        scheduling.max_num_seqs = 32
        scheduling.max_num_batched_tokens = 512
        scheduling.enable_prefix_caching = False
        options: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads}
        if kv_cache_type:
            options["KV_CACHE_PRECISION"] = kv_cache_type
        self._genai = genai
        self._pipeline: Any = genai.ContinuousBatchingPipeline(
            str(folder), scheduling, "CPU", options
        )
        self._requests = 0

    def run(self, prompts: list[list[int]], steps: int) -> tuple[list[float], float]:
        import numpy as np
        import openvino as ov

        config = self._genai.GenerationConfig()
        config.max_new_tokens = steps + 1
        config.ignore_eos = True
        handles: list[Any] = []
        for prompt in prompts:
            tensor = ov.Tensor(np.array([prompt], np.int64))
            handles.append(self._pipeline.add_request(self._requests, tensor, config))
            self._requests += 1
        step_s: list[float] = []
        prefill_s = 0.0
        while self._pipeline.has_non_finished_requests():
            started = time.perf_counter()
            self._pipeline.step()
            took = time.perf_counter() - started
            answered = sum(handle.can_read() for handle in handles)
            for handle in handles:
                if handle.can_read():
                    handle.read()
            if not prefill_s and answered:
                prefill_s = took
            elif answered == len(prompts):
                step_s.append(took)
        return step_s, prefill_s


class Stepping:
    """A plain greedy loop over a Transformers module with its own cache, all prompts at once."""

    def __init__(self, folder: Path, threads: int, form: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(threads)
        self._torch = torch
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        if form == "sym_int4":
            from bigdl.llm.transformers import low_bit_linear
            from bigdl.llm.transformers.convert import ggml_convert_low_bit

            from penstock.models import devices

            low_bit_linear.IS_SPR = devices.has_amx()  # it takes any AVX-VNNI for AMX
            qtype = low_bit_linear.ggml_tensor_qtype[form]
            self._model = ggml_convert_low_bit(self._model, qtype, optimize_model=False)
        self._model.eval()

    def run(self, prompts: list[list[int]], steps: int) -> tuple[list[float], float]:
        torch = self._torch
        step_s: list[float] = []
        tokens, cache = torch.tensor(prompts), None
        with torch.inference_mode():
            for _ in range(steps + 1):
                started = time.perf_counter()
                output = self._model(tokens, past_key_values=cache, logits_to_keep=1)
                tokens, cache = output.logits[:, -1:].argmax(-1), output.past_key_values
                step_s.append(time.perf_counter() - started)
        return step_s[1:], step_s[0]


def _quiet(share: float, what: str) -> None:
    """Loading's progress is not shown."""
    del share, what


def make(name: str, folder: Path, threads: int) -> Contender:
    """Load the contender of a name as `cpu_engine.py` uses them: `penstock/openvino/int4`, ...

    A last part `/u8` is the precision of keys and values.
    """
    kind, _, rest = name.partition("/")
    if kind == "penstock":
        backend, _, form = rest.partition("/")
        return Ours(folder, threads, backend, *form.split("/"))
    if kind == "genai":
        return GenAI(folder, threads, rest)
    return Stepping(folder, threads, rest)


def main(name: str, folder: str, threads: str) -> None:
    """Load, tell how long that took, then answer until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not come between the answers
    began = time.perf_counter()
    contender = make(name, Path(folder), int(threads))
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(
        json.dumps({"load_s": time.perf_counter() - began, "peak_gb": peak_gb}),
        file=answers,
        flush=True,
    )
    for line in sys.stdin:
        order = json.loads(line)
        step_s, prefill_s = contender.run(order["prompts"], order["steps"])
        print(json.dumps({"step_s": step_s, "prefill_s": prefill_s}), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
