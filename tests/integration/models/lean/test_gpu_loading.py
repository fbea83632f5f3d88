"""Queues of a GPU, from the folder to the answer. Skipped where torch sees no GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from penstock.contract.job import Sampling
from penstock.engine.engine import Engine
from penstock.engine.sequence import SequenceRequest
from penstock.models import loader
from penstock.models.backends.lean.model import LeanModel, PipelinedLean
from penstock.models.catalogue.resolve import resolve
from penstock.settings import Settings
from tests.fixtures import published
from tests.fixtures.engine import Transcript, serve
from tests.fixtures.lean import gpu, module_of
from tests.fixtures.models import randomise, write_model
from tests.integration.models.published.test_published_checkpoints import FORMATS

PROMPT = [5, 9, 33, 120, 7, 64, 250, 3]
NEW = 12

pytestmark = pytest.mark.gpu


@pytest.fixture
def device():
    found = gpu()
    if found is None:
        pytest.skip("torch sees no GPU here")
    return found


def answer(loaded: loader.LoadedModel) -> list[int]:
    told = Transcript()
    engine = Engine(loaded.model, loaded.tokenizer, loaded.options, told)
    sampling = Sampling(seed=0, temperature=0.0, max_tokens=NEW, ignore_eos=True)
    serve(engine, SequenceRequest("0", PROMPT, sampling))
    return told.tokens["0"]


@pytest.mark.parametrize("bigdl", [False, True], ids=["fp32", "sym_int4"])
def test_a_llama_runs_lean(device, models_dir, bigdl):
    queue = f"{'bigdl-tiny' if bigdl else 'tiny-llama'}-{device.kind}"
    settings = Settings(models_dir=models_dir)
    loaded = loader.load(resolve(queue, settings), settings, slots=5, progress=lambda *_: None)
    assert isinstance(loaded.model, LeanModel)
    assert loaded.card.format == ("sym_int4" if bigdl else "fp32")
    said = answer(loaded)
    if not bigdl:
        module: Any = transformers.AutoModelForCausalLM.from_pretrained(models_dir / "tiny-llama")
        ids = torch.tensor([PROMPT])
        whole = module.generate(ids, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)
        assert said == whole[0, len(PROMPT) :].tolist()


def test_a_llama_in_fp8_answers_alone_as_among_others(device, models_dir, tmp_path):
    if (lack := device.lacks_fp8()) is not None:
        pytest.skip(lack)
    file = tmp_path / "models.toml"
    file.write_text(f"[models.m]\npath = '{models_dir / 'tiny-llama'}'\nformat = 'fp8'\n")
    settings = Settings(models_dir=models_dir, models_file=file)
    spec = resolve(f"m-{device.kind}", settings)
    loaded = loader.load(spec, settings, slots=5, progress=lambda *_: None)
    assert loaded.card.format == "fp8"
    assert isinstance(loaded.model, LeanModel)
    assert len(answer(loaded)) == NEW


@pytest.mark.parametrize("name", ["gptq in act-order", "awq", "compressed-tensors fp8"])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=str)
def test_published_codes_run_lean(device, tmp_path, name, kind):
    config = transformers.LlamaConfig(
        vocab_size=512, hidden_size=128, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, dtype=kind,
    )  # fmt: skip
    base = randomise(transformers.LlamaForCausalLM(config))
    quantised, convert, label = FORMATS[name]
    _, dense = published.write(
        write_model(tmp_path / "base", base), tmp_path / "m", quantised, convert
    )
    settings = Settings(models_dir=tmp_path)
    spec = resolve(f"m-{device.kind}", settings)
    loaded = loader.load(spec, settings, slots=3, progress=lambda *_: None)
    assert isinstance(loaded.model, LeanModel)
    assert (loaded.card.format, loaded.card.weight_error) == (label, 0.0)
    said = answer(loaded)
    if kind == torch.float32:
        module: Any = transformers.AutoModelForCausalLM.from_pretrained(dense)
        ids = torch.tensor([PROMPT])
        whole = module.generate(ids, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)
        assert said == whole[0, len(PROMPT) :].tolist()


def test_other_architectures_run_by_transformers(device, tmp_path, caplog):
    config = transformers.GPTNeoXConfig(
        vocab_size=512, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=256,
    )  # fmt: skip
    module = randomise(transformers.GPTNeoXForCausalLM(config))
    write_model(tmp_path / "neox", module)
    settings = Settings(models_dir=tmp_path)
    spec = resolve(f"neox-{device.kind}", settings)
    loaded = loader.load(spec, settings, slots=3, progress=lambda *_: None)
    assert not isinstance(loaded.model, LeanModel)
    assert "not for the lean decoder: the architecture 'gpt_neox' is not described" in caplog.text
    assert loaded.card.batching == "continuous"
    assert len(answer(loaded)) == NEW


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["gemma2", "cohere", "qwen3-moe", "gpt-oss"])
def test_other_families_run_lean_in_16_bits(device, tmp_path, name, kind):
    module = module_of(name, kind)
    write_model(tmp_path / "m", module)
    settings = Settings(models_dir=tmp_path)
    spec = resolve(f"m-{device.kind}", settings)
    loaded = loader.load(spec, settings, slots=3, progress=lambda *_: None)
    assert isinstance(loaded.model, LeanModel)
    assert len(answer(loaded)) == NEW


@pytest.mark.parametrize("form", ["sym_int4", "fp8"])
@pytest.mark.parametrize("name", ["qwen3-moe, 64 each", "gpt-oss, 64 each"])
def test_experts_in_low_bit_run_lean(device, tmp_path, name, form):
    if form == "fp8" and (lack := device.lacks_fp8()) is not None:
        pytest.skip(lack)
    folder = write_model(tmp_path / "m", module_of(name, torch.bfloat16))
    file = tmp_path / "models.toml"
    file.write_text(f"[models.m]\npath = '{folder}'\nformat = '{form}'\n")
    settings = Settings(models_dir=tmp_path, models_file=file)
    spec = resolve(f"m-{device.kind}", settings)
    loaded = loader.load(spec, settings, slots=3, progress=lambda *_: None)
    assert isinstance(loaded.model, LeanModel)
    assert loaded.card.format == form
    assert len(answer(loaded)) == NEW


def test_spare_places_are_in_the_graphs(device, models_dir):
    """Answers of dead workers go on beside full slots, each where it was, by graphs and a step ahead."""
    settings = Settings(models_dir=models_dir, spare_slots=1.0)
    spec = resolve(f"tiny-llama-{device.kind}", settings)
    loaded = loader.load(spec, settings, slots=3, progress=lambda *_: None)
    assert isinstance(loaded.model, PipelinedLean)
    assert (loaded.card.slots, loaded.card.spare_slots, loaded.options.slots) == (3, 3, 6)
    module: Any = transformers.AutoModelForCausalLM.from_pretrained(models_dir / "tiny-llama")
    prompts = [[token + job for token in PROMPT] for job in range(6)]
    wanted: list[list[int]] = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        whole = module.generate(ids, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)
        wanted.append(whole[0, len(prompt) :].tolist())
    told = Transcript()
    engine = Engine(loaded.model, loaded.tokenizer, loaded.options, told)
    sampling = Sampling(seed=0, temperature=0.0, max_tokens=NEW, ignore_eos=True)
    known = [answer[:5] if job >= 3 else [] for job, answer in enumerate(wanted)]
    told.start.update({str(job): len(tokens) for job, tokens in enumerate(known)})
    requests = [
        SequenceRequest(str(job), prompt, sampling, generated_token_ids=known[job])
        for job, prompt in enumerate(prompts)
    ]
    serve(engine, *requests)
    for job, answer in enumerate(wanted):
        assert [*known[job], *told.tokens[str(job)]] == answer
