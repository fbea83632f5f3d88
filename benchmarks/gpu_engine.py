"""One GPU: ours beside Transformers and vLLM on a random model, and beside what the memory allows.

    python -m benchmarks.gpu_engine                    # Llama-2-7B's shape in bf16
    python -m benchmarks.gpu_engine --quick            # a small model, to see that it runs
    python -m benchmarks.gpu_engine --gpus 2           # beside it, the same model over two GPUs
    python -m benchmarks.gpu_engine --shape qwen3-30b-a3b --layers 24
    python -m benchmarks.gpu_engine --vllm-python /opt/vllm/bin/python    # in turns with ours

Everything is measured in one run, on one machine: the copy bandwidth, and with it the most tokens a
second that one stream can get, as every token reads every weight; Transformers' `generate` and its
continuous batching; our engine, the requests in it at once; the same weights in FP8 and in 4 bit.
"""

from __future__ import annotations

import argparse
import copy
import gc
import random
import shutil
import statistics
import tempfile
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from benchmarks import conditions, vllm_contender
from benchmarks.gpu_shapes import SHAPES, bytes_a_token, configuration, make_module
from benchmarks.vllm_contender import VllmEngine
from penstock.contract.events import Failed, Finished, Tokens
from penstock.contract.job import Sampling
from penstock.engine.engine import Engine
from penstock.engine.options import EngineOptions
from penstock.engine.sequence import SequenceRequest
from penstock.models.backends.lean.products.linear import Dense, Fp8, Int4
from penstock.models.backends.lean.products.weight_formats import FP8
from penstock.models.backends.lean.weights import Weights, matrices, quantized, widen_if_room
from penstock.models.backends.tensor_parallel import loading as parallel
from penstock.models.backends.transformers.model import assemble
from penstock.models.devices.cuda import Cuda
from penstock.models.devices.xpu import Xpu
from penstock.models.loading import kv_budget
from penstock.models.loading.engine_options import LONE_CHUNK_TOKENS
from penstock.models.spec import ModelSpec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from penstock.engine.events import AttemptEvent

NEW = 128
FILTERS: dict[str, Any] = {"temperature": 0.8, "top_k": 50, "top_p": 0.9}
DRAWN: dict[str, dict[str, Any]] = {
    "drawn_tokens_per_s": {"temperature": 0.8},
    "filtered_tokens_per_s": FILTERS,
    "filtered_with_logprobs_tokens_per_s": FILTERS | {"logprobs": 0},  # the host's way
}
PROMPTS = (32, 256)
PREFILL = 2048
PREFILLS = (512, PREFILL, 8192, 32_768)
"""Tokens of one prompt; long ones are computed in chunks of LONE_CHUNK_TOKENS, on several GPUs of PREFILL."""


class Words:
    """Any token is a word; no text is read here."""

    eos_token_ids: frozenset[int] = frozenset()

    def decode(self, token_ids: Any) -> str:
        """Numbers for words."""
        return " ".join(map(str, token_ids)) + " "

    def token_text(self, token_id: int) -> str:
        """One of them."""
        return str(token_id)

    def token_bytes(self, token_id: int) -> bytes:
        """The same."""
        return str(token_id).encode()


def seconds(work: Any, device: Any, rounds: int = 5) -> float:
    """The median of some rounds, after one that warms up."""
    taken: list[float] = []
    for turn in range(rounds + 1):
        device.synchronize()
        started = time.perf_counter()
        work()
        device.synchronize()
        if turn:
            taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def bandwidth(device: Any) -> float:
    """Bytes a second, read and written, of a large copy on the device."""
    source = torch.empty(1 << 28, dtype=torch.int32, device=device.torch_device).random_()
    target = torch.empty_like(source)
    rounds = 10

    def copies() -> None:
        for _ in range(rounds):
            target.copy_(source)

    return 2 * source.nbytes * rounds / seconds(copies, device)


def draw(count: int, vocab: int) -> list[list[int]]:
    """Prompts of 32 to 256 tokens, the same for all sides."""
    source = random.Random(count)
    return [
        [source.randrange(vocab) for _ in range(source.randint(*PROMPTS))] for _ in range(count)
    ]


def generate(module: Any, device: Any, count: int, **options: Any) -> float:
    """Tokens a second of Transformers' `generate` over `count` prompts of 128 tokens."""
    vocab = module.config.vocab_size
    ids = torch.randint(vocab, (count, 128), device=device.torch_device)
    config = transformers.GenerationConfig(
        max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, pad_token_id=0, **options
    )

    def run() -> None:
        module.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)

    return count * NEW / seconds(run, device, rounds=1 if count > 1 else 2)


def generate_batch(module: Any, device: Any, count: int) -> float:
    """Tokens a second of Transformers' continuous batching."""
    module.set_attn_implementation("paged|sdpa")
    config = transformers.GenerationConfig(
        max_new_tokens=NEW, do_sample=False, eos_token_id=-1, pad_token_id=0, use_cuda_graph=False
    )
    prompts = draw(count, module.config.vocab_size)
    device.synchronize()
    started = time.perf_counter()
    outputs = module.generate_batch(inputs=prompts, generation_config=config, progress_bar=False)
    taken = time.perf_counter() - started
    return sum(len(one.generated_tokens) for one in outputs.values()) / taken


@dataclass(frozen=True)
class Run:
    """Rates in tokens/s: from the first request to the last token, and after the first token.

    `first_ms` are the requests' times to their first tokens.
    """

    whole: float
    after: float
    first_ms: list[float]


@dataclass(frozen=True)
class Medians:
    """Of some runs; `worst_first_ms` is the median of the worst first tokens."""

    whole: float
    after: float
    first_ms: float
    worst_first_ms: float

    def of_burst(self) -> dict[str, float]:
        """First tokens of requests that arrive in one instant."""
        return {
            "first_token_ms": round(self.first_ms, 1),
            "worst_first_token_ms": round(self.worst_first_ms, 1),
        }


class Ours:
    """Our engine over one model."""

    def __init__(self, model: Any, blocks: int, slots: int, lone: int = LONE_CHUNK_TOKENS) -> None:
        self._model = model
        self._options = EngineOptions(
            slots,
            blocks,
            prefill_chunk_tokens=PREFILL,
            lone_chunk_tokens=lone,
            prefix_caching=False,
        )

    def run(self, prompts: list[list[int]], **how: Any) -> Run:
        """All prompts at once, to their ends."""
        ended: list[str] = []
        counts: dict[str, int] = {}
        first: dict[str, float] = {}

        def sink(events: list[AttemptEvent]) -> None:
            for event in (one.event for one in events):
                if isinstance(event, Tokens):
                    first.setdefault(event.job_id, time.perf_counter())
                    counts[event.job_id] = counts.get(event.job_id, 0) + len(event.token_ids)
                elif isinstance(event, Finished | Failed):
                    assert isinstance(event, Finished), event
                    ended.append(event.job_id)

        engine = Engine(self._model, Words(), self._options, sink)
        for job, prompt in enumerate(prompts):
            asked = {"temperature": 0.0, "max_tokens": NEW, "ignore_eos": True} | how
            sampling = Sampling(seed=job, **asked)
            engine.submit(SequenceRequest(str(job), prompt, sampling))
        started = time.perf_counter()
        engine.start()
        while len(ended) < len(prompts) and engine.failure is None:
            time.sleep(0.001)
        finished = time.perf_counter()
        engine.stop()
        assert engine.failure is None, engine.failure
        total = sum(counts.values())
        return Run(
            total / (finished - started),
            (total - len(prompts)) / max(finished - min(first.values()), 1e-9),
            [1e3 * (one - started) for one in first.values()],
        )

    def median(self, count: int, vocab: int, rounds: int, **how: Any) -> Medians:
        """The same over some rounds, after one that warms up."""
        runs = [self.run(draw(count, vocab), **how) for _ in range(rounds + 1)][1:]
        return Medians(
            statistics.median(run.whole for run in runs),
            statistics.median(run.after for run in runs),
            statistics.median(ms for run in runs for ms in run.first_ms),
            statistics.median(max(run.first_ms) for run in runs),
        )

    def profile(self, count: int, vocab: int) -> dict[str, str]:
        """The kernels that take longest in `count` streams of short prompts, a decode step."""
        source = random.Random(2)
        prompts = [[source.randrange(vocab) for _ in range(PROMPTS[0])] for _ in range(count)]
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
            self.run(prompts)
        events = sorted(seen.key_averages(), key=lambda one: -one.self_device_time_total)
        taken = sum(one.self_device_time_total for one in events)
        rows = {
            one.key[
                :70
            ]: f"{one.self_device_time_total / NEW:.0f} us in {one.count / NEW:.1f} calls"
            for one in events[:14]
        }
        return {"all kernels": f"{taken / NEW:.0f} us"} | rows

    def prefills(self, vocab: int, rounds: int) -> dict[str, int]:
        """Prompt tokens a second, to the first token of one prompt, by the prompt's tokens."""
        fitting = [tokens for tokens in PREFILLS if tokens < self._model.context_length]
        return {f"{tokens}": round(self._prefill(tokens, vocab, rounds)) for tokens in fitting}

    def _prefill(self, tokens: int, vocab: int, rounds: int) -> float:
        source = random.Random(1)
        taken: list[float] = []
        for turn in range(rounds + 1):
            seen: list[float] = []
            engine = Engine(
                self._model,
                Words(),
                self._options,
                lambda _events, seen=seen: seen.append(time.perf_counter()),
            )
            prompt = [source.randrange(vocab) for _ in range(tokens)]
            sampling = Sampling(seed=0, temperature=0.0, max_tokens=1, ignore_eos=True)
            engine.submit(SequenceRequest("0", prompt, sampling))
            started = time.perf_counter()
            engine.start()
            while not seen:
                time.sleep(0.0002)
            engine.stop()
            if turn:
                taken.append(seen[0] - started)
        return tokens / statistics.median(taken)


def in_four_bits(weights: Weights) -> Weights:
    """Random sym_int4 blocks in the place of every matrix."""

    def small(linear: Any) -> Int4:
        assert isinstance(linear, Dense | Fp8)
        rows, columns = linear.weight.shape
        place = linear.weight.device
        packed = torch.randint(
            -(2**31), 2**31 - 1, (rows, columns // 8), dtype=torch.int32, device=place
        )
        scales = torch.rand(rows, columns // 64, device=place) * 0.004
        return Int4(packed, scales.half(), linear.bias)

    layers = [
        replace(one, **{name: small(linear) for name, linear in matrices(one)})
        for one in weights.layers
    ]
    return Weights(weights.embeddings, layers, weights.norm, small(weights.head))


def tried(work: Any) -> float | str:
    """A peer's figure, or why there is none."""
    try:
        return round(work(), 1)
    except Exception as error:  # noqa: BLE001 - a peer that fails is reported, not fatal
        traceback.print_exc()
        return f"failed: {type(error).__name__}: {str(error)[:120]}"


def peers(module: Any, device: Any, counts: list[int], *, compiled: bool) -> dict[str, float | str]:
    """Transformers, as users run it."""
    module.set_attn_implementation("sdpa")
    found: dict[str, float | str] = {
        "generate, 1": tried(lambda: generate(module, device, 1)),
        "generate, 64": tried(lambda: generate(module, device, 64)),
    }
    for count in counts:
        found[f"generate_batch, {count}"] = tried(lambda n=count: generate_batch(module, device, n))
        gc.collect()
        torch.accelerator.empty_cache()
    module.set_attn_implementation("sdpa")
    if compiled:
        found["generate, 1, static cache, compiled"] = tried(
            lambda: generate(module, device, 1, cache_implementation="static")
        )
    return found


def measure(options: argparse.Namespace, device: Any) -> dict[str, Any]:
    """All of it; the results by name."""
    shape = SHAPES[options.shape]
    config = configuration(shape, layers=options.layers, quick=options.quick)
    vocab, slots = config.vocab_size, max(options.streams)
    values = {name: getattr(config, name) for name in (*shape.values, "num_hidden_layers")}
    result: dict[str, Any] = {
        "device": device.describe(),
        "shape": {"name": options.shape} | values,
    }
    speed = bandwidth(device)
    torch.accelerator.empty_cache()
    vllm = started(options, config, slots, result)
    module = make_module(config, device)
    folder = Path(tempfile.mkdtemp(prefix="penstock-bench-"))
    if options.gpus > 1:
        module.save_pretrained(folder)  # while its weights are its own
    limit = speed / bytes_a_token(module, shape)
    result |= {"copy_tb_per_s": round(speed / 1e12, 3), "limit_tokens_per_s": round(limit, 1)}
    show(result)
    if not options.no_peers:
        result["transformers"] = peers(
            module,
            device,
            [64, 256] if 256 in options.streams else [64],
            compiled=not options.no_compile,
        )
        show(result["transformers"])
    torch.compiler.reset()
    gc.collect()
    torch.accelerator.empty_cache()
    queue = f"random-{device.kind}"
    spec = ModelSpec("random", queue, device.kind, 0, Path("random"), "transformers")
    assembled = assemble(
        spec, module, format_name="bf16", parameters=0, tolerance=0.1, progress=lambda *_: None
    )
    model: Any = assembled.model
    blocks = kv_budget.allocate(
        model,
        device,
        slots=slots,
        step_tokens=LONE_CHUNK_TOKENS,
        budget_bytes=0,
        where=queue,
        windows=False,
    ).blocks
    ours = Ours(model, blocks, slots)
    found = result["ours_bf16"] = in_bf16(ours, blocks, vocab, limit, options)
    result["running"] = assembled.running
    if vllm is not None:
        result["vllm"] |= in_turns(ours, vllm, vocab, options)
        vllm.close()
        show(result["vllm"])
    del module, assembled
    if options.only_bf16 or shape.chosen < 1:
        shutil.rmtree(folder)
        return result
    if device.lacks_fp8() is None:
        result["ours_fp8"] = eight_bits(model, blocks, options, found)
    result["ours_sym_int4"] = four_bits(model, blocks // 2, options, found)
    if options.gpus > 1:
        model.allocate(0)
        torch.accelerator.empty_cache()
        del model, ours  # the others' memory is measured without them
        gc.collect()
        torch.accelerator.empty_cache()
        result |= together(folder, device, options, found)
    shutil.rmtree(folder)
    return result


def in_bf16(
    ours: Ours, blocks: int, vocab: int, limit: float, options: argparse.Namespace
) -> dict[str, Any]:
    """Our engine's figures, as the checkpoint is."""
    found: dict[str, Any] = {"kv_cache_tokens": blocks * 16}
    for count in options.streams:
        found[f"{count}"] = streams_of(ours, count, vocab, limit, options)
        show({count: found[f"{count}"]})
    found["prefill_tokens_per_s"] = ours.prefills(vocab, options.rounds)
    show({"prefill": found["prefill_tokens_per_s"]})
    if options.profile:
        show(ours.profile(max(options.streams), vocab))
    return found


def started(
    options: argparse.Namespace, config: Any, slots: int, result: dict[str, Any]
) -> VllmEngine | None:
    """VLLM's engine, before ours takes the memory that is left; None with a line if it is not there."""
    reason = vllm_contender.missing(options)
    if reason is not None:
        result["vllm"] = f"left out: {reason}"
        show({"vllm": result["vllm"]})
        return None
    engine = VllmEngine(options, copy.deepcopy(config), slots)
    result["vllm"] = {"version": engine.version, "options": engine.options | {"model": "random"}}
    return engine


def in_turns(
    ours: Ours, vllm: VllmEngine, vocab: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Both sides' medians, and the medians of the rounds' own ratios: ours over vLLM's."""
    found: dict[str, Any] = {}
    for count in options.streams:
        prompts = draw(count, vocab)
        pairs = [
            (ours.run(prompts), Run(**vllm.run(prompts, NEW))) for _ in range(options.rounds + 1)
        ][1:]
        found[f"{count}"] = {
            "tokens_per_s": middle(vllm.whole for _, vllm in pairs),
            "ours_tokens_per_s": middle(own.whole for own, _ in pairs),
            "ours_times": middle((own.whole / vllm.whole for own, vllm in pairs), 3),
            "ours_times_decoding": middle((own.after / vllm.after for own, vllm in pairs), 3),
            "first_token_ms": middle(ms for _, vllm in pairs for ms in vllm.first_ms),
            "ours_first_token_ms": middle(ms for own, _ in pairs for ms in own.first_ms),
            "worst_first_token_ms": middle(max(vllm.first_ms) for _, vllm in pairs),
            "ours_worst_first_token_ms": middle(max(own.first_ms) for own, _ in pairs),
        }
        show({f"vllm, {count}": found[f"{count}"]})
    source = random.Random(1)
    prefills: dict[str, Any] = {}
    for tokens in PREFILLS:
        prompt = [source.randrange(vocab) for _ in range(tokens)]
        pairs = [
            (ours.run([prompt], max_tokens=1), Run(**vllm.run([prompt], 1)))
            for _ in range(options.rounds + 1)
        ][1:]
        prefills[f"{tokens}"] = {
            "tokens_per_s": middle(1e3 * tokens / vllm.first_ms[0] for _, vllm in pairs),
            "ours_tokens_per_s": middle(1e3 * tokens / own.first_ms[0] for own, _ in pairs),
            "ours_times": middle((vllm.first_ms[0] / own.first_ms[0] for own, vllm in pairs), 3),
        }
    return found | {"prefill": prefills}


def middle(figures: Iterable[float], digits: int = 1) -> float:
    """The median, rounded."""
    return round(statistics.median(figures), digits)


def streams_of(
    ours: Ours, count: int, vocab: int, limit: float, options: argparse.Namespace
) -> dict[str, Any]:
    """So many requests at once, in bf16."""
    greedy = ours.median(count, vocab, options.rounds)
    row = {"tokens_per_s": round(greedy.whole, 1)}
    for name, how in DRAWN.items() if options.gpus == 1 and not options.greedy else ():
        drawn = ours.median(count, vocab, options.rounds, **how)
        row[name] = round(drawn.whole, 1)
    if count > 1:
        return row | greedy.of_burst()
    return row | {
        "decode_tokens_per_s": round(greedy.after, 1),
        "of_limit": round(greedy.after / limit, 3),
    }


def together(
    folder: Path, device: Any, options: argparse.Namespace, alone: dict[str, Any]
) -> dict[str, Any]:
    """Several GPUs, in each way that was asked for."""
    name = f"ours_bf16_{options.gpus}_gpus"
    found = {name: several(folder, device, options, alone, direct=True)}
    if options.library:
        by_library = several(folder, device, options, alone, direct=False)
        found[f"{name}_sums_by_library"] = by_library
    return found


def four_bits(
    model: Any, blocks: int, options: argparse.Namespace, wide: dict[str, Any]
) -> dict[str, Any]:
    """The same model in 4 bit, in the place of its weights."""
    replace_weights(model, in_four_bits(model.weights))
    weights = model.weights
    packed_gb = round(weights.nbytes / 1e9, 2)
    widen_if_room(weights, model.body.device, model.body.kind)
    small: dict[str, Any] = {
        "packed_gb": packed_gb,
        "with_wide_copy_gb": round(weights.nbytes / 1e9, 2),
    }
    small |= beside(model, blocks, options, wide, [one for one in options.streams if one <= 64])
    show(small)
    return small


def eight_bits(
    model: Any, blocks: int, options: argparse.Namespace, wide: dict[str, Any]
) -> dict[str, Any]:
    """The same model in FP8, in the place of its weights."""
    body = model.body
    place, kind = body.device.torch_device, body.kind
    model.allocate(0)
    torch.accelerator.empty_cache()
    with torch.inference_mode():
        weights = quantized(model.weights, place, kind, FP8, lambda *_: None)
    replace_weights(model, weights)
    small: dict[str, Any] = {"gb": round(weights.nbytes / 1e9, 2)}
    small |= beside(model, blocks, options, wide, options.streams)
    found = Ours(model, blocks, max(options.streams)).prefills(model.vocab_size, options.rounds)
    small["prefill_tokens_per_s"] = found
    small["prefill_times_bf16"] = {
        tokens: round(rate / wide["prefill_tokens_per_s"][tokens], 2)
        for tokens, rate in found.items()
    }
    if options.profile:
        ours = Ours(model, blocks, max(options.streams))
        show(ours.profile(1, model.vocab_size))
        show(ours.profile(64, model.vocab_size))
    show(small)
    return small


def replace_weights(model: Any, weights: Weights) -> None:
    """Give a model other weights; the old ones' memory, and that of its cache, is free then."""
    model.allocate(0)
    torch.accelerator.empty_cache()  # else what comes next splits the cache's one large block
    model.body.weights = weights
    gc.collect()
    torch.accelerator.empty_cache()


def beside(
    model: Any,
    blocks: int,
    options: argparse.Namespace,
    wide: dict[str, Any],
    counts: list[int],
) -> dict[str, Any]:
    """Some streams of a model in a smaller format, and how many times bf16's figures these are."""
    model.allocate(blocks)
    model.capture()
    ours = Ours(model, blocks, max(options.streams))
    small: dict[str, Any] = {}
    for count in counts:
        all_at_once = ours.median(count, model.vocab_size, options.rounds)
        times = round(all_at_once.whole / wide[f"{count}"]["tokens_per_s"], 2)
        small[f"{count}"] = {
            "tokens_per_s": round(all_at_once.whole, 1),
            "whole_times_bf16": times,
        }
        if count == 1:
            rate = all_at_once.after
            small["1"]["decode_tokens_per_s"] = round(rate, 1)
            small["1"]["times_bf16"] = round(rate / wide["1"]["decode_tokens_per_s"], 2)
        else:
            small[f"{count}"] |= all_at_once.of_burst()
    return small


def several(
    folder: Path, device: Any, options: argparse.Namespace, alone: dict[str, Any], *, direct: bool
) -> dict[str, Any]:
    """The same model over several GPUs, and how many times one GPU's figures these are.

    `direct`: sums through the GPUs' memory, else by the collectives' library alone.
    """
    count, slots = options.gpus, max(options.streams)
    name = f"random-{device.kind}.0-{count - 1}"
    spec = ModelSpec(
        "random",
        name,
        device.kind,
        0,
        folder,
        "transformers",
        tensor_parallel=count,
        peer_memory=direct,
    )
    started = time.perf_counter()
    model: Any = parallel.load(spec, lambda share, what: print(f"{share:.2f} {what}")).model
    found: dict[str, Any] = {
        "load_s": round(time.perf_counter() - started, 1),
        "sums": "peer memory" if model.group.direct else device.collectives,
    }
    show(found)
    try:
        blocks = kv_budget.allocate(
            model,
            device,
            slots=slots,
            step_tokens=PREFILL,
            budget_bytes=0,
            where=name,
            windows=False,
        ).blocks
        ours = Ours(model, blocks, slots, lone=0)
        found["kv_cache_tokens"] = blocks * 16
        for streams in options.streams:
            run = ours.median(streams, model.vocab_size, options.rounds)
            found[f"{streams}"] = {
                "tokens_per_s": round(run.whole, 1),
                "times_one_gpu": round(run.whole / alone[f"{streams}"]["tokens_per_s"], 2),
                "decode_tokens_per_s": round(run.after, 1),
            }
            show({streams: found[f"{streams}"]})
        found["prefill_tokens_per_s"] = ours.prefills(model.vocab_size, options.rounds)
        if options.profile:
            show(ours.profile(max(options.streams), model.vocab_size))
    finally:
        model.close()
    show(found)
    return found


def show(figures: dict[Any, Any]) -> None:
    for name, figure in figures.items():
        print(f"{name}: {figure}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shape", choices=SHAPES, default="llama-7b")
    parser.add_argument("--layers", type=int, help="cut the shape to so many")
    parser.add_argument("--only-bf16", action="store_true", help="no FP8, no 4 bit")
    vllm_contender.add_options(parser)
    parser.add_argument("--quick", action="store_true", help="a small model")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--greedy", action="store_true", help="no drawn tokens")
    parser.add_argument("--no-compile", action="store_true", help="no compiled `generate`")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 64, 256])
    parser.add_argument("--gpus", type=int, default=1, help="beside one, so many together")
    parser.add_argument("--library", action="store_true", help="several also without peer memory")
    parser.add_argument("--profile", action="store_true", help="what a step's time goes to")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    device = next((one for one in (Xpu(), Cuda()) if one.missing() is None), None)
    if device is None:
        raise SystemExit(f"torch sees no GPU: {Cuda().missing()}")
    observed = conditions.observe()
    conditions.show(observed)
    result = measure(options, device)
    name = "gpu-engine" if options.shape == "llama-7b" else f"gpu-engine-{options.shape}"
    print(conditions.save(name, observed, result))


if __name__ == "__main__":
    main()
