"""What workers tell of themselves through the registry."""

from __future__ import annotations

from typing import Any, Final

import msgspec

FASTCHAT: Final = "fastchat"
"""`ModelCard.backend` of a model that FastChat's own workers serve: it has no queue of ours."""


class EmbeddingCard(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the vectors of an embedding model are.

    `matryoshka` are the lengths that they may be cut to; `any_length` allows for all. `normalized`
    ones have unit length, and have it again when cut. `prompts` go before a text by their name,
    that of `default_prompt` unasked. A model without files that say so has none of them.
    """

    dimensions: int
    normalized: bool = True
    any_length: bool = False
    matryoshka: tuple[int, ...] = ()
    prompts: dict[str, str] = {}
    default_prompt: str = ""


class ModelCard(msgspec.Struct, frozen=True):
    """What the API must know of a served model without loading it.

    `name` is the public name (`bigdl-7b`), `queue` is `<name>-<device>`. `format` is how the
    weights are held (`bf16`, `fp32`, `sym_int4`, ...). `batching` is `continuous`, `grouped`
    (architectures without Transformers' attention interface) or `padded` (encoders). `generation_defaults` are the
    model's own sampling defaults, in OpenAI's names. `tool_parser` is how the model writes tool
    calls, a dialect of docs/tool-calls.md; empty: its template has none. `reasoning` are the two
    markers around its reasoning, and behind them those around its answer, if it has such. `capabilities` are of `generate`,
    `structure`, `embed`, `score` (pairs of texts) and `fim`; `embedding` is there where the model
    is made for it. Jobs whose worker has died run in `spare_slots` beside the others.
    No token has more than `longest_token_chars` characters; 0 where that is not known.

    `running` is how its steps are computed: by a decoder of our own (`native`, `lean`, `openvino`),
    by its module over our KV cache (`paged`), or by its module and its own cache, one forward a
    sequence and step, which takes the tokens of a prompt several at once (`grouped-chunks`), one by
    one (`grouped-tokens`) or all anew for each token (`grouped-recompute`). Empty: an encoder, or a
    worker of an older version. docs/models.md has what each costs. `same_text` says that a text
    does not depend on what else is in its batch, by not a bit.
    """

    name: str
    queue: str
    device: str
    backend: str
    format: str
    architecture: str
    parameters: int
    weights_bytes: int
    context_length: int
    vocab_size: int
    slots: int
    kv_cache_tokens: int
    aliases: tuple[str, ...] = ()
    has_chat_template: bool = False
    tool_parser: str = ""
    reasoning: tuple[str, ...] = ()
    batching: str = "continuous"
    capabilities: tuple[str, ...] = ("generate",)
    generation_defaults: dict[str, Any] = {}
    stop_strings: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    created_s: int = 0
    embedding: EmbeddingCard | None = None
    spare_slots: int = 0
    running: str = ""
    same_text: bool = False
    longest_token_chars: int = 0


class WorkerLoad(msgspec.Struct, frozen=True):
    """A worker's load at its last heartbeat, of one queue.

    Rates are means of the last seconds; `kv_use` is a share from 0 to 1; `step_ms` is the median
    duration of the last steps. Drafts are guessed continuations: how often some were tried, of how
    many tokens, and how many of those turned out right.
    """

    running: int = 0
    waiting: int = 0
    kv_use: float = 0.0
    decode_tokens_per_s: float = 0.0
    prefill_tokens_per_s: float = 0.0
    step_ms: float = 0.0
    generated_tokens_total: int = 0
    prompt_tokens_total: int = 0
    finished_total: int = 0
    preempted_total: int = 0
    drafts_total: int = 0
    drafted_tokens_total: int = 0
    accepted_tokens_total: int = 0


class WorkerCard(msgspec.Struct, frozen=True):
    """One worker process: who it is, what it serves, how it is doing."""

    id: str
    host: str
    pid: int
    version: str
    started_ms: int
    heartbeat_ms: int
    models: tuple[ModelCard, ...]
    loads: dict[str, WorkerLoad] = {}
    draining: bool = False
