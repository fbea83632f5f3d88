"""GGUF files: weights, sizes, tokenizer and chat template, all from the one file."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from penstock.contract.job import ChatPrompt
from penstock.errors import ModelNotLoadable
from penstock.models.backends import suitability
from penstock.models.catalogue.resolve import discover
from penstock.models.weights.checkpoint import Checkpoint
from penstock.settings import Settings
from tests.fixtures import gguf_files
from tests.fixtures.models import randomise, write_model
from tests.integration.models.published.test_published_checkpoints import distance, load, logits

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("gguf")

SIZES = {
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "eos_token_id": 2,
    "bos_token_id": 0,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
KINDS = [
    "Q4_0",
    "Q4_1",
    "Q5_0",
    "Q5_1",
    "Q8_0",
    "Q4_K",
    "Q5_K",
    "Q6_K",
    "IQ4_NL",
    "IQ4_XS",
    "F16",
    "BF16",
]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = LlamaConfig(**SIZES, rope_parameters={"rope_type": "default", "rope_theta": 50_000.0})
    return write_model(tmp_path_factory.mktemp("plain") / "m", randomise(LlamaForCausalLM(config)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_read_as_ggmls_own_package_reads_it(plain, tmp_path, kind):
    folder, dense = gguf_files.write(plain, tmp_path / "m", kind)
    read, meant = Checkpoint(folder), Checkpoint(dense)
    assert read.names() == meant.names()
    for weight in sorted(meant.names()):
        assert torch.equal(read.tensor(weight).float(), meant.tensor(weight)), weight


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0", "Q4_K", "Q6_K", "BF16"])
def test_a_file_alone_is_served(plain, tmp_path, kind):
    folder, dense = gguf_files.write(plain, tmp_path / "m", kind)
    expected = logits(load(dense, backend="transformers"))
    widened = load(folder, backend="transformers", format="fp32")
    assert widened.card.stored == f"gguf-{kind.lower()}"
    assert (widened.card.architecture, widened.card.context_length) == ("LlamaForCausalLM", 512)
    assert distance(logits(widened), expected) < 1e-5
    own = load(folder)
    assert own.card.stored == f"gguf-{kind.lower()}"
    if kind != "BF16" and suitability.has_native():
        assert own.card.backend == "native"
        assert own.card.weight_error is not None
        assert own.card.weight_error < 1e-3  # the embedding table, in fp16
        assert distance(logits(own), expected) < 0.06


@pytest.mark.parametrize(
    ("kind", "others"),
    [
        ("Q4_K", {"v_proj": "Q6_K"}),  # as Q4_K_M has them
        ("Q5_K", {"down_proj": "Q6_K", "lm_head": "Q6_K"}),
        ("Q4_K", {"k_proj": "Q6_K", "up_proj": "Q5_K"}),  # no layout of the kernels: widened codes
    ],
)
def test_mixed_types_are_computed_as_they_are(plain, tmp_path, kind, others):
    folder, dense = gguf_files.write(plain, tmp_path / "m", kind, others=others)
    own = load(folder)
    if suitability.has_native():
        assert own.card.backend == "native"
        assert own.card.weight_error is not None
        assert own.card.weight_error < 1e-3  # the embedding table, in fp16
    assert distance(logits(own), logits(load(dense, backend="transformers"))) < 0.06


def test_tokenizer_template_and_endings_are_the_files(plain, tmp_path):
    folder, dense = gguf_files.write(plain, tmp_path / "m", "Q8_0")
    found, meant = load(folder, format="fp32"), load(dense, format="fp32")
    prompt = ChatPrompt(messages=({"role": "user", "content": "The quick brown fox, Größe 🙂"},))
    assert found.tokenizer.encode(prompt) == meant.tokenizer.encode(prompt)
    assert found.card.has_chat_template
    assert 2 in found.card.stop_token_ids


def test_qwen3s_heads_lie_as_its_module_has_them(tmp_path):
    config = Qwen3Config(**SIZES, head_dim=64, rope_parameters={"rope_type": "default", "rope_theta": 1e6})  # fmt: skip
    source = write_model(tmp_path / "source", randomise(Qwen3ForCausalLM(config)))
    folder, dense = gguf_files.write(
        source, tmp_path / "m", "Q8_0", architecture="qwen3", turned=False
    )
    expected = logits(load(dense, backend="transformers"))
    assert distance(logits(load(folder, format="fp32")), expected) < 1e-5


def test_a_gguf_folder_is_among_the_models_of_a_machine(plain, tmp_path):
    folder, _ = gguf_files.write(plain, tmp_path / "m", "Q4_0")
    settings = Settings(models_dir=folder.parent, models_file=tmp_path / "none.toml")
    assert "m" in {spec.name for spec in discover(settings)}


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1000])


def _head_alone(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:300])


def _other_family(file: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(
        whole.replace(struct.pack("<Q", 5) + b"llama", struct.pack("<Q", 5) + b"rwkv6")
    )


def _two(file: Path) -> None:
    file.with_name("other.gguf").write_bytes(file.read_bytes())


def _endless(file: Path) -> None:
    file.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1 << 60))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_cut, "cut off"),
        (_head_alone, "cut off or damaged"),
        (_other_family, "a GGUF file of 'rwkv6', which is not read here: llama, qwen2"),
        (_two, r"2 GGUF files \(model-Q4_0\.gguf, other\.gguf\): a folder holds one"),
        (_endless, "not read here"),
    ],
)
def test_what_cannot_be_read_is_one_line(plain, tmp_path, damage, says):
    folder, _ = gguf_files.write(plain, tmp_path / "m", "Q4_0")
    damage(next(folder.glob("*.gguf")))
    with pytest.raises(ModelNotLoadable, match=says) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
