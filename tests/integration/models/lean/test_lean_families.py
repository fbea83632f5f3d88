"""Every described family that the lean decoder computes: its logits are Transformers' own.

By torch's operations, on the CPU; `test_lean_engine` has the kernels, on a GPU. A new family needs a
line in `tests.fixtures.lean`.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from penstock.engine.model import Batch, SequenceSlice
from penstock.models.architecture.facts import NotDescribed
from penstock.models.architecture.families import chatglm
from penstock.models.architecture.reading import FAMILIES as DESCRIBED
from penstock.models.architecture.reading import describe
from penstock.models.backends.lean import loading, reach
from penstock.models.backends.lean import shape as shapes
from penstock.models.backends.lean.shape import NotLean
from penstock.models.devices import Cpu
from penstock.models.loading.probe import Probe
from tests.fixtures.lean import COMMON, CONTEXT, FAMILIES, MIXTURES, SHAPES, lean_of, module_of
from tests.fixtures.models import randomise

IDS = [(7 * at * at + 3 * at) % 256 for at in range(70)]
TABLE = list(range(5))


@pytest.mark.parametrize("name", FAMILIES | MIXTURES)
def test_logits_are_those_of_the_module(name: str):
    module = module_of(name)
    model = lean_of(module)
    model.allocate(16)
    parts = [
        model.forward(Batch((SequenceSlice(0, IDS[begin:end], begin, TABLE, 0),)))
        for begin, end in ((0, 40), (40, 69), (69, 70))
    ]
    with torch.inference_mode():
        output = module(torch.tensor([IDS]), output_hidden_states=True)
    assert torch.allclose(torch.cat(parts), output.logits[0], atol=2e-3)
    _, hidden = model.forward_hidden(Batch((SequenceSlice(1, IDS, 0, TABLE, 69),)))
    assert torch.allclose(hidden[0], output.hidden_states[-1][0, -1], atol=2e-3)


def test_every_described_family_has_a_case_or_a_reason():
    """What is described is computed, or named here."""
    elsewhere = set(chatglm.FAMILIES[0].model_types)  # loaded as GLM
    computed = {
        getattr(transformers, f"{kind}Config").model_type
        for kind, _ in (SHAPES | FAMILIES | MIXTURES).values()
    }
    for kind in sorted(set(DESCRIBED) - elsewhere - computed):
        if kind not in CONFIG_MAPPING:
            continue
        try:
            reason = reach.beyond(describe(CONFIG_MAPPING[kind]().to_dict()))
        except NotDescribed as none:  # its defaults are those of no model
            reason = str(none)
        assert reason is not None or kind in LIKE_OTHERS, kind


LIKE_OTHERS = {"lfm2", "lfm2_moe", "ministral", "solar_open"}
"""Computed, by what others here show; LFM2's only without layers that keep a state."""


@pytest.mark.parametrize(
    ("kind", "more", "says"),
    [
        ("Llama", {"head_dim": 320}, "heads of 320 elements"),
        ("StableLm", {"hidden_size": 96, "qk_layernorm": True}, "heads of 24 elements with such"),
        ("Qwen3Next", {}, "layers keep a state"),
        ("Glm4Moe", {"n_group": 2, "n_routed_experts": 4, "head_dim": 16}, "chosen by groups"),
        ("DeepseekV3", {}, "keys and values are compressed"),
    ],
)
def test_what_is_not_computed_is_named(kind: str, more: dict[str, Any], says: str):
    config = getattr(transformers, f"{kind}Config")(**COMMON | more)
    module: Any = SimpleNamespace(config=config)
    with pytest.raises(NotLean, match=says):
        shapes.read(module, CONTEXT)


def test_on_a_cpu_other_families_run_by_their_own_layers(caplog: pytest.LogCaptureFixture):
    module = module_of("gemma2")
    probe = Probe(module, torch.device("cpu"), 1e-3)
    with caplog.at_level("INFO"):
        assert loading.attempt(module, Cpu(), CONTEXT, probe) is None
    assert "not for the lean decoder" in caplog.text
    assert loading.attempt(module_of("llama"), Cpu(), CONTEXT, probe) is None  # another's logits


def test_experts_that_are_held_otherwise_are_refused():
    config = transformers.MixtralConfig(**COMMON, num_local_experts=4)
    module: Any = randomise(transformers.AutoModelForCausalLM.from_config(config))
    for layer in module.model.layers:
        layer.mlp.experts = torch.nn.ModuleList([torch.nn.Linear(2, 2)])
    with pytest.raises(NotLean, match="experts are not held together"):
        lean_of(module)
