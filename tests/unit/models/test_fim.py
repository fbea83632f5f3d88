"""Fill in the middle: the prompts of the models that are known for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from penstock.contract.job import FillPrompt
from penstock.errors import UnsupportedFeature
from penstock.models.text.tokenizer import Tokenizer as Words

if TYPE_CHECKING:
    from collections.abc import Sequence

TEXT = ["def add(a, b):\n    return a + b\n", "print(add(1, 2))"]
BEFORE, AFTER = "def add(", "):\n    return a + b"


def made(special: Sequence[str], *, sentencepiece: bool = False, bos: str | None = None) -> Any:
    """A tokenizer with these tokens: of bytes, or with SentencePiece's space before a text."""
    tokenizer = Tokenizer(models.BPE())
    if sentencepiece:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
        alphabet = sorted({*"".join(TEXT), "\u2581"})
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=list(special), show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=special[0], bos_token=bos)


def words(tokenizer: Any) -> Words:
    return Words(tokenizer, vocab_size=len(tokenizer))


@pytest.mark.parametrize(
    ("tokens", "template"),
    [
        (("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"), "{0}{before}{1}{after}{2}"),
        (("<fim_prefix>", "<fim_suffix>", "<fim_middle>"), "{0}{before}{1}{after}{2}"),
        (
            ("<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<\uff5cfim\u2581end\uff5c>"),
            "{0}{before}{1}{after}{2}",
        ),
        (("[PREFIX]", "[SUFFIX]"), "{1}{after}{0}{before}"),
    ],
)  # fmt: skip
def test_the_known_formats(tokens: tuple[str, ...], template: str) -> None:
    tokenizer = made(("<|endoftext|>", *tokens))
    known = words(tokenizer)
    ids = known.encode(FillPrompt(BEFORE, AFTER))
    assert tokenizer.decode(ids) == template.format(*tokens, before=BEFORE, after=AFTER)
    assert known.fill_endings == (tokenizer.convert_tokens_to_ids("<|endoftext|>"),)


def test_code_llamas_suffix_has_no_space_of_its_own() -> None:
    special = ("</s>", "\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>", "\u2581<EOT>")
    tokenizer = made(special, sentencepiece=True)
    known = words(tokenizer)
    tokens = tokenizer.convert_ids_to_tokens(known.encode(FillPrompt(BEFORE, AFTER)))
    split = tokens.index("\u2581<SUF>")
    assert tokens[0] == "\u2581<PRE>"
    assert tokens[-1] == "\u2581<MID>"
    assert "".join(tokens[1:split]) == "\u2581" + BEFORE.replace(" ", "\u2581")
    assert "".join(tokens[split + 1 : -1]) == AFTER.replace(" ", "\u2581")
    assert known.fill_endings == (tokenizer.convert_tokens_to_ids("\u2581<EOT>"),)


def test_a_stop_string_may_be_a_token() -> None:
    tokenizer = made(("<|endoftext|>", "<|fim_pad|>", "<|file_sep|>"))
    known = words(tokenizer)
    pad = tokenizer.convert_tokens_to_ids("<|fim_pad|>")
    assert known.tokens_of(("<|fim_pad|>", "def", "<|nothing|>")) == {pad: "<|fim_pad|>"}
    assert known.tokens_of(()) == {}
    assert known.decode([pad]) == ""


def test_a_model_without_such_tokens_refuses() -> None:
    known = words(made(("<|endoftext|>", "<fim_prefix>")))
    assert known.fill_in is None
    with pytest.raises(UnsupportedFeature):
        known.encode(FillPrompt("a", "b"))
