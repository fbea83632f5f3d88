"""Texts beyond the context that a model was first trained for: each rule of scaled rotations."""

from __future__ import annotations

from typing import Any

import pytest

from tests.architectures import build, image_text, serve

ORIGINAL = 64
LONG: dict[str, Any] = {"max_position_embeddings": 512}
ROPE: dict[str, Any] = {"rope_theta": 10_000.0, "original_max_position_embeddings": ORIGINAL}
FACTORS = {
    "rope_type": "longrope",
    "factor": 8.0,
    "short_factor": [1.0 + 0.01 * pair for pair in range(16)],
    "long_factor": [1.5 + 0.2 * pair for pair in range(16)],
    **ROPE,
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LENGTHS = (200, 70, 100)
SHORT = (9, 30, 21)
# model type, its rule, how it runs in 32 and in 4 bit
CASES: dict[str, tuple[str, dict[str, Any], str]] = {
    "linear": ("llama", {"rope_type": "linear", "factor": 8.0, "rope_theta": 10_000.0}, "lean"),
    "llama3": ("llama", {**LLAMA3, **ROPE}, "lean"),
    "yarn": ("qwen3", {"rope_type": "yarn", "factor": 8.0, **ROPE}, "lean"),
    "longrope": ("llama", FACTORS, "lean"),
    "paged longrope": ("phi3", FACTORS, "paged"),
    "yarn with sinks": (
        "gpt_oss",
        {
            "rope_type": "yarn", "factor": 8.0, "beta_fast": 32.0, "beta_slow": 1.0,
            "truncate": False, **ROPE,
        },
        "paged",
    ),
    "latent yarn": (
        "deepseek_v3",
        {"rope_type": "yarn", "factor": 8.0, "mscale": 1.0, "mscale_all_dim": 1.0, **ROPE},
        "native",
    ),
    "local and global": (
        "gemma3_text",
        {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        },
        "paged",
    ),
}  # fmt: skip


def write(case: str, folder) -> Any:
    model_type, rules, _ = CASES[case]
    more: dict[str, Any] = {"rope_parameters": rules, **LONG}
    if rules.get("rope_type") == "linear":  # its factor lengthens what is stated
        more["max_position_embeddings"] = ORIGINAL
    if model_type == "phi3":
        more |= {"original_max_position_embeddings": ORIGINAL, "sliding_window": None}
    return build.write(model_type, folder, **more)


@pytest.mark.parametrize("case", CASES)
def test_long_texts_are_answered_as_generate_does(case, tmp_path):
    judged = serve.judge(write(case, tmp_path / "m"), low_bit=False, lengths=LENGTHS)
    assert judged.card.context_length == 512
    assert judged.card.running == CASES[case][2]
    assert judged.gap < serve.ROUNDING
    assert judged.equal >= judged.answers - 1


@pytest.mark.parametrize("case", ["linear", "llama3", "yarn", "longrope"])
def test_and_in_4_bit_by_decoders_of_our_own(case, tmp_path):
    judged = serve.judge(write(case, tmp_path / "m"), low_bit=True, lengths=LENGTHS)
    assert judged.card.running in ("native", "openvino")
    assert judged.gap < 2 * serve.ROUNDING


@pytest.mark.parametrize("case", ["longrope", "paged longrope"])
def test_the_original_context_takes_the_short_factors(case, tmp_path):
    folder = write(case, tmp_path / "m")
    (tmp_path / "models.toml").write_text(f"[models.m]\ncontext_length = {ORIGINAL}\n")
    judged = serve.judge(folder, low_bit=False, lengths=SHORT)
    assert judged.card.context_length == ORIGINAL
    assert judged.gap < serve.ROUNDING


def test_a_dynamic_rotation_in_its_original_context_and_beyond(tmp_path):
    rules = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10_000.0}
    folder = build.write(
        "llama", tmp_path / "m", rope_parameters=rules, max_position_embeddings=ORIGINAL
    )
    assert serve.judge(folder, low_bit=False, lengths=LENGTHS).card.context_length == 4 * ORIGINAL
    (tmp_path / "models.toml").write_text(f"[models.m]\ncontext_length = {ORIGINAL}\n")
    assert serve.judge(folder, low_bit=False, lengths=SHORT).gap < serve.ROUNDING


def test_three_positions_a_token_are_one_in_long_texts(tmp_path):
    folder = image_text.write("qwen2_5_vl", tmp_path / "m")
    judged = serve.judge(folder, low_bit=False, lengths=LENGTHS)
    assert judged.card.running == "lean"
    assert judged.gap < serve.ROUNDING
