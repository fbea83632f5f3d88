"""Queue names, models files and folders -> what is to be loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from penstock.errors import BadSettings, ModelNotFound
from penstock.models.backends import suitability
from penstock.models.backends.native.library import Isa
from penstock.models.catalogue.resolve import discover, resolve
from penstock.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(suitability, "is_installed", lambda: True)
    monkeypatch.setattr(suitability, "native_wins", lambda: False)
    monkeypatch.setattr(suitability, "has_native", lambda: False)
    models = tmp_path / "models"
    for name, config in {
        "llama": {"model_type": "llama"},
        "bigdl-own": {"model_type": "llama"},
        "vicuna-BigDL-7b": {"model_type": "llama"},
        "chatglm2-6b": {"model_type": "chatglm", "architectures": ["ChatGLMModel"]},
        "glm-4": {"model_type": "glm4"},
        "packed": {"model_type": "llama", "bigdl_transformers_low_bit": "sym_int8"},
    }.items():
        folder = models / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config))
    noted = models / "noted"
    noted.mkdir()
    (noted / "config.json").write_text('{"model_type": "llama"}')
    (noted / "bigdl_config.json").write_text('{"bigdl_transformers_low_bit": "asym_int5"}')
    return Settings(models_dir=models, models_file=tmp_path / "models.toml")


def write(settings: Settings, text: str) -> None:
    settings.models_file.write_text(text)


@pytest.mark.parametrize(
    ("queue", "names", "holds"),
    [
        ("llama-cpu", ("llama", "cpu", None), ("transformers", None)),
        ("llama-xpu", ("llama", "xpu", None), ("transformers", None)),
        ("llama-xpu.1", ("llama", "xpu", 1), ("transformers", None)),
        ("llama-cuda.12", ("llama", "cuda", 12), ("transformers", None)),
        ("bigdl-own-cpu", ("bigdl-own", "cpu", None), ("openvino", "sym_int4")),
        ("vicuna-BigDL-7b-cpu", ("vicuna-BigDL-7b", "cpu", None), ("openvino", "sym_int4")),
        ("bigdl-llama-cpu", ("bigdl-llama", "cpu", None), ("openvino", "sym_int4")),
        ("bigdl-own-xpu", ("bigdl-own", "xpu", None), ("bigdl", "sym_int4")),
        ("bigdl-glm-4-cpu", ("bigdl-glm-4", "cpu", None), ("bigdl", "sym_int4")),
        ("chatglm2-6b-cpu", ("chatglm2-6b", "cpu", None), ("bigdl", "sym_int4")),
        ("glm-4-cpu", ("glm-4", "cpu", None), ("transformers", None)),
        ("packed-cpu", ("packed", "cpu", None), ("bigdl", "sym_int8")),
        ("noted-cpu", ("noted", "cpu", None), ("bigdl", "asym_int5")),
    ],
)
def test_a_queue_names_a_model_and_a_device(settings, queue, names, holds):
    spec = resolve(queue, settings)
    assert spec.queue == queue
    assert (spec.name, spec.device, spec.device_index) == names
    assert (spec.backend, spec.format) == holds
    assert spec.path.is_dir()


@pytest.mark.parametrize(
    "queue",
    [
        "llama",
        "llama-tpu",
        "-cpu",
        "llama-cpu.1",
        "llama-xpu.",
        "../llama-cpu",
        "a/b/c-cpu",
        "/b-cpu",
        "a/-cpu",
        "a/../b-cpu",
        "",
        "a b-cpu",
        "a:b-cpu",
        "größe-cpu",
    ],
)
def test_other_names_are_no_queues(settings, queue):
    with pytest.raises(ModelNotFound, match="a queue's name is <model>-<device>") as caught:
        resolve(queue, settings)
    assert "ASCII letters, digits, '.', '_' and '-', with one '/' at most" in caught.value.message


def test_an_organisations_folder_holds_models(settings):
    for name in ("org/small", "org/large.v2", "minilm/1_Pooling", "org/a b"):
        (settings.models_dir / name).mkdir(parents=True)
        (settings.models_dir / name / "config.json").write_text("{}")
    (settings.models_dir / "minilm" / "config.json").write_text("{}")
    found = {spec.name for spec in discover(settings)}
    assert {"org/small", "org/large.v2", "minilm"} <= found
    assert not {"minilm/1_Pooling", "org/a b", "org"} & found
    spec = resolve("org/small-cpu", settings)
    assert (spec.name, spec.path) == ("org/small", settings.models_dir / "org/small")
    assert resolve("bigdl-org/small-cpu", settings).backend == "bigdl"
    with pytest.raises(ModelNotFound, match=r"there are .*org/large"):
        resolve("org/other-cpu", settings)


@pytest.mark.parametrize(
    ("queue", "entry", "first", "count"),
    [
        ("llama-cuda.0-3", "", 0, 4),
        ("bigdl-llama-xpu.2-3", "", 2, 2),
        ("llama-cuda.1-1", "", 1, 1),
        ("llama-cuda", "[models.llama]\ntensor_parallel = 2", None, 2),
        ("llama-cuda.4", "[models.llama]\ntensor_parallel = 2", 4, 2),
        ("llama-cuda.0-1", "[models.llama]\ntensor_parallel = 2", 0, 2),
        ("llama-cpu", "[models.llama]\ntensor_parallel = 2", None, 2),
    ],
)
def test_a_queue_or_the_models_file_names_several_devices(settings, queue, entry, first, count):
    write(settings, entry)
    spec = resolve(queue, settings)
    assert (spec.device_index, spec.tensor_parallel) == (first, count)


@pytest.mark.parametrize(
    ("queue", "entry", "kind", "why"),
    [
        ("llama-cuda.3-0", "", ModelNotFound, "3-0 counts backwards"),
        ("llama-cuda.0-3", "tensor_parallel = 2", BadSettings, "names 4 devices"),
        ("llama-xpu.0-1", 'backend = "openvino"', BadSettings, "openvino backend holds a model in"),
        ("llama-cpu", 'tensor_parallel = 2\nbackend = "bigdl"', BadSettings, "CPU kernels hold"),
        ("llama-cuda.0-1", 'task = "embed"', BadSettings, "only a model that generates text"),
    ],
)
def test_what_several_devices_cannot_hold_is_refused(settings, queue, entry, kind, why):
    write(settings, f"[models.llama]\n{entry}")
    with pytest.raises(kind, match=why):
        resolve(queue, settings)


def test_an_unknown_model_is_named_with_where_it_was_sought(settings):
    with pytest.raises(ModelNotFound) as caught:
        resolve("nothing-cpu", settings)
    message = caught.value.message
    assert "'nothing-cpu'" in message
    assert str(settings.models_dir / "nothing") in message
    assert "[models.nothing]" in message
    assert "llama" in message
    assert "\n" not in message


def test_a_folder_of_its_own_goes_before_the_folder_without_prefix(settings):
    own = settings.models_dir / "bigdl-llama"
    own.mkdir()
    (own / "config.json").write_text('{"model_type": "llama"}')
    assert resolve("bigdl-llama-cpu", settings).path == own


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "llama", "hidden_act": "gelu"},
        {"model_type": "llama", "partial_rotary_factor": 0.5},
        {"model_type": "llama", "rope_scaling": {"type": "unheard"}},
        {"model_type": "llama", "quantization_config": {"quant_method": "gptq"}},
        {"model_type": "phi"},
    ],
)
def test_what_openvino_cannot_build_stays_with_bigdl(settings, config):
    (settings.models_dir / "bigdl-own" / "config.json").write_text(json.dumps(config))
    assert resolve("bigdl-own-cpu", settings).backend == "bigdl"


@pytest.mark.parametrize("scaling", [{"rope_scaling": None}, {"rope_scaling": {"type": "linear"}}])
def test_known_rules_of_rotation_go_to_openvino(settings, scaling):
    (settings.models_dir / "bigdl-own" / "config.json").write_text(
        json.dumps({"model_type": "llama", "hidden_act": "silu"} | scaling)
    )
    assert resolve("bigdl-own-cpu", settings).backend == "openvino"


def test_bigdls_own_kernels_can_be_chosen(settings, monkeypatch):
    chosen = settings.model_copy(update={"bigdl_backend": "bigdl"})
    assert resolve("bigdl-own-cpu", chosen).backend == "bigdl"
    write(settings, "[models.bigdl-own]\nbackend = 'bigdl'")
    assert resolve("bigdl-own-cpu", settings).backend == "bigdl"
    monkeypatch.setattr(suitability, "is_installed", lambda: False)
    assert resolve("bigdl-llama-cpu", settings).backend == "bigdl"


@pytest.mark.parametrize(
    ("sizes", "update", "backend"),
    [
        ({}, {}, "native"),
        ({"hidden_size": 2048, "num_attention_heads": 32, "head_dim": 64}, {}, "native"),
        ({"intermediate_size": 5600}, {}, "openvino"),  # no whole groups of 64
        ({"num_attention_heads": 3, "head_dim": 80}, {}, "openvino"),
        ({"hidden_act": "gelu"}, {}, "bigdl"),
        ({}, {"bigdl_backend": "openvino"}, "openvino"),
        ({}, {"bigdl_backend": "bigdl"}, "bigdl"),
        ({}, {"kv_cache_type": "u8"}, "native"),
    ],
)
def test_where_they_win_the_native_kernels_compute(settings, monkeypatch, sizes, update, backend):
    monkeypatch.setattr(suitability, "native_wins", lambda: True)
    config = {"model_type": "llama"} | sizes
    (settings.models_dir / "bigdl-own" / "config.json").write_text(json.dumps(config))
    spec = resolve("bigdl-own-cpu", settings.model_copy(update=update))
    assert (spec.backend, spec.format) == (backend, "sym_int4")
    assert resolve("bigdl-own-cuda", settings).backend == "bigdl"


CHATGLM = {
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "padded_vocab_size": 65_024,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
}


@pytest.mark.parametrize(
    ("name", "config", "backend"),
    [
        ("chatglm3-6b", CHATGLM, "native"),  # always in 4 bit, whatever it is called
        ("bigdl-glm-4", {"model_type": "glm4"}, "native"),
        ("bigdl-uneven", {"model_type": "glm4", "intermediate_size": 100}, "bigdl"),
        ("bigdl-llama", {"model_type": "llama"}, "openvino"),
        ("chatglm-6b", {**CHATGLM, "position_encoding_2d": True}, "bigdl"),
    ],
)
def test_what_only_the_native_kernels_know_is_theirs(settings, monkeypatch, name, config, backend):
    """They need not win there: bigdl-llm's way is slower, and cannot have ChatGLM at all."""
    monkeypatch.setattr(suitability, "has_native", lambda: True)
    folder = settings.models_dir / name
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    for wish in ("auto", "openvino", "native"):
        chosen = settings.model_copy(update={"bigdl_backend": wish, "kv_cache_type": "auto"})
        found = resolve(f"{name}-cpu", chosen)
        wanted = "native" if wish == "native" and backend == "openvino" else backend
        assert (found.backend, found.format) == (wanted, "sym_int4")
    assert resolve(f"{name}-cuda", settings).backend == "bigdl"


def test_the_native_kernels_can_be_chosen_where_they_do_not_win(settings):
    chosen = settings.model_copy(update={"bigdl_backend": "native"})
    assert resolve("bigdl-own-cpu", chosen).backend == "native"
    assert resolve("bigdl-glm-4-cpu", chosen).backend == "bigdl"
    write(settings, "[models.packed]\nbackend = 'native'\n[models.llama]\nbackend = 'native'")
    assert resolve("packed-cpu", settings).backend == "native"
    assert resolve("llama-cpu", settings).backend == "native"


@pytest.mark.parametrize(
    ("isa", "flags", "wins"),
    [
        (Isa.AVX512_VNNI, "avx2 avx512_vnni", True),
        (Isa.AVX_VNNI, "avx2 avx_vnni", True),
        (Isa.AVX512_VNNI, "avx512_vnni amx_tile amx_int8", False),
        (Isa.AVX2, "avx2", False),
        (None, "sse4_2", False),
    ],
)
def test_where_the_native_kernels_win(tmp_path, monkeypatch, isa, flags, wins):
    cpu_info = tmp_path / "cpuinfo"
    cpu_info.write_text(f"flags\t: {flags}\n")
    monkeypatch.setattr(suitability, "_CPU_INFO", cpu_info)
    monkeypatch.setattr(suitability, "native_isa", lambda: isa)
    suitability._has_amx.cache_clear()
    try:
        assert suitability.native_wins() is wins
    finally:
        suitability._has_amx.cache_clear()


def test_the_cache_of_keys_and_values_can_be_8_bit_in_our_own_backends(settings):
    everywhere = settings.model_copy(update={"kv_cache_type": "u8"})
    assert resolve("bigdl-own-cpu", settings).kv_cache_type is None
    assert resolve("bigdl-own-cpu", everywhere).kv_cache_type == "u8"
    assert resolve("llama-cpu", everywhere).kv_cache_type is None  # Transformers' is its dtype's
    write(
        settings, "[models.bigdl-own]\nkv_cache_type = 'auto'\n[models.llama]\nkv_cache_type = 'u8'"
    )
    assert resolve("bigdl-own-cpu", everywhere).kv_cache_type is None
    with pytest.raises(BadSettings, match="only native and openvino have it"):
        resolve("llama-cpu", settings)
    write(settings, "[models.llama]\nbackend = 'native'\nkv_cache_type = 'u8'")
    assert resolve("llama-cpu", settings).kv_cache_type == "u8"


def test_converted_weights_have_a_place_unless_they_may_take_none(settings):
    assert resolve("bigdl-own-cpu", settings).converted_dir is not None
    none = settings.model_copy(update={"converted_bytes": 0})
    assert resolve("bigdl-own-cpu", none).converted_dir is None


def test_the_models_file_overrides_the_rules(settings):
    write(
        settings,
        """
        [models.bigdl-own]
        backend = "transformers"
        dtype = "bf16"
        context_length = 512
        slots = 3
        kv_cache_bytes = 1_000_000
        target_step_ms = 50
        speculation = "off"
        aliases = ["gpt-3.5-turbo", "own"]
        generation_defaults = { temperature = 0.5, top_k = 20 }
        trust_remote_code = true

        [models.elsewhere]
        path = "models/llama"
        format = "asym_int4"
        """,
    )
    spec = resolve("bigdl-own-cpu", settings)
    assert (spec.backend, spec.format, spec.context_length) == ("transformers", "bf16", 512)
    assert (spec.slots, spec.kv_cache_bytes) == (3, 1_000_000)
    assert (spec.target_step_ms, spec.speculation) == (50, "off")
    assert spec.aliases == ("gpt-3.5-turbo", "own")
    assert spec.generation_defaults == {"temperature": 0.5, "top_k": 20}
    assert spec.trust_remote_code
    elsewhere = resolve("elsewhere-cpu", settings)
    assert elsewhere.path == settings.models_dir / "llama"
    assert (elsewhere.backend, elsewhere.format) == ("bigdl", "asym_int4")
    assert not elsewhere.trust_remote_code


def test_the_4_bit_twin_inherits_the_entry_but_not_its_names(settings):
    write(
        settings,
        '[models.seven]\npath = "models/llama"\nslots = 2\naliases = ["s"]\nformat = "bf16"',
    )
    twin = resolve("bigdl-seven-cpu", settings)
    assert (twin.backend, twin.format, twin.slots, twin.aliases) == ("openvino", "sym_int4", 2, ())
    assert resolve("seven-cpu", settings).format == "bf16"


def test_fp8_is_a_format_of_the_transformers_backend(settings):
    write(settings, "[models.llama]\nformat = 'fp8'")
    spec = resolve("llama-cuda", settings)
    assert (spec.backend, spec.format) == ("transformers", "fp8")


def test_a_chat_template_may_be_a_file_or_the_text_itself(settings):
    (settings.models_file.parent / "v.jinja").write_text("{{ messages }}")
    write(
        settings,
        '[models.llama]\nchat_template = "v.jinja"\n[models.packed]\nchat_template = "{{ 1 }}"',
    )
    assert resolve("llama-cpu", settings).chat_template == "{{ messages }}"
    assert resolve("packed-cpu", settings).chat_template == "{{ 1 }}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[models.llama", "models.toml: "),
        ("[model.llama]\nslots = 1", "unknown table or key 'model'"),
        ("models = 1", "'models' must hold a table a model"),
        ("[models]\nllama = 1", r"\[models.llama\]: must be a table"),
        ("[models.llama]\nslotz = 1", r"\[models.llama\]: .*slotz"),
        ("[models.llama]\nslots = 'x'", r"\[models.llama\]: slots: Expected `int"),
        ("[models.llama]\nslots = 0", r"\[models.llama\]: slots = 0: must be 1 or more"),
        ("[models.llama]\npath = 7", r"\[models.llama\]: path: Expected `str`"),
        ("[models.llama]\nbackend = 'vllm'", r"\[models.llama\]: backend: "),
        ("[models.llama]\nformat = 'int3'", r"\[models.llama\]: format = 'int3'"),
        ("[models.llama]\nbackend = 'bigdl'\nformat = 'bf16'", "bigdl holds sym_int4"),
        ("[models.llama]\nbackend = 'bigdl'\nformat = 'fp8'", "bigdl holds sym_int4"),
        ("[models.llama]\nbackend = 'bigdl'\ndtype = 'bf16'", "dtype: bigdl-llm computes in fp32"),
        ("[models.llama]\nformat = 'bf16'\ndtype = 'fp32'", "dtype = 'fp32' and format = 'bf16'"),
        ("[models.llama]\ngeneration_defaults = {temp = 1}", "generation_defaults.temp: unknown"),
        ("[models.llama]\nchat_template = 'none.jinja'", "chat_template: .*none.jinja"),
        ("[models.llama]\nwhere = 'x'", "unknown key 'where'"),
    ],
)
def test_a_bad_models_file_is_named_with_table_and_key(settings, text, says):
    write(settings, text)
    with pytest.raises(BadSettings, match=says) as caught:
        resolve("llama-cpu", settings)
    assert str(settings.models_file) in caught.value.message


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("format = 'sym_int4'", "the folder holds 'sym_int8'"),
        ("backend = 'transformers'", "save_low_bit"),
    ],
)
def test_a_low_bit_folder_loads_only_as_it_is(settings, entry, says):
    write(settings, f"[models.packed]\n{entry}")
    with pytest.raises(BadSettings, match=says):
        resolve("packed-cpu", settings)


def test_openvino_takes_a_low_bit_folder_in_its_own_format(settings):
    write(settings, "[models.packed]\nbackend = 'openvino'")
    spec = resolve("packed-cpu", settings)
    assert (spec.backend, spec.format, spec.low_bit_folder) == ("openvino", "sym_int8", True)


def test_an_entry_with_a_wrong_path_is_named(settings):
    write(settings, "[models.gone]\npath = 'nowhere'")
    with pytest.raises(ModelNotFound, match=r"\[models.gone\]: there is no folder .*nowhere"):
        resolve("gone-cpu", settings)


def test_discover_lists_folders_and_entries(settings):
    write(settings, "[models.alias]\npath = 'models/llama'\n[models.gone]\npath = 'nowhere'")
    names = [spec.name for spec in discover(settings) if "demo" not in spec.name]
    assert names == sorted(
        [
            "alias",
            "llama",
            "bigdl-own",
            "vicuna-BigDL-7b",
            "chatglm2-6b",
            "glm-4",
            "packed",
            "noted",
        ]
    )


def test_no_torch_is_imported():
    code = "import sys, penstock.models.spec; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
