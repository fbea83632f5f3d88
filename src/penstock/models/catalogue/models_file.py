"""The models file: one table `[models.<name>]` per model; every key is optional.

```toml
[models.bigdl-7b]
path = "/srv/models/vicuna-7b"     # by default <models dir>/<name>; relative to this file
format = "sym_int4"                # bf16 fp16 fp32, fp8 (GPUs), or one of bigdl-llm's
backend = "bigdl"                  # transformers, bigdl, openvino, native
dtype = "bf16"                     # transformers: the type to compute in
context_length = 4096
slots = 16
kv_cache_bytes = 2_000_000_000
target_step_ms = 150               # how long prompts may make running streams wait; 0: fixed chunks
speculation = "off"                # or on, auto
draft = "qwen3-0.6b"               # a smaller model with the same tokens, which drafts for this one
                                   # or a head of EAGLE-3: { path = "heads/eagle3", kind = "eagle3" }
special_tokens_in_text = "text"    # tokens: `<|im_start|>` in a user's message is the control token
kv_cache_type = "u8"               # native, openvino: keys and values in 8 bit; "auto" is 16
aliases = ["gpt-3.5-turbo"]
chat_template = "templates/vicuna.jinja"   # a file beside this one, or the template itself
tool_parser = "hermes"             # see docs/tool-calls.md; by default found from the template
generation_defaults = { temperature = 0.7 }
trust_remote_code = false
allow_pickle = false               # read weights from pickles (*.bin): tensors alone, no code runs
task = "embed"                     # generate, embed, score; by default found from the files
tensor_parallel = 2                # GPUs that share the model; or name them: -cuda.0-1
peer_memory = false                # GPUs do not access each other's memory: slower, NCCL alone
images = false                     # serve a checkpoint that takes images for text alone
keep_alive_s = 600                 # on demand: unloaded when idle for so long; -1: never unloaded
adapters = { sql = "adapters/sql" }    # LoRA folders, by the names that clients ask for
matryoshka = [64, 128, 256]        # lengths that an embedding may be cut to; true: any
```
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from penstock.contract.adapter import check_name
from penstock.errors import BadSettings, InvalidParameter
from penstock.foreign import read_text
from penstock.models.spec import KEPT
from penstock.models.text.dialect import ToolParser

BIGDL_FORMATS = ("sym_int4", "asym_int4", "sym_int5", "asym_int5", "sym_int8")
TRANSFORMERS_FORMATS = ("bf16", "fp16", "fp32", "fp8")

_GENERATION_KEYS = frozenset(
    (
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
        "max_tokens",
        "stop",
    )
)


class DraftHeadEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A head that drafts for a model, in a folder of its own."""

    path: Path
    kind: Literal["eagle3"] = "eagle3"


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One table of the models file; `where` names it in messages."""

    path: Path | None = None
    format: str | None = None
    backend: Literal["transformers", "bigdl", "openvino", "native"] | None = None
    dtype: Literal["bf16", "fp16", "fp32"] | None = None
    context_length: int | None = None
    slots: int | None = None
    kv_cache_bytes: int | None = None
    target_step_ms: float | None = None
    speculation: Literal["auto", "on", "off"] | None = None
    draft: str | DraftHeadEntry | None = None
    special_tokens_in_text: Literal["text", "tokens"] | None = None
    kv_cache_type: Literal["auto", "u8"] | None = None
    aliases: tuple[str, ...] = ()
    chat_template: str | None = None
    tool_parser: ToolParser | None = None
    generation_defaults: dict[str, Any] = {}
    task: Literal["generate", "embed", "score"] | None = None
    matryoshka: tuple[int, ...] | bool | None = None
    tensor_parallel: int | None = None
    peer_memory: bool = True
    images: bool = True
    adapters: dict[str, Path] = {}
    keep_alive_s: float | None = None
    trust_remote_code: bool | None = None
    allow_pickle: bool = False
    where: str = ""

    def as_low_bit(self) -> Entry:
        """Return the same model in bigdl-llm's 4 bit, without the original's aliases."""
        return msgspec.structs.replace(self, format=None, backend=None, dtype=None, aliases=())


def read_models_file(path: Path) -> dict[str, Entry]:
    """Return the entries of the models file, by model name; none if the file does not exist.

    :raises BadSettings: it is not TOML, or a table or key is not usable; the message names the
        file, the table and the key.
    """
    try:
        document = tomllib.loads(read_text(path))
    except FileNotFoundError:
        return {}
    except RecursionError as error:
        raise BadSettings(f"{path}: nested too deeply") from error
    except (OSError, ValueError) as error:
        raise BadSettings(f"{path}: {error}") from error
    tables = document.pop("models", {})
    if document:
        raise BadSettings(
            f"{path}: unknown table or key {next(iter(document))!r}; "
            f"a model is a table [models.<name>]"
        )
    if not isinstance(tables, dict):
        raise BadSettings(f"{path}: 'models' must hold a table a model: [models.<name>]")
    named = cast("dict[str, object]", tables)
    return {name: _entry(path, name, table) for name, table in named.items()}


def _entry(file: Path, name: str, table: object) -> Entry:
    where = f"{file} [models.{name}]"
    if not isinstance(table, dict):
        raise BadSettings(f"{where}: must be a table")
    if "where" in table:
        raise BadSettings(f"{where}: unknown key 'where'")
    try:
        entry = msgspec.convert(table, Entry, dec_hook=_decode_path)
    except msgspec.ValidationError as error:
        raise BadSettings(f"{where}: {_readable(str(error))}") from error
    for key in ("context_length", "slots", "kv_cache_bytes", "tensor_parallel"):
        value = getattr(entry, key)
        if value is not None and value < 1:
            raise BadSettings(f"{where}: {key} = {value}: must be 1 or more")
    if entry.keep_alive_s is not None and entry.keep_alive_s < 0 and entry.keep_alive_s != KEPT:
        raise BadSettings(f"{where}: keep_alive_s = {entry.keep_alive_s}: must be 0 or more, or -1")
    if entry.target_step_ms is not None and entry.target_step_ms < 0:
        raise BadSettings(f"{where}: target_step_ms = {entry.target_step_ms}: must be 0 or more")
    for key in entry.generation_defaults:
        if key not in _GENERATION_KEYS:
            raise BadSettings(
                f"{where}: generation_defaults.{key}: unknown; "
                f"there are {', '.join(sorted(_GENERATION_KEYS))}"
            )
    return msgspec.structs.replace(
        entry,
        where=where,
        adapters=_adapters(file, where, entry.adapters),
        draft=_draft(file, entry.draft),
        path=None if entry.path is None else file.parent / entry.path.expanduser(),
        chat_template=_template(file, where, entry.chat_template),
    )


def _draft(file: Path, stated: str | DraftHeadEntry | None) -> str | DraftHeadEntry | None:
    """Return what drafts, a head's folder relative to the models file."""
    if isinstance(stated, DraftHeadEntry):
        return DraftHeadEntry(file.parent / stated.path.expanduser(), stated.kind)
    return stated


def _adapters(file: Path, where: str, stated: dict[str, Path]) -> dict[str, Path]:
    """Return the adapters' folders by name, relative to the models file."""
    try:
        return {
            check_name(name, "adapters"): file.parent / path.expanduser()
            for name, path in stated.items()
        }
    except InvalidParameter as error:
        raise BadSettings(f"{where}: {error.message}") from error


def _decode_path(kind: type, value: object) -> Path:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise ValueError(f"Expected `str`, got `{type(value).__name__}`")


def _readable(message: str) -> str:
    """Return msgspec's message with the key's name first, instead of its path (`$.slots`) last."""
    text, _, at = message.partition(" - at `$.")
    key = at.rstrip("`")
    return f"{key}: {text}" if key else text


def _template(file: Path, where: str, value: str | None) -> str | None:
    """Return the template's text: the value itself, or the content of the file that it names."""
    if value is None or "{" in value:
        return value
    path = file.parent / value
    try:
        return read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise BadSettings(f"{where}: chat_template: {path}: {error}") from error
