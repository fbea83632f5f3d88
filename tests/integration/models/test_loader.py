"""Loading whole folders: cards, budgets, and one clear line for each way that it can fail."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from penstock.contract.job import ChatPrompt
from penstock.engine.model import Batch, SequenceSlice
from penstock.errors import DeviceNotFound, ModelNotLoadable
from penstock.models import loader
from penstock.models.backends.lean.model import LeanModel
from penstock.models.catalogue.resolve import resolve
from penstock.models.devices import cpu
from penstock.settings import Settings
from tests.architectures import build
from tests.fixtures.models import randomise, write_model, write_tiny_llama


@pytest.fixture
def settings(models_dir: Path, tmp_path: Path) -> Settings:
    return Settings(models_dir=models_dir, models_file=tmp_path / "models.toml", threads=1)


def load(queue: str, settings: Settings, **options):
    told: list[tuple[float, str]] = []
    loaded = loader.load(
        resolve(queue, settings),
        settings,
        slots=options.get("slots"),
        progress=lambda share, text: told.append((share, text)),
    )
    assert [share for share, _ in told] == sorted(share for share, _ in told)
    assert told[-1][0] == 1.0
    return loaded


def copy_of(tiny_llama: Path, target: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, target / "models" / "m"))


def in_folder(path: Path, **changes) -> Settings:
    return Settings(
        models_dir=path / "models", models_file=path / "models.toml", threads=1, **changes
    )


def edit(file: Path, **changes) -> None:
    document = json.loads(file.read_text())
    document.update(changes)
    file.write_text(json.dumps(document))


def test_a_loaded_model_decodes_and_its_card_is_true(settings, tiny_llama):
    loaded = load("tiny-llama-cpu", settings, slots=4)
    prompt = ChatPrompt(messages=({"role": "user", "content": "Hi"},))
    tokens = loaded.tokenizer.encode(prompt)
    logits = loaded.model.forward(Batch([SequenceSlice(1, tokens, 0, [0], len(tokens) - 1)]))
    assert logits.shape == (1, 512)
    card = loaded.card
    assert (card.name, card.queue, card.device) == ("tiny-llama", "tiny-llama-cpu", "cpu")
    assert (card.backend, card.format, card.batching) == ("transformers", "fp32", "continuous")
    assert card.architecture == "LlamaForCausalLM"
    assert card.parameters * 4 == (tiny_llama / "model.safetensors").stat().st_size - 8 - len(
        _header(tiny_llama / "model.safetensors")
    )
    assert card.parameters * 4 <= card.weights_bytes < card.parameters * 4 + 4096
    assert (card.context_length, card.vocab_size, card.slots) == (2048, 512, 4)
    assert card.kv_cache_tokens == 4 * 2048
    assert card.has_chat_template
    assert card.stop_token_ids == (0, 2)
    assert card.generation_defaults == {}
    assert card.created_s > 1_700_000_000


def _header(file: Path) -> bytes:
    content = file.read_bytes()
    return content[8 : 8 + int.from_bytes(content[:8], "little")]


def test_a_llama_is_decoded_lean(settings):
    assert isinstance(load("tiny-llama-cpu", settings).model, LeanModel)


def test_slots_come_from_the_setting_then_the_entry_then_the_command_line(settings, tmp_path):
    assert load("tiny-llama-cpu", settings).card.slots == loader.DEFAULT_SLOTS
    settings.models_file.write_text("[models.tiny-llama]\nslots = 3")
    assert load("tiny-llama-cpu", settings, slots=5).card.slots == 3
    forced = settings.model_copy(update={"slots": 2})
    assert load("tiny-llama-cpu", forced, slots=5).card.slots == 2


def test_a_small_kv_budget_cuts_the_context(settings):
    per_token = 2 * 2 * 16 * 2 * 4
    small = settings.model_copy(update={"kv_cache_bytes": 40 * 16 * per_token})
    loaded = load("tiny-llama-cpu", small)
    assert loaded.card.kv_cache_tokens == 40 * 16
    assert loaded.card.context_length == loaded.model.context_length == 40 * 16
    none = settings.model_copy(update={"kv_cache_bytes": 1})
    with pytest.raises(ModelNotLoadable, match="a KV cache of 1 bytes holds nothing"):
        load("tiny-llama-cpu", none)


def test_the_entrys_context_and_defaults_reach_the_card(settings, tiny_llama, tmp_path):
    folder = copy_of(tiny_llama, tmp_path)
    edit(folder / "generation_config.json", temperature=0.7, top_p=0.8, do_sample=True)
    (tmp_path / "models.toml").write_text(
        "[models.m]\ncontext_length = 128\naliases = ['x']\ngeneration_defaults = {top_p = 0.5}"
    )
    card = load("m-cpu", in_folder(tmp_path)).card
    assert card.context_length == 128
    assert card.aliases == ("x",)
    assert card.generation_defaults == {"temperature": 0.7, "top_p": 0.5}
    (tmp_path / "models.toml").write_text("[models.m]\ncontext_length = 4096")
    with pytest.raises(ModelNotLoadable, match="made for 2048 positions"):
        load("m-cpu", in_folder(tmp_path))


@pytest.mark.parametrize("amx", [True, False])
def test_half_precision_is_widened_only_where_the_cpu_is_slow_at_it(tmp_path, monkeypatch, amx):
    write_tiny_llama(tmp_path / "models" / "m", dtype="bfloat16")
    monkeypatch.setattr(cpu, "has_amx", lambda: amx)
    assert load("m-cpu", in_folder(tmp_path)).card.format == ("bf16" if amx else "fp32")
    (tmp_path / "models.toml").write_text("[models.m]\ndtype = 'bf16'")
    card = load("m-cpu", in_folder(tmp_path)).card
    assert card.format == "bf16"
    assert card.weights_bytes < card.parameters * 2 + 4096


def test_an_architecture_without_the_interface_is_grouped(tmp_path):
    from transformers import BloomConfig, BloomForCausalLM

    module = randomise(
        BloomForCausalLM(BloomConfig(vocab_size=512, hidden_size=32, n_layer=2, n_head=4))
    )
    write_model(tmp_path / "models" / "bloom", module)
    loaded = load("bloom-cpu", in_folder(tmp_path))
    assert loaded.card.batching == "grouped"
    assert loaded.model.forward(Batch([SequenceSlice(1, [3, 4], 0, [0], 1)])).shape == (1, 512)


def test_layers_that_mix_rows_fall_back_although_they_have_the_interface(tmp_path, caplog):
    from transformers import Lfm2Config, Lfm2ForCausalLM

    config = Lfm2Config(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        layer_types=["conv", "full_attention"],
    )
    write_model(tmp_path / "models" / "lfm", randomise(Lfm2ForCausalLM(config)))
    (tmp_path / "models.toml").write_text("[models.lfm]\nformat = 'fp32'")
    card = load("lfm-cpu", in_folder(tmp_path)).card
    assert (card.batching, card.running) == ("grouped", "grouped-chunks")
    assert "its layers keep a state: LinearAttentionLayer" in caplog.text


@pytest.mark.parametrize(
    "entry", ["dtype = 'bf16'\nbackend = 'transformers'", "format = 'sym_int4'\nbackend = 'bigdl'"]
)
def test_a_state_that_weighs_little_is_seen_in_coarse_formats(tmp_path, entry):
    """Falcon-H1's Mamba moves logits by 1 %, less than 16 and 4 bit round: no probe would tell."""
    build.write("falcon_h1", tmp_path / "models" / "m")
    (tmp_path / "models.toml").write_text(f"[models.m]\n{entry}")
    assert load("m-cpu", in_folder(tmp_path)).card.batching == "grouped"


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def _unknown(folder: Path) -> None:
    edit(folder / "config.json", model_type="llama99")


def _own_code(folder: Path) -> None:
    edit(folder / "config.json", model_type="own", auto_map={"AutoConfig": "own.Config"})


def _encoder_decoder(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "t5", "architectures": ["T5Model"]}')


def _no_language_model(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "vit", "architectures": ["ViTModel"]}')


def _cut_off(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def _garbage(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"garbage" * 100)


def _pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 900000\n"
    )


def _shard_gone(folder: Path) -> None:
    names = {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def _mixed_shards(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    names = dict.fromkeys(state, "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    del state["model.layers.0.mlp.up_proj.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def _twice(folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder / "b.safetensors")
    (folder / "model.safetensors").rename(folder / "a.safetensors")


def _numbered(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00003.safetensors")


def _gguf(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model.gguf")


def _gguf_alone(folder: Path) -> None:
    _gguf(folder)
    _no_config(folder)


def _adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')


def _adapter_alone(folder: Path) -> None:
    _adapter(folder)
    _no_config(folder)


def _makers_layout(folder: Path) -> None:
    (folder / "config.json").rename(folder / "params.json")
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")


def _modelopt(folder: Path) -> None:
    quantised = {"quant_method": "modelopt", "quant_algo": "NVFP4"}
    edit(folder / "config.json", quantization_config=quantised)


def _hqq(folder: Path) -> None:
    edit(folder / "config.json", quantization_config={"quant_method": "hqq"})


def _not_a_number(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    state["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def _broken_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% for m in messages %}\n{{ m.content }}")


def _a_layer_too_few(folder: Path) -> None:
    edit(folder / "config.json", num_hidden_layers=3)


def _other_shape(folder: Path) -> None:
    edit(folder / "config.json", intermediate_size=96)


def _no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_pointer, "a Git LFS pointer, not the file itself: run 'git lfs pull'"),
        (_shard_gone, r"1 of the weights' files are missing: model-00002-of-00002\.safetensors"),
        (_gguf, r"model\.gguf: not a GGUF file"),
        (_gguf_alone, r"model\.gguf: not a GGUF file"),
        (_adapter, "a LoRA adapter lies next to its base"),
        (_adapter_alone, r"a LoRA adapter without its base \(org/base\)"),
        (_makers_layout, "the maker's own layout"),
        (_modelopt, r"quantised by modelopt \(NVFP4\), which is not read here: GPTQ, AWQ"),
        (_hqq, "quantised by hqq, which is not read here"),
        (_mixed_shards, "lacks model.layers.0.mlp.up_proj.weight, which .* files of several"),
        (_twice, r"is in a\.safetensors and in b\.safetensors, and there is no model\.safeten"),
        (_numbered, r"1 of 3 weights' files are there, and no model\.safetensors\.index\.json"),
        (_not_a_number, r"the weight model\.layers\.1\.mlp\.up_proj\.weight holds NaN"),
        (_broken_template, "the chat template does not parse in line 2"),
        (_no_config, "no readable config.json"),
        (_no_weights, "there are no weights"),
        (_pickle, "convert them to safetensors"),
        (_unknown, "unknown architecture 'llama99'"),
        (_own_code, "trust_remote_code = true"),
        (_encoder_decoder, "encoder-decoder"),
        (_no_language_model, "not a causal language model"),
        (_cut_off, "m: "),
        (_garbage, "m: "),
        (_a_layer_too_few, "9 weights are missing: model.layers.2"),
        (_other_shape, "m: "),
        (_no_tokenizer, "there is no tokenizer"),
    ],
)
def test_what_cannot_be_loaded_is_reported_in_one_line(tiny_llama, tmp_path, damage, says):
    folder = copy_of(tiny_llama, tmp_path)
    damage(folder)
    with pytest.raises(ModelNotLoadable, match=says) as caught:
        load("m-cpu", in_folder(tmp_path))
    assert str(folder) in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("queue", ["m-cpu", "bigdl-m-cpu"])
def test_weights_of_no_number_are_named_by_every_backend(tiny_llama, tmp_path, queue):
    folder = copy_of(tiny_llama, tmp_path)
    _not_a_number(folder)
    with pytest.raises(ModelNotLoadable, match=r"the weight .*up_proj.* holds NaN"):
        load(queue, in_folder(tmp_path))


def test_a_model_that_looks_ahead_is_refused(tmp_path):
    from transformers import BertConfig, BertLMHeadModel

    config = BertConfig(
        vocab_size=512,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    write_model(tmp_path / "models" / "m", randomise(BertLMHeadModel(config)))
    with pytest.raises(ModelNotLoadable, match="is not causal"):
        load("m-cpu", in_folder(tmp_path))


@pytest.mark.parametrize("device", ["cuda", "xpu"])
def test_a_missing_device_is_reported_before_loading(settings, device):
    if getattr(torch, device).is_available():
        pytest.skip(f"this machine has {device}")
    spec = resolve(f"tiny-llama-{device}", settings)
    with pytest.raises(DeviceNotFound, match=f"queue 'tiny-llama-{device}': no .* GPU: "):
        loader.check_device(spec)
    loader.check_device(resolve("tiny-llama-cpu", settings))


def test_openvino_names_the_gpus_that_it_misses(settings):
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    settings.models_file.write_text("[models.tiny-llama]\nbackend = 'openvino'")
    with pytest.raises(DeviceNotFound, match="does not run on NVIDIA GPUs"):
        loader.check_device(resolve("tiny-llama-cuda", settings))
    if any(name.startswith("GPU") for name in openvino.Core().available_devices):
        pytest.skip("this machine has an Intel GPU")
    with pytest.raises(DeviceNotFound, match="OpenVINO sees 0 Intel GPUs"):
        loader.check_device(resolve("tiny-llama-xpu", settings))


def test_a_backend_that_is_not_installed_is_named(settings, monkeypatch):
    monkeypatch.setitem(loader._BACKENDS, "transformers", "penstock.models.not_there")
    with pytest.raises(ModelNotLoadable, match="backend 'transformers' is not installed"):
        load("tiny-llama-cpu", settings)


def test_pickles_that_the_models_file_allows_are_read_as_tensors_alone(tiny_llama, tmp_path):
    from safetensors.torch import load_file

    folder = copy_of(tiny_llama, tmp_path)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(ModelNotLoadable, match="allow_pickle = true"):
        load("m-cpu", in_folder(tmp_path))
    (tmp_path / "models.toml").write_text("[models.m]\nallow_pickle = true")
    model = load("m-cpu", in_folder(tmp_path)).model
    batch = Batch([SequenceSlice(1, [5, 9, 300], 0, [0], 0)])
    original = Settings(models_dir=tiny_llama.parent, models_file=tmp_path / "none", threads=1)
    expected = load("tiny-llama-cpu", original).model.forward(batch)
    assert torch.equal(model.forward(batch), expected)

    class Code:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({**state, "x": Code()}, folder / "pytorch_model.bin")
    with pytest.raises(ModelNotLoadable, match=r"pytorch_model\.bin: "):
        load("m-cpu", in_folder(tmp_path))
    assert not (tmp_path / "ran").exists()
