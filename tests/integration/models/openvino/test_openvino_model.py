"""OpenVINO's forward against Transformers' own, on tiny models of each architecture."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from penstock.engine.model import Batch, SequenceSlice
from penstock.errors import ModelNotLoadable
from penstock.models.backends import openvino
from penstock.models.backends.openvino import compiled
from penstock.models.backends.openvino.compiled import OpenVinoModel
from penstock.models.backends.openvino.loading import load
from penstock.models.backends.paging import Step
from penstock.models.spec import ModelSpec
from penstock.models.weights import q4_0
from tests.fixtures.models import randomise, write_model

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("openvino")

SIZES: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "llama-llama3-rope-tied": lambda: LlamaForCausalLM(
        LlamaConfig(**SIZES, rope_parameters=LLAMA3, tie_word_embeddings=True)
    ),
    "llama-linear-rope-biases": lambda: LlamaForCausalLM(
        LlamaConfig(
            **SIZES,
            rope_parameters={"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0},
            attention_bias=True,
            mlp_bias=True,
        )
    ),
    "llama-all-heads": lambda: LlamaForCausalLM(LlamaConfig(**{**SIZES, "num_key_value_heads": 4})),
    "mistral-window": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=24)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    "qwen3-wide-heads": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=64)),
}


def spec_of(path: Path, form: str | None, **more: Any) -> ModelSpec:
    return ModelSpec("tiny", "tiny-cpu", "cpu", None, path, "openvino", format=form, **more)


def quiet(share: float, what: str) -> None:
    assert 0 <= share <= 1, what


def with_biases(model: Any) -> Any:
    """Biases and norms are made as zeros and ones: draw them, so that a lost one shows."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = with_biases(randomise(MODELS[request.param]()))
    return write_model(tmp_path_factory.mktemp("openvino") / request.param, model)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = with_biases(randomise(MODELS["llama"](), std=0.08))
    return write_model(tmp_path_factory.mktemp("openvino") / "llama", model)


def tokens(count: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(3, 500, count).tolist()


def reference(path: Path, token_ids: list[int]) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    with torch.inference_mode():
        return model(torch.tensor([token_ids])).logits[0]


def in_mixed_batches(model: Any, first: list[int], second: list[int]) -> list[torch.Tensor]:
    """Logits of two sequences, computed in chunks, decode steps and prompts side by side.

    `first` has 90 tokens or more, `second` 34 or more.
    """
    one, two = [5, 2, 7, 3], [1, 0, 4]
    end, other_end = len(first) - 1, len(second) - 1
    a = model.forward(Batch((SequenceSlice(0, first[:40], 0, one, 0),)))
    b = model.forward(
        Batch(
            (
                SequenceSlice(1, second[:33], 0, two, 0),
                SequenceSlice(0, first[40:end], 40, one, 0),
            )
        )
    )
    c = model.forward(
        Batch(
            (
                SequenceSlice(0, first[end:], end, one, 0),
                SequenceSlice(1, second[33:other_end], 33, two, 0),
            )
        )
    )
    d = model.forward(Batch((SequenceSlice(1, second[other_end:], other_end, two, 0),)))
    return [torch.cat((a, b[33:], c[:1])), torch.cat((b[:33], c[1:], d))]


def test_fp32_equals_transformers(folder: Path) -> None:
    model = load(spec_of(folder, "fp32"), quiet).model
    model.allocate(9)
    first, second = tokens(100, 1), tokens(60, 2)

    for got, ids in zip(in_mixed_batches(model, first, second), (first, second), strict=True):
        wanted = reference(folder, ids)
        assert got.shape == wanted.shape
        assert got.dtype == torch.float32
        assert (got - wanted).abs().max() < 1e-4 * wanted.abs().max()


def test_parameters_are_counted_as_transformers_does(folder: Path) -> None:
    assembled = load(spec_of(folder, "fp32"), quiet)
    module = AutoModelForCausalLM.from_pretrained(folder)
    assert assembled.parameters == sum(weight.numel() for weight in module.parameters())
    assert assembled.architecture == type(module).__name__
    assert assembled.batching == "continuous"


@pytest.mark.parametrize(
    ("form", "activation_group", "error"),
    [("bf16", None, 0.03), ("int8", 0, 0.03), ("int8", None, 0.05)],
)
def test_the_larger_formats_stay_close(
    llama: Path, form: str, activation_group: int | None, error: float
) -> None:
    model = load(spec_of(llama, form), quiet, activation_group=activation_group).model
    model.allocate(9)
    ids = tokens(100, 1)
    got = in_mixed_batches(model, ids, tokens(60, 2))[0]
    assert relative_error(got, reference(llama, ids)) < error


@pytest.mark.parametrize(("form", "group"), [("sym_int4", 64), ("int4", 128)])
def test_int4_is_close_to_its_dequantised_weights(
    llama: Path, tmp_path: Path, form: str, group: int
) -> None:
    module = AutoModelForCausalLM.from_pretrained(llama)
    for layer in module.modules():
        if isinstance(layer, torch.nn.Linear):
            fits = group if layer.in_features % group == 0 else 64
            held = q4_0.dequantize(*q4_0.quantize(layer.weight.data, fits))
            layer.weight.data = torch.from_numpy(held)
    dequantised = write_model(tmp_path, module)
    ids = tokens(100, 1)
    wanted = reference(dequantised, ids)

    exact = load(spec_of(llama, form), quiet, activation_group=0, cache_precision="f32").model
    exact.allocate(9)
    got = in_mixed_batches(exact, ids, tokens(60, 2))[0]
    assert relative_error(got, wanted) < 1e-5

    fast = load(spec_of(llama, form), quiet).model
    fast.allocate(9)
    got = in_mixed_batches(fast, ids, tokens(60, 2))[0]
    assert relative_error(got, wanted) < 0.03


def relative_error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((got - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("precision", ["f32", "f16", "bf16", "u8"])
def test_every_cache_precision(llama: Path, precision: Any) -> None:
    limit = {"f32": 1e-5, "f16": 1e-3, "bf16": 1e-2, "u8": 3e-2}[precision]
    base = "bf16" if precision == "bf16" else "f32"
    model = load(spec_of(llama, "fp32"), quiet, cache_precision=precision, precision=base).model
    model.allocate(9)
    ids = tokens(100, 1)
    got = in_mixed_batches(model, ids, tokens(60, 2))[0]
    assert relative_error(got, reference(llama, ids)) < (0.03 if base == "bf16" else limit)


def test_a_chunk_without_wanted_rows_gives_none(llama: Path) -> None:
    model = load(spec_of(llama, "fp32"), quiet).model
    model.allocate(6)
    ids = tokens(40, 1)
    assert model.forward(Batch((SequenceSlice(0, ids, 0, [0, 1], 40),))).shape == (0, 512)


def test_logits_outlive_the_next_step(llama: Path) -> None:
    model = load(spec_of(llama, "fp32"), quiet).model
    model.allocate(6)
    logits = model.forward(Batch((SequenceSlice(0, [3, 4, 5], 0, [0], 2),)))
    before = logits.clone()
    model.forward(Batch((SequenceSlice(0, [6], 3, [0], 0),)))
    assert torch.equal(logits, before)


def test_a_step_that_openvino_refuses_raises(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one thread, OpenVINO's `infer()` would hand out the step before's logits instead."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    model = load(spec_of(llama, "fp32"), quiet).model
    model.allocate(6)
    batch = Batch((SequenceSlice(0, [3], 0, [0], 0), SequenceSlice(1, [4], 0, [1], 0)))
    model.forward(batch)
    broken = Step.of(batch, 32)
    broken.paging["past_lens"] = broken.paging["past_lens"][:1]
    monkeypatch.setattr(compiled.Step, "of", lambda batch, block_size: broken)
    with pytest.raises(RuntimeError, match="PagedAttention"):
        model.forward(batch)


def test_the_plugin_recognises_the_graph(llama: Path) -> None:
    model = load(spec_of(llama, "sym_int4"), quiet).model
    assert isinstance(model, OpenVinoModel)
    kinds = [_fact(node, "layerType") for node in model.compiled.get_runtime_model().get_ops()]
    layers = SIZES["num_hidden_layers"]
    assert kinds.count("PagedAttention") == layers
    assert kinds.count("RoPE") == 2 * layers
    assert kinds.count("RMS") == 2 * layers + 1
    products = [
        node
        for node in model.compiled.get_runtime_model().get_ops()
        if _fact(node, "layerType") == "FullyConnected"
    ]
    assert len(products) == 7 * layers + 1
    assert {str(node.input(1).get_element_type().to_string()) for node in products} == {"i4"}


def _fact(node: Any, name: str) -> str:
    return node.get_rt_info()[name].value


def test_refusals_name_the_reason(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotLoadable, match="format 'nf4': openvino holds fp32"):
        openvino.load(spec_of(llama, "nf4"), quiet)
    with pytest.raises(ModelNotLoadable, match="no readable config"):
        openvino.load(spec_of(tmp_path, None), quiet)


@pytest.fixture(scope="module")
def low_bit(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder as bigdl-llm's `save_low_bit` writes it, and the module that it was written from."""
    bigdl = pytest.importorskip("bigdl.llm.transformers.low_bit_linear")
    convert = pytest.importorskip("bigdl.llm.transformers.convert")
    module = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    qtype = bigdl.ggml_tensor_qtype["sym_int4"]
    module = convert.ggml_convert_low_bit(module, qtype, optimize_model=False)
    path = tmp_path_factory.mktemp("low-bit")
    module.config.update({"bigdl_transformers_low_bit": "sym_int4"})
    module.config.save_pretrained(path)
    state = {
        name: weight.detach().as_subclass(torch.Tensor).contiguous()
        for name, weight in module.state_dict().items()
    }
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    return path, module.eval()


def test_a_low_bit_folder_keeps_its_weights_bit_for_bit(
    low_bit: tuple[Path, Any], llama: Path
) -> None:
    path, _ = low_bit
    from_folder = load(spec_of(path, None, low_bit_folder=True), quiet)
    from_checkpoint = load(spec_of(llama, "sym_int4"), quiet)
    assert from_folder.format == "sym_int4"
    assert from_folder.parameters == from_checkpoint.parameters
    assert from_folder.weights_bytes == from_checkpoint.weights_bytes

    ids, other = tokens(100, 1), tokens(60, 2)
    results: list[torch.Tensor] = []
    for assembled in (from_folder, from_checkpoint):
        assembled.model.allocate(9)
        results.append(in_mixed_batches(assembled.model, ids, other)[0])
    assert torch.equal(*results)


def test_logits_are_nearer_to_the_weights_than_bigdl_llms_own(low_bit: tuple[Path, Any]) -> None:
    """Both round activations; the reference multiplies by the same weights in fp32."""
    path, module = low_bit
    ids = tokens(90, 1)  # from 96 on, bigdl-llm multiplies in fp32 on some CPUs
    with torch.inference_mode():
        theirs = module(torch.tensor([ids])).logits[0]
        wanted = dequantised(module)(torch.tensor([ids])).logits[0]
    model = load(spec_of(path, None, low_bit_folder=True), quiet).model
    model.allocate(9)
    ours = in_mixed_batches(model, ids, tokens(60, 2))[0]

    assert relative_error(ours, wanted) < 0.03
    assert relative_error(ours, wanted) < relative_error(theirs, wanted)


def dequantised(module: Any) -> Any:
    """The same model with fp32 layers that hold what bigdl-llm says its blocks mean."""
    bigdl = pytest.importorskip("bigdl.llm.transformers.low_bit_linear")
    plain = LlamaForCausalLM(module.config).eval()
    state = dict(module.state_dict())
    for name, layer in module.named_modules():
        if isinstance(layer, bigdl.LowBitLinear):
            shape = (layer.out_len, layer.in_len)
            blocks = layer.weight.data.as_subclass(torch.Tensor)
            state[f"{name}.weight"] = bigdl.ggml_int4_convert_fp32(
                blocks, shape, layer.weight_length
            )
    plain.load_state_dict(state)
    return plain


def test_blocks_of_another_format_are_refused(llama: Path, tmp_path: Path) -> None:
    bigdl = pytest.importorskip("bigdl.llm.transformers.low_bit_linear")
    module = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    state = dict(module.state_dict())
    name = "model.layers.0.self_attn.q_proj.weight"
    state[name] = bigdl.ggml_convert_qtype(state[name], bigdl.ggml_tensor_qtype["asym_int4"])
    module.config.update({"bigdl_transformers_low_bit": "asym_int4"})
    module.config.save_pretrained(tmp_path)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelNotLoadable, match="only sym_int4 is read here"):
        load(spec_of(tmp_path, None, low_bit_folder=True), quiet)


def test_torch_keeps_one_thread_where_openvino_computes_and_the_rest_elsewhere(
    tiny_llama: Path,
) -> None:
    """Its waiting threads would spin on the cores that OpenVINO's are to have."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    model = load(spec_of(tiny_llama, "fp32"), quiet).model
    model.allocate(2)
    found: list[int] = []

    def step() -> None:
        model.forward(Batch((SequenceSlice(0, (5,), 0, (0,), 0),)))
        found.append(torch.get_num_threads())

    for work in (step, lambda: found.append(torch.get_num_threads())):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    try:
        assert found == [1, 2]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_hidden_states_are_the_last_ones_after_the_norm(llama: Path) -> None:
    """Two sequences in a step, the first with all its rows, the second with its last alone."""
    texts = [tokens(40, 1), tokens(21, 2)]
    model: Any = load(spec_of(llama, "fp32"), quiet).model
    model.allocate(16)
    parts = (
        SequenceSlice(0, texts[0], 0, [3, 1, 2], 0),
        SequenceSlice(1, texts[1], 0, [0, 4], 20),
    )
    logits, hidden = model.forward_hidden(Batch(parts))

    module = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32).eval()
    with torch.inference_mode():
        whole = [module(torch.tensor([ids]), output_hidden_states=True) for ids in texts]
    wanted = torch.cat([whole[0].hidden_states[-1][0], whole[1].hidden_states[-1][0][-1:]])
    assert hidden.shape == (41, SIZES["hidden_size"])
    assert hidden.dtype == torch.float32
    torch.testing.assert_close(hidden, wanted, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(logits, model.forward(Batch(parts)), atol=1e-4, rtol=1e-4)
