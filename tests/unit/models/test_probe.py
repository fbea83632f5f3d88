"""The check at a load: its reference is the module's own decoding, and neighbours change no bit."""

from __future__ import annotations

import pytest
import torch

from penstock.errors import ModelNotLoadable
from penstock.models.backends.transformers.grouped import GroupedModel, Replay
from penstock.models.loading.probe import Probe
from tests.architectures import build

CPU = torch.device("cpu")


def module_of(model_type: str, dtype: torch.dtype = torch.float32, **more):
    import transformers

    torch.manual_seed(0)
    config = build.config_of(model_type, **more)
    return build.randomise(transformers.AutoModelForCausalLM.from_config(config)).to(dtype)


@pytest.fixture(scope="module")
def llama():
    return module_of("llama")


class Leaking(GroupedModel):
    """Its first sequence's logits move by the least that float32 can hold with its neighbours."""

    def forward(self, batch):
        logits = super().forward(batch).clone()
        others = sum(token for part in batch.slices[1:] for token in part.token_ids)
        logits[0] *= 1 + 2.0**-23 * (others % 7)
        return logits


def test_a_neighbour_that_changes_one_bit_is_seen_whatever_the_tolerance(llama):
    for tolerance in (1e-3, 0.1):
        probe = Probe(llama, CPU, tolerance)
        assert probe.error_of(GroupedModel(llama, CPU, 64, Replay.CHUNKS)) < 1e-4
        assert probe.error_of(Leaking(llama, CPU, 64, Replay.CHUNKS)) == float("inf")


def test_the_reference_is_cached_decoding_not_a_forward_without_a_cache():
    """MiniMax's cache forgets what its window leaves behind, and a forward without one does not."""
    minimax = module_of("minimax", sliding_window=17)
    probe = Probe(minimax, CPU, 1e-3)
    assert probe.error_of(GroupedModel(minimax, CPU, 64, Replay.TOKENS)) < 1e-4
    assert probe.error_of(GroupedModel(minimax, CPU, 64, Replay.RECOMPUTE)) > 1e-2


@pytest.mark.parametrize(
    ("model_type", "layers"),
    [
        ("llama", []),
        ("gemma3_text", []),
        ("falcon_h1", ["LinearAttentionAndFullAttentionLayer"]),
        ("lfm2", ["LinearAttentionLayer"]),
    ],
)
def test_layers_that_keep_a_state_are_named(model_type, layers):
    assert Probe(module_of(model_type), CPU, 1e-3).stateful_layers == layers


def test_weights_that_are_no_numbers_are_named(llama):
    broken = module_of("llama")
    broken.model.layers[1].mlp.up_proj.weight.data[3, 5] = float("nan")
    with pytest.raises(
        ModelNotLoadable, match=r"the weight model\.layers\.1\.mlp\.up_proj\.weight"
    ):
        Probe(broken, CPU, 1e-3).require_causal("m")
    huge = module_of("llama")
    huge.model.norm.weight.data.fill_(3e38)
    huge.lm_head.weight.data.fill_(3e38)
    with pytest.raises(ModelNotLoadable, match="its numbers overflow in this format"):
        Probe(huge, CPU, 1e-3).require_causal("m")
