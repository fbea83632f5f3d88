"""What reference libraries write is read to the value, and what is written here is read by others."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoRoundConfig,
    GPTQConfig,
    LlamaConfig,
    LlamaForCausalLM,
)
from transformers.utils.quantization_config import TorchAoConfig

from penstock.models.backends import suitability
from penstock.models.calibration import folder as calibrated
from penstock.models.catalogue.resolve import resolve
from penstock.models.weights.checkpoint import Checkpoint
from penstock.settings import Settings
from tests.fixtures.models import randomise, write_model
from tests.integration.models.published.test_published_checkpoints import (
    TOKENS,
    distance,
    load,
    logits,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from penstock.models.quantise import Report

if not os.environ.get("PENSTOCK_TEST_REFERENCES"):
    pytest.skip("make test-references runs these", allow_module_level=True)

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # the libraries' own
    pytest.mark.timeout(600),
]
TEXT = "Water flows through the penstock to the turbine. " * 20
LAYERS = [
    f"model.layers.{layer}.{name}"
    for layer in range(2)
    for name in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.down_proj")
]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = LlamaConfig(
        vocab_size=512, hidden_size=128, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
        eos_token_id=2, tie_word_embeddings=False,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("plain") / "plain"
    return write_model(path, randomise(LlamaForCausalLM(config)).bfloat16())


def served_as(folder: Path, module: Any) -> None:
    """Require that a folder's logits here are those of the library's own module of it."""
    with torch.inference_mode():
        expected = module(input_ids=torch.tensor([TOKENS])).logits[0].float()
    assert distance(logits(load(folder, backend="transformers", format="fp32")), expected) < 0.01
    if suitability.has_native():
        assert distance(logits(load(folder)), expected) < 0.07  # activations in 8 bit


def _torchao(name: str) -> Any:
    made: Any = importlib.import_module("torchao.quantization")
    if name == "int8":
        return made.Int8WeightOnlyConfig()
    if name == "int8 with activations":
        return made.Int8DynamicActivationInt8WeightConfig()
    if name == "float8":
        return made.Float8WeightOnlyConfig()
    types: Any = torch
    return made.IntxWeightOnlyConfig(weight_dtype=types.int4, granularity=made.PerGroup(32))


@pytest.mark.parametrize("name", ["int8", "int8 with activations", "intx", "float8"])
def test_torchaos_checkpoints_are_read_to_the_value(name: str, plain: Path, tmp_path: Path) -> None:
    made = AutoModelForCausalLM.from_pretrained(
        plain, dtype=torch.bfloat16, quantization_config=TorchAoConfig(_torchao(name))
    )
    folder = write_model(tmp_path / "m", made)
    read = Checkpoint(folder)
    for layer in LAYERS:
        weight: Any = made.get_submodule(layer).weight
        found = read.tensor(f"{layer}.weight").float()
        assert torch.equal(found.bfloat16(), weight.dequantize()), layer
    own = load(folder, backend="transformers", format="fp32")
    assert own.card.stored.startswith("torchao-")


SCHEMES: dict[str, dict[str, Any]] = {
    "w4a16": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 64},
    "w8a16": {"num_bits": 8, "type": "int", "strategy": "channel"},
    "fp8": {"num_bits": 8, "type": "float", "strategy": "channel"},
}


@pytest.mark.parametrize("name", SCHEMES)
def test_compressed_tensors_checkpoints_are_read_to_the_value(
    name: str, plain: Path, tmp_path: Path
) -> None:
    quantization: Any = importlib.import_module("compressed_tensors.quantization")
    compressors: Any = importlib.import_module("compressed_tensors.compressors")
    parameters: Any = importlib.import_module("compressed_tensors.quantization.utils")
    made: Any = LlamaForCausalLM.from_pretrained(plain, dtype=torch.float32)
    scheme = quantization.QuantizationScheme(
        targets=["Linear"], weights=quantization.QuantizationArgs(**SCHEMES[name], symmetric=True)
    )
    stated = quantization.QuantizationConfig(
        config_groups={"group_0": scheme}, ignore=["lm_head"], quantization_status="frozen"
    )
    quantization.apply_quantization_config(made, stated)
    group = SCHEMES[name].get("group_size")
    for layer in made.modules():
        if not hasattr(layer, "weight_scale"):
            continue
        grouped = layer.weight.unflatten(1, (-1, group)) if group else layer.weight[:, None, :]
        scale, _ = parameters.calculate_qparams(
            grouped.amin(-1), grouped.amax(-1), layer.quantization_scheme.weights
        )
        layer.weight_scale.data = scale.to(layer.weight_scale.dtype).view(layer.weight_scale.shape)
    compressor = compressors.ModelCompressor.from_pretrained_model(made)
    compressor.compress_model(made)
    folder = write_model(tmp_path / "m", made)
    compressor.update_config(str(folder))

    module: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    compressors.ModelCompressor.from_pretrained_model(module).decompress_model(module)
    read = Checkpoint(folder)
    for layer in LAYERS:
        found = read.tensor(f"{layer}.weight").float()
        assert torch.equal(found, module.get_submodule(layer).weight), layer
    served_as(folder, module)


def quantised(plain: Path, target: Path, layout: str) -> Report:
    settings = Settings(models_dir=plain.parent, models_file=plain.parent / "none.toml", threads=1)
    return calibrated.calibrate(
        resolve(f"{plain.name}-cpu", settings), target, layout,
        text=TEXT, calibration=TEXT, progress=lambda share, what: None,
    )  # fmt: skip


def by_auto_round(folder: Path) -> Any:
    importlib.import_module("auto_round")
    return AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=AutoRoundConfig(), device_map="cpu", dtype=torch.float32
    )


def weights_are(module: Any, folder: Path, difference: float) -> None:
    """Require that the library's layers multiply by the weights that are read here."""
    read = Checkpoint(folder)
    for layer in LAYERS:
        linear: Callable[[torch.Tensor], torch.Tensor] = module.get_submodule(layer)
        weight = read.tensor(f"{layer}.weight").float()
        with torch.inference_mode():
            found = linear(torch.eye(weight.shape[1])).T
        assert torch.allclose(found, weight, atol=difference), layer


@pytest.mark.parametrize("layout", ["awq", "autoround"])
def test_what_is_written_here_is_read_by_auto_round(
    layout: str, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.models.calibration.autoround.STEPS", 5)
    folder = tmp_path / "m"
    report = quantised(plain, folder, layout)
    assert report.quality is not None
    assert 0 < report.quality.logit_error < 0.6
    module = by_auto_round(folder)
    weights_are(module, folder, 1e-6)
    served_as(folder, module)


def test_gptq_that_is_written_here_is_read_by_gptqmodel(plain: Path, tmp_path: Path) -> None:
    importlib.import_module("gptqmodel")
    folder = tmp_path / "m"
    quantised(plain, folder, "gptq")
    module = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=GPTQConfig(bits=4, backend="torch"), device_map="cpu", dtype=torch.float32
    )  # fmt: skip
    weights_are(module, folder, 2e-4)  # its scales are fp16 in the sum, too
    served_as(folder, module)


def test_auto_rounds_export_to_gptq_is_read_to_the_value(plain: Path, tmp_path: Path) -> None:
    made: Any = importlib.import_module("auto_round").AutoRound(
        str(plain), scheme={"bits": 4, "group_size": 64, "sym": True, "data_type": "int", "act_bits": 16},
        iters=0, device_map="cpu", disable_opt_rtn=True,
    )  # fmt: skip
    _, written = made.quantize_and_save(str(tmp_path / "m"), format="auto_gptq")
    folder = next(path.parent for path in (tmp_path / "m").rglob("config.json"))
    assert written
    weights_are(by_auto_round(folder), folder, 1e-6)
