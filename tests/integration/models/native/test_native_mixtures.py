"""Mixtures of experts in the native kernels: logits, texts and promises, from every kind of checkpoint.

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
from safetensors.torch import load_file, save_file
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from penstock.contract.job import Sampling
from penstock.engine.engine import Engine
from penstock.engine.model import Batch, SequenceSlice
from penstock.engine.sequence import SequenceRequest
from penstock.errors import ModelNotLoadable
from penstock.models import loader, quantise
from penstock.models.architecture.families import (
    latent_attention,
    mixtures,
    shared_mixtures,
    sparse_attention,
)
from penstock.models.backends import low_bit_experts, suitability
from penstock.models.backends.native import library, loading
from penstock.models.catalogue import footprint
from penstock.models.catalogue.resolve import resolve
from penstock.models.spec import ModelSpec
from penstock.models.weights import conversion, matrices, q4_0
from penstock.models.weights.published.floats import mxfp4 as from_mxfp4
from penstock.settings import Settings
from tests.fixtures.engine import Transcript
from tests.fixtures.models import TINY_SIZES, write_model

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
    "num_hidden_layers": 3,
    "num_experts_per_tok": 2,
}
GROUPS = {"n_group": 4, "topk_group": 2, "routed_scaling_factor": 1.5, "num_experts_per_tok": 3}
LATENT = {
    "q_lora_rank": 64,
    "kv_lora_rank": 64,
    "qk_nope_head_dim": 24,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 64,
    "n_shared_experts": 2,
}
STRETCHED = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 64,
    "mscale": 0.7,
    "mscale_all_dim": 0.9,
}
GRANITE = {
    "num_local_experts": 6,
    "embedding_multiplier": 6.0,
    "logits_scaling": 4.0,
    "residual_multiplier": 0.5,
    "attention_multiplier": 0.1,
}
INDEX = {"index_topk": 40, "index_n_heads": 8, "index_head_dim": 32}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("qwen3_moe", {"num_experts": 8, "moe_intermediate_size": 64, "head_dim": 64}),
    "qwen3-normalised-partly-dense": (
        "qwen3_moe",
        {
            "num_experts": 8,
            "moe_intermediate_size": 64,
            "norm_topk_prob": True,
            "mlp_only_layers": [1],
        },
    ),
    "qwen2": (
        "qwen2_moe",
        {"num_experts": 6, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 192},
    ),
    "mixtral": ("mixtral", {"num_local_experts": 6, "sliding_window": 24}),
    "olmoe": ("olmoe", {"num_experts": 6}),
    "gpt-oss": (
        "gpt_oss",
        {
            "num_local_experts": 6,
            "head_dim": 32,
            "sliding_window": 24,
            "swiglu_limit": 0.5,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "glm-4.5": (
        "glm4_moe",
        {
            "n_routed_experts": 12,
            "moe_intermediate_size": 64,
            "n_shared_experts": 2,
            "use_qk_norm": True,
            "attention_bias": True,
            **GROUPS,
        },
    ),
    "solar-open": (
        "solar_open",
        {"n_routed_experts": 12, "moe_intermediate_size": 64, "head_dim": 64, **GROUPS},
    ),
    "dots1": (
        "dots1",
        {
            "n_routed_experts": 12,
            "moe_intermediate_size": 64,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
            "sliding_window": 24,
            "max_window_layers": 2,
            "norm_topk_prob": True,
            **GROUPS,
        },
    ),
    "deepseek-v2": (
        "deepseek_v2",
        {
            **LATENT,
            **GROUPS,
            "q_lora_rank": None,
            "n_routed_experts": 8,
            "first_k_dense_replace": 1,
            "topk_method": "group_limited_greedy",
        },
    ),
    "deepseek-v3": (
        "deepseek_v3",
        {
            **LATENT,
            **GROUPS,
            "n_routed_experts": 12,
            "first_k_dense_replace": 1,
            "rope_parameters": STRETCHED,
            "attention_bias": True,
        },
    ),
    "mistral-4": (
        "mistral4",
        {
            **LATENT,
            **GROUPS,
            "n_routed_experts": 12,
            "first_k_dense_replace": 1,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10_000.0,
                "factor": 8.0,
                "original_max_position_embeddings": 64,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "llama_4_scaling_beta": 0.6,
            },
        },
    ),
    "glm-4.7-flash": ("glm4_moe_lite", {**LATENT, "n_routed_experts": 12}),
    "deepseek-v3.2": (
        "deepseek_v32",
        {**LATENT, **GROUPS, **INDEX, "n_routed_experts": 12, "first_k_dense_replace": 1},
    ),
    "glm-5": (
        "glm_moe_dsa",
        {**LATENT, **INDEX, "n_routed_experts": 12, "indexer_types": ["full", "shared", "full"]},
    ),
    "gemma4": (
        "gemma4_text",
        {
            "enable_moe_block": True,
            "num_experts": 6,
            "top_k_experts": 2,
            "moe_intermediate_size": 64,
            "hidden_size_per_layer_input": 0,
            "head_dim": 32,
            "global_head_dim": 64,
            "sliding_window": 24,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        },
    ),
    "minimax-m2": (
        "minimax_m2",
        {"num_local_experts": 6, "head_dim": 64, "rotary_dim": 32},
    ),
    "granite": ("granitemoe", GRANITE),
    "granite-shared": ("granitemoeshared", {**GRANITE, "shared_intermediate_size": 192}),
    "ernie": (
        "ernie4_5_moe",
        {"moe_num_experts": 6, "moe_intermediate_size": 64, "moe_k": 2, "moe_norm_min": 0.7},
    ),
}
SPARSE = ("deepseek-v3.2", "glm-5")
IDS = np.random.default_rng(1).integers(3, 500, 120).tolist()


def test_every_family_has_a_case() -> None:
    described = {
        kind
        for module in (latent_attention, mixtures, shared_mixtures, sparse_attention)
        for family in module.FAMILIES
        for kind in family.model_types
    }
    alone = {"minicpm3"}  # which has no experts: test_native_families
    beside = {"gemma4_text"}  # whose experts are optional
    assert described - alone == {kind for kind, _ in CASES.values()} - beside


def class_of(config: Any) -> Any:
    """Transformers' class for a configuration; it lists Mistral 4 among those that take images."""
    causal = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    return AutoModelForCausalLM if causal else AutoModelForImageTextToText


def made(name: str) -> Any:
    """A module whose routers are decided and whose norms, biases and sinks are not neutral."""
    kind, switches = CASES[name]
    known = CONFIG_MAPPING[kind]()
    sizes = {key: size for key, size in SIZES.items() if hasattr(known, key)}
    torch.manual_seed(7)
    config = CONFIG_MAPPING[kind](**{**sizes, **switches})
    module = class_of(config).from_config(config)
    with torch.no_grad():
        for key, weight in (*module.named_parameters(), *module.named_buffers()):
            if "inv_freq" in key:
                continue
            router = weight.dim() == 2 and any(part in key for part in (".gate.", "router."))
            if weight.dim() == 1 or "bias" in key:
                weight.add_(torch.randn(weight.shape) * 0.2)
            else:
                weight.copy_(torch.randn(weight.shape) * (0.5 if router else 0.08))
            if kind == "gemma4_text" and key.endswith("q_norm.weight"):
                weight.mul_(0.2)  # its scores have no scale of their own: else they decide all
    return module.float().eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Each case's checkpoint, written when it is asked for."""
    path, written = tmp_path_factory.mktemp("mixtures"), {}

    def folder(name: str) -> Path:
        if name not in written:
            written[name] = write_model(path / name, made(name))
        return written[name]

    return folder


def spec_of(path: Path, form: str = "sym_int4", **more: Any) -> ModelSpec:
    return ModelSpec("tiny", "tiny-cpu", "cpu", None, path, "native", format=form, **more)


def loaded(spec: ModelSpec) -> Any:
    assembled = loading.load(spec, lambda *_: None)
    assembled.model.allocate(24)
    return assembled


def logits_of(model: Any, ids: list[int] = IDS) -> torch.Tensor:
    return model.forward(Batch((SequenceSlice(0, ids, 0, list(range(10)), 0),)))


def round_trip(weight: torch.Tensor, form: str) -> None:
    matrix = getattr(matrices, form)(weight.contiguous())
    if matrix.kind == "i4":
        meant = q4_0.dequantize(matrix.values, matrix.scales)
    else:
        meant = matrix.values.astype(np.float32) * matrix.scales
    weight.copy_(torch.as_tensor(meant))


def dequantised(path: Path, form: str) -> Any:
    """Transformers' module in fp32 with the weights that the format stands for."""
    kind = class_of(AutoConfig.from_pretrained(path))
    module = kind.from_pretrained(path, dtype=torch.float32).eval()
    module.requires_grad_(requires_grad=False)
    if module.config.tie_word_embeddings:
        module.lm_head.weight = torch.nn.Parameter(module.lm_head.weight.clone())
    round_weights(module, form)
    return module


@torch.no_grad()
def round_weights(module: Any, form: str) -> None:
    """Give the linear layers and the experts of a module the values that a format stands for."""
    for name, layer in module.named_modules():
        if isinstance(layer, torch.nn.Linear) and not name.endswith(
            ("shared_expert_gate", "router.proj")
        ):
            round_trip(layer.weight, form)
    for _, part in low_bit_experts.expert_modules(module):
        for name in low_bit_experts.matrix_names(part):
            for weight in getattr(part, name):
                round_trip(weight.T if part.is_transposed else weight, form)


def errors(found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    return (found - expected).norm(dim=-1) / expected.norm(dim=-1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["sym_int4", "int8"])
@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_the_same_weights_in_fp32(folders: Any, name: str, form: str) -> None:
    path = folders(name)
    with torch.inference_mode():
        expected = dequantised(path, form)(torch.tensor([IDS])).logits[0]
    model = loaded(spec_of(path, form)).model
    found = logits_of(model)
    # Activations are in INT8; where two experts score alike, that turns a token's choice. So does
    # an index with keys.
    assert errors(found, expected).median() < (0.15 if name in SPARSE else 0.05)
    table = list(range(10))
    for begin, end in ((0, 37), (37, 38), (38, 120)):
        part = SequenceSlice(0, IDS[begin:end], begin, table, 0)
        assert torch.equal(model.forward(Batch((part,))), found[begin:end])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", ["deepseek-v2", "deepseek-v3", "glm-4.7-flash", "mistral-4", "gemma4", *SPARSE]
)
def test_weights_as_they_are_stored(tmp_path: Path, name: str) -> None:
    """In 16 and 32 bit: nothing is rounded but keys and values, to 16 bit."""
    for form, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        path = write_model(tmp_path / form, made(name).to(kind))
        whole = class_of(AutoConfig.from_pretrained(path))
        module = whole.from_pretrained(path, dtype=torch.float32).eval()
        with torch.inference_mode():
            expected = module(torch.tensor([IDS])).logits[0]
        found = logits_of(loaded(spec_of(path, form)).model)
        assert errors(found, expected).median() < 3e-3


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SPARSE)
def test_an_index_chooses_the_keys_that_a_token_sees(tmp_path: Path, name: str) -> None:
    """As long as a token may see all before it, it does; then its logits are others than of all."""
    path = write_model(tmp_path / name, made(name))
    found = logits_of(loaded(spec_of(path, "fp32")).model)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"index_topk": len(IDS)}))
    every = logits_of(loaded(spec_of(path, "fp32")).model)
    most = INDEX["index_topk"]
    assert torch.equal(found[:most], every[:most])
    assert errors(found[most:], every[most:]).median() > 0.02


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["qwen3", "gpt-oss", "glm-4.5", "deepseek-v3"])
def test_texts_are_those_that_generate_writes_or_as_likely(folders: Any, name: str) -> None:
    path = folders(name)
    reference = dequantised(path, "sym_int4")
    model = loaded(spec_of(path)).model
    same, near = 0, 0
    for start in range(0, 40, 5):
        prompt = IDS[start : start + 20]
        written = reference.generate(
            torch.tensor([prompt]), max_new_tokens=8, do_sample=False, eos_token_id=None
        )[0].tolist()
        rows = logits_of(model, written)[len(prompt) - 1 : -1]
        for row, token in zip(rows, written[len(prompt) :], strict=True):
            same += int(row.argmax()) == token
            near += bool((row.max() - row[token]) / row.std() < 0.5)
    assert same >= 50  # of 64; the others are near ties and turned choices of experts
    assert near >= 58


def together(path: Path, target: Path, name: str) -> Path:
    """The checkpoint as Transformers' module names its tensors: experts in three dimensions."""
    module = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    write_model(target, module)
    state = {
        key: weight.contiguous()
        for key, weight in module.state_dict().items()
        if ".experts." in key
    }
    rest = load_file(path / "model.safetensors")
    rest = {key: weight for key, weight in rest.items() if ".experts." not in key}
    assert len(state) == 2 * sum(".experts.gate_up_proj" in key for key in state), name
    save_file({**rest, **state}, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.mark.filterwarnings("ignore")
def test_experts_in_one_tensor_are_the_same(folders: Any, tmp_path: Path) -> None:
    path = folders("qwen3")
    other = together(path, tmp_path / "together", "qwen3")
    expected = logits_of(loaded(spec_of(path)).model)
    assert torch.equal(logits_of(loaded(spec_of(other)).model), expected)
    # Qwen3-VL's lie the other way round, which their shape says.
    state = load_file(other / "model.safetensors")
    turned = {
        key: weight.transpose(1, 2).contiguous() if weight.dim() == 3 and "down" in key else weight
        for key, weight in state.items()
    }
    save_file(turned, other / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(logits_of(loaded(spec_of(other)).model), expected)


@pytest.mark.filterwarnings("ignore")
def test_mxfp4_is_what_it_stands_for(folders: Any, tmp_path: Path) -> None:
    path = folders("gpt-oss")
    state = load_file(path / "model.safetensors")
    packed, plain = dict(state), dict(state)
    generator = torch.Generator().manual_seed(3)
    for key in [
        key for key in state if key.endswith(("experts.gate_up_proj", "experts.down_proj"))
    ]:
        count, columns, rows = state[key].shape
        blocks = torch.randint(
            0, 256, (count, rows, columns // 32, 16), generator=generator, dtype=torch.uint8
        )
        scales = torch.randint(
            120, 124, (count, rows, columns // 32), generator=generator, dtype=torch.uint8
        )
        del packed[key]
        packed |= {f"{key}_blocks": blocks, f"{key}_scales": scales}
        meant = torch.stack([from_mxfp4(*one) for one in zip(blocks, scales, strict=True)])
        plain[key] = meant.transpose(1, 2).contiguous()
    for name, tensors in (("packed", packed), ("plain", plain)):
        write_model(tmp_path / name, made("gpt-oss"))
        stored = {
            key: weight.bfloat16() if weight.is_floating_point() else weight
            for key, weight in tensors.items()
        }
        save_file(stored, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
    found = [loaded(spec_of(tmp_path / name)) for name in ("packed", "plain")]
    assert torch.equal(*(logits_of(one.model) for one in found))
    assert found[0].parameters == found[1].parameters
    told = [
        footprint.measure(spec_of(tmp_path / name)).weights_bytes for name in ("packed", "plain")
    ]
    assert told[0] == told[1]
    assert abs(told[0] - found[0].weights_bytes) < 0.001 * told[0]
    config = json.loads((tmp_path / "packed" / "config.json").read_text())
    for method, backend in (("mxfp4", "native"), ("fp8", "native"), ("hqq", None)):
        stated = {**config, "quantization_config": {"quant_method": method}}
        assert suitability.fastest(stated, "native") == backend


def test_mxfp4_is_read_as_it_is_published() -> None:
    """Values of e2m1, the even column in the low half of a byte; exponents have 127 added."""
    blocks = torch.arange(16, dtype=torch.uint8).reshape(1, 1, 16) * 17  # both halves alike
    values = from_mxfp4(blocks, torch.tensor([[128]], dtype=torch.uint8))
    half = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    expected = [2 * value for value in (*half, *(-value for value in half))]
    assert values[0].tolist() == [value for value in expected for _ in range(2)]
    blocks[0, 0, 0] = 0x21
    assert from_mxfp4(blocks, torch.tensor([[127]], dtype=torch.uint8))[0, :2].tolist() == [
        0.5,
        1.0,
    ]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_a_folder_in_low_bit_keeps_its_bits(folders: Any, tmp_path: Path, name: str) -> None:
    pytest.importorskip("bigdl.llm", reason="bigdl-llm is not installed")
    spec = spec_of(folders(name))
    target = tmp_path / "low-bit"
    quantise.quantise(spec, target, "sym_int4", "", lambda *_: None)
    found = loaded(replace(spec_of(target), format=None, low_bit_folder=True))
    if name == "qwen2":  # bigdl-llm's folders hold the gate of what all share in 4 bit too
        assert errors(logits_of(found.model), logits_of(loaded(spec).model)).median() < 0.1
    else:
        assert torch.equal(logits_of(found.model), logits_of(loaded(spec).model))


@pytest.mark.parametrize("name", ["qwen2", "gpt-oss"])
def test_the_second_load_maps_what_the_first_packed(
    folders: Any, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "WORTH_BYTES", 0)
    plain = spec_of(folders(name))
    kept = replace(plain, converted_dir=tmp_path, converted_limit_bytes=1 << 30)
    first, *others = [loaded(spec) for spec in (plain, kept, kept)]
    for other in others:
        assert torch.equal(logits_of(first.model), logits_of(other.model))
        assert (first.parameters, first.weights_bytes) == (other.parameters, other.weights_bytes)


@pytest.mark.parametrize("name", CASES)
def test_the_footprint_estimated_beforehand_is_what_a_model_takes(folders: Any, name: str) -> None:
    spec = spec_of(folders(name))
    told, assembled = footprint.measure(spec), loading.load(spec, lambda *_: None)
    assert abs(told.weights_bytes - assembled.weights_bytes) < 0.02 * assembled.weights_bytes
    assert told.parameters == pytest.approx(assembled.parameters, rel=0.02)


@pytest.mark.parametrize(
    ("name", "without", "says"),
    [
        ("qwen3", "mlp.gate.weight", "lacks model.layers.0.mlp.gate.weight"),
        ("qwen3", "experts.3.up_proj.weight", "lacks model.layers.0.mlp.experts.3.up_proj.weight"),
        ("gpt-oss", "experts.down_proj", "lacks model.layers.0.mlp.experts.down_proj"),
        ("glm-4.5", "e_score_correction_bias", "e_score_correction_bias"),
    ],
)
def test_what_is_missing_is_named(
    folders: Any, tmp_path: Path, name: str, without: str, says: str
) -> None:
    write_model(tmp_path / "less", made(name))
    state = load_file(folders(name) / "model.safetensors")
    less = {key: weight for key, weight in state.items() if not key.endswith(without)}
    assert len(less) < len(state)
    save_file(less, tmp_path / "less" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelNotLoadable, match=says):
        loading.load(spec_of(tmp_path / "less"), lambda *_: None)


@pytest.fixture(scope="module", params=["qwen3", "gpt-oss", "glm-4.5"])
def served(request: pytest.FixtureRequest, folders: Any) -> Any:
    """A mixture as a worker has it: the queue's name says 4 bit, and no more."""
    path = folders(request.param)
    file = path.parent / f"{path.name}.toml"
    file.write_text(f'[models.bigdl-x]\npath = "{path.name}"\n')
    settings = Settings(
        models_file=file, models_dir=path.parent / "none", threads=1, kv_cache_bytes=2**23,
        bigdl_backend="native",
    )  # fmt: skip
    spec = resolve("bigdl-x-cpu", settings)
    return loader.load(spec, settings, slots=8, progress=lambda *_: None)


def prompts() -> Iterator[list[int]]:
    rng = random.Random(3)
    shared = [rng.randrange(3, 500) for _ in range(64)]
    for length in (5, 90, 31, 17, 1, 40):
        yield (shared if length > 30 else []) + [rng.randrange(3, 500) for _ in range(length)]


def texts(model: Any, options: EngineOptions, seed: int | None = None) -> dict[str, list[int]]:
    """What an engine answers; with a seed, requests come at random times."""
    told = Transcript()
    engine = Engine(model.model, model.tokenizer, options, told)
    sampling = Sampling(seed=1, temperature=0.0, max_tokens=12, ignore_eos=True)
    waiting: list[Any] = [
        SequenceRequest(str(job), prompt, sampling) for job, prompt in enumerate(prompts())
    ]
    rng, more = random.Random(seed), True
    while waiting or more:
        count = len(waiting) if seed is None else rng.choice([0, 0, 1, 2])
        coming, waiting = waiting[:count], waiting[count:]
        more = engine._turn(coming)
    return told.tokens


def test_the_same_text_alone_and_under_random_arrivals(served: Any) -> None:
    assert (served.card.backend, served.card.format) == ("native", "sym_int4")
    plain = replace(
        served.options, slots=1, prefix_caching=False, speculation_tokens=0, target_step_ms=None
    )
    alone = texts(served, plain)
    for seed, changes in enumerate(
        ({}, {"prefill_chunk_tokens": 7}, {"prefix_caching": True, "num_blocks": 26})
    ):
        options = replace(plain, **{"slots": 8, "prefill_chunk_tokens": 64, **changes})
        assert texts(served, options, seed) == alone
