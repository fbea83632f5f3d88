"""Layers that keep a state in the native kernels: logits, texts and promises, family by family.

A new family needs a line here: its configuration's class and what its switches are set to.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from penstock.contract.job import Sampling
from penstock.engine.engine import Engine
from penstock.engine.model import Batch, SequenceSlice, stateful
from penstock.engine.sequence import SequenceRequest
from penstock.errors import ModelNotLoadable
from penstock.models import loader, quantise
from penstock.models.architecture.facts import NotDescribed
from penstock.models.architecture.families import (
    convolutions,
    delta_nets,
    kimi,
    state_spaces,
    zamba,
)
from penstock.models.architecture.reading import describe
from penstock.models.backends import low_bit_experts, suitability
from penstock.models.backends.native import library, loading
from penstock.models.catalogue import footprint
from penstock.models.catalogue.resolve import resolve
from penstock.models.spec import ModelSpec
from penstock.models.weights import matrices, q4_0
from penstock.settings import Settings
from tests.fixtures.engine import Transcript
from tests.fixtures.jobs import wait_until
from tests.fixtures.models import TINY_SIZES, write_model
from tests.fixtures.rounded import RoundedActivations

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from penstock.engine.options import EngineOptions

try:
    library.library()
except ModelNotLoadable as missing:
    pytest.skip(str(missing), allow_module_level=True)

SIZES: dict[str, Any] = {
    **TINY_SIZES,
    "num_hidden_layers": 4,
    "head_dim": 32,
}
DELTA = {
    "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention"],
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 48,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
EXPERTS = {
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 64,
}
CONVOLUTIONS = {"layer_types": ["conv", "full_attention", "conv", "conv"]}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3.5": ("qwen3_5_text", {**DELTA, "tie_word_embeddings": True}),
    "qwen3.5-moe": ("qwen3_5_moe_text", {**DELTA, **EXPERTS}),
    "qwen3-next": ("qwen3_next", {**DELTA, **EXPERTS, "mlp_only_layers": [1]}),
    "lfm2": ("lfm2", {**CONVOLUTIONS, "conv_bias": True, "block_multiple_of": 64}),
    "lfm2-moe": (
        "lfm2_moe",
        {**CONVOLUTIONS, **EXPERTS, "num_dense_layers": 1, "conv_L_cache": 4},
    ),
}
MAMBA = {
    "mamba_n_heads": 8,
    "mamba_d_head": 32,
    "mamba_n_groups": 2,
    "mamba_d_state": 48,
    "mamba_chunk_size": 16,
}
GRANITE = {
    **MAMBA,
    "layer_types": ["mamba", "attention", "mamba", "mamba"],
    "shared_intermediate_size": 192,
    "residual_multiplier": 0.5,
    "attention_multiplier": 0.1,
}
FALCON = {**MAMBA, "mamba_d_ssm": 256, "num_hidden_layers": 2}
CASES |= {
    "bamba": ("bamba", {**MAMBA, "attn_layer_indices": [1]}),
    "granite4": (
        "granitemoehybrid",
        {**GRANITE, "num_local_experts": 0, "embedding_multiplier": 6.0, "logits_scaling": 4.0},
    ),
    "granite4-moe": (
        "granitemoehybrid",
        {
            **GRANITE,
            "num_local_experts": 6,
            "num_experts_per_tok": 2,
            "position_embedding_type": "rope",
        },
    ),
    "nemotron-h": (
        "nemotron_h",
        {
            "layers_block_type": ["mamba", "mlp", "attention", "mamba", "mlp"],
            "mamba_num_heads": 8,
            "mamba_head_dim": 32,
            "n_groups": 2,
            "ssm_state_size": 48,
        },
    ),
    "nemotron-3": (
        "nemotron_h",
        {
            "layers_block_type": ["mamba", "moe", "attention", "mamba", "moe"],
            "mamba_num_heads": 8,
            "mamba_head_dim": 32,
            "n_groups": 2,
            "ssm_state_size": 48,
            "n_routed_experts": 8,
            "moe_intermediate_size": 64,
            "moe_shared_expert_intermediate_size": 128,
            "num_experts_per_tok": 2,
        },
    ),
    "falcon-h1": (
        "falcon_h1",
        {
            **FALCON,
            "lm_head_multiplier": 0.3,
            "embedding_multiplier": 5.0,
            "mlp_multipliers": [0.8, 0.6],
            "key_multiplier": 0.5,
            "attention_out_multiplier": 0.9,
            "ssm_multipliers": [0.35, 0.25, 0.45, 0.5, 0.3],
            "ssm_in_multiplier": 1.25,
            "ssm_out_multiplier": 0.6,
        },
    ),
    "falcon-h1-normed": (
        "falcon_h1",
        {**FALCON, "mamba_rms_norm": True, "mamba_norm_before_gate": False},
    ),
}
ZAMBA = {
    "num_hidden_layers": 5,
    "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid", "hybrid"],
    "num_mem_blocks": 2,
    "head_dim": 64,
    "num_key_value_heads": 4,
    "n_mamba_heads": 8,
    "mamba_ngroups": 2,
    "mamba_d_state": 48,
    "adapter_rank": 64,
}
KIMI = {
    "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention"],
    "num_key_value_heads": 4,
    "linear_head_dim": 64,
    "linear_num_heads": 2,
    "kv_lora_rank": 64,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
    "num_local_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "n_group": 2,
}
CASES |= {
    "zamba2": (
        "zamba2",
        {
            **ZAMBA,
            "use_mem_rope": True,
            "use_shared_attention_adapter": True,
            "add_bias_linear": True,
        },
    ),
    "zamba2-plain": ("zamba2", {**ZAMBA, "num_key_value_heads": 2}),
    "kimi-linear": ("kimi_linear", KIMI),
    "kimi-linear-ranked": ("kimi_linear", {**KIMI, "q_lora_rank": 64, "n_shared_experts": 2}),
}
ROUTERS = (".gate.weight", "shared_expert_gate.weight", "router.weight")
HALVES = ("_adapter_list.", "kv_b_proj.")
"""Parts of the names of matrices that are in fp16, with inputs in fp32, in low-bit formats."""
PLAIN = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
IDS = np.random.default_rng(1).integers(3, 500, 120).tolist()
STATES = 4


def test_every_family_has_a_case() -> None:
    described = {
        kind
        for module in (convolutions, delta_nets, kimi, state_spaces, zamba)
        for family in module.FAMILIES
        for kind in family.model_types
    }
    assert described == {kind for kind, _ in CASES.values()}


def made(name: str) -> Any:
    """A module whose routers are decided and whose norms, biases and rates are not neutral."""
    kind, switches = CASES[name]
    known = CONFIG_MAPPING[kind]()
    sizes = {key: size for key, size in SIZES.items() if hasattr(known, key)}
    torch.manual_seed(7)
    module = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**{**sizes, **switches}))
    with torch.no_grad():
        for key, weight in (*module.named_parameters(), *module.named_buffers()):
            if "inv_freq" in key:
                continue
            router = weight.dim() == 2 and any(part in key for part in (".gate.", "router."))
            if weight.dim() == 1 or "bias" in key:
                weight.add_(torch.randn(weight.shape) * 0.2)
            elif "conv1d" in key or ".conv.conv." in key:
                weight.copy_(torch.randn(weight.shape) * 0.5)
            else:
                weight.copy_(torch.randn(weight.shape) * (0.5 if router else 0.08))
    return module.float().eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Each case's checkpoint, written when it is asked for."""
    path, written = tmp_path_factory.mktemp("hybrids"), {}

    def folder(name: str) -> Path:
        if name not in written:
            written[name] = write_model(path / name, made(name))
        return written[name]

    return folder


def spec_of(path: Path, form: str = "sym_int4", **more: Any) -> ModelSpec:
    return ModelSpec("tiny", "tiny-cpu", "cpu", None, path, "native", format=form, **more)


def loaded(path: Path, form: str = "sym_int4") -> Any:
    model: Any = loading.load(spec_of(path, form), lambda *_: None).model
    model.allocate(40)
    model.allocate_states(STATES)
    return model


def part_of(
    ids: list[int], begin: int, end: int, *, state: int = 0, table: list[int] | None = None
) -> SequenceSlice:
    return SequenceSlice(state, ids[begin:end], begin, table or list(range(10)), 0, state)


def round_trip(weight: torch.Tensor, form: str) -> None:
    if form in PLAIN:
        weight.copy_(weight.to(PLAIN[form]).float())
        return
    matrix = getattr(matrices, form)(weight.contiguous())
    if matrix.kind == "i4":
        meant = q4_0.dequantize(matrix.values, matrix.scales)
    else:
        meant = matrix.values.astype(np.float32) * matrix.scales
    weight.copy_(torch.as_tensor(meant))


def dequantised(path: Path, form: str) -> tuple[Any, list[torch.Tensor]]:
    """Transformers' module in fp32 with the weights that the format stands for, and those exact."""
    module = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    module.requires_grad_(requires_grad=False)
    if module.config.tie_word_embeddings:
        module.lm_head.weight = torch.nn.Parameter(module.lm_head.weight.clone())
    exact: list[torch.Tensor] = [
        weight
        for name, weight in module.named_parameters()
        if name.endswith(ROUTERS) or any(part in name for part in HALVES)
    ]
    with torch.no_grad():
        for name, layer in module.named_modules():
            if isinstance(layer, torch.nn.Linear) and not f"{name}.weight".endswith(ROUTERS):
                round_trip(layer.weight, form)
                if form not in PLAIN and any(part in f"{name}." for part in HALVES):
                    layer.weight.copy_(layer.weight.half().float())
        for _, part in low_bit_experts.expert_modules(module):
            for name in low_bit_experts.matrix_names(part):
                for weight in getattr(part, name):
                    round_trip(weight.T if part.is_transposed else weight, form)
    if hasattr(module, "set_experts_implementation"):
        module.set_experts_implementation("eager")
    return module, exact


def errors(found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    return (found - expected).norm(dim=-1) / expected.norm(dim=-1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["sym_int4", "int8"])
@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_the_same_weights(folders: Any, name: str, form: str) -> None:
    path = folders(name)
    module, exact = dequantised(path, form)
    with torch.inference_mode(), RoundedActivations(64 if form == "sym_int4" else 128, exact):
        expected = module(torch.tensor([IDS])).logits[0]
    model = loaded(path, form)
    found = model.forward(Batch((part_of(IDS, 0, 120),)))
    apart = errors(found, expected)
    # Equal, until a last bit turns the rounding of an activation to one of 255 levels: often in these
    # two, whose exact GELU is approximated, and whose compressed keys are rounded to fp16.
    turned = name.startswith(("zamba2", "kimi-linear"))
    assert turned or apart[0] < 1e-5, apart
    assert apart.median() < (0.07 if turned else 0.03), apart
    assert apart[-20:].median() < (0.07 if turned else 0.03), apart
    for begin, end in ((0, 2), (2, 37), (37, 38), (38, 120)):
        part = part_of(IDS, begin, end)
        assert torch.equal(model.forward(Batch((part,))), found[begin:end])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["qwen3.5", "lfm2-moe", "falcon-h1", "zamba2", "kimi-linear"])
def test_texts_are_those_that_generate_writes_or_as_likely(folders: Any, name: str) -> None:
    path = folders(name)
    reference, exact = dequantised(path, "sym_int4")
    model = loaded(path)
    near = 0
    for start in range(0, 20, 5):
        prompt = IDS[start : start + 20]
        with RoundedActivations(64, exact):
            written = reference.generate(
                torch.tensor([prompt]), max_new_tokens=8, do_sample=False, eos_token_id=None
            )[0].tolist()
        rows = model.forward(Batch((part_of(written, 0, 28),)))[len(prompt) - 1 : -1]
        for row, token in zip(rows, written[len(prompt) :], strict=True):
            near += bool((row.max() - row[token]) / row.std() < 0.2)
    assert near >= 30  # of 32


def test_sequences_keep_their_states_apart(folders: Any) -> None:
    model = loaded(folders("qwen3.5"))
    assert stateful(model) is model
    tables = [list(range(10 * state, 10 * state + 10)) for state in range(3)]
    texts = [[(token + 7 * state) % 500 for token in IDS] for state in range(3)]
    alone = [
        model.forward(Batch((part_of(text, 0, 120, state=3, table=table),)))
        for text, table in zip(texts, tables, strict=True)
    ]
    ends = ((0, 30, 90, 91, 120), (0, 1, 2, 50, 120), (0, 64, 65, 66, 120))
    for step in range(4):
        parts = [
            part_of(text, end[step], end[step + 1], state=state, table=tables[state])
            for state, (text, end) in enumerate(zip(texts, ends, strict=True))
        ]
        rows = model.forward(Batch(parts)).split([len(part.token_ids) for part in parts])
        for state, part in enumerate(parts):
            own = alone[state][part.start : part.start + len(part.token_ids)]
            assert torch.equal(rows[state], own)
        model.copy_state(2, 3)  # and a copy goes on as well
        last = part_of(texts[2], ends[2][step + 1], 120, state=3, table=tables[2])
        if last.token_ids:
            again = model.forward(Batch((last,)))
            assert torch.equal(again, alone[2][last.start :])


@pytest.mark.parametrize("name", ["qwen3.5", "lfm2", "falcon-h1", "zamba2", "kimi-linear"])
def test_threads_change_no_bit(folders: Any, name: str) -> None:
    expected = loaded(folders(name)).forward(Batch((part_of(IDS, 0, 120),)))
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        model = loaded(folders(name))
        for begin, end in ((0, 100), (100, 101), (101, 120)):
            part = part_of(IDS, begin, end)
            assert torch.equal(model.forward(Batch((part,))), expected[begin:end])
    finally:
        torch.set_num_threads(before)


def test_a_step_whose_states_cannot_be_is_refused(folders: Any) -> None:
    model = loaded(folders("lfm2"))
    for places in ((-1,), (STATES,), (1, 1)):
        parts = [
            part_of(IDS, 0, 3, state=place, table=[index]) for index, place in enumerate(places)
        ]
        with pytest.raises(ValueError, match="state"):
            model.forward(Batch(parts))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["qwen3.5", "lfm2-moe", "falcon-h1", "zamba2", "kimi-linear"])
def test_every_instruction_set_gives_the_same_bits(
    folders: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = loaded(folders(name)).forward(Batch((part_of(IDS, 0, 120),)))
    create = loading.Decoder
    best = library.best_isa()
    for isa in library.Isa:
        if isa and best and isa < best:
            monkeypatch.setattr(
                loading,
                "Decoder",
                lambda *args, isa=isa, **kwargs: create(*args, **kwargs, isa=isa),
            )
            try:
                other = loaded(folders(name))
            except RuntimeError:
                continue  # this CPU lacks it
            assert torch.equal(other.forward(Batch((part_of(IDS, 0, 120),))), expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["qwen3-next", "lfm2", "nemotron-h", "zamba2", "kimi-linear"])
def test_a_folder_in_low_bit_keeps_its_bits(folders: Any, tmp_path: Path, name: str) -> None:
    pytest.importorskip("bigdl.llm", reason="bigdl-llm is not installed")
    spec = spec_of(folders(name))
    quantise.quantise(spec, tmp_path / "low-bit", "sym_int4", "", lambda *_: None)
    other = replace(spec_of(tmp_path / "low-bit"), format=None, low_bit_folder=True)
    model: Any = loading.load(other, lambda *_: None).model
    model.allocate(40)
    model.allocate_states(STATES)
    found, expected = (
        one.forward(Batch((part_of(IDS, 0, 120),))) for one in (model, loaded(folders(name)))
    )
    if name in {
        "qwen3.5-moe",
        "qwen3-next",
        "granite4-moe",
    }:  # the gate of what all share is in 4 bit there
        assert errors(found, expected).median() < 0.1
    else:
        assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["qwen3.5-moe", "lfm2", "nemotron-h", "zamba2", "kimi-linear"])
def test_the_footprint_estimated_beforehand_is_what_a_model_takes(folders: Any, name: str) -> None:
    spec = spec_of(folders(name))
    told, assembled = footprint.measure(spec), loading.load(spec, lambda *_: None)
    assert abs(told.weights_bytes - assembled.weights_bytes) < 0.02 * assembled.weights_bytes
    assert told.parameters == pytest.approx(assembled.parameters, rel=0.02)
    model = stateful(assembled.model)
    assert model is not None
    layout = assembled.model.kv_layout
    cache = told.context_length // layout.block_size * layout.bytes_per_block
    assert abs(told.kv_bytes - cache - model.state_bytes) < 64


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("qwen3.5-moe", "bf16"),
        ("lfm2", "bf16"),
        ("granite4", "fp16"),
        ("nemotron-3", "fp16"),
        ("qwen3-next", "fp32"),
        ("zamba2", "bf16"),
        ("kimi-linear", "fp16"),
    ],
)
def test_weights_that_are_not_quantised_are_computed_as_they_are(
    folders: Any, name: str, form: str
) -> None:
    path = folders(name)
    module, _ = dequantised(path, form)
    with torch.inference_mode():
        expected = module(torch.tensor([IDS])).logits[0]
    model = loaded(path, form)
    found = model.forward(Batch((part_of(IDS, 0, 120),)))
    assert errors(found, expected).median() < 2e-3  # keys and values are in fp16
    for begin, end in ((0, 37), (37, 38), (38, 120)):
        assert torch.equal(model.forward(Batch((part_of(IDS, begin, end),))), found[begin:end])


@pytest.mark.parametrize(
    ("entry", "backend", "form"),
    [
        ("", "native", "fp32"),
        ('dtype = "bf16"', "native", "bf16"),
        ('format = "fp16"', "native", "fp16"),
        ('format = "fp32"', "transformers", "fp32"),
        ('backend = "transformers"', "transformers", None),
    ],
)
def test_a_hybrid_in_16_bit_is_batched_unless_fp32_is_asked_for(
    folders: Any, tmp_path: Path, entry: str, backend: str, form: str | None
) -> None:
    """A configuration's own type is held as it is; the test's checkpoints are stored in fp32."""
    file = tmp_path / "models.toml"
    file.write_text(f'[models.x]\npath = "{folders("lfm2")}"\n{entry}\n')
    settings = Settings(models_file=file, models_dir=tmp_path / "none")
    spec = resolve("x-cpu", settings)
    assert (spec.backend, spec.format) == (backend, form)


def of_queue(name: str, path: Path, form: str, **more: Any) -> Any:
    """A model as a worker has it, by its queue's name."""
    file = path.parent / f"{path.name}-{form}.toml"
    told = "" if form == "sym_int4" else f'format = "{form}"\n'
    file.write_text(f'[models.{name}]\npath = "{path.name}"\n{told}')
    settings = Settings(
        models_file=file, models_dir=path.parent / "none", threads=1, kv_cache_bytes=2**23,
        speculation="on", **more,
    )  # fmt: skip
    spec = resolve(f"{name}-cpu", settings)
    return loader.load(spec, settings, slots=8, progress=lambda *_: None)


@pytest.fixture(
    scope="module",
    params=[
        ("qwen3.5", "sym_int4"),
        ("lfm2", "bf16"),
        ("falcon-h1", "sym_int4"),
        ("zamba2", "bf16"),
        ("kimi-linear", "sym_int4"),
    ],
)
def served(request: pytest.FixtureRequest, folders: Any) -> Any:
    """A hybrid whose queue's name says 4 bit, and one in 16 bit."""
    name, form = request.param
    queue = "bigdl-x" if form == "sym_int4" else "x"
    return of_queue(queue, folders(name), form)


def prompts() -> Iterator[list[int]]:
    rng = random.Random(3)
    shared = [rng.randrange(3, 500) for _ in range(96)]
    for length in (5, 90, 31, 17, 1, 40, 45, 50):
        yield (shared if length > 30 else []) + [rng.randrange(3, 500) for _ in range(length)]


def texts(
    model: Any, options: EngineOptions, seed: int | None = None
) -> tuple[dict[str, list[int]], Transcript, Engine]:
    """What an engine answers; with a seed, requests come at random times."""
    told = Transcript()
    engine = Engine(model.model, model.tokenizer, options, told)
    sampling = Sampling(seed=1, temperature=0.0, max_tokens=20, ignore_eos=True)
    waiting: list[Any] = [
        SequenceRequest(str(job), prompt, sampling) for job, prompt in enumerate(prompts())
    ]
    rng, more = random.Random(seed), True
    while waiting or more:
        count = len(waiting) if seed is None else rng.choice([0, 0, 1, 2])
        coming, waiting = waiting[:count], waiting[count:]
        more = engine._turn(coming)
    return told.tokens, told, engine


def test_the_same_text_alone_and_under_random_arrivals(served: Any) -> None:
    card = served.card
    assert (card.backend, card.running) == ("native", "native")
    assert card.format in {"sym_int4", "bf16"}
    assert (card.batching, card.same_text) == ("continuous", True)
    assert served.options.num_states > served.options.slots
    assert served.options.speculation_tokens
    plain = replace(served.options, slots=1, prefix_caching=False, target_step_ms=None)
    alone, _, _ = texts(served, replace(plain, speculation_tokens=0))
    for seed, (changes, cached, preempted) in enumerate(
        (
            ({"prefill_chunk_tokens": 7}, False, False),
            ({"prefix_caching": True}, True, False),
            ({"num_blocks": 26}, False, True),
            ({"num_blocks": 26, "prefix_caching": True}, True, True),
        )
    ):
        options = replace(plain, **{"slots": 8, "prefill_chunk_tokens": 64, **changes})
        tokens, told, engine = texts(served, options, seed)
        assert tokens == alone
        used = sum(told.finished(job).usage.cached_tokens for job in told.ends)
        assert (used > 0) is cached
        assert (engine.load().preempted_total > 0) is preempted


def test_an_answer_that_another_worker_began_goes_on(served: Any) -> None:
    plain = replace(served.options, slots=2, target_step_ms=None, prefill_chunk_tokens=64)
    whole, _, _ = texts(served, plain)
    told = Transcript()
    engine = Engine(served.model, served.tokenizer, plain, told)
    sampling = Sampling(seed=1, temperature=0.0, max_tokens=20, ignore_eos=True)
    for job, prompt in enumerate(prompts()):
        begun = tuple(whole[str(job)][:11])
        told.start[str(job)] = 11
        engine.submit(SequenceRequest(str(job), prompt, sampling, generated_token_ids=begun))
    while engine.turn():
        pass
    assert told.tokens == {job: tokens[11:] for job, tokens in whole.items()}


@pytest.mark.parametrize("name", ["qwen3.5", "lfm2"])
def test_another_process_goes_on_from_stored_blocks_and_states(
    folders: Any, tmp_path: Path, name: str
) -> None:
    prompt = max(prompts(), key=len)

    def answer(generated: tuple[int, ...] = ()) -> tuple[list[int], int]:
        model = of_queue("bigdl-x", folders(name), "sym_int4", kv_store=tmp_path)
        transcript = Transcript()
        transcript.start["job"] = len(generated)
        engine = Engine(
            model.model, model.tokenizer, replace(model.options, target_step_ms=None), transcript,
            store=model.store,
        )  # fmt: skip
        engine.start()
        try:
            sampling = Sampling(seed=5, temperature=0.8, max_tokens=24, ignore_eos=True)
            engine.submit(SequenceRequest("job", prompt, sampling, generated_token_ids=generated))
            wait_until(lambda: "job" in transcript.ends, 60.0)
        finally:
            engine.stop()
        return transcript.tokens["job"], transcript.finished("job").usage.cached_tokens

    first, cached = answer()
    assert cached == 0
    whole = (len(prompt) - 1) // 16 * 16
    assert answer() == (first, whole)
    # The state after the answer's newest blocks is there too: 192 tokens, the prompt and six more.
    assert answer(tuple(first[:12])) == (first[12:], len(prompt))


@pytest.mark.parametrize("name", ["qwen3.5", "lfm2", "granite4", "nemotron-h"])
def test_a_kind_of_layer_that_is_unknown_is_named(folders: Any, name: str) -> None:
    config = json.loads((folders(name) / "config.json").read_text())
    kinds = "layers_block_type" if name == "nemotron-h" else "layer_types"
    config[kinds][1] = "sideways_attention"
    with pytest.raises(NotDescribed, match="sideways_attention"):
        describe(config)
    assert suitability.fastest(config, "auto") is None
