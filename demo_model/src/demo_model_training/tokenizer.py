"""The tokenizer: byte-level, whole common words, all else letter by letter.

It is a byte-level BPE model with an empty merge list and `ignore_merges`, as Llama 3's tokenizer
has it: a word that is in the vocabulary is one token, any other word is spelt in bytes. Digits
always stand alone. A model of a few million parameters can then copy, reverse and upper-case a
word that it has never seen, since it sees letters, and sums, since it sees digits.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from demo_model_training.dialogue import (
    END_OF_TEXT,
    FIM_MIDDLE,
    FIM_PREFIX,
    FIM_SUFFIX,
    IM_END,
    IM_START,
    TOOL_CALL,
    TOOL_CALL_END,
    TOOL_RESPONSE,
    TOOL_RESPONSE_END,
)
from demo_model_training.generate import dialogue
from demo_model_training.skills import words

VOCABULARY = 4608  # at most
RARE = 10  # pieces that occur less often are spelt
CONTEXT = 1024
SPECIAL = (END_OF_TEXT, IM_START, IM_END, FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE)
# Markers of tools are no special tokens: they must survive `skip_special_tokens=True`.
MARKERS = (TOOL_CALL, TOOL_CALL_END, TOOL_RESPONSE, TOOL_RESPONSE_END)
# Words with the space or sign before them, single digits, runs of signs, white space.
PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CONTROL_TEXT = re.compile("|".join(re.escape(text) for text in (*SPECIAL, *MARKERS)))
CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")


def pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    """Pieces of text as strings of the byte alphabet."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _counts(dialogues: int) -> Counter[str]:
    """How often each piece occurs; invented words occur too rarely to matter."""
    split = pre_tokenizer()
    counts: Counter[str] = Counter()
    for i in range(dialogues):
        for part in CONTROL_TEXT.split(dialogue(f"vocabulary/{i}", 4, 0.5).text):
            counts.update(piece for piece, _ in split.pre_tokenize_str(part))
    return counts


def train(dialogues: int = 20_000) -> Tokenizer:
    """A tokenizer whose vocabulary is the most common pieces of the generated text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate((*SPECIAL, *MARKERS, *alphabet))}
    # Transformed words must be spelt: nothing that is a word backwards or in capitals is a token.
    spelt = {word[::-1] for word in words.lexicon() if word != word[::-1]} - set(words.lexicon())
    for piece, count in _counts(dialogues).most_common():
        if len(vocabulary) == VOCABULARY or count < RARE:
            break
        # A word right behind a quotation mark is always spelt; so are reversed words.
        quoted = piece[0] in "\"'" and len(piece) > 2 and piece[1].isalpha()
        if piece in vocabulary or quoted or piece.lstrip("Ġ") in spelt:
            continue
        vocabulary[piece] = len(vocabulary)
    while len(vocabulary) % 64:  # a head of whole blocks for every weight format
        vocabulary[f"<|unused_{len(vocabulary)}|>"] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in MARKERS])
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write what Transformers loads: tokenizer.json, its config, the chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": CONTEXT,
        "bos_token": None,
        "eos_token": IM_END,
        "pad_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
    }
    text = json.dumps(config, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    shutil.copyfile(CHAT_TEMPLATE, folder / "chat_template.jinja")


if __name__ == "__main__":
    import sys

    save(train(), Path(sys.argv[1]))
