from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from penstock.engine.text.answer import Answer
from penstock.engine.text.detokenizer import DecodeCache, Detokenizer
from penstock.engine.text.stop_strings import StopMatcher
from penstock.models.text.tokenizer import Tokenizer
from tests.fixtures.engine import ByteTokenizer
from tests.fixtures.models import write_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

SAMPLES = (
    "plain words, and more",
    "naïve café Größe",
    "你好世界。こんにちは",
    "🙂🚀👩‍👩‍👧‍👦 flags 🇩🇪",
    "mixed 你🙂é\u0000 end",
)


def told(detokenizer: Detokenizer, tokens: list[int]) -> list[str]:
    return [*(detokenizer.push(token) for token in tokens), detokenizer.flush()]


@pytest.mark.parametrize("text", SAMPLES)
def test_bytes_become_whole_characters_only(text: str):
    tokenizer = ByteTokenizer()
    pieces = told(Detokenizer(DecodeCache(tokenizer)), list(text.encode()))
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


@given(st.binary(max_size=80), st.integers(0, 6))
def test_any_bytes_equal_the_whole_decode(raw: bytes, cut: int):
    tokenizer = ByteTokenizer()
    assert "".join(told(Detokenizer(DecodeCache(tokenizer)), list(raw))) == tokenizer.decode(raw)


@given(st.text(max_size=40), st.lists(st.integers(1, 5), min_size=1), st.binary(max_size=6))
def test_pieces_that_cut_characters_anywhere_equal_the_whole_decode(
    text: str, lengths: list[int], noise: bytes
):
    raw, pieces = text.encode() + noise, []
    position = turn = 0
    while position < len(raw):
        length = lengths[turn % len(lengths)]
        pieces.append(raw[position : position + length])
        position, turn = position + length, turn + 1
    tokenizer = ByteTokenizer([*pieces, b"<eos>"], eos=[len(pieces)])
    tokens = [*range(len(pieces))]
    tokens.insert(len(tokens) // 2, len(pieces))  # a special token, which has no text
    parts = told(Detokenizer(DecodeCache(tokenizer)), tokens)
    assert "".join(parts) == raw.decode(errors="replace")


@pytest.mark.parametrize("unit", [[255], [65], [256], [240, 159], [65, 255]])
def test_cost_is_linear_even_for_bytes_that_are_no_text(unit: list[int]):
    pieces = [bytes([byte]) for byte in range(256)] + [b""]
    tokenizer = ByteTokenizer(pieces, eos=[256])
    tokens = unit * (2000 // len(unit))
    whole = tokenizer.decode(tokens)
    tokenizer.decoded_tokens = 0
    assert "".join(told(Detokenizer(DecodeCache(tokenizer)), tokens)) == whole
    assert tokenizer.decoded_tokens < 30 * len(tokens)


def sentencepiece() -> object:
    from tokenizers import Tokenizer, decoders, models

    words = ["▁", "▁Hello", "▁world", "lo", "!", "▁▁", "é"]
    vocab = {"<unk>": 0, "</s>": 1}
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    for word in words:
        vocab[word] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    # Llama's own decoder.
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(["</s>"])
    return tokenizer


class SentencePieceTokenizer:
    eos_token_ids = frozenset({1})

    def __init__(self) -> None:
        self.inner: Any = sentencepiece()

    def decode(self, token_ids) -> str:
        return self.inner.decode(list(token_ids), skip_special_tokens=True)

    def token_text(self, token_id: int) -> str:
        return self.inner.id_to_token(token_id)

    def token_bytes(self, token_id: int) -> bytes:
        return self.token_text(token_id).encode()

    def ids(self, *parts: str) -> list[int]:
        out: list[int] = []
        for part in parts:
            known = self.inner.token_to_id(part)
            out += [known] if known is not None else [2 + byte for byte in part.encode()]
        return out


def test_sentencepiece_keeps_its_spaces_and_its_bytes():
    tokenizer = SentencePieceTokenizer()
    rng = random.Random(1)
    parts = ["▁", "▁Hello", "▁world", "lo", "!", "▁▁", "é", "🙂", "你", "</s>"]
    for _ in range(300):
        tokens = tokenizer.ids(*rng.choices(parts, k=rng.randint(1, 12)))
        pieces = told(Detokenizer(DecodeCache(tokenizer)), tokens)
        assert "".join(pieces) == tokenizer.decode(tokens)
        assert not any("\ufffd" in piece for piece in pieces)


def test_an_answer_joins_its_prompt():
    tokenizer = SentencePieceTokenizer()
    prompt, tokens = tokenizer.ids("▁Hello"), tokenizer.ids("▁world", "!")
    cache = DecodeCache(tokenizer)
    assert "".join(told(Detokenizer(cache, prompt), tokens)) == " world!"
    assert "".join(told(Detokenizer(cache), tokens)) == "world!"


def test_a_real_byte_level_tokenizer_shows_what_it_decodes(tmp_path: Path):
    size = write_tokenizer(tmp_path)
    inner = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer = Tokenizer(inner, vocab_size=size)
    rng = random.Random(2)
    for _ in range(40):
        tokens = [rng.randrange(size) for _ in range(rng.randint(1, 120))]
        parts = told(Detokenizer(DecodeCache(tokenizer)), tokens)
        assert "".join(parts) == tokenizer.decode(tokens)
    for text in SAMPLES:
        tokens = inner.encode(text, add_special_tokens=False)
        assert "".join(told(Detokenizer(DecodeCache(tokenizer)), tokens)) == text


def cut_at_first_stop(text: str, stops: list[str]) -> tuple[str, str | None]:
    """Brute force: the first character with which a stop is complete, the longest such stop."""
    for end in range(1, len(text) + 1):
        ended = [stop for stop in stops if stop and text[:end].endswith(stop)]
        if ended:
            stop = max(ended, key=len)
            return text[: end - len(stop)], stop
    return text, None


@given(
    st.lists(st.text("abc", max_size=4), max_size=12),
    st.lists(st.text("abc", max_size=5), max_size=4),
)
def test_stop_strings_equal_brute_force_whatever_the_pieces(pieces: list[str], stops: list[str]):
    matcher, parts = StopMatcher(stops), []
    for piece in pieces:
        parts.append(matcher.push(piece))
        so_far = "".join(parts)
        # Nothing is told that a stop string could still take back, nothing more is held.
        if matcher.matched is None:
            held = "".join(pieces[: len(parts)])[len(so_far) :]
            assert all(held != stop for stop in stops if stop)
            assert not held or any(stop.startswith(held) for stop in stops)
    parts.append(matcher.flush())
    text, stop = cut_at_first_stop("".join(pieces), stops)
    assert "".join(parts) == text
    assert matcher.matched == stop


def test_stops_match_across_tokens_and_only_once_allowed():
    text = "one END two END three"
    cache = DecodeCache(ByteTokenizer())
    answer = Answer(cache, (), ["END"])
    pieces = [
        answer.push(byte, may_stop=position > 10) for position, byte in enumerate(text.encode())
    ]
    assert "".join(pieces) + answer.finish() == re.split(" three", text)[0][: -len("END")]
    assert answer.stop == "END"
