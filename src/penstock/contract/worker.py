"""What workers publish about themselves in the registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import msgspec

from penstock.contract.adapter import AdapterCard

if TYPE_CHECKING:
    from collections.abc import Iterable

FASTCHAT: Final = "fastchat"
"""`ModelCard.backend` of a model that FastChat workers serve: it has no queue of ours."""


class EmbeddingCard(msgspec.Struct, frozen=True, omit_defaults=True):
    """The properties of an embedding model's vectors.

    `matryoshka` lists the lengths that they may be cut to; `any_length` allows all. `normalized`
    vectors have unit length, and are normalised again when cut. `prompts` are put before a text by
    name, `default_prompt` without being asked for. All are empty if the model's files name none.
    """

    dimensions: int
    normalized: bool = True
    any_length: bool = False
    matryoshka: tuple[int, ...] = ()
    prompts: dict[str, str] = {}
    default_prompt: str = ""


IMAGES = "image"
"""The capability of models that take images in a chat."""


class ModelCard(msgspec.Struct, frozen=True):
    """What the API must know about a served model without loading it.

    `name` is the public name (`bigdl-7b`), `queue` is `<name>-<device>`. `format` is the weight
    format (`bf16`, `fp32`, `sym_int4`, ...). `batching` is `continuous`, `grouped` (architectures
    without Transformers' attention interface) or `padded` (encoders). `generation_defaults` are the
    model's own sampling defaults, in OpenAI's names. `tool_parser` is the dialect in which the
    model writes tool calls (docs/tool-calls.md); empty if its template has none. `reasoning` are
    the two markers around its reasoning, followed by those around its answer, if any.
    `capabilities` are some of `generate`, `structure`, `embed`, `score` (pairs of texts) and `fim`;
    `embedding` is set for embedding models. Jobs whose worker has died run in `spare_slots`, beside
    the regular ones. No token is longer than `longest_token_chars` characters; 0 if unknown.

    `running` is how its steps are computed: by one of our decoders (`native`, `lean`, `openvino`),
    by its module over our KV cache (`paged`), or by its module and its own cache, with one forward
    pass
    per sequence and step. Such a module takes a prompt's tokens several at once (`grouped-chunks`),
    one by one (`grouped-tokens`) or all of them again for each token (`grouped-recompute`). Empty: an
    encoder, or a worker of an older version. docs/models.md lists the costs. `same_text` means that
    a text does not depend, to the bit, on what else is in its batch.

    `stored` is what the checkpoint was published as (`gptq-int4`, ...), empty if it was not quantised;
    `weight_error` is then what holding it as `format` has cost its weights, relative to their size:
    0 if they are as published, to the value; None if it was not measured.

    `adapters` are those that the worker's models file names; `most_adapters` of them and of others
    are in its memory at once, 0 if it takes none. The card of an adapter itself, which only the API
    makes, is its base's with the adapter's name, the base's as `parent`, and the `adapter`.
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
    stored: str = ""
    weight_error: float | None = None
    adapters: tuple[AdapterCard, ...] = ()
    most_adapters: int = 0
    parent: str = ""
    adapter: AdapterCard | None = None


class StoreLoad(msgspec.Struct, frozen=True):
    """What a worker's store of KV blocks on its host's disk has done since the start.

    Tokens were loaded and not computed; blocks were dropped when the disk was behind or refused.
    `remote` is what came from other hosts: its tokens are among those that were loaded, its bytes
    are not among those that were read from the disk.
    """

    loaded_tokens_total: int = 0
    read_bytes_total: int = 0
    read_seconds_total: float = 0.0
    written_bytes_total: int = 0
    dropped_blocks_total: int = 0
    errors_total: int = 0
    remote_tokens_total: int = 0
    remote_bytes_total: int = 0
    remote_seconds_total: float = 0.0
    remote_errors_total: int = 0


class DraftLoad(msgspec.Struct, frozen=True):
    """Draft tokens of one kind since the start: those that were verified, and those accepted."""

    drafted_tokens_total: int = 0
    accepted_tokens_total: int = 0


class WorkerLoad(msgspec.Struct, frozen=True):
    """A worker's load on one queue, at its last heartbeat.

    Rates are means over the last seconds; `kv_use` is a share from 0 to 1; `step_ms` is the median
    duration of recent steps. Drafts are guessed continuations: how many were tried, with how many
    tokens, and how many of those were accepted; `drafts_by_kind` has them by where they came from:
    `prompt` (the text itself), `answers` (earlier ones), `model` (a second one), `mtp` or `eagle3` (a
    head of the model). `prefill_token_ms` is the measured time of a prompt's
    token, 0 if unknown; `prefilled_tokens_total` were computed, `cached_tokens_total` were found in
    the prefix cache, those loaded from the store included. `store` is None without one.
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
    prefill_token_ms: float = 0.0
    prefilled_tokens_total: int = 0
    cached_tokens_total: int = 0
    store: StoreLoad | None = None
    drafts_by_kind: dict[str, DraftLoad] = {}


class HitRatios(NamedTuple):
    """Shares of prompt tokens that were found, and of those on the disk and on other hosts."""

    found: float
    disk: float
    hosts: float


def hit_ratios(load: WorkerLoad) -> HitRatios | None:
    """Return where prompt tokens were found in place of being computed; None before any."""
    tokens = load.cached_tokens_total + load.prefilled_tokens_total
    if not tokens:
        return None
    store = load.store or StoreLoad()
    return HitRatios(
        load.cached_tokens_total / tokens,
        (store.loaded_tokens_total - store.remote_tokens_total) / tokens,
        store.remote_tokens_total / tokens,
    )


def sum_of_stores(loads: Iterable[WorkerLoad]) -> StoreLoad | None:
    """Return what several workers' stores have done; None if none has one."""
    stores = [load.store for load in loads if load.store is not None]
    if not stores:
        return None
    names = StoreLoad.__struct_fields__
    return StoreLoad(*(sum(getattr(store, name) for store in stores) for name in names))


ModelStatus = Literal["loaded", "loading", "unloading", "on_demand", "failed"]

BY_READINESS: Final[tuple[ModelStatus, ...]] = (
    "loaded", "loading", "unloading", "on_demand", "failed",
)  # fmt: skip
"""The soonest to serve first."""


class ModelState(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a worker has in memory of a model that it loads on demand.

    A `failed` load is tried again later; `error` is its reason. `load_s` is how long the last load
    took, 0 if unknown; `loads` counts them since the start. `unload_ms` is when a model is unloaded
    that nobody uses until then (Unix time), 0: when another one needs its memory.
    """

    status: ModelStatus
    load_s: float = 0.0
    loads: int = 0
    unload_ms: int = 0
    error: str = ""


class ExchangeCard(msgspec.Struct, frozen=True):
    """Where a worker serves the blocks of its host's store to other hosts; `store` names the store."""

    url: str
    store: str


class WorkerCard(msgspec.Struct, frozen=True):
    """One worker process: its identity, its models and its load.

    `adapters` are the names of those in its memory, by queue, the last used one first. `states` are
    those of the models that it loads on demand, by queue; all others are loaded. `exchange` is None
    if it serves no blocks to other hosts.
    """

    id: str
    host: str
    pid: int
    version: str
    started_ms: int
    heartbeat_ms: int
    models: tuple[ModelCard, ...]
    loads: dict[str, WorkerLoad] = {}
    draining: bool = False
    adapters: dict[str, tuple[str, ...]] = {}
    states: dict[str, ModelState] = {}
    exchange: ExchangeCard | None = None

    def status_of(self, queue: str) -> ModelStatus:
        """Return whether it has the model of one of its queues in memory."""
        state = self.states.get(queue)
        return "loaded" if state is None else state.status
