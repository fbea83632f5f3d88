"""ChatGLM folders as published: maths, tokenizer, chats, always in 4 bit, without their code."""

# ruff: noqa: RUF001 - Chinese has marks of its own
from __future__ import annotations

import base64
import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import sentencepiece
import torch

from penstock.contract.job import ChatPrompt, TextPrompt
from penstock.contract.structure import JsonStructure
from penstock.engine.model import Batch, SequenceSlice
from penstock.errors import ModelNotLoadable
from penstock.models import loader, quantise
from penstock.models.backends.native import library
from penstock.models.catalogue.footprint import measure
from penstock.models.catalogue.resolve import resolve
from penstock.models.text import tokenizer_files
from penstock.models.text.dialect import Reasoning
from penstock.models.weights import matrices, q4_0
from penstock.settings import Settings
from tests.fixtures import chatglm

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.models.text.tokenizer import Tokenizer

TEXTS = (
    "The quick brown  fox",
    " jumps",
    "你好，世界",
    "line\nline\n\n\ttab",
    "naïve 🙂 œuvre",
    "one,two;three 12345",
    "",
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chatglm")
    for name, generation in chatglm.GENERATIONS.items():
        chatglm.write(folder / name, generation)
    return folder


def settings_of(models: Path, text: str = "") -> Settings:
    (models / "models.toml").write_text(text)
    return Settings(models_dir=models, models_file=models / "models.toml")


def loaded(models: Path, name: str, text: str = "", device: str = "cpu") -> Any:
    settings = settings_of(models, text)
    return loader.load(
        resolve(f"{name}-{device}", settings), settings, slots=2, progress=lambda *_: None
    )


def weights_of(folder: Path, form: str | None) -> dict[str, torch.Tensor]:
    """The folder's tensors, its layers' matrices and head as the format stands for them."""
    tensors = chatglm.tensors(json.loads((folder / "config.json").read_text()))
    for name, weight in tensors.items():
        if form is not None and weight.dim() == 2 and "embedding" not in name:
            matrix = getattr(matrices, form)(weight)
            if matrix.kind == "i4":
                tensors[name] = torch.from_numpy(q4_0.dequantize(matrix.values, matrix.scales))
            else:
                tensors[name] = torch.from_numpy(matrix.values.astype(np.float32) * matrix.scales)
    return tensors


def logits_of(model: Any, ids: list[int]) -> torch.Tensor:
    return model.forward(Batch((SequenceSlice(0, ids, 0, list(range(10)), 0),))).float()


def needs_native() -> None:
    try:
        library.library()
    except ModelNotLoadable as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize(
    ("name", "entry", "held"),
    [
        *((name, "", ("sym_int4", "native", 0.045)) for name in chatglm.GENERATIONS),
        *((name, "format = 'fp32'", (None, "transformers", 1e-4)) for name in chatglm.GENERATIONS),
        ("chatglm3-6b", "backend = 'native'\nformat = 'int8'", ("int8", "native", 0.045)),
        ("chatglm3-6b", "format = 'bf16'", (None, "transformers", 0.05)),
        ("chatglm3-6b", "backend = 'bigdl'", ("sym_int4", "bigdl", 0.05)),
    ],
)
def test_logits_are_those_of_the_published_maths(
    models: Path, name: str, entry: str, held: tuple[str | None, str, float]
) -> None:
    form, backend, tolerance = held
    needs_native()
    found = loaded(models, name, f"[models.{name}]\npath = '{models / name}'\n{entry}")
    ids = np.random.default_rng(1).integers(3, 460, 150).tolist()
    config = json.loads((models / name / "config.json").read_text())
    wanted = chatglm.reference(config, weights_of(models / name, form), ids)

    assert found.card.backend == backend
    assert found.card.context_length == chatglm.SIZES["seq_length"]
    assert found.card.architecture in {"ChatGLMModel", "GlmForCausalLM"}
    error = (logits_of(found.model, ids) - wanted).norm() / wanted.norm()
    assert error.item() < tolerance


def test_it_is_always_in_4_bit(models: Path) -> None:
    needs_native()
    for name in ("chatglm3-6b", "bigdl-chatglm3-6b"):
        spec = resolve(f"{name}-cpu", settings_of(models))
        assert (spec.backend, spec.format) == ("native", "sym_int4")
    spec = resolve("chatglm3-6b-cpu", settings_of(models))
    told = measure(spec)
    card = loaded(models, "chatglm3-6b").card
    assert told.context_length == chatglm.SIZES["seq_length"]
    assert told.weights_bytes == pytest.approx(card.weights_bytes, rel=0.05)


def test_what_quantize_writes_is_the_same_model(models: Path) -> None:
    """By Transformers' names for GLM, with a tokenizer that needs nothing of ours."""
    needs_native()
    target = models / "chatglm3-6b-sym_int4"
    original = resolve("chatglm3-6b-cpu", settings_of(models))
    quantise.quantise(original, target, "sym_int4", "", lambda *_: None)
    ids = list(range(3, 60))
    found = [loaded(models, name) for name in ("chatglm3-6b", "chatglm3-6b-sym_int4")]
    first, second = (logits_of(one.model, ids) for one in found)
    assert torch.equal(first, second)
    cards = [one.card for one in found]
    assert cards[0].stop_token_ids == cards[1].stop_token_ids
    assert len(cards[0].stop_token_ids) == 3
    assert [one.backend for one in cards] == ["native", "native"]
    words = [words_of(models, name) for name in ("chatglm3-6b", "chatglm3-6b-sym_int4")]
    assert words[0].encode(CHAT) == words[1].encode(CHAT)


def words_of(models: Path, name: str) -> Tokenizer:
    spec = resolve(f"{name}-cpu", settings_of(models))
    return tokenizer_files.load(spec, chatglm.SIZES["padded_vocab_size"])


@pytest.mark.parametrize("name", ["chatglm2-6b", "chatglm3-6b"])
def test_texts_are_cut_as_sentencepiece_cuts_them(models: Path, name: str) -> None:
    words = words_of(models, name)
    theirs: Any = sentencepiece.SentencePieceProcessor(
        model_file=str(models / name / "tokenizer.model")
    )
    begin = [theirs.vocab_size() + 1, theirs.vocab_size() + 3]  # [gMASK] and sop, as published
    for text in TEXTS:
        ids = words.encode(TextPrompt(text, add_special_tokens=True))
        assert ids == begin + theirs.encode(text), text
        assert words.decode(ids) == text


def test_glm4s_pairs_are_merged_by_rank(models: Path) -> None:
    words = words_of(models, "glm-4-9b-chat")
    for text in TEXTS:
        ids = words.encode(TextPrompt(text, add_special_tokens=True))
        assert ids[:2] == [402, 404]  # [gMASK] and <sop>, behind 400 pairs and <|endoftext|>
        assert words.decode(ids) == text
    ranks = {
        base64.b64decode(line.split()[0]): int(line.split()[1])
        for line in (models / "glm-4-9b-chat" / "tokenizer.model").read_text().splitlines()
    }
    pieces = ["The", " quick", " brown", ",", "你好", "123", "4"]
    wanted = [rank for piece in pieces for rank in by_rank(piece.encode(), ranks)]
    text = TextPrompt("".join(pieces), add_special_tokens=False)
    assert words.encode(text) == wanted


def by_rank(word: bytes, ranks: dict[bytes, int]) -> list[int]:
    """The definition: of all neighbours those become one that have the lowest rank together."""
    parts = [bytes([byte]) for byte in word]
    while True:
        pairs = {left + right for left, right in pairwise(parts)} & set(ranks)
        if not pairs:
            return [ranks[part] for part in parts]
        best = min(pairs, key=lambda pair: ranks[pair])
        at = next(i for i, pair in enumerate(pairwise(parts)) if b"".join(pair) == best)
        parts[at : at + 2] = [best]


CHAT = ChatPrompt(
    (
        {"role": "user", "content": "你好"},
        {"role": "assistant", "content": "\n Hello"},
        {"role": "user", "content": "one two"},
    )
)


def test_chats_are_written_as_published(models: Path) -> None:
    second = words_of(models, "chatglm2-6b")
    assert second.render(CHAT) == (
        "[gMASK]sop[Round 1]\n\n问：你好\n\n答：\n Hello\n\n[Round 2]\n\n问：one two\n\n答："
    )
    third = words_of(models, "chatglm3-6b")
    assert third.render(CHAT) == (
        "[gMASK]sop<|user|>\n 你好<|assistant|>\n Hello<|user|>\n one two<|assistant|>\n"
    )
    theirs: Any = sentencepiece.SentencePieceProcessor(
        model_file=str(models / "chatglm3-6b" / "tokenizer.model")
    )
    count = theirs.vocab_size()
    mark = {role: count + 6 + at for at, role in enumerate(("user", "assistant"))}
    # Each role's mark, its line's end and its text are encoded by themselves.
    wanted = [count + 1, count + 3]
    for message in CHAT.messages:
        wanted += [mark[message["role"]], *theirs.encode("\n")]
        wanted += theirs.encode(message["content"].strip())
    assert third.encode(CHAT) == [*wanted, mark["assistant"], *theirs.encode("\n")]
    assert {mark["user"], count + 8, 2} == third.eos_token_ids
    fourth = words_of(models, "glm-4-9b-chat")
    assert fourth.render(CHAT) == (
        "[gMASK]<sop><|user|>\n你好<|assistant|>\n Hello<|user|>\none two<|assistant|>\n"
    )
    assert fourth.dialect.tool_parser == third.dialect.tool_parser == "glm4"
    assert second.dialect.tool_parser == ""


@pytest.mark.parametrize("name", ["chatglm3-6b", "glm-4-9b-chat"])
def test_what_a_form_forces_is_no_space(models: Path, name: str) -> None:
    """SentencePiece puts one before every text that it is given; a form's first is a brace."""
    words = words_of(models, name)
    schema = {"type": "object", "properties": {"n": {"const": "x"}}, "required": ["n"]}
    mask = words.constrain(JsonStructure(schema), Reasoning.NONE).mask()
    allowed = np.flatnonzero(np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little"))
    assert {words.token_bytes(int(token))[:1] for token in allowed} == {b"{"}


@pytest.mark.parametrize("name", ["chatglm3-6b", "glm-4-9b-chat"])
def test_tools_are_listed(models: Path, name: str) -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    call = {"function": {"name": "weather", "arguments": {"city": "Rome"}}}
    chat = ChatPrompt(
        (
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "sun"},
        ),
        tools=(tool,),
    )
    text = words_of(models, name).render(chat)
    assert '"name": "weather"' in text
    assert "<|assistant|>weather\n" in text
    assert "Rome" in text
    assert text.endswith(
        ("<|observation|>\nsun<|assistant|>", "<|observation|>\n sun<|assistant|>")
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"\xff\xfe nothing", "not a SentencePiece model"), (b"", "not a SentencePiece model")],
)
def test_a_damaged_tokenizer_is_one_line(
    models: Path, tmp_path: Path, content: bytes, said: str
) -> None:
    folder = chatglm.write(tmp_path / "chatglm3-6b", chatglm.GENERATIONS["chatglm3-6b"])
    (folder / "tokenizer.model").write_bytes(content)
    with pytest.raises(ModelNotLoadable, match=said):
        words_of(tmp_path, "chatglm3-6b")
