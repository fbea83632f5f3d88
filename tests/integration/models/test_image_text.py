"""Checkpoints that take images serve text by their language model, at that model's speed."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file, save_file

from penstock.models.catalogue.text_part import as_text, plain_names
from tests.architectures import build, image_text, serve


@pytest.mark.parametrize(
    ("model_type", "running"),
    [
        ("qwen2_vl", "lean"),  # three positions a token
        ("mistral3", "lean"),
        ("qwen3_vl_moe", "paged"),
        ("glm4v", "paged"),  # served as a whole
        ("lfm2_vl", "native"),
    ],
)
def test_text_is_answered_as_generate_does(model_type, running, tmp_path):
    folder = image_text.write(model_type, tmp_path / model_type.replace("_", "-"))
    judged = serve.judge(folder, low_bit=False)
    assert judged.card.running == running
    assert judged.gap < serve.ROUNDING
    assert judged.equal >= judged.answers - 1


@pytest.mark.parametrize("model_type", ["qwen2_5_vl", "internvl"])
def test_decoders_of_our_own_read_the_language_model(model_type, tmp_path):
    folder = image_text.write(model_type, tmp_path / model_type.replace("_", "-"))
    judged = serve.judge(folder, low_bit=True)
    assert judged.card.running in ("native", "openvino")
    assert judged.card.format == "sym_int4"
    assert judged.gap < 2 * serve.ROUNDING


def test_a_language_model_is_read_alone_if_its_tower_wants_packages(tmp_path):
    """Gemma 3n's audio and image towers want two packages that a text needs none of."""
    folder = build.write("gemma3n_text", tmp_path / "gemma3n")
    state = load_file(folder / "model.safetensors")
    renamed = {
        name.replace("model.", "model.language_model.", 1)
        if name.startswith("model.")
        else name: tensor
        for name, tensor in state.items()
    }
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    text = json.loads((folder / "config.json").read_text())
    whole = {
        "model_type": "gemma3n",
        "architectures": ["Gemma3nForConditionalGeneration"],
        "text_config": text,
        "tie_word_embeddings": text["tie_word_embeddings"],
        "vision_config": {"model_type": "gemma3n_vision"},
        "audio_config": {"model_type": "gemma3n_audio"},
    }
    alone = build.write("gemma3n_text", tmp_path / "alone")
    (folder / "config.json").write_text(json.dumps(whole))
    wanted = serve.judge(alone, low_bit=False)
    judged = serve.judge(folder, low_bit=False, reference=alone)
    assert judged.card.running == wanted.card.running
    assert (judged.equal, judged.gap) == (wanted.equal, wanted.gap)


def test_names_of_the_language_model():
    old = ["language_model.model.embed_tokens.weight", "language_model.lm_head.weight", "tower.x"]
    assert plain_names(old) == {
        "model.embed_tokens.weight": old[0],
        "lm_head.weight": old[1],
    }
    assert plain_names(["model.embed_tokens.weight", "lm_head.weight"]) == {}
    new = ["model.language_model.embed_tokens.weight", "model.visual.x", "lm_head.weight"]
    assert plain_names(new) == {"model.embed_tokens.weight": new[0]}


def test_a_rotation_of_three_positions_is_one_in_text():
    flat = {
        "model_type": "qwen2_vl",
        "hidden_size": 64,
        "rope_scaling": {"type": "mrope", "mrope_section": [8, 4, 4]},
    }
    text = as_text(flat)
    assert text["model_type"] == "qwen2"
    assert text["rope_scaling"] == {"type": "default"}
    assert as_text({"model_type": "llava", "text_config": {"model_type": "llama"}}) == {
        "model_type": "llama"
    }
