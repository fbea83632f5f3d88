"""Embedding models and cross-encoders against plain Transformers: one text at a time, no padding."""

from __future__ import annotations

import base64
import json
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import transformers

from penstock.contract.events import Failed, Finished
from penstock.contract.job import TO_CONTEXT, PairPrompt, Sampling, TextPrompt
from penstock.engine.encoder import EncoderInput
from penstock.engine.encoder_engine import EncoderEngine
from penstock.engine.sequence import SequenceRequest
from penstock.errors import BadSettings, ModelNotLoadable
from penstock.models.backends import encoders
from penstock.models.catalogue import resolve
from penstock.settings import Settings
from tests.fixtures.encoders import (
    HIDDEN,
    encoder_config,
    write_cross_encoder,
    write_encoder,
    write_sentence_files,
    write_tiny_bert,
)
from tests.fixtures.jobs import wait_until
from tests.fixtures.models import write_tiny_llama

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from penstock.contract.events import Event
    from penstock.engine.events import AttemptEvent
    from penstock.models.backends.encoders import LoadedEncoder

TEXTS = (
    "water flows",
    "paris is the capital of france and berlin is the capital of germany",
    "a queue",
    "the worker turns what the turbine keeps",
)


def load(folder: Path, **settings: Any) -> LoadedEncoder:
    chosen = Settings(models_dir=folder.parent, **{"models_file": folder / "none.toml", **settings})
    resolved = resolve.resolve(f"{folder.name}-cpu", chosen)
    return encoders.load(resolved, chosen, slots=None, progress=lambda share, what: None)


def vectors(loaded: LoadedEncoder, texts: Sequence[str] = TEXTS) -> torch.Tensor:
    """All texts in one padded batch."""
    inputs = [EncoderInput(loaded.tokenizer.encode(TextPrompt(text))) for text in texts]
    with torch.inference_mode():
        return loaded.encoder.encode(inputs)


def states(folder: Path, text: str, kind: str = "AutoModel") -> torch.Tensor:
    """(tokens, hidden) of one text alone."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    module = getattr(transformers, kind).from_pretrained(folder, dtype=torch.float32).eval()
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        return module(input_ids=ids).last_hidden_state[0]


ARCHITECTURES = {
    "bert": ("BertConfig", "BertForMaskedLM", {}),
    "roberta": ("RobertaConfig", "RobertaModel", {"pad_token_id": 1, "type_vocab_size": 1}),
    "xlmr": ("XLMRobertaConfig", "XLMRobertaModel", {"pad_token_id": 1, "type_vocab_size": 1}),
    "mpnet": ("MPNetConfig", "MPNetForMaskedLM", {"pad_token_id": 1}),
    "modernbert": ("ModernBertConfig", "ModernBertModel", {}),
    "electra": ("ElectraConfig", "ElectraModel", {"embedding_size": HIDDEN}),
    "albert": ("AlbertConfig", "AlbertModel", {"embedding_size": 16}),
    "deberta": ("DebertaV2Config", "DebertaV2Model", {}),
    "distilbert": (
        "DistilBertConfig", "DistilBertModel",
        {"dim": HIDDEN, "hidden_dim": 48, "n_layers": 2, "n_heads": 4},
    ),
    "t5": (
        "T5Config", "T5EncoderModel",
        {"d_model": HIDDEN, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4},
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # DeBERTa's own code
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_bare_encoder_embeds_by_the_mean(tmp_path: Path, name: str) -> None:
    config, kind, more = ARCHITECTURES[name]
    model = getattr(transformers, kind)(encoder_config(config, **more))
    folder = write_encoder(tmp_path / name, model)
    loaded = load(folder)
    assert loaded.card.capabilities == ("embed",)
    reader = "T5EncoderModel" if name == "t5" else "AutoModel"
    for text, vector in zip(TEXTS, vectors(loaded), strict=True):
        wanted = torch.nn.functional.normalize(states(folder, text, reader).mean(0), dim=0)
        torch.testing.assert_close(vector, wanted, atol=2e-5, rtol=1e-4)


def weighted(states: torch.Tensor) -> torch.Tensor:
    weights = torch.arange(1, len(states) + 1).float()
    return weights @ states / weights.sum()


POOLINGS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "pooling_mode_cls_token": lambda states: states[0],
    "pooling_mode_max_tokens": lambda states: states.max(0).values,
    "pooling_mode_mean_tokens": lambda states: states.mean(0),
    "pooling_mode_mean_sqrt_len_tokens": lambda states: states.sum(0) / len(states) ** 0.5,
    "pooling_mode_weightedmean_tokens": weighted,
    "pooling_mode_lasttoken": lambda states: states[-1],
}


@pytest.mark.parametrize("mode", POOLINGS)
def test_poolings_of_the_files(tmp_path: Path, mode: str) -> None:
    folder = write_sentence_files(
        write_tiny_bert(tmp_path / "minilm"), pooling={mode: True}, normalize=False
    )
    loaded = load(folder)
    assert loaded.card.embedding is not None
    assert not loaded.card.embedding.normalized
    for text, vector in zip(TEXTS, vectors(loaded), strict=True):
        wanted = POOLINGS[mode](states(folder, text))
        torch.testing.assert_close(vector, wanted, atol=2e-5, rtol=1e-4)


def test_two_poolings_a_dense_layer_and_unit_length(tmp_path: Path) -> None:
    both = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}
    folder = write_sentence_files(
        write_tiny_bert(tmp_path / "minilm"), pooling=both, dense_to=8,
        prompts={"query": "paris: ", "document": ""}, default_prompt_name="query",
    )  # fmt: skip
    loaded = load(folder)
    card = loaded.card
    assert card.context_length == 32  # max_seq_length
    assert card.embedding is not None
    assert (card.embedding.dimensions, card.embedding.normalized) == (8, True)
    assert card.embedding.prompts == {"query": "paris: ", "document": ""}
    assert card.embedding.default_prompt == "query"
    from safetensors.torch import load_file

    dense = load_file(folder / "2_Dense" / "model.safetensors")
    for text, vector in zip(TEXTS, vectors(loaded), strict=True):
        found = states(folder, text)
        pooled = torch.cat((found[0], found.mean(0)))  # sentence-transformers' order: cls first
        wanted = torch.tanh(dense["linear.weight"] @ pooled + dense["linear.bias"])
        wanted = torch.nn.functional.normalize(wanted, dim=0)
        torch.testing.assert_close(vector, wanted, atol=2e-5, rtol=1e-4)


def test_a_causal_embedding_model_takes_its_last_token(tmp_path: Path) -> None:
    folder = write_sentence_files(
        write_tiny_llama(tmp_path / "qwen-embed"), pooling={"pooling_mode_lasttoken": True}
    )
    loaded = load(folder)
    assert loaded.card.capabilities == ("embed",)
    for text, vector in zip(TEXTS, vectors(loaded), strict=True):
        wanted = torch.nn.functional.normalize(states(folder, text)[-1], dim=0)
        torch.testing.assert_close(vector, wanted, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("activation", ["", "torch.nn.modules.linear.Identity"])
def test_a_cross_encoder_scores_pairs(tmp_path: Path, activation: str) -> None:
    noted = {"sentence_transformers": {"activation_fn": activation}} if activation else {}
    folder = write_cross_encoder(tmp_path / "ranker", **noted)
    loaded = load(folder)
    assert loaded.card.capabilities == ("score",)
    pairs = [(TEXTS[1], TEXTS[0]), (TEXTS[0], TEXTS[1]), (TEXTS[2], TEXTS[3])]
    encoded = [loaded.tokenizer.encode_pair(PairPrompt(*pair)) for pair in pairs]
    with torch.inference_mode():
        scores = loaded.encoder.encode([EncoderInput(*one) for one in encoded])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    module = transformers.BertForSequenceClassification.from_pretrained(folder).eval()
    for pair, score in zip(pairs, scores, strict=True):
        with torch.inference_mode():
            given = tokenizer(*pair, return_tensors="pt", return_token_type_ids=True)
            logit = module(**given).logits[0, 0]
        wanted = logit if activation else torch.sigmoid(logit)
        torch.testing.assert_close(score[0], wanted, atol=2e-5, rtol=1e-4)


def test_long_pairs_and_texts_are_cut_if_so_asked(tmp_path: Path) -> None:
    loaded = load(write_cross_encoder(tmp_path / "ranker"))
    long = "water " * 100
    tokens, types = loaded.tokenizer.encode_pair(PairPrompt("paris", long, TO_CONTEXT))
    assert len(tokens) == len(types) == loaded.card.context_length == 64
    assert tokens[0] == 2
    assert tokens[-1] == 3
    assert set(types) == {0, 1}
    assert len(loaded.tokenizer.encode(TextPrompt(long, truncate=7))) == 7
    assert len(loaded.tokenizer.encode(TextPrompt(long))) == 102


def test_roberta_reads_as_many_tokens_as_it_has_positions(tmp_path: Path) -> None:
    config = encoder_config("RobertaConfig", pad_token_id=1, max_position_embeddings=66)
    folder = write_encoder(tmp_path / "roberta", transformers.RobertaModel(config))
    loaded = load(folder)
    assert loaded.card.context_length == 64
    with torch.inference_mode():
        loaded.encoder.encode([EncoderInput([5] * 64)])


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"pooling": {"pooling_mode": "attention"}}, "attention"),
        ({"pooling": {"pooling_mode_cls_token": False}}, "none"),
    ],
)
def test_what_is_not_known_is_named(tmp_path: Path, files: dict[str, Any], said: str) -> None:
    folder = write_sentence_files(write_tiny_bert(tmp_path / "minilm"), **files)
    with pytest.raises(ModelNotLoadable, match=said):
        load(folder)


def test_other_parts_and_classifiers_are_refused(tmp_path: Path) -> None:
    folder = write_sentence_files(write_tiny_bert(tmp_path / "minilm"))
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "sentence_transformers.models.WordWeights"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelNotLoadable, match="WordWeights"):
        load(folder)
    config = encoder_config("BertConfig", num_labels=3)
    classifier = write_encoder(
        tmp_path / "sentiment", transformers.BertForSequenceClassification(config)
    )
    with pytest.raises(ModelNotLoadable, match="3 labels"):
        load(classifier)
    with pytest.raises(ModelNotLoadable, match="bigdl"):
        load(classifier.rename(tmp_path / "bigdl-sentiment"))


def test_the_models_file_has_the_last_word(tmp_path: Path) -> None:
    folder = write_tiny_bert(tmp_path / "minilm")
    file = tmp_path / "models.toml"
    file.write_text("[models.minilm]\nmatryoshka = [8, 16]\ncontext_length = 20\nslots = 3\n")
    card = load(folder, models_file=file).card
    assert (card.slots, card.context_length) == (3, 20)
    assert card.embedding is not None
    assert card.embedding.matryoshka == (8, 16)
    file.write_text('[models.minilm]\ntask = "generate"\n')
    settings = Settings(models_dir=tmp_path, models_file=file)
    assert resolve.resolve("minilm-cpu", settings).task == "generate"
    file.write_text('[models.minilm]\ntask = "classify"\n')
    with pytest.raises(BadSettings, match="task"):
        resolve.resolve("minilm-cpu", settings)


# -- the engine


class Ledger:
    """Takes an engine's events, and waits for them."""

    def __init__(self) -> None:
        self.ends: dict[str, Event] = {}
        self._changed = threading.Condition()

    def __call__(self, events: list[AttemptEvent]) -> None:
        with self._changed:
            self.ends.update((one.attempt_id, one.event) for one in events)
            self._changed.notify_all()

    def wait_for(self, *jobs: str) -> list[Event]:
        with self._changed:
            assert self._changed.wait_for(lambda: all(job in self.ends for job in jobs), 20.0)
        return [self.ends[job] for job in jobs]


def request(job_id: str, tokens: Sequence[int], **fields: Any) -> SequenceRequest:
    sampling = Sampling(seed=0, max_tokens=0)
    return SequenceRequest(job_id, tokens, sampling, **{"embeds": True, **fields})


class Doubling:
    """An encoder whose vectors are lengths and sums; `sizes` keeps each batch's lengths."""

    vocab_size = 100
    context_length = 50

    def __init__(self) -> None:
        self.sizes: list[list[int]] = []
        self.failing = 0
        self.error: Exception = RuntimeError("broken")

    def encode(self, inputs: Sequence[EncoderInput]) -> torch.Tensor:
        if self.failing:
            self.failing -= 1
            raise self.error
        self.sizes.append([len(one.token_ids) for one in inputs])
        return torch.tensor([[len(one.token_ids), sum(one.token_ids)] for one in inputs]).float()


def vector_of(event: Event) -> list[float]:
    assert isinstance(event, Finished), event
    return np.frombuffer(base64.b64decode(event.embedding), dtype="<f4").tolist()


@pytest.fixture
def model() -> Doubling:
    return Doubling()


def test_batches_are_bounded_and_of_like_lengths(model: Doubling) -> None:
    ledger = Ledger()
    engine = EncoderEngine(model, slots=8, batch_tokens=40, sink=ledger)
    lengths = [2, 30, 3, 29, 2, 3, 2, 50]
    for number, length in enumerate(lengths):
        engine.submit(request(str(number), [1] * length))
    engine.start()
    try:
        ended = ledger.wait_for(*map(str, range(8)))
    finally:
        engine.stop()
    assert [vector_of(event) for event in ended] == [[n, n] for n in map(float, lengths)]
    assert model.sizes[0] == [2, 2, 2, 3, 3]  # the oldest, and its like
    assert all(max(size) * len(size) <= 40 or len(size) == 1 for size in model.sizes)
    assert engine.load().finished_total == 8
    assert engine.load().prompt_tokens_total == sum(lengths)


def test_wrong_requests_and_failing_batches_end_their_jobs(model: Doubling) -> None:
    ledger = Ledger()
    engine = EncoderEngine(model, slots=8, batch_tokens=100, sink=ledger)
    engine.start()
    try:
        wrong = {
            "none": request("none", []),
            "beyond": request("beyond", [100]),
            "long": request("long", [1] * 51),
            "chat": request("chat", [1], embeds=False),
        }
        for one in wrong.values():
            engine.submit(one)
        codes = [event.code for event in ledger.wait_for(*wrong) if isinstance(event, Failed)]
        assert codes == [
            "invalid_parameter", "invalid_parameter",
            "context_length_exceeded", "unsupported_feature",
        ]  # fmt: skip
        model.failing = 1
        engine.submit(request("unlucky", [1]))
        (failed,) = ledger.wait_for("unlucky")
        assert isinstance(failed, Failed)
        assert failed.code == "engine_failed"
        engine.submit(request("next", [1, 2]))
        assert vector_of(*ledger.wait_for("next")) == [2, 3]
        assert engine.failure is None
    finally:
        engine.stop()


def test_out_of_memory_makes_batches_smaller(model: Doubling) -> None:
    ledger = Ledger()
    engine = EncoderEngine(model, slots=8, batch_tokens=16, sink=ledger)
    model.failing, model.error = 2, torch.OutOfMemoryError("no memory")
    for number in range(8):
        engine.submit(request(str(number), [1, 1]))
    engine.start()
    try:
        ledger.wait_for(*map(str, range(8)))
    finally:
        engine.stop()
    assert model.sizes == [[2, 2]] * 4


def test_a_text_for_which_there_is_no_memory_is_left_to_another_worker(model: Doubling) -> None:
    ledger = Ledger()
    engine = EncoderEngine(model, slots=8, batch_tokens=16, sink=ledger)
    model.failing, model.error = 1, torch.OutOfMemoryError("no memory")
    engine.submit(request("large", [1, 1]))
    engine.start()
    try:
        wait_until(lambda: engine.failure)
        assert ledger.ends == {}
    finally:
        engine.stop()
