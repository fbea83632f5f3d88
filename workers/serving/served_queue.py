"""One queue of a worker: its model, its engine and how many jobs it takes at once."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from penstock.contract.job import ChatPrompt, PairPrompt, Prompt
    from penstock.contract.structure import Structure
    from penstock.contract.worker import ModelCard, WorkerLoad
    from penstock.engine.events import AttemptEvent
    from penstock.engine.sampling.constraint import Constraint
    from penstock.engine.sequence import SequenceRequest
    from penstock.models.text.dialect import Reasoning


LEAST_HUNG_S: Final = 5.0
HUNG_TIMES: Final = 50
"""A step hangs that takes so many times as long as the longest of the last hundreds."""


class Engine(Protocol):
    """What a worker needs of `penstock.engine.engine.Engine`."""

    @property
    def failure(self) -> BaseException | None:
        """What ended the thread, if it has ended by itself."""
        ...

    def start(self) -> None:
        """Start the thread."""

    def stop(self, timeout_s: float) -> None:
        """End the thread after its step; TimeoutError when that takes longer."""

    def submit(self, *requests: SequenceRequest) -> None:
        """Queue sequences, all for the same step; any thread."""

    def abort(self, attempt_ids: Iterable[str]) -> None:
        """Forget sequences before the next step; any thread."""

    def load(self) -> WorkerLoad:
        """Tell how much it has to do."""
        ...

    def last_step_s(self) -> float:
        """When (monotonic) it last finished a step or found nothing to do."""
        ...

    def usual_step_s(self) -> float | None:
        """How long steps like the one under way take at most; None where that is unknown."""
        ...

    def busy(self) -> bool:
        """Whether it has sequences."""
        ...


class Tokenizer(Protocol):
    """What a worker needs of `penstock.models.text.tokenizer.Tokenizer`."""

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt, chats rendered."""
        ...

    def encode_pair(self, prompt: PairPrompt) -> tuple[list[int], list[int]]:
        """Token ids of two texts, and of which of them each is."""
        ...

    def render(self, prompt: ChatPrompt) -> str:
        """Text of a chat."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of tokens."""
        ...

    def token_text(self, token_id: int) -> str:
        """Text of one token, special ones too."""
        ...

    @property
    def fill_endings(self) -> Sequence[int]:
        """What ends a text that was filled in, besides the model's own endings."""
        ...

    def reasoning(self, prompt: Prompt, prompt_token_ids: Sequence[int]) -> Reasoning:
        """Where the answer begins in a model that reasons."""
        ...

    def tokens_of(self, texts: Sequence[str]) -> Mapping[int, str]:
        """Those texts that are one added token, by their ids."""
        ...

    def constrain(self, structure: Structure, reasoning: Reasoning) -> Constraint:
        """The constraint of an answer's form; for one thread at a time."""
        ...


@dataclass(slots=True)
class Sink:
    """Where an engine leaves its events; knows whether the engine is held up there.

    Written by the engine's thread, read by the heartbeat's.
    """

    put: Callable[[list[AttemptEvent]], None]
    blocked: bool = False

    def __call__(self, events: list[AttemptEvent]) -> None:
        """Hand over one step's events; blocks while the publisher is behind."""
        self.blocked = True
        try:
            self.put(events)
        finally:
            self.blocked = False


@dataclass(slots=True)
class ServedQueue:
    """A served queue. `compiling` serialises the threads that compile forms of answers."""

    card: ModelCard
    tokenizer: Tokenizer
    engine: Engine
    sink: Sink
    compiling: threading.Lock = field(default_factory=threading.Lock)

    @property
    def queue(self) -> str:
        """The queue's name, `<model>-<device>`."""
        return self.card.queue

    @property
    def slots(self) -> int:
        """How many jobs it holds at once."""
        return self.card.slots

    @property
    def spare(self) -> int:
        """How many jobs of dead workers it holds beyond its slots."""
        return self.card.spare_slots

    def hung_after_s(self, most_s: float) -> float:
        """Seconds in one step after which the engine hangs: `most_s`, or less where that is sure.

        On a GPU a kernel may be compiled at its first use, long after the start.
        """
        usual_s = self.engine.usual_step_s() if self.card.device == "cpu" else None
        if usual_s is None:
            return most_s
        return min(most_s, max(LEAST_HUNG_S, HUNG_TIMES * usual_s))

    def stalled_s(self) -> float:
        """Seconds for which a busy engine has not finished a step.

        An engine that waits for the publisher waits for Redis, and is not to blame.
        """
        if not self.engine.busy() or self.sink.blocked:
            return 0.0
        return max(0.0, time.monotonic() - self.engine.last_step_s())
