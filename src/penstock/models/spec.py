"""A model on a device, before it is loaded. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from penstock.models.text.dialect import ToolParser  # noqa: TC001 - as above

Device = Literal["cpu", "xpu", "cuda"]
Task = Literal["generate", "embed", "score"]

DEFAULT_LOW_BIT = "sym_int4"
FP8_FORMAT = "fp8"
KEPT = -1
"""`ModelSpec.keep_alive_s` of a model that is never unloaded."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model on a device, before it is loaded.

    `format` None means: chosen when loading (the checkpoint's dtype, if the device is fast at
    it). `low_bit_folder`: bigdl-llm's `save_low_bit` wrote the folder. `chat_template` is
    the template's text, in place of the model's own. `special_tokens_in_text` defines what control
    tokens in the messages of users and tools are. `matryoshka` are the lengths that an embedding
    may be cut to, True for any; None if the model's own files decide. `allow_pickle`: weights may be read from pickle files, tensors alone. Converted weights are stored
    in `converted_dir`, None for nowhere. `owns_cores`: no other worker has this
    process's cores, so that threads may be pinned to them. `large_pages`: a process may
    have its own copy of weights that others map, if that is faster. `tensor_parallel` is how many devices,
    from `device_index` on, hold the model together; `peer_memory`: these may write into each
    other's memory. `images`: a checkpoint's vision part is loaded too. `draft` is a smaller model
    that drafts for this one; `eagle3` the folder of a head of EAGLE-3 that does. `adapters` are folders of LoRA adapters, by the names that clients ask
    for. `keep_alive_s`: a model that is loaded on demand is unloaded when idle for so long, None: when
    its memory is needed, `KEPT`: never.
    """

    name: str
    queue: str
    device: Device
    device_index: int | None
    path: Path
    backend: str
    task: Task = "generate"
    format: str | None = None
    low_bit_folder: bool = False
    context_length: int | None = None
    slots: int | None = None
    kv_cache_bytes: int | None = None
    target_step_ms: float | None = None
    speculation: str | None = None
    special_tokens_in_text: Literal["text", "tokens"] = "text"
    kv_cache_type: Literal["u8"] | None = None
    aliases: tuple[str, ...] = ()
    chat_template: str | None = None
    tool_parser: ToolParser | None = None
    generation_defaults: dict[str, Any] = field(default_factory=dict[str, Any])
    matryoshka: tuple[int, ...] | bool | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False
    converted_dir: Path | None = None
    converted_limit_bytes: int = 0
    owns_cores: bool = False
    large_pages: bool = True
    tensor_parallel: int = 1
    peer_memory: bool = True
    images: bool = True
    draft: ModelSpec | None = None
    eagle3: Path | None = None
    adapters: dict[str, Path] = field(default_factory=dict[str, Path])
    keep_alive_s: float | None = None
