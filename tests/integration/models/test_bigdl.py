"""bigdl-llm's low-bit layers in a Transformers module of today."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from penstock.engine.model import Batch, SequenceSlice
from penstock.errors import ModelNotLoadable
from penstock.models import loader
from penstock.models.backends import bigdl, low_bit_folders
from penstock.models.backends.lean.model import LeanModel
from penstock.models.backends.linear_layers import linear_layers
from penstock.models.catalogue.models_file import BIGDL_FORMATS
from penstock.models.catalogue.resolve import resolve
from penstock.models.loading import checkpoint
from penstock.settings import Settings

pytest.importorskip("bigdl.llm", reason="bigdl-llm is not installed")

TOKENS = list(range(40, 70))


@pytest.fixture
def settings(models_dir: Path, tmp_path: Path) -> Settings:
    return Settings(
        models_dir=models_dir,
        models_file=tmp_path / "models.toml",
        threads=1,
        bigdl_backend="bigdl",  # else OpenVINO would compute with these weights
    )


def load(queue: str, settings: Settings):
    spec = resolve(queue, settings)
    return loader.load(spec, settings, slots=2, progress=lambda share, text: None)


def logits_of(model) -> torch.Tensor:
    """A whole prompt in two chunks, all rows."""
    first = model.forward(Batch([SequenceSlice(1, TOKENS[:20], 0, [0, 1], 0)]))
    second = model.forward(Batch([SequenceSlice(1, TOKENS[20:], 20, [0, 1], 0)]))
    return torch.cat((first, second))


@torch.inference_mode()
def reference(path: Path, settings: Settings, quantise) -> torch.Tensor:
    """Logits of the plain model with every matrix rounded by `quantise`."""
    spec = replace(resolve("tiny-llama-cpu", settings), path=path)
    module = checkpoint.load_module(spec, checkpoint.load_config(spec), torch.float32)
    for _, _, layer in linear_layers(module):
        layer.weight.data = quantise(layer.weight.data)
    return module(input_ids=torch.tensor([TOKENS]), use_cache=False).logits[0]


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return torch.cosine_similarity(one, other, dim=-1).min().item()


def sym_int4(weight: torch.Tensor) -> torch.Tensor:
    """ggml's q4_0 over blocks of 64: scale = the largest by magnitude / -8, in fp16."""
    blocks = weight.reshape(-1, 64)
    largest = blocks.gather(1, blocks.abs().argmax(dim=1, keepdim=True))
    scale = largest / -8
    rounded = (blocks / scale + 8.5).floor().clamp(0, 15) - 8
    return (rounded * scale.half().float()).reshape(weight.shape)


def test_logits_are_those_of_the_dequantised_weights(settings, tiny_llama):
    loaded = load("bigdl-tiny-cpu", settings)
    card = loaded.card
    assert (card.backend, card.format, card.batching) == ("bigdl", "sym_int4", "continuous")
    assert not isinstance(loaded.model, LeanModel)  # bigdl-llm's products are not plain ones
    assert cosine(logits_of(loaded.model), reference(tiny_llama, settings, sym_int4)) > 0.99


@pytest.mark.parametrize("format_name", BIGDL_FORMATS)
@pytest.mark.parametrize("rows", [1, 7, 150])
def test_every_format_multiplies_as_well_as_its_bits_allow(format_name, rows):
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(192, 40), torch.nn.Linear(40, 8))
    exact = model[0]
    bigdl.Quantiser(bigdl.import_library(), format_name).convert(model, lambda share, text: None)
    assert type(model[0]).__name__ == "LowBitLinear"
    assert model[1].__class__ is torch.nn.Linear  # rows of 40 weights are no whole blocks
    inputs = torch.randn((rows, 192), generator=generator)
    with torch.inference_mode():
        wanted, got = exact(inputs), model[0](inputs)
    error = ((got - wanted).norm() / wanted.norm()).item()
    assert error < {"4": 0.12, "5": 0.06, "8": 0.012}[format_name[-1]]


@pytest.mark.parametrize(
    "formats", [("sym_int4", "sym_int5", "sym_int8"), ("asym_int4", "asym_int5")]
)
def test_more_bits_come_closer_to_the_checkpoint(settings, tiny_llama, formats):
    exact = reference(tiny_llama, settings, lambda weight: weight)
    closeness = []
    for format_name in formats:
        settings.models_file.write_text(
            f"[models.x]\npath = '{tiny_llama}'\nformat = '{format_name}'"
        )
        loaded = load("x-cpu", settings)
        assert loaded.card.format == format_name
        closeness.append(cosine(logits_of(loaded.model), exact))
    assert closeness == sorted(closeness)
    assert closeness[-1] > 0.95


def test_the_card_counts_weights_as_they_were_and_bytes_as_they_are(settings):
    plain, packed = load("tiny-llama-cpu", settings).card, load("bigdl-tiny-cpu", settings).card
    assert packed.parameters == plain.parameters
    embedding = norms = 4
    held = 512 * 64 * embedding + 5 * 64 * norms + (plain.parameters - 512 * 64 - 5 * 64) * 34 // 64
    assert held <= packed.weights_bytes < held + 4096


@pytest.fixture
def low_bit_folder(tmp_path, models_dir, settings):
    """A folder as `save_low_bit` writes it, in safetensors; and the module it came from."""
    loaded: Any = load("bigdl-tiny-cpu", settings)
    folder = tmp_path / "models" / "packed"
    low_bit_folders.save(loaded.model.module, folder, "sym_int4")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(models_dir / "tiny-llama" / name, folder)
    return folder, loaded


def packed_settings(folder: Path) -> Settings:
    return Settings(
        models_dir=folder.parent,
        models_file=folder.parent / "none.toml",
        threads=1,
        bigdl_backend="bigdl",
    )


@pytest.mark.parametrize("layout", ["safetensors", "bin", "shards"])
def test_a_saved_low_bit_folder_gives_the_same_logits(low_bit_folder, layout):
    folder, before = low_bit_folder
    if layout != "safetensors":
        # What bigdl-llm of 2023 wrote: torch.save of the state, the low-bit parameters among it.
        (folder / "model.safetensors").unlink()
        state = dict(before.model.module.state_dict(keep_vars=True))
        assert any(type(value).__name__ == "FP4Params" for value in state.values())
        names = sorted(state)
        parts = [names] if layout == "bin" else [names[:7], names[7:]]
        for number, part in enumerate(parts):
            suffix = "" if layout == "bin" else f"-{number:05}-of-00002"
            torch.save({n: state[n].detach() for n in part}, folder / f"pytorch_model{suffix}.bin")
    after = load("packed-cpu", packed_settings(folder))
    assert (after.card.format, after.card.backend) == ("sym_int4", "bigdl")
    assert after.card.parameters == before.card.parameters
    torch.testing.assert_close(logits_of(after.model), logits_of(before.model))


def test_a_pickle_that_runs_code_is_refused(low_bit_folder, tmp_path):
    folder, _ = low_bit_folder
    (folder / "model.safetensors").unlink()
    mark = tmp_path / "was-run"

    class Evil:
        def __reduce__(self):
            return Path.touch, (mark,)

    torch.save({"model.norm.weight": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(ModelNotLoadable, match="packed: "):
        load("packed-cpu", packed_settings(folder))
    assert not mark.exists()


def test_a_low_bit_folder_with_missing_weights_is_refused(low_bit_folder):
    from safetensors.torch import load_file, save_file

    folder, _ = low_bit_folder
    state = load_file(folder / "model.safetensors")
    del state["model.norm.weight"]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ModelNotLoadable, match=r"1 weights are missing: model\.norm\.weight"):
        load("packed-cpu", packed_settings(folder))


def test_a_low_bit_folder_of_another_size_is_refused(low_bit_folder):
    from safetensors.torch import load_file, save_file

    folder, _ = low_bit_folder
    state = load_file(folder / "model.safetensors")
    state["lm_head.weight"] = state["lm_head.weight"][:-34]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ModelNotLoadable, match="takes 17408 bytes, not 17374"):
        load("packed-cpu", packed_settings(folder))


def test_other_formats_on_a_gpu_are_refused_with_a_way_out(settings):
    found = resolve("bigdl-tiny-cpu", settings)
    spec = replace(found, device="xpu", queue="bigdl-tiny-xpu", format="asym_int4")
    with pytest.raises(ModelNotLoadable, match="serve the model on cpu"):
        bigdl.load(spec, lambda share, text: None)


def test_a_missing_bigdl_llm_is_named(settings, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "bigdl.llm.transformers.low_bit_linear", None)
    with pytest.raises(ModelNotLoadable, match=r"bigdl-llm cannot be imported: .*; install"):
        load("bigdl-tiny-cpu", settings)


def test_importing_it_leaves_the_root_logger_alone(settings):
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level
    bigdl.import_library()
    assert logging.getLogger().handlers == handlers
    assert logging.getLogger().level == level


def test_a_strided_input_and_an_empty_one_are_multiplied_rightly():
    parent = torch.nn.Module()
    parent.layer = torch.nn.Linear(64, 32, bias=False)
    bigdl.Quantiser(bigdl.import_library(), "sym_int4").convert(parent, lambda *_: None)
    wide = torch.randn(6, 128)
    strided = wide[:, 64:]
    assert not strided.is_contiguous()
    with torch.inference_mode():
        assert torch.equal(parent.layer(strided), parent.layer(strided.contiguous()))
        assert parent.layer(strided[:0]).shape == (0, 32)


class Router(torch.nn.Linear):
    """As those of Transformers that give more than a product."""

    def forward(self, x):
        return super().forward(x).topk(2)


class Mixed(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(8, 64)
        self.router = Router(64, 64)
        self.gate = torch.nn.Linear(64, 64, bias=False)
        self.expert = torch.nn.Linear(64, 64, bias=False)

    def forward(self, input_ids, use_cache):
        x = self.table(input_ids)
        return (
            self.expert(x)
            + torch.nn.functional.linear(x, self.gate.weight)
            + self.router(x)[0].sum()
        )


def test_routers_and_gates_whose_weights_are_read_are_left_as_they_are():
    module = Mixed()
    bigdl.Quantiser(bigdl.import_library(), "sym_int4").convert(module, lambda *_: None)
    assert type(module.router) is Router
    assert type(module.gate) is torch.nn.Linear
    assert module.expert.weight.dtype == torch.uint8
