"""The fallback: a cache a sequence, for architectures without the attention interface."""

from __future__ import annotations

import pytest
import torch

from penstock.engine.model import Batch, SequenceSlice
from penstock.models.backends.transformers.grouped import GroupedModel, Replay
from penstock.models.loading.probe import Probe
from tests.fixtures.models import randomise

CPU = torch.device("cpu")


def build(kind: str, *, std: float = 0.15, **options):
    import transformers

    config = getattr(transformers, f"{kind}Config")(vocab_size=96, **options)
    return randomise(transformers.AutoModelForCausalLM.from_config(config), seed=1, std=std)


@pytest.fixture(scope="module")
def bloom():
    return build("Bloom", hidden_size=32, n_layer=2, n_head=4)


@pytest.fixture(scope="module")
def mamba():
    return build("Mamba", std=0.4, hidden_size=32, num_hidden_layers=2, state_size=4)


@torch.inference_mode()
def plain(module, tokens) -> torch.Tensor:
    return module(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].float()


def ids(count: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return [int(token) for token in torch.randint(96, (count,), generator=generator)]


@pytest.mark.parametrize(
    ("name", "replay"),
    [
        ("bloom", Replay.CHUNKS),
        ("bloom", Replay.TOKENS),
        ("bloom", Replay.RECOMPUTE),
        ("mamba", Replay.TOKENS),
        ("mamba", Replay.RECOMPUTE),
    ],
)
def test_every_way_that_is_right_gives_the_models_own_logits(name, replay, request):
    module = request.getfixturevalue(name)
    assert Probe(module, CPU, 1e-3).error_of(GroupedModel(module, CPU, 64, replay)) < 1e-4


def test_the_probe_sees_a_state_that_is_lost_between_chunks(mamba):
    probe = Probe(mamba, CPU, 1e-3)
    assert probe.error_of(GroupedModel(mamba, CPU, 64, Replay.CHUNKS)) > 0.1
    assert probe.error_of(GroupedModel(mamba, CPU, 64, Replay.TOKENS)) < 1e-4


def test_a_state_that_survives_chunks_takes_them():
    module = build(
        "Mamba2", hidden_size=32, num_hidden_layers=1, num_heads=4, head_dim=16, n_groups=1
    )
    assert Probe(module, CPU, 1e-3).error_of(GroupedModel(module, CPU, 64, Replay.CHUNKS)) < 1e-4


def test_a_shared_prefix_is_computed_from_the_blocks_tokens(bloom):
    model = GroupedModel(bloom, CPU, 64, Replay.CHUNKS)
    model.allocate(8)
    tokens = ids(40)
    model.forward(Batch([SequenceSlice(1, tokens[:20], 0, [4, 2], 20)]))
    model.forward(Batch([SequenceSlice(1, tokens[20:36], 20, [4, 2, 6], 16)]))
    # A sequence that the model has never seen starts behind two blocks of the first.
    got = model.forward(Batch([SequenceSlice(2, tokens[32:], 32, [4, 2, 5], 0)]))
    torch.testing.assert_close(got, plain(bloom, tokens)[32:], rtol=1e-3, atol=1e-3)


def test_a_released_sequence_comes_back(mamba):
    model = GroupedModel(mamba, CPU, 64, Replay.TOKENS)
    model.allocate(8)
    tokens = ids(12)
    model.forward(Batch([SequenceSlice(1, tokens[:10], 0, [3], 10)]))
    model.release(1)
    got = model.forward(
        Batch(
            [
                SequenceSlice(1, tokens[10:11], 10, [3], 0),
                SequenceSlice(9, tokens[:5], 0, [0], 4),
            ]
        )
    )
    expected = torch.stack((plain(mamba, tokens[:11])[10], plain(mamba, tokens[:5])[4]))
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)


def test_no_wanted_rows_give_an_empty_matrix(bloom):
    model = GroupedModel(bloom, CPU, 64, Replay.CHUNKS)
    assert model.forward(Batch([SequenceSlice(1, [1, 2], 0, [0], 2)])).shape == (0, 96)
