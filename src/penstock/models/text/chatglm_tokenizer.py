"""The tokenizers of ChatGLM2, ChatGLM3 and GLM-4 as published, without their code.

The first two have a SentencePiece model with a few tokens added to it, GLM-4 a list of byte pairs
by rank, one a line in base64. Both are converted to a tokenizer of the `tokenizers` library. The
beginning of a prompt and the markers of roles are those of their published code.
"""

from __future__ import annotations

import base64
import binascii
import importlib
import json
from typing import TYPE_CHECKING, Any, Final, cast

from penstock.errors import ModelNotLoadable
from penstock.models.architecture.families.chatglm import is_second
from penstock.models.catalogue.model_folder import read_config
from penstock.models.loading import chatglm
from penstock.models.loading.libraries import transformers
from penstock.models.text import chatglm_templates, token_bytes

if TYPE_CHECKING:
    from pathlib import Path

FILE: Final = "tokenizer.model"
_MOST_BYTES: Final = 64 * 1024**2
_MASKS: Final = ("[MASK]", "[gMASK]", "[sMASK]")
_ROLES: Final = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
_OF_SECOND: Final = (*_MASKS, "sop", "eop")
_OF_THIRD: Final = (*_OF_SECOND, *_ROLES)
_OF_FOURTH: Final = ("<|endoftext|>", *_MASKS, "<sop>", "<eop>", *_ROLES)
_SPACE: Final = "▁"
_WORDS: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How GLM-4 splits a text before it looks for pairs."""


def load(path: Path, config: dict[str, Any]) -> Any:
    """Return the folder's tokenizer, with its generation's chat template if it has none.

    :raises ModelNotLoadable: the file is missing, damaged or too large.
    """
    content = _content(path / FILE)
    pairs = _pairs(content)
    if pairs is not None:
        made, template = _fourth(path, pairs), chatglm_templates.FOURTH
    elif is_second(config.get("_name_or_path")):
        made, template = _sentencepiece(path, content, _OF_SECOND), chatglm_templates.SECOND
    else:
        made, template = _sentencepiece(path, content, _OF_THIRD), chatglm_templates.THIRD
    end = "<|endoftext|>" if pairs is not None else "</s>"
    tokenizer = transformers().PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token=end, pad_token=end, clean_up_tokenization_spaces=False
    )
    own = read_config(path, "tokenizer_config.json").get("chat_template")
    tokenizer.chat_template = own if isinstance(own, str) else template
    return tokenizer


def is_needed(path: Path) -> bool:
    """Return whether a folder is one of these models without a tokenizer that others can read."""
    original = chatglm.is_original(read_config(path))
    return original and not (path / "tokenizer.json").is_file()


def save_beside(path: Path, weights: Path) -> None:
    """Write the tokenizer of a folder to another, whose weights have Transformers' names for GLM.

    The new folder then has everything for chats: template, role tokens, and ends of answers.

    :raises ModelNotLoadable: see `load`.
    """
    if not is_needed(path):
        return
    tokenizer = load(path, read_config(path))
    tokenizer.save_pretrained(weights)
    stated = read_config(weights, "generation_config.json")
    own = stated.get("eos_token_id")
    first: list[Any] = cast("list[Any]", own) if isinstance(own, list) else [own]
    ends = {token_id for token_id in (*first, *endings(tokenizer)) if isinstance(token_id, int)}
    text = json.dumps({**stated, "eos_token_id": sorted(ends)}, indent=2)
    (weights / "generation_config.json").write_text(text, encoding="utf-8")


def endings(tokenizer: Any) -> tuple[int, ...]:
    """Return the tokens that end an answer besides the end of text: the next role's marker."""
    added: dict[str, int] = tokenizer.get_added_vocab()
    return tuple(added[role] for role in ("<|user|>", "<|observation|>") if role in added)


def _content(file: Path) -> bytes:
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise ModelNotLoadable(f"{file}: larger than any tokenizer of ChatGLM")
        return file.read_bytes()
    except OSError as error:
        raise ModelNotLoadable(f"{file}: {error.strerror}") from error


def _pairs(content: bytes) -> dict[bytes, int] | None:
    """Return each token's rank by its bytes; None if the file is not such a list."""
    ranks: dict[bytes, int] = {}
    try:
        for line in content.splitlines():
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
    except (ValueError, binascii.Error):
        return None
    return ranks or None


def _sentencepiece(path: Path, content: bytes, special: tuple[str, ...]) -> Any:
    """Return a tokenizer from a SentencePiece model, with `special` tokens after its own."""
    library = importlib.import_module("tokenizers")
    proto: Any = importlib.import_module("sentencepiece.sentencepiece_model_pb2").ModelProto()
    try:
        proto.ParseFromString(content)
    except Exception as error:
        raise ModelNotLoadable(f"{path / FILE}: not a SentencePiece model") from error
    pieces: list[Any] = list(proto.pieces)
    if not pieces or pieces[0].type != pieces[0].UNKNOWN:
        raise ModelNotLoadable(f"{path / FILE}: not a SentencePiece model of ChatGLM")
    made = library.Tokenizer(_model(library.models, proto, pieces))
    made.normalizer = _normalizer(library.normalizers, library.Regex, proto.normalizer_spec)
    decoders = library.decoders
    made.decoder = decoders.Sequence(
        [
            decoders.Replace(_SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    marks = [piece.piece for piece in pieces if piece.type in (piece.CONTROL, piece.UNKNOWN)]
    made.add_special_tokens([*_tokens(library, marks), *_tokens(library, special)])
    _begin(library, made, ("[gMASK]", "sop"))
    return made


def _model(models: Any, proto: Any, pieces: list[Any]) -> Any:
    """Return a model that merges pairs by the score of the result, as SentencePiece does."""
    if proto.trainer_spec.model_type == proto.trainer_spec.UNIGRAM:
        scored = [(piece.piece, piece.score) for piece in pieces]
        return models.Unigram(scored, unk_id=0, byte_fallback=True)
    numbers = {piece.piece: number for number, piece in enumerate(pieces)}
    merges: list[tuple[float, int, int, tuple[str, str]]] = []
    for piece in pieces:
        text: str = piece.piece
        if piece.type != piece.NORMAL:
            continue
        for at in range(1, len(text)):
            left, right = text[:at], text[at:]
            if left in numbers and right in numbers:
                merges.append((-piece.score, numbers[left], numbers[right], (left, right)))
    merges.sort(key=lambda merge: merge[:3])
    return models.BPE(
        vocab=numbers,
        merges=[merge[3] for merge in merges],
        unk_token=pieces[0].piece,
        fuse_unk=True,
        byte_fallback=True,
    )


def _normalizer(normalizers: Any, regex: Any, rules: Any) -> Any:
    steps: list[Any] = []
    if rules.precompiled_charsmap:
        steps.append(normalizers.Precompiled(rules.precompiled_charsmap))
    if rules.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(regex(" {2,}"), " ")]
    if rules.add_dummy_prefix:
        steps.append(normalizers.Prepend(_SPACE))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])


def _fourth(path: Path, pairs: dict[bytes, int]) -> Any:
    """Return GLM-4's tokenizer: byte pairs by rank, and the tokens of tokenizer_config.json."""
    library = importlib.import_module("tokenizers")
    written = {token: token_bytes.as_characters(token) for token in pairs}
    merges: list[tuple[int, tuple[str, str]]] = []
    for token, rank in pairs.items():
        if len(token) > 1:
            parts = _parts(token, rank, pairs)
            if len(parts) == 2:  # noqa: PLR2004 - a pair
                merges.append((rank, (written[parts[0]], written[parts[1]])))
    merges.sort()
    made = library.Tokenizer(
        library.models.BPE(
            vocab={written[token]: rank for token, rank in pairs.items()},
            merges=[merge for _, merge in merges],
            ignore_merges=True,
        )
    )
    cuts = library.pre_tokenizers
    made.pre_tokenizer = cuts.Sequence(
        [
            cuts.Split(library.Regex(_WORDS), "isolated"),
            cuts.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = library.decoders.ByteLevel()
    made.add_special_tokens(_tokens(library, _added(path) or _OF_FOURTH))
    _begin(library, made, ("[gMASK]", "<sop>"))
    return made


def _parts(token: bytes, rank: int, pairs: dict[bytes, int]) -> list[bytes]:
    """Return a token's parts before its own pair is merged: pairs of lower ranks merge first."""
    parts = [token[at : at + 1] for at in range(len(token))]
    while len(parts) > 1:
        ranks = [pairs.get(parts[at] + parts[at + 1], rank) for at in range(len(parts) - 1)]
        lowest = min(ranks)
        if lowest >= rank:
            break
        at = ranks.index(lowest)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def _added(path: Path) -> list[str]:
    """Return the tokens that tokenizer_config.json adds after the pairs, by their numbers."""
    stated = read_config(path, "tokenizer_config.json").get("added_tokens_decoder")
    if not isinstance(stated, dict):
        return []
    tokens = cast("dict[str, dict[str, Any]]", stated)
    numbered = {int(number): str(token["content"]) for number, token in tokens.items()}
    return [numbered[number] for number in sorted(numbered)]


def _tokens(library: Any, texts: Any) -> list[Any]:
    return [library.AddedToken(text, special=True, normalized=False) for text in texts]


def _begin(library: Any, made: Any, marks: tuple[str, str]) -> None:
    """Set what every text begins with."""
    numbers = [(mark, made.token_to_id(mark)) for mark in marks]
    if any(number is None for _, number in numbers):
        return
    made.post_processor = library.processors.TemplateProcessing(
        single=f"{marks[0]} {marks[1]} $A",
        pair=f"{marks[0]} {marks[1]} $A $B:1",
        special_tokens=numbers,
    )
