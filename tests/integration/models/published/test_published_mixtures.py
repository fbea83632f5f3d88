"""Mixtures of experts as hubs hold them: experts in GPTQ, AWQ, FP8 and torchao's codes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from penstock.models.backends import suitability
from tests.fixtures import published
from tests.fixtures.models import randomise, write_model
from tests.integration.models.published.test_published_checkpoints import (
    FORMATS,
    distance,
    load,
    logits,
)

if TYPE_CHECKING:
    from pathlib import Path

    import torch

BASES: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
}
EXPERTS = ("gate_proj.weight", "up_proj.weight", "down_proj.weight", *(f".w{n}.weight" for n in (1, 2, 3)))  # fmt: skip


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a folder a family."""
    folder = tmp_path_factory.mktemp("mixtures")
    paths: dict[str, Path] = {}
    for kind, rules in BASES.items():
        made: Any = CONFIG_MAPPING[kind]
        config = made(
            vocab_size=512, hidden_size=128, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, head_dim=32, max_position_embeddings=512,
            eos_token_id=2, pad_token_id=0, **rules,
        )  # fmt: skip
        paths[kind] = write_model(
            folder / kind, randomise(AutoModelForCausalLM.from_config(config), std=0.2)
        )
    return paths


@pytest.mark.parametrize("name", ["gptq", "awq", "fp8 in blocks", "torchao int8"])
@pytest.mark.parametrize("kind", BASES)
def test_experts_are_what_their_codes_stand_for(
    kind: str, name: str, bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = bases[kind]
    names = load_file(base / "model.safetensors")
    assert sum(one.endswith(EXPERTS) for one in names) == 2 * 4 * 3  # by expert, as published
    quantised, convert, label = FORMATS[name]
    coded: list[str] = []

    def only_layers(tensor: str, weight: torch.Tensor) -> Any:
        coded.append(tensor)
        return convert(tensor, weight)

    monkeypatch.setattr(published, "ENDS", ("proj.weight", *EXPERTS))
    folder, dense = published.write(base, tmp_path / "m", quantised, only_layers)
    assert sum(one.endswith(EXPERTS) for one in coded) == 2 * 4 * 3
    expected = logits(load(dense, backend="transformers"))
    widened = load(folder, backend="transformers", format="fp32")
    assert (widened.card.stored, widened.card.weight_error) == (label, 0.0)
    assert distance(logits(widened), expected) < 1e-5
    own = load(folder)
    assert own.card.stored == label
    assert distance(logits(own), expected) < 0.1
    if suitability.has_native() and name != "fp8 in blocks":
        asked = load(folder, backend="native")
        assert asked.card.running == "native"
        assert distance(logits(asked), expected) < 0.1
