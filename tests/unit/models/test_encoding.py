"""Text to ids past Transformers: the same ids, whole and cut, within a bound on characters."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from penstock.contract.job import TO_CONTEXT, PairPrompt, TextPrompt
from penstock.errors import ContextOverflow
from penstock.models.text import tokenizer_files
from penstock.models.text.encoding import LEAST_CHARACTERS, Encoder
from tests.fixtures.encoders import write_tiny_bert
from tests.unit.models.test_tokenizer import spec_of

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = ("", "Hello there, naïve 你好 🙂", "a b " * 40, "<|im_end|>x")


@pytest.fixture(scope="module")
def library(tiny_llama: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_llama)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("most", [None, 1, 2, 3, 4, 5, 9, 10, 11, 1_000])
@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_transformers(library: Any, text: str, most: int | None, side: str) -> None:
    encoder = Encoder(library)
    library.truncation_side = side
    cut = {} if most is None else {"truncation": True, "max_length": most}
    for special in (False, True):
        expected = library.encode(text, add_special_tokens=special, **cut)
        Encoder(library)  # takes back what that call has set
        assert encoder.encode(text, add_special_tokens=special, most=most) == expected


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(write_tiny_bert(tmp_path_factory.mktemp("bert")))


@pytest.mark.parametrize("most", [None, 3, 4, 5, 8, 13, 14, 15, 60])
@pytest.mark.parametrize(
    "pair", [("one two", "a b c d e f g h"), ("a b c d e f", "one"), ("", "a")]
)
def test_pairs_are_transformers(bert: Any, pair: tuple[str, str], most: int | None) -> None:
    expected = bert(*pair, truncation=most is not None, max_length=most, return_token_type_ids=True)
    encoder = Encoder(bert)
    ids, types = encoder.encode_pair(*pair, most=most)
    assert (ids, types) == (expected["input_ids"], expected["token_type_ids"])


@pytest.fixture
def words(tiny_llama: Path) -> Any:
    known = tokenizer_files.load(spec_of(tiny_llama), 512)
    known.most_tokens = 1_000
    return known


def test_a_prompt_at_its_bound_of_characters(words: Any) -> None:
    most = 1_000 * words.longest_token_chars
    assert most > LEAST_CHARACTERS
    words.encode(TextPrompt("a" * most))  # of more than 1,000 tokens, which the engine refuses
    for prompt in (
        TextPrompt("a" * (most + 1)),
        PairPrompt("a" * most, "b"),
    ):
        with pytest.raises(ContextOverflow, match=f"has {most + 1} characters.*{most} at most"):
            words.encode(prompt)


def test_a_prompt_of_megabytes_is_refused_in_milliseconds(words: Any) -> None:
    for megabytes in (1, 4, 8):
        text = "words " * (megabytes * 1_000_000 // 6)
        taken_s: list[float] = []
        for _ in range(5):
            began_s = time.perf_counter()
            with pytest.raises(ContextOverflow):
                words.encode(TextPrompt(text))
            taken_s.append(time.perf_counter() - began_s)
        assert min(taken_s) < 0.01


def test_a_prompt_that_is_cut_is_cut_before_it_is_tokenised(tiny_llama: Path) -> None:
    known = tokenizer_files.load(spec_of(tiny_llama), 512, context_length=50)
    began_s = time.perf_counter()
    ids = known.encode(TextPrompt("words " * 1_500_000, truncate=TO_CONTEXT))
    assert time.perf_counter() - began_s < 0.5
    assert len(ids) == 50
    assert ids == known.encode(TextPrompt("words " * 200, truncate=TO_CONTEXT))


def test_other_threads_go_on_while_a_long_text_is_tokenised(words: Any) -> None:
    words.most_tokens = None
    text = "é日words " * 100_000
    thread = threading.Thread(target=lambda: words.encode(TextPrompt(text)))
    thread.start()
    count = 0
    while thread.is_alive():
        words.encode(TextPrompt("a short one"))
        words.encode(TextPrompt("a short one", truncate=3))
        count += 1
    assert count > 20  # one that held Python's lock, or changed the tokenizer, would let none by
