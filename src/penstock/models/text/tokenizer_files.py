"""Loads a tokenizer and its chat template from a model's folder."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Final, cast

from penstock.errors import ModelNotLoadable
from penstock.models.catalogue.gguf import folder as gguf_folder
from penstock.models.catalogue.model_folder import read_config
from penstock.models.loading import checkpoint
from penstock.models.loading.libraries import transformers
from penstock.models.text import chat_template as chat_templates
from penstock.models.text import chatglm_tokenizer, fastchat_templates
from penstock.models.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.models.spec import ModelSpec

_FILES: Final = ("tokenizer.json", "*.model", "vocab.*", "*.tiktoken", "tekken.json", "merges.txt")


def load(
    spec: ModelSpec,
    vocab_size: int,
    *,
    folder: Path | None = None,
    context_length: int | None = None,
    lower_case: bool = False,
) -> Tokenizer:
    """Return the tokenizer in a model's folder, or in `folder` if it is not there.

    `context_length` limits prompts that may be truncated; `lower_case` is an option of
    sentence-transformers.

    :raises ModelNotLoadable: there is none, or it needs its own code without permission.
    """
    path = folder or spec.path
    has_files = any(any(path.glob(name)) for name in _FILES)
    in_gguf = [] if has_files else gguf_folder.files(path)
    if not spec.trust_remote_code and not has_files and not in_gguf:
        # Transformers would make an empty one.
        raise ModelNotLoadable(f"{path}: there is no tokenizer (tokenizer.json or the like)")
    config = read_config(spec.path)
    original = chatglm_tokenizer.is_needed(path)
    tokenizer = (
        chatglm_tokenizer.load(path, config) if original else _by_transformers(spec, path, in_gguf)
    )
    stated = spec.chat_template
    if not stated and chat_templates.own(tokenizer)[0] is None:
        stated = chat_templates.of_processor(path)
    for template in (stated,) if stated else chat_templates.own(tokenizer):
        chat_templates.check(path, template)
    return Tokenizer(
        tokenizer,
        vocab_size=vocab_size,
        eos_token_ids=(
            *_eos_token_ids(spec),
            *(chatglm_tokenizer.endings(tokenizer) if original else ()),
        ),
        chat_template=stated,
        tool_parser=spec.tool_parser,
        model_type=str(config.get("model_type") or ""),
        named=fastchat_templates.by_model(spec.path.name),
        context_length=context_length,
        lower_case=lower_case,
        markers_as_text=spec.special_tokens_in_text == "text",
    )


def _by_transformers(spec: ModelSpec, path: Path, in_gguf: list[Path]) -> Any:
    """Return the tokenizer as Transformers loads it, from its own files or from a GGUF file.

    :raises ModelNotLoadable: Transformers cannot load it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return transformers().AutoTokenizer.from_pretrained(
                path,
                local_files_only=True,
                trust_remote_code=spec.trust_remote_code,
                **({"gguf_file": in_gguf[0].name} if in_gguf else {}),
            )
    except Exception as error:
        raise ModelNotLoadable(f"{path}: tokenizer: {checkpoint.first_line(error)}") from error


def _eos_token_ids(spec: ModelSpec) -> tuple[int, ...]:
    """Return the ids that end a text by generation_config.json, else config.json."""
    for name in ("generation_config.json", "config.json"):
        value = read_config(spec.path, name).get("eos_token_id")
        values = cast("list[Any]", value) if isinstance(value, list) else [value]
        token_ids = tuple(token for token in values if isinstance(token, int))
        if token_ids:
            return token_ids
    return ()
