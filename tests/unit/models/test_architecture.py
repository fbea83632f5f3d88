"""The description of decoders: defaults of every family, refusals, hostile configurations."""

from __future__ import annotations

from typing import Any

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from penstock.models.architecture.description import Dense, Experts
from penstock.models.architecture.facts import NotDescribed
from penstock.models.architecture.reading import FAMILIES, describe
from penstock.models.architecture.sizes import cached_values, result_size

OF_TRANSFORMERS = sorted(set(FAMILIES) - {"chatglm"})
CHATGLM: dict[str, Any] = {
    "model_type": "chatglm",
    "padded_vocab_size": 256,
    "hidden_size": 64,
    "ffn_hidden_size": 96,
    "num_layers": 2,
    "num_attention_heads": 4,
    "kv_channels": 16,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "seq_length": 128,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", OF_TRANSFORMERS)
def test_defaults_are_those_of_transformers(kind: str) -> None:
    """A config.json holds only what differs from the class: the rest must be known here alike."""
    update: dict[str, Any] = {}
    if kind == "nemotron_h":
        update = {"layers_block_type": ["mamba", "mlp", "attention"]}
    if kind == "dots1":
        update = {"n_routed_experts": 8, "num_experts_per_tok": 2}
    if kind == "deepseek_v2":
        update = {"num_experts_per_tok": 6}
    if kind == "glm4_moe":
        update = {"head_dim": 128}  # half of which is turned; of the class's 42 that is odd
    whole = CONFIG_MAPPING[kind](**update).to_dict()
    stated = {"model_type": kind, **update}

    assert describe(stated) == describe(whole)


def test_of_an_image_text_model_the_language_model_is_described() -> None:
    text = {"model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 7}
    model = describe({"model_type": "gemma3", "text_config": text})
    assert (model.hidden_size, model.family) == (2560, "gemma3_text")
    assert [layer.attention.window for layer in model.layers] == [4096] * 5 + [0, 4096]
    thetas = [layer.attention.rotation.theta for layer in model.layers if layer.attention.rotation]
    assert thetas == [10_000.0] * 5 + [1_000_000.0, 10_000.0]


def test_gemma_4_has_what_published_files_and_its_class_say() -> None:
    """Published files state the sizes of full layers once, the class by layer."""
    stated = {
        "model_type": "gemma4_text",
        "num_hidden_layers": 6,
        "num_kv_shared_layers": 1,
        "layer_types": ["sliding_attention", "full_attention"] * 3,
        "global_head_dim": 512,
        "num_global_key_value_heads": 2,
        "attention_k_eq_v": True,
    }
    by_layer = {index: {"head_dim": 512, "num_key_value_heads": 2} for index in (1, 3, 5)}
    model = describe(stated)
    assert describe({**stated, "global_head_dim": None, "per_layer_config": by_layer}) == model
    sliding, full, *_, last = (layer.attention for layer in model.layers)
    assert (sliding.head_size, sliding.kv_heads, full.head_size, full.kv_heads) == (256, 4, 512, 2)
    assert (full.value, sliding.value == sliding.key) == (full.key, False)
    assert (full.keys_of, last.keys_of) == (None, 3)
    with pytest.raises(NotDescribed, match="both directions"):
        describe({**stated, "use_bidirectional_attention": "all"})
    with pytest.raises(NotDescribed, match="shares keys"):
        describe({**stated, "num_kv_shared_layers": 5})


def test_of_latent_attention_the_cache_holds_what_is_compressed() -> None:
    model = describe({"model_type": "glm4_moe_lite", "num_hidden_layers": 2})
    assert [cached_values(layer.attention) for layer in model.layers] == [2 * 512 + 64] * 2
    assert result_size(model.layers[0].attention) == 20 * 256
    with pytest.raises(NotDescribed, match="'noaux'"):
        describe({"model_type": "deepseek_v2", "num_experts_per_tok": 6, "topk_method": "noaux"})


@pytest.mark.parametrize(
    ("update", "said"),
    [
        ({"model_type": "gpt2"}, "'gpt2'"),
        ({"hidden_act": "mish"}, "'mish'"),
        ({"rope_scaling": {"type": "unheard"}}, "'unheard'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_hidden_layers": 10**9}, "layers"),
        ({"num_attention_heads": 5, "num_key_value_heads": 2}, "5 heads"),
        ({"hidden_size": "64"}, "hidden_size is '64'"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"rope_parameters": [1]}, "rope_parameters"),
        ({"rope_parameters": {"rope_theta": "x"}}, "is inconsistent"),
        ({"partial_rotary_factor": float("nan")}, "is inconsistent"),
        ({"layer_types": ["mamba"] * 32}, "'mamba'"),
        ({"layer_types": ["full_attention"]}, "layer_types"),
        ({"rms_norm_eps": None, "head_dim": 3}, "3 elements|3 of 3"),
    ],
)
def test_what_has_no_word_is_refused_by_name(update: dict[str, Any], said: str) -> None:
    with pytest.raises(NotDescribed, match=said):
        describe({"model_type": "llama", **update})


def test_mixtures_are_described_layer_by_layer() -> None:
    qwen = describe({"model_type": "qwen2_moe", "mlp_only_layers": [1], "decoder_sparse_step": 2})
    kinds = [isinstance(layer.mlp, Experts) for layer in qwen.layers]
    assert kinds[:6] == [False, False, False, True, False, True]
    glm = describe(
        {"model_type": "glm4_moe", "head_dim": 128, "first_k_dense_replace": 3, "n_group": 8,
         "topk_group": 4, "routed_scaling_factor": 2.5, "n_shared_experts": 2}
    )  # fmt: skip
    assert [isinstance(layer.mlp, Dense) for layer in glm.layers[:4]] == [True, True, True, False]
    mlp = glm.layers[3].mlp
    assert isinstance(mlp, Experts)
    assert mlp.shared is not None
    assert (mlp.routing.groups, mlp.routing.chosen_groups, mlp.routing.scale) == (8, 4, 2.5)
    assert (mlp.shared.size, mlp.shared.up.name) == (
        2816,
        "model.layers.3.mlp.shared_experts.up_proj",
    )
    for name in ("num_experts", "num_local_experts"):  # as published, and as Transformers writes it
        (layer, *_) = describe({"model_type": "qwen3_moe", name: 7}).layers
        assert isinstance(layer.mlp, Experts)
        assert layer.mlp.routing.experts == 7
    vision = describe(
        {"model_type": "qwen3_vl_moe", "text_config": {"model_type": "qwen3_vl_moe_text"}}
    )
    assert isinstance(vision.layers[0].mlp, Experts)
    assert vision.layers[0].mlp.routing.normalise  # which of Qwen3 is a switch
    oss = describe({"model_type": "gpt_oss"}).layers
    assert [layer.attention.window for layer in oss[:3]] == [128, 0, 128]
    assert oss[2].attention.sinks == "model.layers.2.self_attn.sinks"
    ernie = describe({"model_type": "ernie4_5_moe", "moe_layer_interval": 3}).layers
    assert [isinstance(layer.mlp, Experts) for layer in ernie[:6]] == [False, False, True] * 2


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "olmoe", "clip_qkv": 8.0}, "clip_qkv"),
        ({"model_type": "qwen3_moe", "num_experts": 0}, "num_experts is 0"),
        ({"model_type": "qwen3_moe", "mlp_only_layers": [99]}, "a layer that does not exist"),
        ({"model_type": "qwen3_moe", "mlp_only_layers": 3}, "is inconsistent"),
        ({"model_type": "qwen2_moe", "use_sliding_window": True}, "layer_types"),
    ],
    ids=str,
)
def test_mixtures_that_have_no_word_are_refused(config: dict[str, Any], said: str) -> None:
    with pytest.raises(NotDescribed, match=said):
        describe(config)


def test_chatglm_is_described_as_it_was_published() -> None:
    model = describe(CHATGLM)
    attention = model.layers[1].attention
    assert attention.key.first == 64
    assert (attention.key.rows, attention.value.first, attention.value.total) == (32, 96, 128)
    assert attention.rotation is not None
    assert (attention.rotation.size, attention.rotation.interleaved) == (8, True)
    assert model.head.name == "transformer.output_layer"
    long = describe({**CHATGLM, "rope_ratio": 50}).layers[0].attention.rotation
    assert long is not None
    assert (long.kind, long.theta) == ("default", 500_000.0)
    second = {**CHATGLM, "rope_ratio": 16, "_name_or_path": "THUDM/chatglm2-6b-32k"}
    divided = describe(second).layers[0].attention.rotation
    assert divided is not None
    assert (divided.kind, divided.scaling["factor"]) == ("linear", 16)


@pytest.mark.parametrize(
    "update",
    [
        {"position_encoding_2d": True},
        {"post_layer_norm": False},
        {"apply_residual_connection_post_layernorm": True},
        {"multi_query_attention": False},
        {"multi_query_group_num": 3},
        {"pre_seq_len": 128},
        {"rope_ratio": 0},
    ],
)
def test_other_chatglms_are_refused(update: dict[str, Any]) -> None:
    with pytest.raises(NotDescribed):
        describe({**CHATGLM, **update})
