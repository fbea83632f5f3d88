"""One queue that a worker serves: its model, its engine, its slots."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from penstock.contract.adapter import AdapterCard
    from penstock.contract.job import ChatPrompt, PairPrompt, Prompt, TextPrompt
    from penstock.contract.structure import Structure
    from penstock.contract.worker import ExchangeCard, ModelCard, WorkerLoad
    from penstock.engine.drafting.answer_index import AnswerIndex
    from penstock.engine.events import AttemptEvent
    from penstock.engine.image_inputs import ImageInputs
    from penstock.engine.reuse.kv_store import KVStore
    from penstock.engine.reuse.read_ahead import RemoteBlocks
    from penstock.engine.sampling.constraint import Constraint
    from penstock.engine.sequence import Adapter, SequenceRequest
    from penstock.models.text.dialect import Reasoning
    from workers.serving.on_demand.model import OnDemand


LEAST_HUNG_S: Final = 5.0
HUNG_TIMES: Final = 50
"""A step hangs if it takes this many times as long as the longest of the last hundreds."""


class Engine(Protocol):
    """What a worker needs of `penstock.engine.engine.Engine`."""

    @property
    def failure(self) -> BaseException | None:
        """The error that ended the thread, if one did."""
        ...

    def start(self) -> None:
        """Start the thread."""

    def stop(self, timeout_s: float) -> None:
        """End the thread after its step; TimeoutError if that takes longer."""

    def submit(self, *requests: SequenceRequest) -> None:
        """Queue sequences, all for the same step; any thread."""

    def abort(self, attempt_ids: Iterable[str]) -> None:
        """Drop sequences before the next step; any thread."""

    def load(self) -> WorkerLoad:
        """Return its load."""
        ...

    def lost_heads(self) -> list[str]:
        """Return the heads of requests that its cache has dropped since the last call."""
        ...

    def last_step_s(self) -> float:
        """Return when (monotonic) it last finished a step or was idle."""
        ...

    def usual_step_s(self) -> float | None:
        """Return the longest recent time of steps like the current one; None if unknown."""
        ...

    def busy(self) -> bool:
        """Return whether it has sequences."""
        ...


class Tokenizer(Protocol):
    """What a worker needs of `penstock.models.text.tokenizer.Tokenizer`."""

    def encode(self, prompt: Prompt) -> list[int]:
        """Return a prompt's token ids; a chat is rendered first."""
        ...

    def encode_pair(self, prompt: PairPrompt) -> tuple[list[int], list[int]]:
        """Return two texts' token ids, and which of the texts each belongs to."""
        ...

    def render(self, prompt: ChatPrompt) -> str:
        """Return a chat as text."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of tokens."""
        ...

    def token_text(self, token_id: int) -> str:
        """Return the text of one token, special or not."""
        ...

    @property
    def fill_endings(self) -> Sequence[int]:
        """Tokens that end a filled-in text, besides the model's own."""
        ...

    def reasoning(self, prompt: Prompt, prompt_token_ids: Sequence[int]) -> Reasoning:
        """Return whether the answer begins with reasoning."""
        ...

    def tokens_of(self, texts: Sequence[str]) -> Mapping[int, str]:
        """Return those texts that are a single added token, by token id."""
        ...

    def constrain(self, structure: Structure, reasoning: Reasoning) -> Constraint:
        """Return the constraint of a structured output; for one thread at a time."""
        ...


class Vision(Protocol):
    """What a worker needs of a model that takes images."""

    def __call__(
        self, prompt: ChatPrompt | TextPrompt, images: Sequence[bytes]
    ) -> tuple[list[int], ImageInputs]:
        """Return a prompt's token ids and its images, given in their order in the prompt."""
        ...


class Adapters(Protocol):
    """What a worker needs of `penstock.models.adapters.loaded.LoadedAdapters`."""

    def names(self) -> tuple[str, ...]:
        """Return the names of those in memory, the last used one first."""
        ...

    def digests(self) -> tuple[str, ...]:
        """Return what identifies those in memory."""
        ...

    def lost_heads(self) -> list[str]:
        """Return the digests of those that have left memory since the last call, as heads of jobs."""
        ...

    def has(self, card: AdapterCard) -> bool:
        """Return whether an adapter is in memory."""
        ...

    def get(self, card: AdapterCard) -> Adapter:
        """Return an adapter, loaded now if it is not in memory; UnknownModel if it is not here."""
        ...

    def read(self, name: str, path: str) -> AdapterCard:
        """Load an adapter from a folder and return its card; InvalidParameter if it cannot be used."""
        ...


class Exchange(Protocol):
    """What a queue needs of `workers.serving.block_exchange.exchange.BlockExchange`."""

    @property
    def card(self) -> ExchangeCard:
        """Where the blocks of this host are served."""
        ...

    def start(self) -> None:
        """Serve them from now on, if they are not served yet."""

    def remote(self, queue: str, identity: bytes, most_bytes: int) -> RemoteBlocks:
        """Return the blocks of a queue's model on other hosts."""
        ...


@dataclass(slots=True)
class Sink:
    """Takes an engine's events, and shows whether the engine has to wait for that.

    Written by the engine's thread, read by the heartbeat's.
    """

    put: Callable[[list[AttemptEvent]], None]
    blocked: bool = False

    def __call__(self, events: list[AttemptEvent]) -> None:
        """Pass on one step's events; blocks while the publisher is behind."""
        self.blocked = True
        try:
            self.put(events)
        finally:
            self.blocked = False


@dataclass(slots=True)
class ServedQueue:
    """A queue that a worker serves.

    `vision` reads the images of chats, None for models that take text alone,
    `adapters` are None for those that take none. `answers` are those
    that its engine drafts from, None if it drafts nothing. `compiling` serialises the threads that
    compile grammars. Jobs are claimed for an `open` queue. A model that is loaded on demand has
    `on_demand`; while it is not in memory, its engine is an `AbsentEngine` and its queue not open.
    The `store` has its blocks on this host's disk, and the `exchange` those of other hosts; None
    without.
    """

    card: ModelCard
    tokenizer: Tokenizer
    engine: Engine
    sink: Sink
    vision: Vision | None = None
    answers: AnswerIndex | None = None
    adapters: Adapters | None = None
    compiling: threading.Lock = field(default_factory=threading.Lock)
    open: bool = True
    on_demand: OnDemand | None = None
    store: KVStore | None = None
    exchange: Exchange | None = None

    def start(self) -> None:
        """Start the engine; it asks other hosts for blocks if they exchange them."""
        store, exchange = self.store, self.exchange
        if exchange is not None and store is not None:
            store.ask(exchange.remote(self.queue, store.identity, store.block_bytes))
            exchange.start()
        self.engine.start()

    @property
    def queue(self) -> str:
        """The queue's name, `<model>-<device>`."""
        return self.card.queue

    @property
    def slots(self) -> int:
        """How many jobs run at once."""
        return self.card.slots

    @property
    def spare(self) -> int:
        """How many jobs of dead workers may run beyond its slots."""
        return self.card.spare_slots

    def lost_heads(self) -> list[str]:
        """Return the heads of jobs that its cache has dropped since the last call, and its adapters."""
        adapters = self.adapters  # another thread may unload the model
        return [*self.engine.lost_heads(), *(adapters.lost_heads() if adapters else ())]

    def hung_after_s(self, most_s: float) -> float:
        """Seconds in one step after which the engine hangs: `most_s`, or less if steps are known.

        On a GPU a kernel may be compiled at its first use, long after the start.
        """
        usual_s = self.engine.usual_step_s() if self.card.device == "cpu" else None
        if usual_s is None:
            return most_s
        return min(most_s, max(LEAST_HUNG_S, HUNG_TIMES * usual_s))

    def stalled_s(self) -> float:
        """Seconds for which a busy engine has not finished a step.

        An engine that waits for the publisher waits for Redis, and does not hang.
        """
        if not self.engine.busy() or self.sink.blocked:
            return 0.0
        return max(0.0, time.monotonic() - self.engine.last_step_s())
